// From stored values to what a display shows (PS3.3 C.7.6.3.1, C.11.1, C.11.2), as a table of all stored values.

/** The value that the bits of a pixel stand for: other bits may hold an overlay. */
export function storedValue(raw, { stored, high, signed }) {
  const bits = (raw >> (high + 1 - stored)) & (2 ** stored - 1);
  return signed && bits >= 2 ** (stored - 1) ? bits - 2 ** stored : bits;
}

const looked = (table, at) => table.entries[Math.min(Math.max(Math.round(at - table.first), 0), table.entries.length - 1)];

/** A function from stored values to those of the modality, such as Hounsfield units. */
export function modality(rescale, table) {
  return table ? (stored) => looked(table, stored) : (stored) => stored * rescale.slope + rescale.intercept;
}

/** What a window makes of a value, from 0 to 1 (PS3.3 C.11.2.1.2, C.11.2.1.3). */
export function windowed(x, { center, width, shape }) {
  if (shape === "SIGMOID") return 1 / (1 + Math.exp((-4 * (x - center)) / width));
  if (shape === "LINEAR_EXACT") return Math.min(Math.max((x - center) / width + 0.5, 0), 1);
  if (width <= 1) return x > center - 0.5 ? 1 : 0;
  return Math.min(Math.max((x - (center - 0.5)) / (width - 1) + 0.5, 0), 1);
}

/** The function from values of the modality to 0...1 of a window, or of a table of the VOI LUT Sequence. */
function shaped(look) {
  if (!look.table) return (x) => windowed(x, look);
  const most = 2 ** look.table.bits - 1;
  return (x) => looked(look.table, x) / most;
}

const shown = (shape, last) => (x) => last.entries[Math.round(shape(x) * (last.entries.length - 1))] / (2 ** last.bits - 1);

/** A window for all values that a pixel can have: nothing is left out. */
export function wholeRange(pixel, toModality, table) {
  if (table) return { center: (2 ** table.bits - 1) / 2, width: 2 ** table.bits - 1, shape: "LINEAR_EXACT", name: "" };
  const least = pixel.signed ? -(2 ** (pixel.stored - 1)) : 0;
  const [from, to] = [toModality(least), toModality(least + 2 ** pixel.stored - 1)];
  return { center: (from + to) / 2, width: Math.abs(to - from), shape: "LINEAR_EXACT", name: "" };
}

/**
 * The colours of all values that a pixel of 8 or 16 bits can have, as 32 bits for ImageData.
 * `look` is a window or has a `table`; a `last` table turns what comes out into what is shown (PS3.3 C.11.6).
 */
export function colours(pixel, toModality, look, isInverted, last = null) {
  const shape = last ? shown(shaped(look), last) : shaped(look);
  const table = new Uint32Array(2 ** pixel.allocated);
  for (let raw = 0; raw < table.length; raw += 1) {
    const level = Math.min(Math.max(Math.round(shape(toModality(storedValue(raw, pixel))) * 255), 0), 255);
    table[raw] = 0xff000000 | ((isInverted ? 255 - level : level) * 0x010101);
  }
  return table;
}

/** The window from the least to the greatest value of a frame, of which padding is no part. */
export function fullRange(data, pixel, toModality, padding) {
  const seen = new Uint8Array(2 ** pixel.allocated);
  for (let i = 0; i < data.length; i += 1) seen[data[i]] = 1;
  let [least, most] = [Infinity, -Infinity];
  for (let raw = 0; raw < seen.length; raw += 1) {
    if (!seen[raw]) continue;
    const stored = storedValue(raw, pixel);
    if (padding && stored >= padding[0] && stored <= padding[1]) continue;
    const x = toModality(stored);
    if (x < least) least = x;
    if (x > most) most = x;
  }
  if (least > most) [least, most] = [0, 0];
  return { center: (least + most + 1) / 2, width: most - least + 1, shape: "LINEAR", name: "" };
}

/** A window that somebody pulls on: `across` and `down` are pixels on the screen. */
export function pulled(window, across, down) {
  const step = Math.max(window.width, 2) / 256;
  const least = window.shape === "LINEAR" ? 1 : 0.001;
  return { ...window, name: "", center: window.center + down * step, width: Math.max(window.width + across * step, least) };
}

/** Windows that are usual for CT, in Hounsfield units. */
export const CT_WINDOWS = [
  { key: "soft", center: 40, width: 400 },
  { key: "lung", center: -600, width: 1500 },
  { key: "liver", center: 90, width: 150 },
  { key: "bone", center: 480, width: 2500 },
  { key: "brain", center: 40, width: 80 },
].map((each) => ({ ...each, shape: "LINEAR" }));
