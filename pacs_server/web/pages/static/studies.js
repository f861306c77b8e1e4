// The list of studies: more rows at its end, selection, keys, and filters that follow the address.

import { choose, count, picked } from "./studies/selection.js";
import { say } from "./say.js";

// So many rows stand on one page at most; then the link at the end leads to the next page.
const MOST_ROWS = 500;
const section = () => document.getElementById("studies");
const rows = () => [...section().querySelectorAll("tbody tr")];
const search = document.getElementById("search");

// ---------------------------------------------------------------- the end of the list

const end = new IntersectionObserver((entries) => {
  for (const entry of entries) if (entry.isIntersecting) more(entry.target);
}, { rootMargin: "600px" });

function watch() {
  end.disconnect();
  const next = section().querySelector(".more");
  if (next && rows().length < MOST_ROWS) end.observe(next);
}

async function more(next) {
  if (next.ariaBusy === "true") return;
  next.ariaBusy = "true";
  const place = section();
  try {
    const answer = await fetch(next.querySelector("a").href, { headers: { accept: "text/html" } });
    const found = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById("studies");
    // The list may be another one by now.
    if (place !== section() || !found) return;
    const known = new Set([...place.querySelectorAll("input[name=study]")].map((box) => box.value));
    for (const row of found.querySelectorAll("tbody tr")) {
      if (!known.has(row.querySelector("input[name=study]").value)) place.querySelector("tbody").append(row);
    }
    const following = found.querySelector(".more");
    if (following) next.replaceWith(following);
    else next.remove();
    place.dataset.long = "yes";
    watch();
  } catch (error) {
    next.ariaBusy = null;
    say(String(error), "problem");
  }
}

// ---------------------------------------------------------------- what changes meanwhile

// A long list stays where it is until somebody wants to see what is new.
document.addEventListener("stale", () => {
  const place = section();
  if (place.querySelector(".changed")) return;
  const told = document.createElement("p");
  told.className = "changed";
  told.setAttribute("role", "status");
  const link = document.createElement("a");
  link.href = location.href;
  link.textContent = place.dataset.show;
  told.append(place.dataset.changed, " ", link);
  place.prepend(told);
});

document.addEventListener("swapped", (event) => {
  if (event.target.id !== "studies") return;
  follow();
  choose();
  watch();
});

/** The form says what the address says, also after a filter was removed by its link. */
function follow() {
  const given = new URLSearchParams(location.search);
  for (const field of search.elements) {
    if (field.name && field !== document.activeElement) field.value = given.get(field.name) ?? "";
  }
  for (const back of document.querySelectorAll("form.columns input[name=back]")) {
    back.value = location.pathname.slice(document.documentElement.dataset.prefix.length) + location.search;
  }
}

// ---------------------------------------------------------------- rows and keys

document.addEventListener("click", (event) => {
  const row = event.target.closest(".studies tbody tr");
  if (!row || event.target.closest("a, input, label") || String(getSelection())) return;
  if (event.target.closest(".pick")) row.querySelector("input").click();
  else if (event.ctrlKey || event.metaKey) open(row.querySelector("th a").href);
  else row.querySelector("th a").click();
});

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const list = rows();
  const here = list.findIndex((row) => row.contains(document.activeElement));
  const field = event.target.closest("input:not([type=checkbox]), select, textarea, summary, dialog");
  // From the search box, the arrow leads into the list.
  if (field && !(field.id === "q" && event.key === "ArrowDown")) return;
  const step = { j: 1, ArrowDown: 1, k: -1, ArrowUp: -1 }[event.key];
  if (step && list.length) {
    const next = list[Math.min(Math.max(here + step, 0), list.length - 1)];
    event.preventDefault();
    next.querySelector("th a").focus();
    next.scrollIntoView({ block: "nearest" });
  } else if (event.key === "x" && here >= 0) {
    list[here].querySelector("input").click();
  } else if (event.key === "Escape" && count()) {
    picked().forEach((box) => { box.checked = false; });
    choose();
  }
});

choose();
watch();
