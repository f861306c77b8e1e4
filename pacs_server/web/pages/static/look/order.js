// The order of the images of a series.

import { commonNormal, placeOf } from "./geometry.js";

const byNumber = (a, b) => a.number - b.number || (a.sop < b.sop ? -1 : a.sop > b.sop ? 1 : 0) || a.frame - b.frame;

/**
 * The images in the order in which they lie in the patient, if all of them are parallel and tell their position, else by
 * their numbers. The way through the patient is that of the numbers.
 */
export function sorted(images) {
  const numbered = [...images].sort(byNumber);
  const normal = commonNormal(numbered);
  if (!normal || numbered.length < 2) return numbered;
  const places = new Map(numbered.map((image) => [image, placeOf(image, normal)]));
  // Whether the place grows with the number, over all neighbours.
  let trend = 0;
  for (let i = 1; i < numbered.length; i += 1) trend += Math.sign(places.get(numbered[i]) - places.get(numbered[i - 1]));
  const way = trend < 0 ? -1 : 1;
  return numbered.sort((a, b) => {
    const apart = places.get(a) - places.get(b);
    // What lies in the same place stays in the order of the numbers.
    return Math.abs(apart) < 1e-4 ? byNumber(a, b) : way * apart;
  });
}
