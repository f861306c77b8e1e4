// Overlay planes of an image (PS3.3 C.9.2, C.9.3): bits of their own, or, in old objects, unused bits of the pixels.

import { inline, number, numbers, text } from "./dataset.js";

const LAST_GROUP = 0x601e;
const MOST_PIXELS = 2 ** 26;

/** The overlays that a data set describes; `data` is the attribute with the bits, missing if the pixels hold them. */
export function overlaysOf(ds) {
  const found = [];
  for (let group = 0x6000; group <= LAST_GROUP; group += 2) {
    const tag = (element) => `${group.toString(16)}${element}`;
    const [rows, columns] = [number(ds, tag("0010")), number(ds, tag("0011"))];
    const data = ds[tag("3000")];
    const isEmbedded = !data && (number(ds, tag("0100")) ?? 1) > 1;
    if (!isEmbedded && !(data && rows > 0 && columns > 0 && rows * columns <= MOST_PIXELS)) continue;
    const [top, left] = numbers(ds, tag("0050"));
    found.push({
      group: tag(""), rows, columns, data, top: top ?? 1, left: left ?? 1, bit: number(ds, tag("0102")) ?? 0, isEmbedded,
      isRegion: text(ds, tag("0040")) === "R", frames: number(ds, tag("0015")), first: number(ds, tag("0051")) ?? 1,
    });
  }
  return found;
}

/** The bits of an overlay that came in the data set itself. */
export const inlineBits = (ds, overlay) => inline(ds, `${overlay.group}3000`);

/** Which of the frames of an overlay belongs to a frame of the image; -1 if none does. */
export function planeOf({ frames, first }, frame) {
  if (frames === undefined) return 0;
  const at = frame - first;
  return at < frames ? Math.max(at, -1) : -1;
}

/** The bits of one frame as a mask with a byte for each pixel; null if there are too few (PS3.5 8.1.2). */
export function unpacked(overlay, plane, bytes) {
  const size = overlay.rows * overlay.columns;
  const begin = plane * size;
  if (plane < 0 || !bytes || bytes.length * 8 < begin + size) return null;
  const mask = new Uint8Array(size);
  for (let i = 0, bit = begin; i < size; i += 1, bit += 1) mask[i] = (bytes[bit >> 3] >> (bit & 7)) & 1;
  return { ...overlay, mask };
}

/** The mask in an unused bit of the values of a frame (PS3.5-2004 8.1.2, retired); null if that bit is a part of the values. */
export function embedded(overlay, data, image) {
  const { allocated, stored, high } = image.pixel;
  const { bit } = overlay;
  if (!overlay.isEmbedded || bit < 0 || bit >= allocated || (bit <= high && bit > high - stored)) return null;
  const { rows, columns } = image;
  const mask = new Uint8Array(rows * columns);
  for (let i = 0; i < mask.length; i += 1) mask[i] = (data[i] >> bit) & 1;
  return { ...overlay, rows, columns, mask };
}
