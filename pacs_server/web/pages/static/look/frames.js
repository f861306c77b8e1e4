// Fetches series and frames from the server: values that are windowed here, or pictures that the server has made.

import { Cache } from "./cache.js";
import { text } from "./dataset.js";
import { isFilm } from "./documents.js";
import { hasPixels, imagesOf, tableOf, withoutTiles } from "./images.js";
import { Loader } from "./loader.js";
import { sorted } from "./order.js";
import { embedded, inlineBits, planeOf, unpacked } from "./overlays.js";

const VALUES = "application/octet-stream; transfer-syntax=1.2.840.10008.1.2.1";
const MOST_PLANES = 16;
const MEGABYTE = 2 ** 20;
const prefix = document.documentElement.dataset.prefix;

/** The memory for frames: less on small devices. */
const limit = () => Math.min(512, Math.max(96, (navigator.deviceMemory ?? 4) * 64)) * MEGABYTE;

/** An answer, or an error with the reason that the server gives. */
async function answered(address, options) {
  const answer = await fetch(address, options);
  if (answer.status === 401) location.reload();
  if (!answer.ok) throw new Error(await reason(answer));
  return answer;
}

async function reason(answer) {
  try {
    const found = await answer.json();
    const detail = String(found.detail ?? found.title ?? answer.statusText);
    // What cannot be decoded: the second part of the sentence says why, the first one is about headers.
    return answer.status === 406 ? detail.slice(detail.indexOf(": ") + 1).trim() : detail;
  } catch {
    return `${answer.status} ${answer.statusText}`;
  }
}

/** The series of one study. */
export class Study {
  #series = new Map();
  #read = new Map();
  #planes = new Cache(MOST_PLANES);

  constructor(uid, changed) {
    this.uid = uid;
    this.cache = new Cache(limit(), (frame) => frame.bitmap?.close());
    this.loader = new Loader((image, signal) => this.#frame(image, signal), this.cache, { changed });
  }

  /** The path of a series. */
  path(series) { return `${prefix}/dicom-web/studies/${this.uid}/series/${series}`; }

  /** The images of a series in their order, and the instances that have no pixels. */
  series(uid) {
    if (!this.#series.has(uid)) {
      const found = this.#fetchSeries(uid);
      found.catch(() => this.#series.delete(uid));
      this.#series.set(uid, found);
    }
    return this.#series.get(uid);
  }

  /** Read series again, those for which `isDue` holds, when they are asked for the next time. */
  outdate(isDue) {
    for (const uid of [...this.#series.keys()].filter(isDue)) this.#series.delete(uid);
  }

  /** Forget the frames of a series that was read. */
  forget(uid) {
    this.#read.get(uid)?.frames.forEach((image) => this.cache.drop(image.key));
  }

  async #fetchSeries(uid) {
    const instances = await (await answered(`${this.path(uid)}/metadata`)).json();
    const frames = sorted(withoutTiles(imagesOf(instances)));
    for (const image of frames) image.path = `${this.path(uid)}/instances/${image.sop}/frames/${image.frame}`;
    const images = frames.filter((image) => !isFilm(image.ds));
    const others = instances.filter((ds) => !hasPixels(ds)).length;
    const series = { uid, others, images, frames, instances, modality: text(instances[0], "00080060") };
    this.#read.set(uid, series);
    return series;
  }

  async #frame(image, signal) {
    return image.hasValues ? this.#values(image, signal) : this.#picture(image, signal);
  }

  async #values(image, signal) {
    const values = answered(image.path, { signal, headers: { accept: VALUES } });
    const [answer, tables, over] = await Promise.all([values, this.#tables(image), this.overlays(image.ds, image.overlays, image.frame)]);
    const bytes = await answer.arrayBuffer();
    const { allocated } = image.pixel;
    const wanted = image.rows * image.columns;
    if (bytes.byteLength < (wanted * allocated) / 8) throw new Error(`${bytes.byteLength} B < ${(wanted * allocated) / 8} B`);
    const data = allocated === 8 ? new Uint8Array(bytes, 0, wanted) : new Uint16Array(bytes, 0, wanted);
    const overlays = [...over, ...image.overlays.map((each) => embedded(each, data, image)).filter(Boolean)];
    return { thing: { data, overlays, ...tables }, bytes: bytes.byteLength + sizeOf(overlays) };
  }

  async #picture(image, signal) {
    const made = answered(`${image.path}/rendered?quality=95`, { signal, headers: { accept: "image/jpeg" } });
    const [answer, overlays] = await Promise.all([made, this.overlays(image.ds, image.overlays, image.frame)]);
    const bitmap = await createImageBitmap(await answer.blob());
    return { thing: { bitmap, overlays }, bytes: 4 * bitmap.width * bitmap.height + sizeOf(overlays) };
  }

  /** The masks of overlays that have bits of their own. What cannot be had is left out: the image counts. */
  async overlays(ds, overlays, frame) {
    const found = await Promise.all(overlays.filter((each) => each.data).map(async (each) => {
      const bits = await this.#bits(ds, each).catch(() => null);
      return unpacked(each, planeOf(each, frame), bits);
    }));
    return found.filter(Boolean);
  }

  /** The bits of an overlay; those of all its frames come together, and the last few are kept. */
  #bits(ds, overlay) {
    const address = overlay.data.BulkDataURI;
    if (!address) return Promise.resolve(inlineBits(ds, overlay));
    if (!this.#planes.has(address)) {
      const found = bulk(address);
      found.catch(() => this.#planes.drop(address));
      this.#planes.put(address, found, 1);
    }
    return this.#planes.get(address);
  }

  /** The tables of the Modality LUT and VOI LUT Sequence; long ones are fetched. */
  async #tables(image) {
    const { modalityTable: item, windowTables: items } = image;
    if (!item && !items.length) return { modalityTable: null, windowTables: [] };
    const { signed } = image.pixel;
    const modalityTable = item ? await table(item, signed) : null;
    const mayBeNegative = !modalityTable && (signed || image.rescale.intercept < 0);
    const found = await Promise.all(items.map((each) => table(each, mayBeNegative)));
    return { modalityTable, windowTables: found.filter(Boolean) };
  }
}

async function bulk(address) {
  const answer = await answered(address, { headers: { accept: "application/octet-stream" } });
  return new Uint8Array(await answer.arrayBuffer());
}

/** A table of an item; a long one is fetched. */
export async function table(item, signed) {
  const address = item["00283006"]?.BulkDataURI;
  return address ? tableOf(item, signed, await bulk(address)) : tableOf(item, signed);
}

const sizeOf = (overlays) => overlays.reduce((size, each) => size + each.mask.length, 0);
