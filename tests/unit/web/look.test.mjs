// The modules of the quick look that touch no page. test_look.py runs this beside a copy of them.

import assert from "node:assert/strict";
import test from "node:test";

import { Cache } from "./look/cache.js";
import { text } from "./look/dataset.js";
import { edges, lengthOf, letters, nearest } from "./look/geometry.js";
import { hasPixels, imagesOf, tableOf, withoutTiles } from "./look/images.js";
import { around, Loader } from "./look/loader.js";
import { sorted } from "./look/order.js";
import { mapping, outline } from "./look/graphics.js";
import { embedded, overlaysOf, planeOf, unpacked } from "./look/overlays.js";
import { State } from "./look/state.js";
import { fitting, matrixOf, showing, START, toCanvas, toImage, zoomed } from "./look/picture.js";
import { colours, fullRange, modality, pulled, storedValue, wholeRange, windowed } from "./look/voi.js";

const US = (...values) => ({ vr: "US", Value: values });
const DS = (...values) => ({ vr: "DS", Value: values });
const AXIAL = [1, 0, 0, 0, 1, 0];

/** The metadata of a CT image. */
const ct = (more = {}) => ({
  "00080018": { vr: "UI", Value: ["1.2.3"] }, "00280002": US(1), "00280004": { vr: "CS", Value: ["MONOCHROME2"] }, "00280010": US(4),
  "00280011": US(6), "00280100": US(16), "00280101": US(12), "00280102": US(11), "00280103": US(0), "7FE00010": { vr: "OW", BulkDataURI: "x" }, ...more,
});
const at = (z, number, more = {}) => ({ position: [0, 0, z], orientation: AXIAL, frameOfReference: "1.9", number, sop: String(number), frame: 1, ...more });

test("windows are those of PS3.3 C.11.2.1.2 and C.11.2.1.3", () => {
  const linear = { center: 2048, width: 4096, shape: "LINEAR" };
  assert.equal(windowed(0, linear), 0);
  assert.equal(windowed(4095, linear), 1);
  assert.ok(Math.abs(windowed(2047.5, linear) - 0.5) < 1e-12);
  // The examples of the Standard: c=0 w=100, and c=0 w=1.
  assert.equal(windowed(-50, { center: 0, width: 100, shape: "LINEAR" }), 0);
  assert.equal(windowed(49, { center: 0, width: 100, shape: "LINEAR" }), 1);
  assert.deepEqual([-1, 0].map((x) => windowed(x, { center: 0, width: 1, shape: "LINEAR" })), [0, 1]);
  const exact = { center: 2048, width: 4096, shape: "LINEAR_EXACT" };
  assert.deepEqual([0, 2048, 4096].map((x) => windowed(x, exact)), [0, 0.5, 1]);
  const sigmoid = { center: 10, width: 4, shape: "SIGMOID" };
  assert.equal(windowed(10, sigmoid), 0.5);
  assert.ok(Math.abs(windowed(11, sigmoid) - 1 / (1 + Math.exp(-1))) < 1e-12);
});

test("bits that are no part of the value are left out, and the sign is that of the highest stored bit", () => {
  const pixel = { allocated: 16, stored: 12, high: 11, signed: true };
  assert.equal(storedValue(0xf000 | 5, pixel), 5);
  assert.equal(storedValue(0x0fff, pixel), -1);
  assert.equal(storedValue(0x0fff, { ...pixel, signed: false }), 4095);
  assert.equal(storedValue(0xfff3, { ...pixel, high: 15, signed: false }), 0xfff);
  assert.equal(storedValue(0x8000, { allocated: 16, stored: 16, high: 15, signed: true }), -32768);
});

test("a table holds the colour of each value", () => {
  const pixel = { allocated: 16, stored: 16, high: 15, signed: true };
  const toHU = modality({ slope: 2, intercept: -1024 }, null);
  const table = colours(pixel, toHU, { center: 0, width: 2, shape: "LINEAR_EXACT" }, false);
  assert.equal(table[512] >>> 0, 0xff808080);
  assert.equal(table[513] >>> 0, 0xffffffff);
  assert.equal(table[65535] >>> 0, 0xff000000);
  assert.equal(colours(pixel, toHU, { center: 0, width: 2, shape: "LINEAR_EXACT" }, true)[65535] >>> 0, 0xffffffff);
});

test("tables of the file take the place of slope and window", () => {
  const item = { "00283002": US(3, 65534, 8), "00283006": US(10, 20, 255), "00283003": { vr: "LO", Value: ["HARD"] } };
  const table = tableOf(item, true);
  assert.deepEqual(table, { first: -2, entries: [10, 20, 255], bits: 8, name: "HARD" });
  assert.deepEqual([-9, -2, -1, 0, 9].map(modality({}, table)), [10, 10, 20, 255, 255]);
  const pixel = { allocated: 8, stored: 8, high: 7, signed: false };
  assert.equal(colours(pixel, (x) => x, { table: { ...table, first: 0 } }, false)[1] >>> 0, 0xff141414);
  const words = { "00283002": US(2, 0, 16), "00283006": { vr: "OW", InlineBinary: btoa("\x01\x00\x00\x02") } };
  assert.deepEqual(tableOf(words, false).entries, [1, 512]);
  assert.equal(tableOf({ "00283002": US(2, 0, 16) }, false), null);
});

test("the whole range leaves padding out", () => {
  const pixel = { allocated: 16, stored: 16, high: 15, signed: true };
  const data = Uint16Array.from([0x8000, 100, 0xffff, 300]);
  const range = fullRange(data, pixel, (x) => x, [-32768, -32768]);
  assert.deepEqual([windowed(-1, range), windowed(300, range)], [0, 1]);
  assert.equal(range.width, 302);
  assert.ok(fullRange(Uint16Array.from([0x8000]), pixel, (x) => x, [-32768, -32768]).width >= 1);
});

test("a window that is pulled on stays one", () => {
  const window = { center: 40, width: 400, shape: "LINEAR", name: "BRAIN" };
  assert.equal(pulled(window, -1e6, 0).width, 1);
  assert.ok(pulled(window, 0, 10).center > 40 && pulled(window, 10, 0).width > 400);
});

test("images lie as in the patient, in the direction of their numbers", () => {
  const places = (images) => sorted(images).map((image) => image.position[2]);
  assert.deepEqual(places([at(5, 3), at(-5, 1), at(0, 2)]), [-5, 0, 5]);
  assert.deepEqual(places([at(0, 2), at(5, 1), at(-5, 3)]), [5, 0, -5]);
  // One number is wrong: the place decides.
  assert.deepEqual(places([at(0, 1), at(1, 2), at(2, 9), at(3, 4), at(4, 5)]), [0, 1, 2, 3, 4]);
  // Pictures of one place stay together, in the order of their numbers.
  assert.deepEqual(sorted([at(1, 4), at(0, 3), at(0, 1), at(1, 2)]).map((image) => image.number), [1, 3, 2, 4]);
});

test("without places, or with several directions, the numbers decide", () => {
  assert.deepEqual(sorted([at(5, 2), at(0, 1, { position: null })]).map((image) => image.number), [1, 2]);
  const sagittal = at(1, 1, { orientation: [0, 1, 0, 0, 0, -1] });
  assert.deepEqual(sorted([at(9, 2), sagittal, at(0, 3)]).map((image) => image.number), [1, 2, 3]);
  assert.deepEqual(sorted([at(0, 1, { orientation: null, frame: 2 }), at(0, 1, { orientation: null })]).map((image) => image.frame), [1, 2]);
});

test("the sides of the patient turn with the image", () => {
  assert.equal(letters([0, 0.7, -0.7]).length, 2);
  assert.equal(letters([0.05, 0, 1]), "H");
  assert.deepEqual(edges(AXIAL, 0, false), { right: "L", bottom: "P", left: "R", top: "A" });
  assert.deepEqual(edges(AXIAL, 1, false), { right: "A", bottom: "L", left: "P", top: "R" });
  assert.deepEqual(edges(AXIAL, 0, true), { right: "R", bottom: "P", left: "L", top: "A" });
  assert.deepEqual(edges([0, 1, 0, 0, 0, -1], 0, false), { right: "P", bottom: "F", left: "A", top: "H" });
  assert.equal(edges(null, 0, false), null);
  assert.equal(edges([0, 0, 0, 0, 0, 0], 0, false), null);
});

test("letters and pixels turn alike", () => {
  const image = { rows: 10, columns: 10, aspect: [1, 1] };
  for (const turn of [0, 1, 2, 3]) {
    for (const flipped of [false, true]) {
      const matrix = matrixOf(image, { ...START, scale: 1, turn, flipped }, 100, 100);
      // The middle of the side of the image that is on the left of the patient.
      const side = toCanvas(matrix, { x: 10, y: 5 });
      const found = Object.entries({ left: [45, 50], right: [55, 50], top: [50, 45], bottom: [50, 55] })
        .find(([, [x, y]]) => Math.hypot(side.x - x, side.y - y) < 1e-9)[0];
      assert.equal(edges(AXIAL, turn, flipped)[found], "L");
    }
  }
});

test("linked series meet at the nearest place, and only in one frame of reference", () => {
  const others = [at(0, 1), at(5, 2), at(10, 3)];
  assert.equal(nearest(at(6, 1), others), 1);
  assert.equal(nearest(at(6, 1, { frameOfReference: "1.8" }), others), -1);
  assert.equal(nearest(at(6, 1, { orientation: [0, 1, 0, 0, 0, -1] }), others), -1);
  assert.equal(nearest(at(6, 1, { position: null }), others), -1);
});

test("distances are in millimetres, or in pixels as they are shown", () => {
  const line = [{ x: 0, y: 0 }, { x: 3, y: 4 }];
  assert.deepEqual(lengthOf({ spacing: [2, 2], aspect: [1, 1] }, ...line), { length: 10, unit: "mm" });
  assert.deepEqual(lengthOf({ spacing: [0.5, 1], aspect: [1, 2] }, ...line), { length: Math.hypot(3, 2), unit: "mm" });
  assert.deepEqual(lengthOf({ spacing: null, aspect: [1, 1] }, ...line), { length: 5, unit: "px" });
});

test("a line in a region of an ultrasound image is measured by that", () => {
  const region = {
    "00186018": US(10), "0018601A": US(10), "0018601C": US(50), "0018601E": US(50), "00186024": US(3), "00186026": US(3),
    "0018602C": { vr: "FD", Value: [0.1] }, "0018602E": { vr: "FD", Value: [-0.2] },
  };
  const [image] = imagesOf([ct({ "00186011": { vr: "SQ", Value: [region, { ...region, "00186024": US(4) }] } })]);
  assert.deepEqual(lengthOf(image, { x: 20, y: 20 }, { x: 23, y: 22 }), { length: 5, unit: "mm" });
  assert.deepEqual(lengthOf(image, { x: 5, y: 20 }, { x: 8, y: 24 }), { length: 5, unit: "px" });
});

test("of a slide the tiles are left out", () => {
  const slide = (sop, frames) => ct({
    "00080016": { vr: "UI", Value: ["1.2.840.10008.5.1.4.1.1.77.1.6"] }, "00080018": { vr: "UI", Value: [sop] }, "00280008": { vr: "IS", Value: [frames] },
  });
  const kept = withoutTiles(imagesOf([slide("1", 400), slide("2", 1), slide("3", 1), ct()]));
  assert.deepEqual(kept.map((image) => image.sop), ["2", "3", "1.2.3"]);
  assert.equal(withoutTiles(imagesOf([slide("1", 400), slide("2", 4)])).length, 4);
});

test("an image fits, and the point under the pointer stays when it grows", () => {
  const image = { rows: 100, columns: 200, aspect: [2, 1] };
  assert.equal(fitting(image, START, 400, 300), 1.5);
  assert.equal(fitting(image, { ...START, turn: 1 }, 400, 300), 1.5);
  const view = { ...START, scale: 1.5, turn: 3, flipped: true, x: 7, y: -3 };
  const point = { x: 120, y: 80 };
  const before = toImage(matrixOf(image, view, 400, 300), point);
  const after = toImage(matrixOf(image, zoomed(view, 2.5, point, 400, 300), 400, 300), point);
  assert.ok(Math.hypot(before.x - after.x, before.y - after.y) < 1e-9);
  assert.equal(zoomed(view, 1e9, point, 400, 300).scale, 64);
});

test("an image is a frame, with the attributes of its functional groups", () => {
  const group = (z) => ({
    "00209113": { vr: "SQ", Value: [{ "00200032": DS(0, 0, z) }] },
    "00289132": { vr: "SQ", Value: [{ "00281050": DS(z), "00281051": DS(100) }] },
  });
  const shared = {
    "00289110": { vr: "SQ", Value: [{ "00280030": DS(2, 1) }] }, "00209116": { vr: "SQ", Value: [{ "00200037": DS(...AXIAL) }] },
    "00289145": { vr: "SQ", Value: [{ "00281053": DS(2), "00281052": DS(-1000) }] },
  };
  const [first, second] = imagesOf([ct({ "00280008": { vr: "IS", Value: [2] }, "52009229": { vr: "SQ", Value: [shared] }, "52009230": { vr: "SQ", Value: [group(1), group(5)] } })]);
  assert.deepEqual([first.position, second.position], [[0, 0, 1], [0, 0, 5]]);
  assert.deepEqual(second.windows, [{ center: 5, width: 100, name: "", shape: "LINEAR" }]);
  assert.deepEqual([second.spacing, second.aspect, second.orientation], [[2, 1], [2, 1], AXIAL]);
  assert.deepEqual([second.rescale.slope, second.rescale.intercept, second.key], [2, -1000, "1.2.3/2"]);
});

test("what is wrong in a file does no harm", () => {
  const [image] = imagesOf([ct({ "00281050": DS(40, "x"), "00281051": DS(0, 50), "00281053": DS(0), "00280030": DS(0, 1), "00280101": US(40), "00200032": DS(1) })]);
  assert.deepEqual([image.windows, image.rescale.slope, image.spacing, image.position], [[], 1, null, null]);
  assert.deepEqual(image.pixel, { allocated: 16, stored: 16, high: 15, signed: false });
  assert.equal(imagesOf(Array(3).fill(ct({ "00280008": { vr: "IS", Value: [99999] } }))).length, 100000);
  assert.equal(imagesOf([{}, { "00280010": US(1) }]).length, 0);
  assert.equal(hasPixels(ct({ "00280011": US(0) })), false);
});

test("values are windowed here only where they are grey and whole numbers", () => {
  const of = (more) => imagesOf([ct(more)])[0].hasValues;
  assert.equal(of({}), true);
  assert.equal(of({ "00280004": { vr: "CS", Value: ["PALETTE COLOR"] } }), false);
  assert.equal(of({ "00280004": { vr: "CS", Value: ["RGB"] }, "00280002": US(3) }), false);
  assert.equal(of({ "00280100": US(1) }), false);
});

test("the rate is that of the file", () => {
  const of = (more) => imagesOf([ct(more)])[0].rate;
  assert.equal(of({ "00181063": DS(40) }), 25);
  assert.equal(of({ "00181063": DS(40), "00082144": { vr: "IS", Value: [10] } }), 10);
  assert.equal(of({ "00181065": DS(0, 50, 50) }), 20);
  assert.equal(of({}), undefined);
});

const FL = (...values) => ({ vr: "FL", Value: values });
const plane = (more = {}) => ct({ "60020010": US(2), "60020011": US(3), "60020100": US(1), "60023000": { vr: "OW", InlineBinary: btoa("\x2a\x0c") }, ...more });

test("overlays that are cut off or claim too much are left out", () => {
  const [overlay] = overlaysOf(plane());
  assert.deepEqual([...unpacked(overlay, 0, Uint8Array.of(0x2a)).mask], [0, 1, 0, 1, 0, 1]);
  assert.deepEqual([...unpacked(overlay, 1, Uint8Array.of(0x2a, 0x0c)).mask], [0, 0, 0, 0, 1, 1]);
  assert.equal(unpacked(overlay, 2, Uint8Array.of(0x2a, 0x0c)), null);
  assert.equal(unpacked(overlay, 0, null), null);
  for (const wrong of [{ "60020010": US(65535), "60020011": US(65535) }, { "60020010": US() }]) assert.deepEqual(overlaysOf(plane(wrong)), []);
  const frames = overlaysOf(plane({ "60020015": { vr: "IS", Value: ["2"] }, "60020051": US(3) }))[0];
  assert.deepEqual([1, 2, 3, 4, 5].map((frame) => planeOf(frames, frame)), [-1, -1, 0, 1, -1]);
});

test("a bit of the values is no overlay", () => {
  const of = (bit) => overlaysOf(ct({ "60000010": US(2), "60000011": US(2), "60000100": US(16), "60000102": US(bit) }))[0];
  const image = { rows: 1, columns: 3, pixel: { allocated: 16, stored: 12, high: 11, signed: false } };
  assert.deepEqual([...embedded(of(12), Uint16Array.of(0x1fff, 0x0fff, 0x1000), image).mask], [1, 0, 1]);
  for (const bit of [0, 11, 16, 99]) assert.equal(embedded(of(bit), Uint16Array.of(1, 2, 3), image), null);
});

test("a state turns first and mirrors then, where a view mirrors first", () => {
  const image = { rows: 10, columns: 10, aspect: [1, 1] };
  // Where the top left corner of the image has to be seen.
  for (const [rotation, flip, place] of [[0, "N", [45, 45]], [90, "N", [55, 45]], [90, "Y", [45, 45]], [270, "Y", [55, 55]], [180, "Y", [45, 55]]]) {
    const state = new State(ct({ "00700042": US(rotation), "00700041": { vr: "CS", Value: [flip] } }));
    const matrix = matrixOf(image, { ...START, scale: 1, ...state.turned }, 100, 100);
    const corner = toCanvas(matrix, { x: 0, y: 0 });
    assert.ok(Math.hypot(corner.x - place[0], corner.y - place[1]) < 1e-9, `${rotation} ${flip}`);
  }
});

test("a state is about the images and frames that it names", () => {
  const named = (sop, ...frames) => ({ "00081155": { vr: "UI", Value: [sop] }, ...(frames.length && { "00081160": { vr: "IS", Value: frames } }) });
  const series = { "0020000E": { vr: "UI", Value: ["1.5"] }, "00081140": { vr: "SQ", Value: [named("1.2", 2, 3), named("1.3")] } };
  const state = new State(ct({ "00081115": { vr: "SQ", Value: [series] } }));
  assert.deepEqual([[1, "1.2"], [3, "1.2"], [1, "1.3"], [1, "1.4"]].map(([frame, sop]) => state.shows({ sop, frame })), [false, true, true, false]);
  assert.deepEqual([state.series, state.first, state.shutter, state.area({ sop: "1.3", frame: 1 })], ["1.5", "1.2", null, null]);
});

test("graphics with too few points are none, and parts of the area are where it is seen", () => {
  const image = { rows: 20, columns: 40, aspect: [1, 1] };
  const area = { left: 10, top: 0, right: 30, bottom: 20 };
  const matrix = matrixOf(image, showing(area, image, START, 200, 100), 200, 100);
  const map = mapping(matrix, area);
  assert.equal(showing(area, image, START, 200, 100, 3).scale, 3);
  assert.deepEqual(toCanvas(matrixOf(image, showing({ ...area, left: 20 }, image, { ...START, turn: 1 }, 200, 100, 3), 200, 100), { x: 25, y: 10 }), { x: 100, y: 50 });
  assert.deepEqual([map("DISPLAY", { x: 0, y: 0 }), map("PIXEL", { x: 30, y: 20 })], [{ x: 50, y: 0 }, { x: 150, y: 100 }]);
  for (const kind of ["CIRCLE", "ELLIPSE", "POLYLINE", "INTERPOLATED", "NOTHING"]) assert.equal(outline({ kind, units: "PIXEL", points: [{ x: 1, y: 1 }] }, map), null);
  const state = new State(ct({ "00700001": { vr: "SQ", Value: [{ "00700009": { vr: "SQ", Value: [{ "00700022": FL(1, 2, "x", 3) }, {}] }, "00700008": { vr: "SQ", Value: [{}] } }] } }));
  assert.deepEqual(state.layers({ sop: "1", frame: 1, key: "1/1" })[0].graphics.map((each) => each.points), [[{ x: 1, y: 2 }], []]);
});

test("without a window all values that a pixel can have are seen", () => {
  const pixel = { allocated: 16, stored: 12, high: 11, signed: true };
  const window = wholeRange(pixel, (stored) => 2 * stored - 10, null);
  assert.deepEqual([windowed(-4106, window), windowed(4084, window)], [0, 1]);
  assert.equal(windowed(255, wholeRange(pixel, null, { bits: 8 })), 1);
});

test("names are written as people do", () => {
  const pn = (value) => text({ "00100010": { vr: "PN", Value: [value] } }, "00100010");
  assert.equal(pn({ Alphabetic: "Doe^Jane^^Dr" }), "Doe, Jane Dr");
  assert.equal(pn({ Ideographic: "山田^太郎" }), "山田, 太郎");
  assert.deepEqual([pn(null), pn({}), text({}, "00100010")], ["", "", ""]);
});

test("the cache keeps what was used last, up to its bytes", () => {
  const dropped = [];
  const cache = new Cache(10, (thing) => dropped.push(thing));
  for (const name of ["a", "b"]) cache.put(name, name, 4);
  assert.equal(cache.get("a"), "a");
  cache.put("c", "c", 4);
  assert.deepEqual([dropped, cache.bytes, cache.has("b")], [["b"], 8, false]);
  cache.put("c", "C", 2);
  assert.deepEqual([cache.get("c"), cache.bytes], ["C", 6]);
  cache.put("large", "large", 50);
  assert.deepEqual([cache.get("large"), cache.bytes], ["large", 50]);
});

test("around a place the nearest come first", () => {
  assert.deepEqual(around(5, 100, 3, 1), [5, 6, 4, 7, 8]);
  assert.deepEqual(around(5, 100, 2, 1, -1), [5, 4, 6, 3]);
  assert.deepEqual(around(0, 2, 5, 5), [0, 1]);
});

/** A loader whose requests are answered by hand. */
function loading(atOnce) {
  const open = new Map();
  const fetchOne = (item, signal) => new Promise((resolve, reject) => {
    open.set(item.key, { resolve: () => resolve({ thing: item.key, bytes: 1 }), reject });
    signal.addEventListener("abort", () => {
      open.delete(item.key);
      reject(new Error("aborted"));
    });
  });
  let clock = 0;
  const told = [];
  const loader = new Loader(fetchOne, new Cache(100), { atOnce, changed: (key) => told.push(key), now: () => clock });
  return { open, loader, told, later: (ms) => { clock += ms; } };
}
const items = (...keys) => keys.map((key) => ({ key }));
const settled = () => new Promise((resolve) => { setImmediate(resolve); });

test("a few are fetched at once, and what nobody wants any more is given up", async () => {
  const { open, loader, told } = loading(2);
  loader.want(items("a", "b", "c"));
  assert.deepEqual([...open.keys()], ["a", "b"]);
  loader.want(items("c", "b"));
  assert.deepEqual([...open.keys()].sort(), ["b", "c"]);
  open.get("c").resolve();
  await settled();
  assert.deepEqual([loader.get("c"), loader.get("a"), told, loader.running], ["c", undefined, ["c"], 1]);
});

test("what is fetched goes on with what is next", async () => {
  const { open, loader } = loading(1);
  loader.want(items("a", "b"));
  open.get("a").resolve();
  await settled();
  assert.ok(open.has("b"));
  assert.equal(loader.get("a"), "a");
});

test("one that fails stops no other, and is tried again later", async () => {
  const { open, loader, told, later } = loading(1);
  loader.want(items("a", "b"));
  open.get("a").reject(new Error("broken"));
  open.delete("a");
  await settled();
  assert.equal(loader.problem("a").message, "broken");
  assert.deepEqual([told, open.has("b")], [["a"], true]);
  open.get("b").resolve();
  await settled();
  loader.want(items("a"));
  assert.equal(open.has("a"), false);
  later(6000);
  loader.want(items("a"));
  open.get("a").resolve();
  await settled();
  assert.deepEqual([loader.get("a"), loader.problem("a")], ["a", undefined]);
});
