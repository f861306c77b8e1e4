// The page for uploading: what was dropped is sent, a few files at a time, and every file gets a line with its result.

import { chosen, dropped } from "./files.js";
import { noteStored, wasStored } from "./kept.js";
import { send, unfit } from "./send.js";

const AT_ONCE = 3;
const MOST_ROWS = 500;
const PAUSES = [1, 2, 5, 10, 20, 30];
const prefix = document.documentElement.dataset.prefix;
const $ = (id) => document.getElementById(id);
const zone = $("upload");
const text = zone.dataset;
const count = { all: 0, done: 0, stored: 0, skipped: 0, failed: 0, lost: 0 };
const bytes = { all: 0, done: 0, moving: new Map() };
let queue = [];
let lost = [];
let before = [];
let looking = 0;
let working = 0;
let paused = false;
let stop = new AbortController();

zone.hidden = false;
for (const id of ["files", "folder"]) {
  $(id).addEventListener("change", () => take(chosen([...$(id).files])));
}
for (const type of ["dragenter", "dragover"]) addEventListener(type, (event) => { event.preventDefault(); zone.classList.add("over"); });
addEventListener("dragleave", (event) => { if (!event.relatedTarget) zone.classList.remove("over"); });
addEventListener("drop", (event) => {
  event.preventDefault();
  zone.classList.remove("over");
  take(dropped(event.dataTransfer));
});
$("only").addEventListener("change", () => { $("results").dataset.only = $("only").value; });
$("pause").addEventListener("click", () => {
  paused = true;
  stop.abort();
  buttons();
});
$("onward").addEventListener("click", () => {
  paused = false;
  stop = new AbortController();
  queue = [...lost, ...queue];
  count.lost = 0;
  lost = [];
  buttons();
  work();
});
// What was stored may have been deleted since, which this browser does not know.
$("anyway").addEventListener("click", () => {
  for (const file of before) {
    file.anyway = true;
    bytes.done -= file.size;
    count.done -= 1;
    count.skipped -= 1;
  }
  queue.push(...before);
  before = [];
  work();
  show();
});
addEventListener("beforeunload", (event) => { if (working || queue.length) event.preventDefault(); });

async function take(files) {
  $("run").hidden = $("results").hidden = false;
  looking += 1;
  for await (const file of files) {
    count.all += 1;
    bytes.all += file.size;
    file.row = row(file);
    queue.push(file);
    work();
  }
  looking -= 1;
  show();
}

function work() {
  while (working < AT_ONCE && queue.length && !paused) {
    working += 1;
    one(queue.shift()).finally(() => {
      working -= 1;
      work();
      show();
    });
  }
}

async function one(file) {
  let problem = file.problem;
  let blob;
  try {
    blob = problem ? null : await file.open();
    problem ||= await unfit(blob, file.path);
  } catch {
    problem = "unreadable";
  }
  if (problem) return end(file, problem === "unreadable" || problem === "brokenZip" ? "failed" : "skipped", text[problem]);
  if (!file.anyway && await wasStored(prefix, file)) {
    before.push(file);
    return end(file, "skipped", text.before);
  }
  return deliver(file, blob);
}

async function deliver(file, blob) {
  for (let attempt = 0; !paused; attempt += 1) {
    line(file, "sending", text.sending);
    const result = await send(blob, prefix, (sent) => moved(file, sent), stop.signal);
    bytes.moving.delete(file);
    if (result.kind === "stored" || result.kind === "warned") {
      await noteStored(prefix, file);
      return end(file, "stored", result.kind === "warned" ? `${text.warned}: ${text[result.reason] || result.reason}` : "");
    }
    if (result.kind === "failed") return end(file, "failed", result.detail || text[result.reason] || result.reason);
    if (result.kind === "login" || attempt >= PAUSES.length) {
      if (result.kind === "login") { paused = true; $("state").textContent = text.login; }
      break;
    }
    if (!paused) {
      line(file, "sending", text.offline);
      await new Promise((resolve) => setTimeout(resolve, PAUSES[attempt] * 1000));
    }
  }
  lost.push(file);
  count.lost += 1;
  line(file, "lost", text.lost);
  buttons();
  return undefined;
}

function moved(file, sent) {
  bytes.moving.set(file, sent);
  show();
}

function end(file, kind, why) {
  bytes.done += file.size;
  count.done += 1;
  count[kind] += 1;
  const word = { stored: text.new, skipped: text.skipped, failed: text.failed }[kind];
  line(file, kind, why.startsWith(text.warned) || !why ? why || word : `${word}: ${why}`);
}

function row(file) {
  const found = document.createElement("tr");
  for (const value of [file.path, sized(file.size), ""]) found.append(Object.assign(document.createElement("td"), { textContent: value }));
  found.children[1].className = "count";
  $("rows").prepend(found);
  return found;
}

function line(file, kind, words) {
  file.row.dataset.kind = kind;
  file.row.lastChild.textContent = words;
  file.row.lastChild.className = words.startsWith(text.warned) ? "warn" : { stored: "good", failed: "bad", lost: "bad" }[kind] || "";
  // So many lines as people read; what failed stays.
  const rows = $("rows");
  while (rows.children.length > MOST_ROWS) {
    const oldest = [...rows.children].reverse().find((each) => each.dataset.kind === "stored" || each.dataset.kind === "skipped");
    if (!oldest) break;
    oldest.remove();
    $("hidden-rows").hidden = false;
    $("hidden-rows").textContent = $("hidden-rows").dataset.text.replace("{count}", MOST_ROWS);
  }
}

function buttons() {
  $("pause").hidden = paused || !(working || queue.length);
  $("anyway").hidden = Boolean(!before.length || working || queue.length || looking);
  $("onward").hidden = !(paused || (lost.length && !working));
}

function show() {
  const sent = bytes.done + [...bytes.moving.values()].reduce((sum, each) => sum + each, 0);
  $("bar").max = Math.max(1, bytes.all);
  $("bar").value = sent;
  buttons();
  if (working || queue.length || looking) {
    if (!paused) $("state").textContent = filled(text.progress, { done: count.done, all: count.all, size: sized(sent), total: sized(bytes.all) });
    return;
  }
  $("studies").hidden = !count.stored;
  if (paused && !lost.length) return;
  $("state").textContent = count.lost ? filled(text.again, { count: count.lost }) : filled(text.over, count);
}

function filled(pattern, values) {
  return pattern.replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

function sized(size) {
  const units = ["B", "KB", "MB", "GB", "TB"];
  let value = size;
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) { value /= 1000; unit += 1; }
  return `${value.toLocaleString(document.documentElement.lang, { maximumFractionDigits: unit && value < 100 ? 1 : 0 })} ${units[unit]}`;
}
