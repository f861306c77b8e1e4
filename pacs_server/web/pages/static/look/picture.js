// Drawing one image on a canvas: its colours through a table, then moved, turned, mirrored and enlarged.

/** Where an image is on its canvas. `scale` is pixels of the style sheet for the smaller side of a pixel of the image. */
export const START = Object.freeze({ scale: 0, x: 0, y: 0, turn: 0, flipped: false });

/** The size of an image as it is shown with scale 1. */
export function sizeOf(image) {
  const [down, across] = image.aspect;
  return { width: image.columns * across, height: image.rows * down };
}

/** The scale that makes all of an image visible. */
export function fitting(image, view, width, height) {
  const size = sizeOf(image);
  const [w, h] = view.turn % 2 ? [size.height, size.width] : [size.width, size.height];
  return Math.min(width / w, height / h) || 1;
}

/** The view in which an area of the image, { left, top, right, bottom } in its pixels, is as large as possible, or has a scale. */
export function showing(area, image, view, width, height, scale) {
  const part = { aspect: image.aspect, columns: area.right - area.left, rows: area.bottom - area.top };
  const still = { ...view, scale: scale ?? fitting(part, view, width, height), x: 0, y: 0 };
  const center = toCanvas(matrixOf(image, still, width, height), { x: (area.left + area.right) / 2, y: (area.top + area.bottom) / 2 });
  return { ...still, x: width / 2 - center.x, y: height / 2 - center.y };
}

/** The matrix from pixels of the image to pixels of the style sheet: a, b, c, d, e, f as canvas takes them. */
export function matrixOf(image, view, width, height) {
  const [down, across] = image.aspect;
  const [cos, sin] = [[1, 0], [0, 1], [-1, 0], [0, -1]][view.turn];
  const [sx, sy] = [across * view.scale * (view.flipped ? -1 : 1), down * view.scale];
  const [a, b, c, d] = [cos * sx, sin * sx, -sin * sy, cos * sy];
  const [cx, cy] = [image.columns / 2, image.rows / 2];
  return [a, b, c, d, width / 2 + view.x - a * cx - c * cy, height / 2 + view.y - b * cx - d * cy];
}

/** Where a point of the image is on the canvas. */
export const toCanvas = ([a, b, c, d, e, f], { x, y }) => ({ x: a * x + c * y + e, y: b * x + d * y + f });

/** Where a point of the canvas is in the image. */
export function toImage([a, b, c, d, e, f], { x, y }) {
  const area = a * d - b * c;
  return { x: (d * (x - e) - c * (y - f)) / area, y: (a * (y - f) - b * (x - e)) / area };
}

/** The view in which the point under the pointer stays while the scale changes. */
export function zoomed(view, factor, point, width, height) {
  const scale = Math.min(Math.max(view.scale * factor, 0.02), 64);
  const grown = scale / view.scale;
  const [px, py] = [point.x - width / 2, point.y - height / 2];
  return { ...view, scale, x: px - (px - view.x) * grown, y: py - (py - view.y) * grown };
}

/** A canvas with the pixels of one image, which is drawn on that of the page. */
export class Picture {
  #source = document.createElement("canvas");
  #pixels = null;

  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d", { alpha: false });
    this.isEmpty = true;
  }

  /** The size in pixels of the style sheet; true if it has changed. */
  fit() {
    const { width, height } = this.canvas.getBoundingClientRect();
    const dense = Math.min(window.devicePixelRatio || 1, 3);
    const [w, h] = [Math.max(1, Math.round(width * dense)), Math.max(1, Math.round(height * dense))];
    const changed = this.canvas.width !== w || this.canvas.height !== h;
    if (changed) [this.canvas.width, this.canvas.height] = [w, h];
    [this.width, this.height, this.dense] = [width, height, dense];
    return changed;
  }

  /** Take the values of a frame with the colours of a table. */
  setValues(data, colours, columns, rows) {
    const context = this.#resized(columns, rows);
    this.#pixels ??= context.createImageData(columns, rows);
    const target = new Uint32Array(this.#pixels.data.buffer);
    for (let i = 0; i < target.length; i += 1) target[i] = colours[data[i]];
    context.putImageData(this.#pixels, 0, 0);
    this.isEmpty = false;
  }

  /** Take a picture that the server has made. */
  setBitmap(bitmap, isInverted) {
    const context = this.#resized(bitmap.width, bitmap.height);
    context.globalCompositeOperation = "source-over";
    context.drawImage(bitmap, 0, 0);
    if (isInverted) {
      context.globalCompositeOperation = "difference";
      context.fillStyle = "#fff";
      context.fillRect(0, 0, bitmap.width, bitmap.height);
      context.globalCompositeOperation = "source-over";
    }
    this.isEmpty = false;
  }

  #resized(columns, rows) {
    const source = this.#source;
    if (source.width !== columns || source.height !== rows) {
      [source.width, source.height] = [columns, rows];
      this.#pixels = null;
    }
    return source.getContext("2d", { willReadFrequently: false });
  }

  /** Draw it; nothing but black if `matrix` is missing. */
  draw(matrix, image) {
    const { context, canvas } = this;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.fillStyle = "#000";
    context.fillRect(0, 0, canvas.width, canvas.height);
    if (!matrix || this.isEmpty) return;
    context.setTransform(this.dense, 0, 0, this.dense, 0, 0);
    context.transform(...matrix);
    context.imageSmoothingEnabled = true;
    context.imageSmoothingQuality = "high";
    context.drawImage(this.#source, 0, 0, image.columns, image.rows);
  }
}
