// Vector graphics and texts of presentation states on a canvas (PS3.3 C.10.5). Points are mapped and then joined, so that
// lines are as thick at each size, and texts upright.

import { toCanvas } from "./picture.js";

const LINE = 1.5;
const FONT = 14;
const STEPS = 72;

/** Where points of a unit are on the canvas: PIXEL is of the image, DISPLAY a fraction of the area that is to be seen. */
export function mapping(matrix, area) {
  const [a, b] = [{ x: area.left, y: area.top }, { x: area.right, y: area.bottom }].map((corner) => toCanvas(matrix, corner));
  const [left, top, right, bottom] = [Math.min(a.x, b.x), Math.min(a.y, b.y), Math.max(a.x, b.x), Math.max(a.y, b.y)];
  const display = ({ x, y }) => ({ x: left + x * (right - left), y: top + y * (bottom - top) });
  return (units, point) => (units === "DISPLAY" ? display(point) : toCanvas(matrix, point));
}

/** The points of a graphic object on the canvas, as a line that can be drawn; null if they make none. */
export function outline({ kind, units, points }, map) {
  const at = points.map((point) => map(units, point));
  if (kind === "CIRCLE" && at.length >= 2) {
    const radius = Math.hypot(at[1].x - at[0].x, at[1].y - at[0].y);
    return round(at[0], { x: radius, y: 0 }, { x: 0, y: radius });
  }
  if (kind === "ELLIPSE" && at.length >= 4) {
    // The ends of the longer axis, then those of the shorter one.
    const center = { x: (at[0].x + at[1].x) / 2, y: (at[0].y + at[1].y) / 2 };
    return round(center, half(at[0], at[1]), half(at[2], at[3]));
  }
  if (kind === "INTERPOLATED" && at.length > 2) return smooth(at);
  return ["POLYLINE", "INTERPOLATED"].includes(kind) && at.length > 1 ? at : null;
}

const half = (a, b) => ({ x: (b.x - a.x) / 2, y: (b.y - a.y) / 2 });

function round(center, u, v) {
  return Array.from({ length: STEPS + 1 }, (_, i) => {
    const [cos, sin] = [Math.cos((2 * Math.PI * i) / STEPS), Math.sin((2 * Math.PI * i) / STEPS)];
    return { x: center.x + u.x * cos + v.x * sin, y: center.y + u.y * cos + v.y * sin };
  });
}

/** A curve through all points (Catmull-Rom). */
function smooth(points) {
  const isClosed = points[0].x === points.at(-1).x && points[0].y === points.at(-1).y;
  const last = points.length - 1;
  const at = (i) => (isClosed ? points[(i + last) % last] : points[Math.min(Math.max(i, 0), last)]);
  const found = [points[0]];
  for (let i = 0; i < last; i += 1) {
    const [p, q, r, s] = [at(i - 1), points[i], points[i + 1], at(i + 2)];
    for (let step = 1; step <= 8; step += 1) {
      const t = step / 8;
      const along = (k) => 0.5 * (2 * q[k] + (r[k] - p[k]) * t + (2 * p[k] - 5 * q[k] + 4 * r[k] - s[k]) * t * t + (3 * q[k] - p[k] - 3 * r[k] + s[k]) * t ** 3);
      found.push({ x: along("x"), y: along("y") });
    }
  }
  return found;
}

/** Draw a graphic object. */
export function drawGraphic(context, graphic, map, colour) {
  context.beginPath();
  if (graphic.kind === "POINT") {
    for (const point of graphic.points.slice(0, 1).map((each) => map(graphic.units, each))) context.arc(point.x, point.y, 3, 0, 2 * Math.PI);
    context.fillStyle = colour;
    context.fill();
    return;
  }
  const line = outline(graphic, map);
  if (!line) return;
  line.forEach(({ x, y }, i) => (i ? context.lineTo(x, y) : context.moveTo(x, y)));
  if (graphic.isFilled) {
    context.fillStyle = colour;
    context.globalAlpha = 0.4;
    context.fill();
    context.globalAlpha = 1;
  }
  Object.assign(context, { strokeStyle: colour, lineWidth: LINE, lineJoin: "round" });
  context.stroke();
}

/** Draw a text in its box, or at its anchor, with a line between them. */
export function drawText(context, { text, units, from, to, side, anchor, anchorUnits, isTied }, map, colour) {
  const lines = text.split(/\r\n|\r|\n/);
  const point = anchor && map(anchorUnits, anchor);
  const corners = from && to ? [map(units, from), map(units, to)] : point && [{ x: point.x + 8, y: point.y - FONT }, { x: point.x + 8, y: point.y }];
  if (!corners) return;
  const [left, right] = [Math.min(corners[0].x, corners[1].x), Math.max(corners[0].x, corners[1].x)];
  const top = Math.min(corners[0].y, corners[1].y);
  context.font = `${FONT}px system-ui, sans-serif`;
  Object.assign(context, { textBaseline: "top", textAlign: { RIGHT: "right", CENTER: "center" }[side] ?? "left", lineJoin: "round" });
  const x = { RIGHT: right, CENTER: (left + right) / 2 }[side] ?? left;
  if (isTied && point && from) {
    const bottom = Math.max(corners[0].y, corners[1].y, top + FONT);
    const end = { x: Math.min(Math.max(point.x, left), right), y: Math.min(Math.max(point.y, top), bottom) };
    Object.assign(context, { strokeStyle: colour, lineWidth: LINE });
    context.beginPath();
    context.moveTo(point.x, point.y);
    context.lineTo(end.x, end.y);
    context.stroke();
  }
  lines.slice(0, 100).forEach((line, i) => {
    Object.assign(context, { strokeStyle: "#000", lineWidth: 3, fillStyle: colour });
    context.strokeText(line, x, top + i * FONT * 1.25);
    context.fillText(line, x, top + i * FONT * 1.25);
  });
}
