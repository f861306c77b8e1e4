// The attributes of an instance: what one types hides the attributes without these words, and opens sequences with them.

const form = document.querySelector("form[data-filter]");
const box = form.querySelector("input");
const root = document.querySelector(form.dataset.filter);
const rows = [...root.querySelectorAll(".tag-row")];
const texts = new Map(rows.map((row) => {
  const own = [...row.children].filter((part) => part.tagName !== "DETAILS").concat([...row.querySelectorAll(":scope > details > summary")]);
  const keyword = row.querySelector(":scope > .name")?.title ?? "";
  return [row, `${keyword} ${own.map((part) => part.textContent).join(" ")}`.toLowerCase()];
}));
const opened = new Set();

function show(words) {
  const shown = new Set();
  for (const row of rows) {
    if (!words.every((word) => texts.get(row).includes(word))) continue;
    // What a sequence holds is shown with it, and a sequence with what it holds.
    for (const below of row.querySelectorAll(".tag-row")) shown.add(below);
    for (let up = row; up && up !== root; up = up.parentElement) {
      if (up.matches(".tag-row")) shown.add(up);
      if (words.length && up !== row && up.tagName === "DETAILS" && !up.open) {
        up.open = true;
        opened.add(up);
      }
    }
  }
  for (const row of rows) row.hidden = !shown.has(row);
  for (const part of root.querySelectorAll(".creator, .item")) part.hidden = !part.querySelector(".tag-row:not([hidden])");
  const nothing = root.querySelector("[data-nothing]");
  if (nothing) nothing.hidden = shown.size > 0;
}

function typed() {
  const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
  if (!words.length) {
    for (const part of opened) part.open = false;
    opened.clear();
  }
  show(words);
}

// The page that was found by the form on its own holds what was found: only a page of all attributes can be filtered.
if (!new URLSearchParams(location.search).get("q")) {
  box.addEventListener("input", typed);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    typed();
  });
  if (box.value) typed();
}
