// Series without images: what they are, and where they can be read. Films are played by the browser.

import { text, value } from "./dataset.js";

const READABLE = /^1\.2\.840\.10008\.5\.1\.4\.1\.1\.(88\.|104\.)/;
const FILM = /^1\.2\.840\.10008\.5\.1\.4\.1\.1\.77\.1\.[124]\.1$/;
const prefix = document.documentElement.dataset.prefix;

/** Whether an instance is of a class for video, whose frames most likely only a player can show (PS3.4 B.5). */
export const isFilm = (ds) => FILM.test(text(ds, "00080016"));

/** Say in a pane what a series without images is; show its films. */
export function explain(pane, app) {
  const place = pane.part("documents");
  const { images, instances } = pane.series;
  place.replaceChildren();
  place.hidden = images.length > 0;
  if (place.hidden) return;
  const films = instances.filter(isFilm);
  if (films.length) {
    place.append(...films.map((ds) => film(ds, pane, app)));
    return;
  }
  const sentence = document.createElement("p");
  sentence.textContent = app.texts.noPixels.replace("{kind}", app.texts[`kind${pane.series.modality}`] ?? pane.series.modality);
  const links = instances.map((ds) => link(ds, pane, app));
  const readable = links.filter((each) => each.target);
  place.append(sentence, ...(readable.length ? readable : links.slice(0, 1)));
}

const rendered = (ds, pane, app) => `${app.study.path(pane.series.uid)}/instances/${text(ds, "00080018")}/rendered`;

function link(ds, pane, app) {
  const found = document.createElement("a");
  found.className = "button plain";
  if (!READABLE.test(text(ds, "00080016"))) {
    found.href = `${prefix}/studies/${app.study.uid}`;
    found.textContent = app.texts.toStudy;
    return found;
  }
  found.href = rendered(ds, pane, app);
  found.target = "_blank";
  found.textContent = text(ds, "00420010") || text(value(ds, "0040A043"), "00080104") || app.texts.read;
  return found;
}

/** A player; what it cannot play is perhaps a film of single images, as the server can decode them. */
function film(ds, pane, app) {
  const player = document.createElement("video");
  Object.assign(player, { controls: true, preload: "metadata", src: rendered(ds, pane, app) });
  player.addEventListener("error", () => pane.showFrames());
  return player;
}
