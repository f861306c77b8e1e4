// One place on the page that shows a series: which image, through which window, how large, and what stands around it.

import { Measuring } from "./measure.js";
import { describe, round, showEdges, showScale } from "./overlay.js";
import { fitting, matrixOf, Picture, START, toImage, zoomed } from "./picture.js";
import { colours, CT_WINDOWS, fullRange, modality, pulled } from "./voi.js";

export class Pane {
  #due = 0;
  #tables = new Map();
  #drawn = "";

  /** `app` has the study, the texts, and is told of changes: `moved(pane)`. */
  constructor(element, app) {
    Object.assign(this, { element, app, series: null, index: 0, way: 1, asked: "" });
    this.part = (name) => element.querySelector(`[data-part="${name}"]`);
    this.canvas = this.part("canvas");
    this.picture = new Picture(this.canvas);
    this.measuring = new Measuring(this.part("lines"), this);
    this.slider = this.part("slider");
    this.slider.addEventListener("input", () => this.go(Number(this.slider.value)));
    this.restart();
    new ResizeObserver(() => this.redraw()).observe(this.canvas);
  }

  /** The image that is shown, or undefined. */
  get image() { return this.series?.images[this.index]; }

  /** Show a series from its first image on. */
  async open(uid) {
    this.asked = uid;
    this.series = null;
    this.#say(this.app.texts.loading);
    this.redraw();
    try {
      const series = await this.app.study.series(uid);
      if (this.asked !== uid) return;
      Object.assign(this, { series, index: 0, way: 1, auto: null });
      this.measuring.clear();
      this.restart();
    } catch (error) {
      if (this.asked === uid) this.#say(this.app.texts.failed.replace("{why}", error.message));
      return;
    }
    this.#begin();
  }

  #begin() {
    this.slider.max = Math.max(0, this.series.images.length - 1);
    this.slider.value = 0;
    this.slider.disabled = this.series.images.length < 2;
    this.#say("");
    this.app.opened(this);
    this.app.want();
    this.redraw();
  }

  /** Show the frames of what the browser cannot play. */
  showFrames() {
    if (!this.series || this.series.images.length) return;
    this.series = { ...this.series, images: this.series.frames };
    this.#begin();
  }

  /** Show the image with this index; what lies beyond the ends is the end. */
  go(index, isLinked = false) {
    if (!this.image) return;
    const next = Math.min(Math.max(Math.round(index), 0), this.series.images.length - 1);
    if (next === this.index) return;
    this.way = next > this.index ? 1 : -1;
    this.index = next;
    this.slider.value = next;
    this.slider.setAttribute("aria-valuetext", `${next + 1} / ${this.series.images.length}`);
    if (!isLinked) this.app.moved(this);
    this.redraw();
  }

  /** As the file says, all of it visible. */
  restart() {
    this.view = { ...START };
    this.isFitted = true;
    this.choice = { file: 0 };
    this.isInverted = false;
    this.redraw();
  }

  // ------------------------------------------------------------------ the window

  /** The windows that can be chosen: { name, choice }. */
  get windows() {
    const { image, app } = this;
    if (!image?.hasValues) return [];
    const own = image.windows.map((each, file) => ({ name: each.name || `${round(each.center)} / ${round(each.width)}`, choice: { file } }));
    const frame = app.study.loader.get(image.key);
    const tables = (frame?.windowTables ?? []).map((each, table) => ({ name: each.name || `LUT ${table + 1}`, choice: { table } }));
    const full = { name: app.texts.full, choice: { full: true } };
    const usual = this.series.modality === "CT" ? CT_WINDOWS.map((window) => ({ name: app.texts[window.key], choice: { window } })) : [];
    return [...own, ...tables, full, ...usual];
  }

  /** Choose a window by its place in the list. */
  chooseWindow(place) {
    const found = this.windows[place];
    if (found) this.setChoice(found.choice);
    return Boolean(found);
  }

  setChoice(choice) {
    this.choice = choice;
    this.redraw();
  }

  /** What the image is looked at through: a window, or a table of the file. */
  look(frame) {
    const { image, choice } = this;
    if (choice.window) return choice.window;
    if (choice.table !== undefined && frame.windowTables[choice.table]) return { table: frame.windowTables[choice.table] };
    const own = image.windows;
    if (choice.file !== undefined && own.length) return own[choice.file] ?? own[0];
    if (choice.file !== undefined && frame.windowTables.length) return { table: frame.windowTables[0] };
    // One range for all images of the series, so that its brightness does not jump.
    this.auto ??= fullRange(frame.data, image.pixel, modality(image.rescale, frame.modalityTable), image.padding);
    return this.auto;
  }

  /** Pull on the window, across its width and down its center; says whether this image has one. */
  pullWindow(across, down) {
    const frame = this.image && this.app.study.loader.get(this.image.key);
    if (!frame?.data) return !this.image || this.image.hasValues;
    let look = this.look(frame);
    if (look.table) look = { center: look.table.first + look.table.entries.length / 2, width: look.table.entries.length, shape: "LINEAR" };
    this.setChoice({ window: pulled(look, across, down) });
    return true;
  }

  invert() {
    this.isInverted = !this.isInverted;
    this.redraw();
  }

  // ------------------------------------------------------------------ the place

  zoom(factor, point = { x: this.picture.width / 2, y: this.picture.height / 2 }) {
    this.isFitted = false;
    this.view = zoomed(this.view, factor, point, this.picture.width, this.picture.height);
    this.redraw();
  }

  pan(x, y) {
    this.isFitted = false;
    this.view = { ...this.view, x: this.view.x + x, y: this.view.y + y };
    this.redraw();
  }

  fit() {
    Object.assign(this.view, { x: 0, y: 0 });
    this.isFitted = true;
    this.redraw();
  }

  /** A pixel of the image is a pixel of the screen. */
  actualSize() {
    this.isFitted = false;
    this.view = { ...this.view, scale: 1 / this.picture.dense, x: 0, y: 0 };
    this.redraw();
  }

  turn(quarters = 1) {
    this.view = { ...this.view, turn: (this.view.turn + quarters + 4) % 4 };
    this.redraw();
  }

  /** Mirror from left to right, or from top to bottom, as it is seen. */
  flip(isVertical = false) {
    const { turn, flipped } = this.view;
    const half = isVertical !== (turn % 2 === 1);
    this.view = { ...this.view, flipped: !flipped, turn: half ? (turn + 2) % 4 : turn };
    this.redraw();
  }

  /** The point of the image under a point of the canvas. */
  pointAt(point) { return this.matrix ? toImage(this.matrix, point) : null; }

  // ------------------------------------------------------------------ drawing

  /** Draw at the next frame of the screen. */
  redraw() {
    this.#due ||= requestAnimationFrame(() => {
      this.#due = 0;
      this.#draw();
    });
  }

  #draw() {
    const { image, picture } = this;
    picture.fit();
    const frame = image && this.app.study.loader.get(image.key);
    if (frame) this.#take(image, frame);
    const problem = image && !frame && this.app.study.loader.problem(image.key);
    if (image) this.#say(problem ? this.app.texts.frameFailed.replace("{why}", problem.message) : "");
    const shows = image && (frame || (!problem && !picture.isEmpty && this.#drawn.startsWith(this.series.uid)));
    if (image && this.isFitted) this.view.scale = fitting(image, this.view, picture.width, picture.height);
    this.matrix = image ? matrixOf(image, this.view, picture.width, picture.height) : null;
    picture.draw(shows ? this.matrix : null, image);
    this.element.setAttribute("aria-busy", String(Boolean(image) && !frame && !problem));
    describe(this, frame);
    showEdges(this);
    showScale(this);
    this.measuring.draw();
    if (frame) this.app.drawn(this);
    this.element.dataset.shown = frame ? image.key : "";
  }

  #take(image, frame) {
    const look = frame.data ? this.look(frame) : null;
    this.shownLook = look;
    const is = image.photometric === "MONOCHROME1" !== this.isInverted;
    const name = `${this.series.uid} ${image.key} ${this.isInverted} ${look ? this.#nameOf(look) : ""}`;
    if (name === this.#drawn) return;
    this.#drawn = name;
    if (frame.data) this.picture.setValues(frame.data, this.#colours(image, frame, look, is), image.columns, image.rows);
    else this.picture.setBitmap(frame.bitmap, this.isInverted);
  }

  #nameOf(look) { return look.table ? `table ${look.table.first} ${look.table.name}` : `${look.center} ${look.width} ${look.shape}`; }

  /** The table of colours, which is the same for most images of a series. */
  #colours(image, frame, look, isInverted) {
    const fixed = !frame.modalityTable && !look.table;
    const { slope, intercept } = image.rescale;
    const name = JSON.stringify([image.pixel, slope, intercept, this.#nameOf(look), isInverted]);
    if (fixed && this.#tables.has(name)) return this.#tables.get(name);
    const made = colours(image.pixel, modality(image.rescale, frame.modalityTable), look, isInverted);
    if (fixed) {
      if (this.#tables.size > 8) this.#tables.clear();
      this.#tables.set(name, made);
    }
    return made;
  }

  #say(text) {
    const place = this.part("message");
    if (place.textContent !== text) place.textContent = text;
    place.hidden = !text;
  }
}
