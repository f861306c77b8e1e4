// What lies over an image: the shutter of its presentation state, overlays, graphics and texts, the lowest layer first.

import { colourOf, shadeOf } from "./colour.js";
import { drawGraphic, drawText, mapping } from "./graphics.js";

// Files seldom name a colour: one that stands out from shades of grey.
const USUAL = "rgb(64 200 255)";
const REGION = 0.35;
const painted = new WeakMap();

/** Draw all of it on the canvas of a pane that shows a frame. Without a state all overlays of the image are seen. */
export function drawLayers(pane, frame, isShown) {
  const { image, state, matrix, picture } = pane;
  const { context, dense } = picture;
  const overlays = frame.overlays ?? [];
  context.setTransform(dense, 0, 0, dense, 0, 0);
  if (state?.shutter) drawShutter(context, pane);
  const layers = state?.layers(image) ?? [{ groups: overlays.map((each) => each.group), graphics: [], texts: [] }];
  if (isShown) {
    const map = mapping(matrix, pane.area);
    for (const layer of layers) drawLayer(context, layer, { map, matrix, overlays, state });
  }
  const said = isShown ? layers.flatMap((layer) => layer.texts.map((each) => each.text)).join("; ") : "";
  if (pane.canvas.ariaDescription !== said) pane.canvas.ariaDescription = said;
}

function drawLayer(context, layer, { map, matrix, overlays, state }) {
  const colour = layerColour(layer);
  for (const group of layer.groups) {
    const inGroup = (overlay) => overlay.group === group;
    const overlay = state?.overlays.find(inGroup) ?? overlays.find(inGroup);
    if (overlay) paint(context, overlay, matrix, colour, overlay.isRegion ? REGION : 1);
  }
  for (const graphic of layer.graphics) drawGraphic(context, graphic, map, colour);
  for (const text of layer.texts) drawText(context, text, map, colour);
}

function layerColour({ colour, shade }) {
  if (colour) return colourOf(colour);
  return shade === undefined ? USUAL : shadeOf(shade);
}

/** Draw a mask where it lies over the image. */
function paint(context, overlay, matrix, colour, alpha) {
  context.save();
  context.transform(...matrix);
  context.globalAlpha = alpha;
  // Enlarged, a bit is a bit; made smaller, a thin line would be gone.
  context.imageSmoothingEnabled = Math.hypot(matrix[0], matrix[1]) < 1;
  context.drawImage(masked(overlay, colour), overlay.left - 1, overlay.top - 1);
  context.restore();
}

function masked(overlay, colour) {
  const found = painted.get(overlay.mask);
  if (found?.colour === colour) return found.canvas;
  const canvas = Object.assign(document.createElement("canvas"), { width: overlay.columns, height: overlay.rows });
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(overlay.columns, overlay.rows);
  const target = new Uint32Array(pixels.data.buffer);
  overlay.mask.forEach((bit, i) => { target[i] = bit ? 0xffffffff : 0; });
  context.putImageData(pixels, 0, 0);
  context.globalCompositeOperation = "source-in";
  context.fillStyle = colour;
  context.fillRect(0, 0, canvas.width, canvas.height);
  painted.set(overlay.mask, { colour, canvas });
  return canvas;
}

/** Cover what is outside of the shapes. Coordinates of shutters count pixels from 1. */
function drawShutter(context, { image, state, matrix, shape }) {
  const { rectangle, circle, polygon, bitmap, shade, colour } = state.shutter;
  const fill = colour ? colourOf(colour) : shadeOf(shade);
  const outside = (trace) => {
    const hole = new Path2D();
    hole.rect(0, 0, image.columns, image.rows);
    trace(hole);
    context.fillStyle = fill;
    context.fill(hole, "evenodd");
  };
  context.save();
  context.transform(...matrix);
  // A shape may reach beyond the image, which would be painted as well.
  context.beginPath();
  context.rect(0, 0, image.columns, image.rows);
  context.clip();
  if (rectangle) {
    const [left, top, right, bottom] = rectangle;
    outside((hole) => hole.rect(left - 1, top - 1, Math.max(0, right - left + 1), Math.max(0, bottom - top + 1)));
  }
  if (circle?.center && circle.radius > 0) {
    const [row, column] = circle.center;
    // The radius counts columns; in rows it is as long as it looks.
    const [down, across] = shape.aspect;
    outside((hole) => hole.ellipse(column - 0.5, row - 0.5, circle.radius, (circle.radius * across) / down, 0, 0, 2 * Math.PI));
  }
  if (polygon?.length > 2) {
    outside((hole) => {
      polygon.forEach(({ x, y }, i) => (i ? hole.lineTo(x - 0.5, y - 0.5) : hole.moveTo(x - 0.5, y - 0.5)));
      hole.closePath();
    });
  }
  context.restore();
  const mask = bitmap && state.overlays.find((each) => each.group === bitmap);
  if (mask) paint(context, mask, matrix, fill, 1);
}
