// <button data-copies="id" data-said="Copied."> copies the text of an element. Without scripts there is no button.

import { say } from "./say.js";

for (const button of document.querySelectorAll("[data-copies]")) {
  button.hidden = false;
  button.addEventListener("click", async () => {
    const place = document.getElementById(button.dataset.copies);
    try {
      await navigator.clipboard.writeText(place.textContent.trim());
      say(button.dataset.said);
    } catch {
      // Without HTTPS browsers let no script copy: mark the text, so that Ctrl+C does.
      getSelection().selectAllChildren(place);
    }
  });
}
