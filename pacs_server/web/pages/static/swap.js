// Fetch a page and swap a part of it for the one that is shown, instead of loading all of it.
//
// <form data-swap="#list"> swaps #list when the form is sent; with data-typing also while one types.
// <a data-swap="#list"> swaps it when the link is followed. The address changes as it would without this.

import { say } from "./say.js";

const PAUSE = 150;
const running = new Map();

/**
 * Swap the element `selector` for the one of the page at `address`; the last call for an element wins. It stays if
 * `unless(element)` holds when the page has come.
 */
export async function swap(address, selector, { unless, ...options } = {}) {
  running.get(selector)?.abort();
  const control = new AbortController();
  running.set(selector, control);
  const place = document.querySelector(selector);
  place?.setAttribute("aria-busy", "true");
  try {
    const answer = await fetch(address, { ...options, signal: control.signal, headers: { accept: "text/html", ...options.headers } });
    if (answer.status === 401 || new URL(answer.url).pathname.endsWith("/login")) {
      location.reload();
      return null;
    }
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const found = page.querySelector(selector);
    if (!found) {
      say(page.querySelector("main p")?.textContent || answer.statusText, "problem");
      return null;
    }
    const shown = document.querySelector(selector);
    if (shown?.innerHTML === found.innerHTML || (shown && unless?.(shown))) return answer;
    const kept = keepFocus();
    shown.replaceWith(found);
    enhance(found);
    kept();
    found.dispatchEvent(new CustomEvent("swapped", { bubbles: true }));
    return answer;
  } catch (error) {
    if (error.name !== "AbortError") say(document.documentElement.dataset.offline || String(error), "problem");
    return null;
  } finally {
    if (running.get(selector) === control) {
      running.delete(selector);
      document.querySelector(selector)?.removeAttribute("aria-busy");
    }
  }
}

/** Make forms and links in `root` swap. */
export function enhance(root) {
  for (const form of root.querySelectorAll("form[data-swap]")) {
    if (form.dataset.enhanced) continue;
    form.dataset.enhanced = "yes";
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      sent(form, event.submitter);
    });
    if (form.hasAttribute("data-typing")) {
      let timer;
      form.addEventListener("input", () => {
        clearTimeout(timer);
        timer = setTimeout(() => sent(form), PAUSE);
      });
    }
  }
  for (const link of root.querySelectorAll("a[data-swap]")) {
    if (link.dataset.enhanced) continue;
    link.dataset.enhanced = "yes";
    link.addEventListener("click", (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
      event.preventDefault();
      history.replaceState(null, "", link.href);
      swap(link.href, link.dataset.swap);
    });
  }
}

async function sent(form, submitter) {
  const values = new URLSearchParams(new FormData(form, submitter));
  if (form.method === "get") {
    for (const [name, value] of [...values]) if (value === "") values.delete(name, value);
    const address = `${form.action.split("?")[0]}${values.size ? "?" : ""}${values}`;
    history.replaceState(null, "", address);
    await swap(address, form.dataset.swap);
  } else {
    await swap(form.action, form.dataset.swap, { method: "POST", body: values });
  }
}

function keepFocus() {
  const id = document.activeElement?.id;
  return () => { if (id && document.activeElement?.id !== id) document.getElementById(id)?.focus({ preventScroll: true }); };
}
