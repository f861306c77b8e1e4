// One place on the page that shows a series: which image, through which window, how large, and what stands around it.

import { Measuring } from "./measure.js";
import { describe, showEdges, showScale } from "./overlay.js";
import { fitting, matrixOf, Picture, START } from "./picture.js";
import { Placed } from "./place.js";
import { Shades } from "./shades.js";

export class Pane extends Placed {
  #due = 0;
  #drawn = "";
  #frame = null;

  /** `app` has the study, the texts, and is told of changes: `moved(pane)`. */
  constructor(element, app) {
    super();
    Object.assign(this, { element, app, series: null, index: 0, way: 1, asked: "" });
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
    if (!isLinked) this.app.moved(this);
    this.redraw();
  }

  /** As the file says, all of it visible. */
  restart() {
    this.view = { ...START };
    this.isFitted = true;
    this.shades.restart();
    this.redraw();
  }

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
