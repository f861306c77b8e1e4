// <section id="tasks" data-again="5"> is fetched again every five seconds while somebody looks at the page.

import { swap } from "./swap.js";

for (const part of document.querySelectorAll("[data-again]")) {
  setInterval(() => {
    const now = document.getElementById(part.id);
    // What somebody is working in, or reads, stays as it is.
    if (document.hidden || now.matches(":focus-within") || now.querySelector("details[open], input:checked")) return;
    swap(location.href, `#${part.id}`);
  }, part.dataset.again * 1000);
}
