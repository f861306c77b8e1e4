// Series without images: what they are, and where they can be read.

import { text } from "./dataset.js";

const READABLE = /^1\.2\.840\.10008\.5\.1\.4\.1\.1\.(88\.|104\.)/;
const prefix = document.documentElement.dataset.prefix;

/** Say in a pane what a series without images is. */
export function explain(pane, app) {
  const place = pane.part("documents");
  place.replaceChildren();
  place.hidden = pane.series.images.length > 0;
  if (!place.hidden) {
    const sentence = document.createElement("p");
    sentence.textContent = app.texts.noPixels.replace("{kind}", app.texts[`kind${pane.series.modality}`] ?? pane.series.modality);
    place.append(sentence);
    for (const ds of pane.series.instances) place.append(link(ds, pane, app));
  }
}

function link(ds, pane, app) {
  const found = document.createElement("a");
  found.className = "button plain";
  const readable = READABLE.test(text(ds, "00080016"));
  const instance = `${app.study.path(pane.series.uid)}/instances/${text(ds, "00080018")}`;
  found.href = readable ? `${instance}/rendered` : `${prefix}/studies/${app.study.uid}`;
  if (readable) found.target = "_blank";
  const title = text(ds, "00420010") || text(value(ds, "0040A043"), "00080104") || text(ds, "00700081") || text(ds, "00700080");
  found.textContent = readable ? title || app.texts.read : app.texts.toStudy;
  return found;
}

const value = (ds, tag) => ds?.[tag]?.Value?.[0];
