// From the metadata of a series to its images: one for each frame, with all that is needed to show it.

import { overlaysOf, planeOf } from "./overlays.js";
import { inline, number, numbers, text, value, values, vector } from "./dataset.js";

const SHARED = "52009229";
const PER_FRAME = "52009230";
const PIXELS = ["7FE00010", "7FE00008", "7FE00009"];
const SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6";
const MOST_IMAGES = 100_000;

/** The images of some instances; instances without pixels give none. */
export function imagesOf(instances) {
  const images = [];
  for (const ds of instances) {
    if (!hasPixels(ds)) continue;
    // A file may claim any number.
    const count = Math.min(Math.max(1, number(ds, "00280008") ?? 1), MOST_IMAGES - images.length);
    for (let frame = 1; frame <= count; frame += 1) images.push(new Image(ds, frame, count));
  }
  return images;
}

/**
 * What of a series can be scrolled through: of whole slides the pictures of all of it, and not the tiles of its levels; if
 * there are none, the level with the fewest tiles (PS3.3 C.8.12.4).
 */
export function withoutTiles(images) {
  const slides = images.filter((image) => text(image.ds, "00080016") === SLIDE);
  if (!slides.length) return images;
  const fewest = Math.min(...slides.map((image) => image.frames));
  return images.filter((image) => !slides.includes(image) || image.frames === fewest);
}

/** Whether an instance has pixels. */
export const hasPixels = (ds) => PIXELS.some((tag) => tag in ds) && Boolean(number(ds, "00280010") && number(ds, "00280011"));

/** One frame. */
class Image {
  constructor(ds, frame, frames) {
    this.ds = ds;
    this.frame = frame;
    this.frames = frames;
    this.sop = text(ds, "00080018");
    this.key = `${this.sop}/${frame}`;
    this.number = number(ds, "00200013") ?? 0;
    this.rows = number(ds, "00280010");
    this.columns = number(ds, "00280011");
    this.photometric = text(ds, "00280004");
    this.frameOfReference = text(ds, "00200052");
    this.position = vector(this.#group("00209113", "00200032"), "00200032", 3);
    this.orientation = vector(this.#group("00209116", "00200037"), "00200037", 6);
  }

  /** Where an attribute of this frame is: in its own functional group, in that of all frames, or in the data set. */
  #group(sequence, tag) {
    const own = value(value(this.ds, PER_FRAME) && values(this.ds, PER_FRAME)[this.frame - 1], sequence);
    if (own && tag in own) return own;
    const shared = value(value(this.ds, SHARED), sequence);
    return shared && tag in shared ? shared : this.ds;
  }

  /** How stored values lie in the bytes of a frame. */
  get pixel() {
    const allocated = number(this.ds, "00280100") ?? 16;
    const stored = Math.min(number(this.ds, "00280101") || allocated, allocated);
    const high = number(this.ds, "00280102") ?? stored - 1;
    return { allocated, stored, high: Math.min(Math.max(high, stored - 1), allocated - 1), signed: number(this.ds, "00280103") === 1 };
  }

  /** Whether values are fetched, and windowed here; of all others the server makes a picture. */
  get hasValues() {
    const grey = this.photometric === "MONOCHROME1" || this.photometric === "MONOCHROME2";
    return grey && (number(this.ds, "00280002") ?? 1) === 1 && [8, 16].includes(this.pixel.allocated) && "7FE00010" in this.ds;
  }

  /** The memory that a frame takes, in bytes. */
  get bytes() {
    return this.rows * this.columns * (this.hasValues ? this.pixel.allocated / 8 : 4);
  }

  /** Millimetres between rows and between columns, or null. */
  get spacing() {
    const measured = vector(this.#group("00289110", "00280030"), "00280030", 2);
    const found = measured ?? vector(this.ds, "00181164", 2) ?? vector(this.ds, "00182010", 2);
    return found && found.every((each) => each > 0) ? found : null;
  }

  /** The regions of an ultrasound image whose pixels are so many centimetres high and wide (PS3.3 C.8.5.5.1). */
  get regions() {
    return values(this.ds, "00186011")
      .filter((item) => number(item, "00186024") === 3 && number(item, "00186026") === 3)
      .map((item) => ({
        left: number(item, "00186018"), top: number(item, "0018601A"), right: number(item, "0018601C"), bottom: number(item, "0018601E"),
        spacing: [Math.abs(number(item, "0018602E")) * 10, Math.abs(number(item, "0018602C")) * 10],
      }))
      .filter((region) => region.spacing.every((each) => each > 0));
  }

  /** Whether the spacing is that at the detector, and not in the patient (PS3.3 10.7.1.3). */
  get isProjected() {
    return !vector(this.#group("00289110", "00280030"), "00280030", 2) && Boolean(vector(this.ds, "00181164", 2));
  }

  /** How high and how wide a pixel is shown, the smaller one 1. */
  get aspect() {
    const ratio = vector(this.ds, "00280034", 2);
    const [down, across] = this.spacing ?? (ratio && ratio.every((each) => each > 0) ? ratio : [1, 1]);
    const least = Math.min(down, across);
    return [down / least, across / least];
  }

  /** The windows of the file: center, width, name and function. */
  get windows() {
    return windowsOf(this.#group("00289132", "00281050"));
  }

  /** The overlays of the file that belong to this frame. */
  get overlays() {
    const found = overlaysOf(this.ds).filter((each) => planeOf(each, this.frame) >= 0);
    return this.hasValues ? found : found.filter((each) => !each.isEmbedded);
  }

  /** Slope and intercept to the units of the modality (PS3.3 C.11.1). */
  get rescale() {
    const ds = this.#group("00289145", "00281053");
    return { slope: number(ds, "00281053") || 1, intercept: number(ds, "00281052") ?? 0, unit: text(ds, "00281054") };
  }

  /** The items of the Modality LUT and VOI LUT Sequence. */
  get modalityTable() { return value(this.ds, "00283000"); }

  get windowTables() {
    const ds = this.#group("00289132", "00283010");
    return values(ds, "00283010");
  }

  /** The stored values that stand for nothing: the first and the last one, or null (PS3.3 C.7.5.1.1.2). */
  get padding() {
    const first = number(this.ds, "00280120");
    if (first === undefined) return null;
    const last = number(this.ds, "00280121") ?? first;
    return [Math.min(first, last), Math.max(first, last)];
  }

  /** Frames in a second, if the file says how fast it is to be shown (PS3.3 C.7.6.5). */
  get rate() {
    const time = number(this.ds, "00181063") || numbers(this.ds, "00181065").find((each) => each > 0);
    return number(this.ds, "00082144") || number(this.ds, "00180040") || (time ? 1000 / time : undefined);
  }
}

/** The windows of an item: center, width, name and function (PS3.3 C.11.2). */
export function windowsOf(ds) {
  const [centers, widths, names] = [numbers(ds, "00281050"), numbers(ds, "00281051"), values(ds, "00281055")];
  const shape = text(ds, "00281056") || "LINEAR";
  return centers
    .map((center, index) => ({ center, width: widths[index], name: names[index] ?? "", shape }))
    .filter((each) => each.width > 0 && (each.shape !== "LINEAR" || each.width >= 1));
}

/** A lookup table of an item: its first value, its entries and their bits; null if it is none (PS3.3 C.11.1.1). */
export function tableOf(item, signed, bytes = inline(item, "00283006")) {
  const [count, low, width] = numbers(item, "00283002");
  let entries = numbers(item, "00283006");
  if (!entries.length && bytes) {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const many = count || 65536;
    entries = bytes.length < 2 * many ? [...bytes] : Array.from({ length: many }, (_, i) => view.getUint16(2 * i, true));
  }
  if (!entries.length || !width) return null;
  return { first: signed && low > 0x7fff ? low - 0x10000 : low, entries, bits: Math.min(width, 16), name: text(item, "00283003") };
}
