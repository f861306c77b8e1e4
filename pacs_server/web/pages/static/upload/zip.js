// The files in a ZIP archive (APPNOTE.TXT of PKWARE), read in place: the archive may be larger than the memory.

const END = 0x06054b50;
const END_64 = 0x06064b50;
const LOCATOR_64 = 0x07064b50;
const ENTRY = 0x02014b50;
const LOCAL = 0x04034b50;
const LONGEST_COMMENT = 65535;
const FULL_32 = 0xffffffff;

export class BrokenZip extends Error {}

/** Entries of the archive `blob`: {path, size, problem, open()}; `open` gives a Blob. Raises BrokenZip. */
export async function entriesOf(blob) {
  const { at, size } = await directory(blob);
  const view = await viewOf(blob, at, size);
  const entries = [];
  let place = 0;
  while (place + 46 <= view.byteLength && view.getUint32(place, true) === ENTRY) {
    const names = [28, 30, 32].map((field) => view.getUint16(place + field, true));
    const path = textOf(view, place + 46, names[0], view.getUint16(place + 8, true) & 0x800);
    const sizes = wide(view, place, names);
    if (!path.endsWith("/")) entries.push(entry(blob, path, view, place, sizes));
    place += 46 + names[0] + names[1] + names[2];
  }
  if (place !== view.byteLength) throw new BrokenZip();
  return entries;
}

function entry(blob, path, view, place, { packed, size, offset }) {
  const encrypted = view.getUint16(place + 8, true) & 1;
  const method = view.getUint16(place + 10, true);
  return {
    path,
    size,
    problem: encrypted ? "encrypted" : method === 0 || method === 8 ? "" : "packed",
    async open() {
      const head = await viewOf(blob, offset, 30);
      if (head.getUint32(0, true) !== LOCAL) throw new BrokenZip();
      const start = offset + 30 + head.getUint16(26, true) + head.getUint16(28, true);
      const data = blob.slice(start, start + packed);
      if (method === 0) return data;
      return new Response(data.stream().pipeThrough(new DecompressionStream("deflate-raw"))).blob();
    },
  };
}

/** Where the central directory is, and its size. */
async function directory(blob) {
  const from = Math.max(0, blob.size - LONGEST_COMMENT - 22);
  const view = await viewOf(blob, from, blob.size - from);
  for (let place = view.byteLength - 22; place >= 0; place -= 1) {
    if (view.getUint32(place, true) !== END) continue;
    const found = { size: view.getUint32(place + 12, true), at: view.getUint32(place + 16, true) };
    if (found.at !== FULL_32 && found.size !== FULL_32) return checked(blob, found);
    const locator = await viewOf(blob, from + place - 20, 20);
    if (locator.getUint32(0, true) !== LOCATOR_64) throw new BrokenZip();
    const end = await viewOf(blob, long(locator, 8), 56);
    if (end.getUint32(0, true) !== END_64) throw new BrokenZip();
    return checked(blob, { size: long(end, 40), at: long(end, 48) });
  }
  throw new BrokenZip();
}

function checked(blob, found) {
  if (found.at + found.size > blob.size) throw new BrokenZip();
  return found;
}

/** Sizes and place of an entry; those of 64 bits stand in its extra field 1. */
function wide(view, place, [name, extra]) {
  const found = { packed: view.getUint32(place + 20, true), size: view.getUint32(place + 24, true), offset: view.getUint32(place + 42, true) };
  let at = place + 46 + name;
  const end = at + extra;
  while (at + 4 <= end) {
    let value = at + 4;
    if (view.getUint16(at, true) === 1) {
      for (const field of ["size", "packed", "offset"]) {
        if (found[field] === FULL_32) {
          found[field] = long(view, value);
          value += 8;
        }
      }
    }
    at += 4 + view.getUint16(at + 2, true);
  }
  return found;
}

async function viewOf(blob, at, size) {
  const buffer = await blob.slice(at, at + size).arrayBuffer();
  if (buffer.byteLength < Math.min(size, 4)) throw new BrokenZip();
  return new DataView(buffer);
}

function long(view, at) {
  return Number(view.getBigUint64(at, true));
}

function textOf(view, at, size, utf8) {
  return new TextDecoder(utf8 ? "utf-8" : "latin1").decode(new Uint8Array(view.buffer, view.byteOffset + at, size));
}
