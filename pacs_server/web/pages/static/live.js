// Parts of a page that follow the archive: <section id="list" data-live="ARRIVED DELETED"> is fetched again when
// something of these kinds has happened.
//
// Only a page that is seen listens: browsers give one server few connections, and the server gives one reader few.

import { swap } from "./swap.js";

const PAUSE = 700;
let source;
let timer;
const waiting = new Set();

/** Listen for the parts in `root` that want to follow. */
export function follow(root) {
  if (!root.querySelector("[data-live]")) return;
  listen();
  document.addEventListener("visibilitychange", () => (document.hidden ? leave() : listen()));
  addEventListener("pagehide", leave);
  addEventListener("pageshow", listen);
}

function listen() {
  if (source || document.hidden) return;
  source = new EventSource(`${document.documentElement.dataset.prefix}/api/v1/events`);
  // The server does not know what this page has seen: all may have changed since it was made, or since a break.
  source.addEventListener("open", () => happened());
  for (const kind of kinds()) source.addEventListener(kind, () => happened(kind));
}

function leave() {
  source?.close();
  source = undefined;
}

function parts() {
  return [...document.querySelectorAll("[data-live]")];
}

function kinds() {
  return new Set(parts().flatMap((part) => part.dataset.live.split(" ")));
}

function happened(kind) {
  for (const part of parts()) {
    if (!kind || part.dataset.live.split(" ").includes(kind)) waiting.add(part.id);
  }
  // Images come one by one: look once for many of them.
  timer ??= setTimeout(look, kind ? PAUSE : 0);
}

async function look() {
  timer = undefined;
  const ids = [...waiting];
  waiting.clear();
  for (const id of ids) {
    const part = document.getElementById(id);
    if (!part) continue;
    // What somebody is working in stays as it is, and so does what has grown; data-keeps says that nothing is lost.
    const working = part.matches(":focus-within") || part.querySelector("input:checked, dialog[open]");
    if ("long" in part.dataset || (working && !("keeps" in part.dataset))) part.dispatchEvent(new CustomEvent("stale", { bubbles: true }));
    else await swap(location.href, `#${id}`);
  }
}
