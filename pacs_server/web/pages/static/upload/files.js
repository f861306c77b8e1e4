// What was dropped or chosen, as files: folders are walked, ZIP archives opened.

import { BrokenZip, entriesOf } from "./zip.js";

/** Yields {path, size, stamp, problem, open()} for everything in a drop. */
export async function* dropped(transfer) {
  // All entries have to be asked for before the first pause: the list is empty afterwards.
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.() || item.getAsFile()).filter(Boolean);
  for (const each of entries) yield* each instanceof File ? opened(each, each.name) : walked(each);
}

/** The same for the files of an input. */
export async function* chosen(list) {
  for (const file of list) yield* opened(file, file.webkitRelativePath || file.name);
}

async function* walked(entry) {
  if (entry.isFile) {
    const file = await new Promise((resolve) => entry.file(resolve, () => resolve(null)));
    const path = entry.fullPath.replace(/^\//, "");
    if (file) yield* opened(file, path);
    else yield { path, size: 0, stamp: 0, problem: "unreadable" };
    return;
  }
  const reader = entry.createReader();
  for (;;) {
    // A folder is read in pieces of a hundred.
    const some = await new Promise((resolve) => reader.readEntries(resolve, () => resolve([])));
    if (!some.length) return;
    for (const each of some) yield* walked(each);
  }
}

async function* opened(file, path) {
  if (!/\.zip$/i.test(path)) {
    yield { path, size: file.size, stamp: file.lastModified, problem: "", open: async () => file };
    return;
  }
  try {
    for (const entry of await entriesOf(file)) {
      yield { ...entry, path: `${path}/${entry.path}`, stamp: file.lastModified };
    }
  } catch (error) {
    yield { path, size: file.size, stamp: 0, problem: error instanceof BrokenZip ? "brokenZip" : "unreadable" };
  }
}
