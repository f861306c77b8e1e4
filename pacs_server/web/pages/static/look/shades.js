// The brightness of the images of a pane: through which window or table they are seen, and whether inverted.

import { round } from "./overlay.js";
import { colours, CT_WINDOWS, fullRange, modality, pulled, wholeRange } from "./voi.js";

export class Shades {
  #tables = new Map();
  #auto = null;

  constructor(pane) {
    Object.assign(this, { pane, look: null });
    this.restart();
  }

  /** As the file says. */
  restart() {
    this.choice = this.pane.chosen ? { state: true } : { file: 0 };
    this.isInverted = false;
  }

  /** Another series has another range of values. */
  forget() { this.#auto = null; }

  /** The windows that can be chosen: { name, choice }. */
  get windows() {
    const { image, app, series } = this.pane;
    if (!image?.hasValues) return [];
    const own = image.windows.map((each, file) => ({ name: each.name || `${round(each.center)} / ${round(each.width)}`, choice: { file } }));
    const frame = app.study.loader.get(image.key);
    const tables = (frame?.windowTables ?? []).map((each, table) => ({ name: each.name || `LUT ${table + 1}`, choice: { table } }));
    const full = { name: app.texts.full, choice: { full: true } };
    const usual = series.modality === "CT" ? CT_WINDOWS.map((window) => ({ name: app.texts[window.key], choice: { window } })) : [];
    const { state } = this.pane;
    return [...(state ? [{ name: state.label, choice: { state: true } }] : []), ...own, ...tables, full, ...usual];
  }

  /** Choose a window by its place in the list. */
  choose(place) {
    const found = this.windows[place];
    if (found) this.set(found.choice);
  }

  set(choice) {
    this.choice = choice;
    this.pane.redraw();
  }

  /** The state that rules the brightness, if one does. */
  get #state() { return this.choice.state ? this.pane.state : null; }

  /** From stored values to those of the modality: what a state says takes the place of what the image says. */
  #modality(image, frame) {
    const from = this.#state;
    return from ? modality(from.rescale, from.modalityTable) : modality(image.rescale, frame.modalityTable);
  }

  /** What the image is looked at through: a window, or a table of the file. */
  #lookOf(image, frame) {
    const state = this.#state;
    const choice = this.choice.state && !state ? { file: 0 } : this.choice;
    if (choice.window) return choice.window;
    // What a state leaves out takes no part (PS3.4 N.2.1.3).
    if (state) return state.lookAt(image) ?? wholeRange(image.pixel, this.#modality(image, frame), state.modalityTable);
    if (choice.table !== undefined && frame.windowTables[choice.table]) return { table: frame.windowTables[choice.table] };
    const own = image.windows;
    if (choice.file !== undefined && own.length) return own[choice.file] ?? own[0];
    if (choice.file !== undefined && frame.windowTables.length) return { table: frame.windowTables[0] };
    // One range for all images of the series, so that its brightness does not jump.
    this.#auto ??= fullRange(frame.data, image.pixel, modality(image.rescale, frame.modalityTable), image.padding);
    return this.#auto;
  }

  /** Pull on the window, across its width and down its center; says whether this image has one. */
  pull(across, down) {
    const { image, app } = this.pane;
    const frame = image && app.study.loader.get(image.key);
    if (!frame?.data) return !image || image.hasValues;
    let look = this.#lookOf(image, frame);
    if (look.table) look = { center: look.table.first + look.table.entries.length / 2, width: look.table.entries.length, shape: "LINEAR" };
    this.set({ ...(this.choice.state && { state: true }), window: pulled(look, across, down) });
    return true;
  }

  invert() {
    this.isInverted = !this.isInverted;
    this.pane.redraw();
  }

  /** Look at a frame from now on; the answer is another one when its colours are. */
  take(image, frame) {
    this.look = frame.data ? this.#lookOf(image, frame) : null;
    return `${this.#state?.sop} ${this.isInverted} ${this.look ? nameOf(this.look) : ""}`;
  }

  /** The table of colours, which is the same for most images of a series. */
  colours(image, frame) {
    const look = this.look;
    const state = this.#state;
    // A state says itself which values are white (PS3.4 N.2.1.4).
    const isInverted = (state ? state.isInverse : image.photometric === "MONOCHROME1") !== this.isInverted;
    const fixed = !state && !frame.modalityTable && !look.table;
    const { slope, intercept } = image.rescale;
    const name = JSON.stringify([image.pixel, slope, intercept, nameOf(look), isInverted]);
    if (fixed && this.#tables.has(name)) return this.#tables.get(name);
    const made = colours(image.pixel, this.#modality(image, frame), look, isInverted, state?.presentationTable);
    if (fixed) {
      if (this.#tables.size > 8) this.#tables.clear();
      this.#tables.set(name, made);
    }
    return made;
  }
}

const nameOf = (look) => (look.table ? `table ${look.table.first} ${look.table.name}` : `${look.center} ${look.width} ${look.shape}`);
