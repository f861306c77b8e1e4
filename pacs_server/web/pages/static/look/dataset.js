// Reading values out of data sets in the DICOM JSON model (PS3.18 F.2). No part of the page is touched here.

/** All values of an attribute; an empty array if it has none. */
export const values = (ds, tag) => ds?.[tag]?.Value ?? [];

/** The first value of an attribute, or undefined. */
export const value = (ds, tag) => values(ds, tag)[0] ?? undefined;

/** The numbers of an attribute; DS and IS may come as text. Values that are no numbers are left out. */
export const numbers = (ds, tag) => values(ds, tag).filter((each) => each !== null && each !== "").map(Number).filter(Number.isFinite);

/** The first number of an attribute, or undefined. */
export const number = (ds, tag) => numbers(ds, tag)[0];

/** So many finite numbers, or null. */
export function vector(ds, tag, length) {
  const found = numbers(ds, tag);
  return found.length >= length ? found.slice(0, length) : null;
}

/** The first value as text: of a person name the first group that is not empty, `Doe^Jane` as `Doe, Jane`. */
export function text(ds, tag) {
  const found = value(ds, tag);
  if (found === undefined || found === null) return "";
  if (typeof found !== "object") return String(found).trim();
  const name = found.Alphabetic || found.Ideographic || found.Phonetic || "";
  const [family, ...others] = name.split("^").map((part) => part.trim());
  const given = others.filter(Boolean).join(" ");
  return given ? `${family}, ${given}` : family;
}

/** The bytes of an attribute that came inline, or null. */
export function inline(ds, tag) {
  const found = ds?.[tag]?.InlineBinary;
  return typeof found === "string" ? Uint8Array.from(atob(found), (letter) => letter.charCodeAt(0)) : null;
}
