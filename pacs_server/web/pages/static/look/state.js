// Presentation states: how somebody wanted images to be shown (PS3.3 A.33, A.34). They are read here out of the DICOM JSON
// model; what a state does not say takes no part in it, whatever the image says (PS3.4 N.2).

import { windowsOf } from "./images.js";
import { number, numbers, text, value, values, vector } from "./dataset.js";

const GREY = "1.2.840.10008.5.1.4.1.1.11.1";
const COLOUR = "1.2.840.10008.5.1.4.1.1.11.2";
const IMAGES = "00081140";
const MOST_POINTS = 100_000;

/** Whether an instance is a presentation state of a kind that is understood here. */
export const isState = (ds) => [GREY, COLOUR].includes(text(ds, "00080016"));

/** Whether an item is about an image: if it names none, it is about all images of the state. */
function isAbout(item, image) {
  const named = values(item, IMAGES);
  return !named.length || named.some((each) => text(each, "00081155") === image.sop && hasFrame(each, image));
}

function hasFrame(reference, image) {
  const frames = numbers(reference, "00081160");
  return !frames.length || frames.includes(image.frame);
}

export class State {
  #references = new Map();
  #drawn = {};

  constructor(ds) {
    this.ds = ds;
    this.sop = text(ds, "00080018");
    this.label = text(ds, "00700080") || text(ds, "00200013") || "?";
    this.name = [this.label, text(ds, "00700081")].filter(Boolean).join(": ");
    this.about = [text(ds, "00700084"), text(ds, "00700082")].filter(Boolean).join(", ");
    for (const series of values(ds, "00081115")) {
      for (const each of values(series, IMAGES)) this.#refer(each, text(series, "0020000E"));
    }
  }

  #refer(reference, series) {
    const sop = text(reference, "00081155");
    this.#references.set(sop, [...(this.#references.get(sop) ?? []), reference]);
    this.series ??= series;
    this.first ??= sop;
  }

  /** Whether it says how this image is to be shown. */
  shows(image) { return (this.#references.get(image.sop) ?? []).some((each) => hasFrame(each, image)); }

  // ------------------------------------------------------------------ grey

  /** Slope and intercept (PS3.3 C.11.1). */
  get rescale() { return { slope: number(this.ds, "00281053") || 1, intercept: number(this.ds, "00281052") ?? 0 }; }

  /** Whether the least value is white (PS3.3 C.11.6). */
  get isInverse() { return text(this.ds, "20500020") === "INVERSE"; }

  /** Read the tables and overlays, long ones from the server; `readTable(item, signed)` and `readOverlays(ds)` do that. */
  async load(readTable, readOverlays, { pixel }) {
    const [modality, presentation] = [value(this.ds, "00283000"), value(this.ds, "20500010")];
    this.modalityTable = modality ? await readTable(modality, pixel.signed) : null;
    this.presentationTable = presentation ? await readTable(presentation, false) : null;
    const mayBeNegative = !this.modalityTable && (pixel.signed || this.rescale.intercept < 0);
    this.vois = await Promise.all(values(this.ds, "00283110").map(async (item) => {
      const tables = await Promise.all(values(item, "00283010").map((each) => readTable(each, mayBeNegative)));
      return { item, windows: windowsOf(item), table: tables.find(Boolean) ?? null };
    }));
    this.overlays = await readOverlays(this.ds);
  }

  /** What the values of an image are looked at through: a window or a table; null for all values (PS3.3 C.11.8). */
  lookAt(image) {
    const found = this.vois.find(({ item }) => isAbout(item, image));
    if (found?.table) return { table: found.table };
    return found?.windows[0] ?? null;
  }

  // ------------------------------------------------------------------ place

  /** Turned clockwise, and mirrored after that (PS3.3 C.10.6); a view mirrors first. */
  get turned() {
    const turn = Math.round((number(this.ds, "00700042") ?? 0) / 90) & 3;
    const flipped = text(this.ds, "00700041") === "Y";
    return { turn: flipped ? (4 - turn) % 4 : turn, flipped };
  }

  /** The part of an image that is to be seen, in pixels; null if it does not say (PS3.3 C.10.4). */
  area(image) {
    const item = values(this.ds, "0070005A").find((each) => isAbout(each, image));
    const [from, to] = [vector(item, "00700052", 2), vector(item, "00700053", 2)];
    if (!from || !to) return null;
    const [left, right] = [Math.min(from[0], to[0]) - 1, Math.max(from[0], to[0])];
    const [top, bottom] = [Math.min(from[1], to[1]) - 1, Math.max(from[1], to[1])];
    const isMagnified = text(item, "00700100") === "MAGNIFY";
    const shape = vector(item, "00700101", 2) ?? vector(item, "00700102", 2);
    const least = shape && Math.min(...shape);
    return {
      left, top, right, bottom, magnification: isMagnified ? number(item, "00700103") : undefined,
      aspect: least > 0 ? shape.map((each) => each / least) : null,
    };
  }

  // ------------------------------------------------------------------ what is drawn

  /** The shutters: outside of each of the shapes nothing of the image is seen (PS3.3 C.7.6.11, C.7.6.15). */
  get shutter() {
    const ds = this.ds;
    const kinds = values(ds, "00181600");
    if (!kinds.length) return null;
    const has = (kind) => kinds.includes(kind);
    const group = number(ds, "00181623");
    return {
      shade: number(ds, "00181622") ?? 0,
      colour: vector(ds, "00181624", 3),
      rectangle: has("RECTANGULAR") ? ["00181602", "00181606", "00181604", "00181608"].map((tag) => number(ds, tag) ?? 0) : null,
      circle: has("CIRCULAR") ? { center: vector(ds, "00181610", 2), radius: number(ds, "00181612") } : null,
      polygon: has("POLYGONAL") ? pairs(numbers(ds, "00181620")).map(({ x, y }) => ({ x: y, y: x })) : null,
      bitmap: has("BITMAP") && group ? group.toString(16) : null,
    };
  }

  /** The layers, the lowest first (PS3.3 C.10.7), with the groups of overlays and the annotations of an image in each. */
  layers(image) {
    if (this.#drawn.key !== image.key) this.#drawn = { key: image.key, layers: this.#layersOf(image) };
    return this.#drawn.layers;
  }

  #layersOf(image) {
    const found = values(this.ds, "00700060").map((item) => ({
      name: text(item, "00700002"), order: number(item, "00700062") ?? 0, shade: number(item, "00700066"), colour: vector(item, "00700401", 3),
    }));
    const annotations = values(this.ds, "00700001").filter((item) => isAbout(item, image));
    const isHomeless = (item) => !found.some((layer) => layer.name === text(item, "00700002"));
    const rest = { name: null, order: Infinity, items: annotations.filter(isHomeless) };
    for (const layer of found) layer.items = annotations.filter((item) => text(item, "00700002") === layer.name);
    return [...found.sort((a, b) => a.order - b.order), rest].map((layer) => ({
      ...layer,
      groups: this.#activated(layer.name),
      graphics: layer.items.flatMap((item) => values(item, "00700009")).map(graphic),
      texts: layer.items.flatMap((item) => values(item, "00700008")).map(label),
    }));
  }

  /** The groups of the overlays that are seen in a layer (PS3.3 C.11.7). */
  #activated(name) {
    const groups = Array.from({ length: 16 }, (_, i) => (0x6000 + 2 * i).toString(16));
    return groups.filter((group) => name && text(this.ds, `${group}1001`) === name && this.shutter?.bitmap !== group);
  }
}

function pairs(flat) {
  const found = [];
  for (let i = 0; i + 1 < Math.min(flat.length, MOST_POINTS); i += 2) found.push({ x: flat[i], y: flat[i + 1] });
  return found;
}

/** A graphic object (PS3.3 C.10.5.1.2). */
const graphic = (item) => ({
  kind: text(item, "00700023"), units: text(item, "00700005"), points: pairs(numbers(item, "00700022")), isFilled: text(item, "00700024") === "Y",
});

/** A text object (PS3.3 C.10.5.1.1). */
function label(item) {
  const at = (tag) => pairs(vector(item, tag, 2) ?? [])[0];
  return {
    text: String(value(item, "00700006") ?? ""), units: text(item, "00700003"), from: at("00700010"), to: at("00700011"),
    side: text(item, "00700012"), anchor: at("00700014"), anchorUnits: text(item, "00700004"), isTied: text(item, "00700015") === "Y",
  };
}
