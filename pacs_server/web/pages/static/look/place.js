// How large an image is on a pane, where, turned and mirrored: what a pane knows of it.

import { toImage, zoomed } from "./picture.js";

/** A pane has a `view`, `isFitted`, a `picture`, a `matrix` and can `redraw()`. */
export class Placed {
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
}
