// The pages of a study: a series whose thumbnail cannot be made says so instead of showing a broken picture.

function replace(picture) {
  const text = document.createElement("span");
  text.className = "no-picture";
  const modality = document.createElement("b");
  modality.textContent = picture.dataset.modality;
  text.append(modality, picture.dataset.without);
  picture.replaceWith(text);
}

function look(root) {
  for (const picture of root.querySelectorAll("img[data-without]")) {
    if (picture.complete && !picture.naturalWidth && picture.currentSrc) replace(picture);
    else picture.addEventListener("error", () => replace(picture), { once: true });
  }
}

look(document);
document.addEventListener("swapped", (event) => look(event.target));

for (const field of document.querySelectorAll("input[data-select]")) field.addEventListener("focus", () => field.select());
