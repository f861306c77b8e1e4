// Parts of a page that follow the archive: <section id="list" data-live="ARRIVED DELETED"> is fetched again when
// something of these kinds has happened.

import { swap } from "./swap.js";

const PAUSE = 700;
const prefix = () => document.documentElement.dataset.prefix;
let source;
let timer;
const waiting = new Set();

/** Listen for the parts in `root` that want to follow. */
export function follow(root) {
  if (!source && root.querySelector("[data-live]")) {
    source = new EventSource(`${prefix()}/api/v1/events`);
    source.addEventListener("reset", () => {});
    for (const kind of kinds()) source.addEventListener(kind, () => happened(kind));
    addEventListener("pagehide", () => source.close());
  }
}

function kinds() {
  const found = new Set();
  for (const part of document.querySelectorAll("[data-live]")) for (const kind of part.dataset.live.split(" ")) found.add(kind);
  return found;
}

function happened(kind) {
  for (const part of document.querySelectorAll("[data-live]")) {
    if (part.dataset.live.split(" ").includes(kind)) waiting.add(part.id);
  }
  // Images come one by one: look once for many of them.
  timer ??= setTimeout(look, PAUSE);
}

async function look() {
  timer = undefined;
  const ids = [...waiting];
  waiting.clear();
  for (const id of ids) {
    const part = document.getElementById(id);
    // What somebody is working in stays as it is.
    if (part && !part.matches(":focus-within") && !part.querySelector("input:checked, dialog[open]")) await swap(location.href, `#${id}`);
  }
}
