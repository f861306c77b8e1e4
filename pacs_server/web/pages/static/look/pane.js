// One place on the page that shows a series: which image, through which window, how large, and what stands around it.

import { drawLayers } from "./layers.js";
import { Measuring } from "./measure.js";
import { describe, showEdges, showScale } from "./overlay.js";
import { matrixOf, Picture, showing, START } from "./picture.js";
import { Placed } from "./place.js";
import { Shades } from "./shades.js";

export class Pane extends Placed {
  #due = 0;
  #drawn = "";
  #frame = null;
  #placed = "";

  /** `app` has the study, the texts, and is told of changes: `moved(pane)`. */
  constructor(element, app) {
    super();
    Object.assign(this, { element, app, series: null, index: 0, way: 1, asked: "", chosen: null });
    this.part = (name) => element.querySelector(`[data-part="${name}"]`);
    this.canvas = this.part("canvas");
    this.picture = new Picture(this.canvas);
    this.shades = new Shades(this);
    this.measuring = new Measuring(this.part("lines"), this);
    this.slider = this.part("slider");
    this.slider.addEventListener("input", () => this.go(Number(this.slider.value)));
    this.restart();
    new ResizeObserver(() => this.redraw()).observe(this.canvas);
  }

  /** The image that is shown, or undefined. */
  get image() { return this.series?.images[this.index]; }

  /** The presentation state that says how the image is shown, or null. */
  get state() { return this.image && this.chosen?.shows(this.image) ? this.chosen : null; }

  /** The part of the image that is to be seen. */
  get area() { return this.state?.area(this.image) ?? { left: 0, top: 0, right: this.image.columns, bottom: this.image.rows }; }

  /** The image as a state wants its pixels: as high and as wide. */
  get shape() {
    const { rows, columns, aspect } = this.image;
    return { rows, columns, aspect: this.area.aspect ?? aspect };
  }

  /** Show images as a presentation state says, those that it is about; with null as their files say. */
  choose(state) {
    this.chosen = state;
    this.restart();
  }

  /** Show a series from its first image on. */
  async open(uid) {
    this.asked = uid;
    this.series = null;
    this.#say(this.app.texts.loading);
    this.redraw();
    try {
      const series = await this.app.study.series(uid);
      if (this.asked !== uid) return;
      Object.assign(this, { series, index: 0, way: 1 });
      this.measuring.clear();
      this.shades.forget();
      this.chosen = null;
      this.restart();
    } catch (error) {
      if (this.asked === uid) this.#say(this.app.texts.failed.replace("{why}", error.message));
      return;
    }
    this.#begin();
  }

  #begin() {
    this.#range();
    this.#say("");
    this.app.opened(this);
    this.app.want();
    this.redraw();
  }

  /** The slider has a place for each image. */
  #range() {
    const count = this.series.images.length;
    Object.assign(this.slider, { max: Math.max(0, count - 1), value: this.index, disabled: count < 2 });
    this.slider.setAttribute("aria-valuetext", `${this.index + 1} / ${count}`);
  }

  /** Take a series as it is by now. The image that is shown stays, wherever its place in the series is. */
  grow(series) {
    if (this.asked !== series.uid || !this.series) return;
    const { image } = this;
    const images = this.series.images === this.series.frames ? series.frames : series.images;
    this.series = { ...series, images };
    const at = images.findIndex((each) => each.key === image?.key);
    this.index = Math.max(0, at < 0 ? Math.min(this.index, images.length - 1) : at);
    if (!image || !images.length) {
      this.#begin();
      return;
    }
    this.#range();
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
    this.#range();
    if (this.chosen && this.#placeName !== this.#placed) this.#place();
    if (!isLinked) this.app.moved(this);
    this.redraw();
  }

  /** As the file or the chosen state says, all of it visible. */
  restart() {
    this.#place();
    this.shades.restart();
    this.redraw();
  }

  #place() {
    this.view = { ...START, ...this.state?.turned };
    this.isFitted = true;
    this.#placed = this.#placeName;
  }

  /** Another one for images that a state places in another way. */
  get #placeName() { return JSON.stringify([this.state?.sop, this.state?.area(this.image)]); }

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
    if (image) this.#say(problem ? `${this.app.texts.frameFailed.replace("{why}", problem.message)}\n${this.app.texts.frameAdvice}` : "");
    const shows = image && (frame || (!problem && !picture.isEmpty && this.#drawn.startsWith(this.series.uid)));
    this.#aim(image);
    picture.draw(shows ? this.matrix : null, image);
    if (frame) drawLayers(this, frame, this.app.showsLayers);
    this.element.setAttribute("aria-busy", String(Boolean(image) && !frame && !problem));
    describe(this, frame);
    showEdges(this);
    showScale(this);
    this.measuring.draw();
    if (frame) this.app.drawn(this);
    this.element.dataset.shown = frame ? image.key : "";
  }

  /** Find the place of the image on the canvas. */
  #aim(image) {
    this.matrix = null;
    if (!image) return;
    const { width, height, dense } = this.picture;
    const { area, shape } = this;
    // No page knows how large a pixel of the screen is: TRUE SIZE is as large as possible (as PS3.18 9.5.2.3 has it).
    const scale = area.magnification > 0 ? area.magnification / dense : undefined;
    if (this.isFitted) this.view = showing(area, shape, this.view, width, height, scale);
    this.matrix = matrixOf(shape, this.view, width, height);
  }

  #take(image, frame) {
    const { shades } = this;
    const name = `${this.series.uid} ${image.key} ${shades.take(image, frame)}`;
    if (name === this.#drawn && frame === this.#frame) return;
    [this.#drawn, this.#frame] = [name, frame];
    if (frame.data) this.picture.setValues(frame.data, shades.colours(image, frame), image.columns, image.rows);
    else this.picture.setBitmap(frame.bitmap, shades.isInverted);
  }

  #say(text) {
    const place = this.part("message");
    if (place.textContent !== text) place.textContent = text;
    place.hidden = !text;
  }
}
