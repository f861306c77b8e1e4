// Series without images: what they are, and where they can be seen or read. Films are played by the browser.

import { text, value } from "./dataset.js";
import { isState } from "./state.js";

const READABLE = /^1\.2\.840\.10008\.5\.1\.4\.1\.1\.(88\.|104\.)/;
const FILM = /^1\.2\.840\.10008\.5\.1\.4\.1\.1\.77\.1\.[124]\.1$/;
const MOST_LINKS = 20;
// Modalities that are called alike, and those that the viewer has a mode for.
const ALIKE = { HD: "ECG", EPS: "ECG", EEG: "ECG", EMG: "ECG", EOG: "ECG", RESP: "ECG" };
const VIEWED = ["RTSTRUCT", "SR", "SEG", "M3D"];
const prefix = document.documentElement.dataset.prefix;

/** Whether an instance is of a class for video, whose frames most likely only a player can show (PS3.4 B.5). */
export const isFilm = (ds) => FILM.test(text(ds, "00080016"));

/** Say in a pane what a series without images is, and what to do with it; show its films. */
export function explain(pane, app) {
  const place = pane.part("documents");
  const { images, instances, modality } = pane.series;
  place.hidden = images.length > 0;
  const films = instances.filter(isFilm);
  if (place.hidden || films.length) {
    place.replaceChildren(...(place.hidden ? [] : films.map((ds) => film(ds, pane, app))));
    return;
  }
  const { texts } = app;
  const kind = texts[`kind${ALIKE[modality] ?? modality}`] ?? modality;
  const [advice, ways] = instances.some(isState) ? states(pane, app) : others(pane, app);
  place.replaceChildren(sentence(texts.noPixels.replace("{kind}", kind)), ...(advice ? [sentence(advice)] : []), ...ways);
}

/** Presentation states are seen with the images that they are about. */
function states(pane, app) {
  const known = app.states.of(pane.series).filter((state) => app.has(state.series)).slice(0, MOST_LINKS);
  const buttons = known.map((state) => {
    const found = Object.assign(document.createElement("button"), { type: "button", className: "button plain", textContent: state.name, title: state.about });
    found.addEventListener("click", () => app.openState(state));
    return found;
  });
  const advice = known.length ? app.texts.adviceState : app.texts.adviceLost;
  return [app.states.isRead ? advice : "", buttons];
}

function others(pane, app) {
  const { texts, study } = app;
  const { instances, modality } = pane.series;
  const readable = instances.filter((ds) => READABLE.test(text(ds, "00080016"))).slice(0, MOST_LINKS);
  const name = (ds) => text(ds, "00420010") || text(value(ds, "0040A043"), "00080104") || texts.read;
  const viewer = app.root.dataset.viewer;
  const ways = [
    ...readable.map((ds) => link(rendered(ds, pane, app), name(ds), true)),
    ...(viewer && VIEWED.includes(modality) ? [link(viewer, texts.toViewer)] : []),
    ...instances.slice(0, 1).map((ds) => link(`${prefix}/studies/${study.uid}/instances/${text(ds, "00080018")}`, texts.toAttributes)),
    link(`${prefix}/studies/${study.uid}/download`, texts.toDownload),
  ];
  return [readable.length ? "" : texts.adviceOther, ways];
}

const rendered = (ds, pane, app) => `${app.study.path(pane.series.uid)}/instances/${text(ds, "00080018")}/rendered`;

const sentence = (words) => Object.assign(document.createElement("p"), { textContent: words });

function link(href, words, isApart = false) {
  const found = Object.assign(document.createElement("a"), { className: "button plain", href, textContent: words });
  if (isApart) found.target = "_blank";
  return found;
}

/** A player; what it cannot play is perhaps a film of single images, as the server can decode them. */
function film(ds, pane, app) {
  const player = document.createElement("video");
  Object.assign(player, { controls: true, preload: "metadata", src: rendered(ds, pane, app) });
  player.addEventListener("error", () => pane.showFrames());
  return player;
}
