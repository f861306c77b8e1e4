// Parts of a page that are fetched again every few seconds while somebody sees them: <div id="now" data-every="3">.
// Nothing is swapped under the hands of a reader: not while the focus, an open menu or selected text is inside.

import { enhance } from "./swap.js";

const LONGEST = 60;

function isUsed(part) {
  const selection = getSelection();
  const marked = selection && !selection.isCollapsed && part.contains(selection.anchorNode);
  return marked || part.matches(":focus-within") || part.querySelector("details[open], dialog[open], input:checked");
}

async function look(id) {
  const answer = await fetch(location.href, { headers: { accept: "text/html" } });
  if (!answer.ok || answer.redirected) throw new Error(answer.statusText);
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  const found = page.getElementById(id);
  const part = document.getElementById(id);
  if (!found || !part || isUsed(part) || part.getAttribute("aria-busy")) return;
  if (found.innerHTML === part.innerHTML) return;
  part.replaceWith(found);
  enhance(found);
  found.dispatchEvent(new CustomEvent("swapped", { bubbles: true }));
}

function follow(id, seconds) {
  let pause = seconds;
  const next = () => setTimeout(async () => {
    const part = document.getElementById(id);
    // A part that has come to rest says so by having lost its attribute.
    if (!part?.dataset.every) return;
    if (document.visibilityState === "visible" && !isUsed(part)) {
      try {
        await look(id);
        pause = seconds;
      } catch {
        // The server is away or busy: ask less often.
        pause = Math.min(pause * 2, LONGEST);
      }
    }
    next();
  }, pause * 1000);
  next();
}

for (const part of document.querySelectorAll("[data-every]")) follow(part.id, Number(part.dataset.every));
