// What stands around an image: texts in its corners, the sides of the patient, and a scale. Texts of files are hostile:
// they are set as text and never as HTML.

import { text } from "./dataset.js";
import { edges, normalOf, placeOf } from "./geometry.js";

const date = (da) => (/^\d{8}$/.test(da) ? `${da.slice(0, 4)}-${da.slice(4, 6)}-${da.slice(6)}` : da);
const time = (tm) => (/^\d{4}/.test(tm) ? `${tm.slice(0, 2)}:${tm.slice(2, 4)}` : tm);
/** A number with three digits that count. */
export const round = (value) => (Math.abs(value) >= 100 ? Math.round(value) : Number(value.toPrecision(3)));

const filled = (pattern, values) => pattern.replace(/\{(\w+)\}/g, (_, name) => values[name]);

/** Fill the corners. */
export function describe(pane, frame) {
  const { image, series, app } = pane;
  const ds = image?.ds ?? series?.instances[0];
  set(pane, "patient", ds ? [text(ds, "00100010"), text(ds, "00100020"), [date(text(ds, "00100030")), text(ds, "00100040")]] : []);
  set(pane, "study", ds ? [text(ds, "00081030"), [date(text(ds, "00080020")), time(text(ds, "00080030"))], text(ds, "00080050")] : []);
  set(pane, "series", ds ? [[text(ds, "00080060"), filled(app.texts.series, { n: text(ds, "00200011") || "–" })], text(ds, "0008103E"), ...imageLines(pane)] : []);
  const name = image ? filled(app.texts.image, { n: pane.index + 1, all: series.images.length }) : app.texts.none;
  if (pane.canvas.ariaLabel !== name) pane.canvas.ariaLabel = name;
  set(pane, "window", image ? windowLines(pane, frame) : []);
}

function imageLines({ image, index, series, app }) {
  if (!image) return [];
  const lines = [filled(app.texts.image, { n: index + 1, all: series.images.length })];
  if (series.others) lines.push(filled(app.texts.others, { n: series.others }));
  if (image.frames > 1) lines.push(filled(app.texts.frame, { n: image.frame, all: image.frames }));
  const normal = normalOf(image.orientation);
  const thick = text(image.ds, "00180050");
  const parts = [];
  if (normal && image.position) parts.push(filled(app.texts.place, { mm: placeOf(image, normal).toFixed(1) }));
  if (thick) parts.push(filled(app.texts.thickness, { mm: thick }));
  return [...lines, parts];
}

function windowLines(pane, frame) {
  const { image, view, picture, shades, app } = pane;
  const lines = [];
  const { look, isInverted } = shades;
  if (frame?.data && look) {
    lines.push(look.table ? look.table.name || "LUT" : filled(app.texts.window, { c: round(look.center), w: round(look.width) }));
  } else if (frame) lines.push(app.texts.made);
  if (pane.state) lines.push(pane.state.label);
  if (isInverted) lines.push(app.texts.inverted);
  if (text(image.ds, "00282110") === "01") lines.push(app.texts.lossy);
  lines.push(`${Math.round(view.scale * picture.dense * 100)} %`);
  return lines;
}

function set(pane, name, lines) {
  const place = pane.part(name);
  const shown = lines.map((line) => [line].flat().filter(Boolean).join("  ")).filter(Boolean).join("\n");
  if (place.textContent !== shown) place.textContent = shown;
}

/** The sides of the patient at the edges of the pane. */
export function showEdges(pane) {
  const found = pane.image && edges(pane.image.orientation, pane.view.turn, pane.view.flipped);
  for (const edge of ["left", "right", "top", "bottom"]) pane.part(edge).textContent = found ? found[edge] : "";
}

/** A bar that is a round number of millimetres long. */
export function showScale(pane) {
  const bar = pane.part("scale");
  const { image, view, picture } = pane;
  bar.hidden = !image?.spacing;
  if (bar.hidden) return;
  // One millimetre, in pixels of the style sheet: `scale` is for the smaller side of a pixel.
  const millimetre = view.scale / Math.min(...image.spacing);
  const most = picture.width / 4 / millimetre;
  const power = 10 ** Math.floor(Math.log10(most));
  const length = [5, 2, 1].map((each) => each * power).find((each) => each <= most) ?? power;
  bar.style.width = `${length * millimetre}px`;
  bar.textContent = length >= 10 ? `${length / 10} cm` : `${Number(length.toPrecision(1))} mm`;
}
