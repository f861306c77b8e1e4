// Parts of a page that follow the archive: <section id="list" data-live="ARRIVED DELETED"> is fetched again when
// something of these kinds has happened; with data-of="UID", only if it was about this study.

import { swap } from "./swap.js";

const PAUSE = 700;
let timer;
const waiting = new Set();

/** Listen for the parts in `root` that want to follow. */
export function follow(root) {
  if (root.querySelector("[data-live]")) hear(kinds, happened);
}

/**
 * Call `heard(kind, event)` for events of the kinds that `named()` gives. Without arguments it is called when the stream
 * begins: the server does not know what this page has seen, so all may have changed since it was made, or since a break.
 *
 * Only a page that is seen listens: browsers give one server few connections, and the server gives one reader few.
 */
export function hear(named, heard) {
  let source;
  const leave = () => {
    source?.close();
    source = undefined;
  };
  const listen = () => {
    if (source || document.hidden) return;
    source = new EventSource(`${document.documentElement.dataset.prefix}/api/v1/events`);
    source.addEventListener("open", () => heard());
    for (const kind of named()) source.addEventListener(kind, (event) => heard(kind, JSON.parse(event.data)));
  };
  listen();
  document.addEventListener("visibilitychange", () => (document.hidden ? leave() : listen()));
  addEventListener("pagehide", leave);
  addEventListener("pageshow", listen);
}

function parts() {
  return [...document.querySelectorAll("[data-live]")];
}

function kinds() {
  return new Set(parts().flatMap((part) => part.dataset.live.split(" ")));
}

function happened(kind, event) {
  for (const part of parts()) {
    const { live, of } = part.dataset;
    if (!kind || (live.split(" ").includes(kind) && (!of || of === event.study_instance_uid))) waiting.add(part.id);
  }
  // Images come one by one: look once for many of them.
  if (waiting.size) timer ??= setTimeout(look, kind ? PAUSE : 0);
}

async function look() {
  timer = undefined;
  const ids = [...waiting];
  waiting.clear();
  for (const id of ids) {
    const part = document.getElementById(id);
    if (!part) continue;
    if ("long" in part.dataset || isWorkedIn(part)) part.dispatchEvent(new CustomEvent("stale", { bubbles: true }));
    else await swap(location.href, `#${id}`, { unless: isWorkedIn });
  }
}

/** What somebody is working in stays as it is, and so does what has grown; data-keeps says that nothing is lost. */
function isWorkedIn(part) {
  if ("keeps" in part.dataset) return false;
  return part.matches(":focus-within") || part.querySelector("input:checked, dialog[open], details[open] form") !== null;
}
