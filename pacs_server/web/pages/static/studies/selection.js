// Which studies of the list are selected: single ones, ranges with the shift key, all that are shown.
// A list that is fetched again keeps those that are still in it.

import { say } from "../say.js";

const form = document.getElementById("selection");
const most = Number(form.dataset.most);
const kept = new Set();
// The study of the box that was clicked last: where a range begins.
let last;

// Without scripts, there is nothing that ticks all.
document.documentElement.classList.add("selects");

const boxes = () => [...document.querySelectorAll(".studies tbody input[name=study]")];

/** The boxes that are ticked. */
export function picked() {
  return boxes().filter((box) => box.checked);
}

/** How many studies are selected. */
export function count() {
  return kept.size;
}

/** Take over what is ticked, or tick again what was, and say how many there are. */
export function choose(ticked = false) {
  const shown = boxes();
  if (ticked) {
    kept.clear();
    for (const box of shown) if (box.checked) kept.add(box.value);
  } else {
    const there = new Set(shown.map((box) => box.value));
    for (const uid of [...kept]) if (!there.has(uid)) kept.delete(uid);
    for (const box of shown) box.checked = box.checked || kept.has(box.value);
    for (const box of shown) if (box.checked) kept.add(box.value);
  }
  const told = form.querySelector("[data-count]");
  told.textContent = kept.size === 1 ? told.dataset.one : told.dataset.many.replace("#", kept.size);
  form.classList.toggle("active", kept.size > 0);
  form.classList.toggle("idle", kept.size === 0);
  const all = document.getElementById("pick-all");
  if (all) {
    all.checked = kept.size > 0 && kept.size === shown.length;
    all.indeterminate = kept.size > 0 && kept.size < shown.length;
  }
}

function tick(box, value) {
  if (value && picked().length >= most && !box.checked) return false;
  box.checked = value;
  return true;
}

document.addEventListener("click", (event) => {
  const box = event.target;
  if (box.id === "pick-all") {
    if (!boxes().map((each) => tick(each, box.checked)).every(Boolean)) say(form.dataset.tooMany, "problem");
    choose(true);
  } else if (box.matches?.(".studies tbody input[name=study]")) {
    const all = boxes();
    const [from, to] = [all.findIndex((each) => each.value === last), all.indexOf(box)].sort((one, other) => one - other);
    if (event.shiftKey && from >= 0) for (const each of all.slice(from, to + 1)) tick(each, box.checked);
    if (picked().length > most) {
      box.checked = false;
      say(form.dataset.tooMany, "problem");
    }
    last = box.value;
    choose(true);
  }
});

form.addEventListener("reset", () => setTimeout(() => {
  for (const box of boxes()) box.checked = false;
  choose(true);
}));
