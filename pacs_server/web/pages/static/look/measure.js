// Distances between two points of an image, kept while the series is open.

import { lengthOf } from "./geometry.js";
import { toCanvas } from "./picture.js";

const SVG = "http://www.w3.org/2000/svg";

export class Measuring {
  #lines = new Map();

  constructor(svg, pane) {
    Object.assign(this, { svg, pane });
  }

  get #own() {
    const key = this.pane.image?.key;
    if (!key) return [];
    if (!this.#lines.has(key)) this.#lines.set(key, []);
    return this.#lines.get(key);
  }

  /** Begin a line at a point of the image. */
  begin(point) {
    this.#own.push({ from: point, to: point });
    this.pane.redraw();
  }

  /** Where the line leads that was begun last. */
  drag(point) {
    const line = this.#own.at(-1);
    if (line) line.to = point;
    this.pane.redraw();
  }

  /** Finish the line; one without length is none. */
  end() {
    const line = this.#own.at(-1);
    if (line && lengthOf(this.pane.image, line.from, line.to).length < 0.5) this.undo();
  }

  /** Take back the last line of this image. */
  undo() {
    this.#own.pop();
    this.pane.redraw();
  }

  /** Forget all lines. */
  clear() {
    this.#lines.clear();
  }

  draw() {
    this.svg.replaceChildren();
    const { image, matrix, app } = this.pane;
    if (!image || !matrix) return;
    for (const { from, to } of this.#own) {
      const [a, b] = [toCanvas(matrix, from), toCanvas(matrix, to)];
      const { length, unit } = lengthOf(image, from, to);
      const line = made("line", { x1: a.x, y1: a.y, x2: b.x, y2: b.y });
      const label = made("text", { x: b.x + 8, y: b.y - 8 });
      label.textContent = `${length.toFixed(1)} ${unit}${image.isProjected ? ` ${app.texts.projected}` : ""}`;
      this.svg.append(line, made("circle", { cx: a.x, cy: a.y, r: 3 }), made("circle", { cx: b.x, cy: b.y, r: 3 }), label);
    }
  }
}

function made(name, attributes) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}
