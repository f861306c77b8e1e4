// What every page loads: quicker searching, lists that follow the archive, and forms that keep the place.
// Everything here only adds to pages that work without it.

import { follow } from "./live.js";
import { enhance } from "./swap.js";

const menu = document.querySelector("details.menu");
const narrow = window.matchMedia("(max-width: 56rem)");
const settle = () => { menu.open = !narrow.matches; };
narrow.addEventListener("change", settle);
settle();

document.addEventListener("click", (event) => {
  for (const open of document.querySelectorAll("details.me[open], details.drop[open]")) {
    if (!open.contains(event.target)) open.open = false;
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") {
    for (const open of document.querySelectorAll("details.me[open], details.drop[open]")) {
      open.open = false;
      open.querySelector("summary").focus();
    }
  }
  const typing = event.target.matches("input, select, textarea, [contenteditable]");
  const search = document.querySelector("input[type=search]");
  if (event.key === "/" && !typing && search) {
    event.preventDefault();
    search.focus();
  }
});

enhance(document);
follow(document);
