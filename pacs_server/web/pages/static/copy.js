// A button that copies the lines of <pre data-copy="Copy" data-copied="Copied.">, where the browser lets pages do that.

import { say } from "./say.js";

function addButton(pre) {
  if (pre.nextElementSibling?.classList.contains("copy")) return;
  const button = document.createElement("button");
  button.type = "button";
  button.className = "plain copy";
  button.textContent = pre.dataset.copy;
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(`${pre.textContent}\n`);
      say(pre.dataset.copied);
    } catch (error) {
      say(String(error), "problem");
    }
  });
  pre.after(button);
}

function enhance(root) {
  // Only pages over HTTPS, and those of this machine, have a clipboard.
  if (navigator.clipboard) for (const pre of root.querySelectorAll("pre[data-copy]")) addButton(pre);
}

document.addEventListener("swapped", (event) => enhance(event.target));
enhance(document);
