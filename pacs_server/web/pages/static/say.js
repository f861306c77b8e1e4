// A short message at the edge of the page, read aloud by screen readers.

const SECONDS = 6;

/** Show `text`; `kind` is "done" or "problem". */
export function say(text, kind = "done") {
  const toast = document.createElement("p");
  toast.className = `toast ${kind}`;
  toast.textContent = text;
  document.getElementById("toasts").append(toast);
  setTimeout(() => toast.remove(), SECONDS * 1000);
}
