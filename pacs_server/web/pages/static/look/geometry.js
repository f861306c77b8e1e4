// Planes in the patient (PS3.3 C.7.6.2.1.1): where an image lies, and which side of the patient an edge shows.

const PARALLEL = 0.999;

const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
export const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];

/** The normal of a plane with these six direction cosines, or null if they describe none. */
export function normalOf(orientation) {
  if (!orientation) return null;
  const normal = cross(orientation.slice(0, 3), orientation.slice(3, 6));
  const length = Math.hypot(...normal);
  return length > 0.5 ? normal.map((each) => each / length) : null;
}

/** How far along a normal an image lies, in mm. */
export const placeOf = (image, normal) => dot(image.position, normal);

/** The common normal of images that are all parallel and have a position; null if they do not. */
export function commonNormal(images) {
  const normal = images.length ? normalOf(images[0].orientation) : null;
  if (!normal) return null;
  for (const image of images) {
    const other = normalOf(image.orientation);
    if (!image.position || !other || dot(normal, other) < PARALLEL) return null;
  }
  return normal;
}

/**
 * The index of the image of `others` that lies nearest to `image`; -1 if the two series are not in the same frame of
 * reference, or not parallel.
 */
export function nearest(image, others) {
  const normal = normalOf(image.orientation);
  if (!normal || !image.position || !image.frameOfReference) return -1;
  let found = -1;
  let least = Infinity;
  others.forEach((other, index) => {
    const theirs = normalOf(other.orientation);
    if (!theirs || !other.position || other.frameOfReference !== image.frameOfReference) return;
    if (Math.abs(dot(normal, theirs)) < PARALLEL) return;
    const distance = Math.abs(dot(other.position, normal) - dot(image.position, normal));
    if (distance < least - 1e-6) [found, least] = [index, distance];
  });
  return found;
}

/** The letters of the side of the patient that a direction points to: L R A P H F, the strongest first. */
export function letters(direction) {
  const sides = [["L", "R"], ["P", "A"], ["H", "F"]];
  return direction
    .map((amount, axis) => ({ amount: Math.abs(amount), letter: sides[axis][amount < 0 ? 1 : 0] }))
    .filter((each) => each.amount > 0.26)
    .sort((a, b) => b.amount - a.amount)
    .map((each) => each.letter)
    .join("");
}

/** The letters at the edges of a view: `turn` quarter turns clockwise, after a mirroring from left to right. */
export function edges(orientation, turn, flipped) {
  if (!normalOf(orientation)) return null;
  const row = orientation.slice(0, 3).map((each) => (flipped ? -each : each));
  const column = orientation.slice(3, 6);
  const back = (direction) => direction.map((each) => -each);
  // Clockwise from the right edge: what is at one edge moves to the next with each quarter turn.
  const around = [row, column, back(row), back(column)].map(letters);
  const at = (edge) => around[(edge - turn + 8) % 4];
  return { right: at(0), bottom: at(1), left: at(2), top: at(3) };
}

/**
 * The length of a line between two points of an image, with its unit: mm where the file tells, else pixels. Of an
 * ultrasound image, regions have a spacing of their own (PS3.3 C.8.5.5), which counts if the line lies in one of them.
 */
export function lengthOf(image, from, to) {
  const inside = ({ x, y }, region) => x >= region.left && x <= region.right && y >= region.top && y <= region.bottom;
  const region = image.spacing ? null : image.regions?.find((each) => inside(from, each) && inside(to, each));
  const [down, across] = image.spacing ?? region?.spacing ?? image.aspect;
  return { length: Math.hypot((to.x - from.x) * across, (to.y - from.y) * down), unit: image.spacing || region ? "mm" : "px" };
}
