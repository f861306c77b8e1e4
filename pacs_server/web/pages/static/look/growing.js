// A study that is still being received: new images and series appear, and what is shown stays.

import { hear } from "../live.js";

const KINDS = ["ARRIVED", "REPLACED", "RESTORED", "DELETED"];
// The least pause between two looks, and how many times as long as a look takes: a large series takes a while to read.
const PAUSE_MS = 700;
const PAUSES = 4;
const prefix = document.documentElement.dataset.prefix;

export class Growing {
  #timer;
  #took = 0;
  #due = new Set();
  #isAll = false;
  #isStarted = false;

  constructor(app) {
    this.app = app;
  }

  /** Follow from now on. */
  start() {
    if (this.#isStarted) return;
    this.#isStarted = true;
    hear(() => KINDS, (kind, event) => this.#heard(kind, event));
  }

  #heard(kind, event) {
    const { study } = this.app;
    if (!kind) this.#isAll = true;
    else if (event.study_instance_uid !== study.uid) return;
    else this.#due.add(event.series_instance_uid);
    // What was replaced has the same UID and other pixels.
    if (kind === "REPLACED") study.forget(event.series_instance_uid);
    this.#plan(kind ? undefined : 0);
  }

  #plan(pause = Math.max(PAUSE_MS, PAUSES * this.#took)) {
    this.#timer ??= setTimeout(() => this.#look(), pause);
  }

  async #look() {
    const [due, isAll, began] = [this.#due, this.#isAll, performance.now()];
    [this.#due, this.#isAll] = [new Set(), false];
    try {
      await this.#renew((uid) => isAll || due.has(uid));
    } catch {
      // The server is away: when it is back, the stream begins anew, and all is looked at again.
    }
    this.#took = performance.now() - began;
    this.#timer = undefined;
    if (this.#due.size || this.#isAll) this.#plan();
  }

  async #renew(isDue) {
    const { app } = this;
    app.study.outdate(isDue);
    const shown = new Set(app.panes.filter((pane) => pane.series).map((pane) => pane.asked));
    for (const uid of [...shown].filter(isDue)) {
      const series = await app.study.series(uid);
      for (const pane of app.panes) pane.grow(series);
    }
    await this.#list();
    app.told();
  }

  /** The list of series with their numbers of images, at the side and above the image. */
  async #list() {
    const { root } = this.app;
    const answer = await fetch(`${prefix}/look/${this.app.study.uid}`, { headers: { accept: "text/html" } });
    if (!answer.ok) return;
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById("look");
    if (!fresh) return;
    Object.assign(root.dataset, { series: fresh.dataset.series, states: fresh.dataset.states });
    await this.app.states.read();
    const lists = [root.querySelector(".strip ul"), root.querySelector("#series")];
    for (const list of lists) merge(list, fresh.querySelector(list.id ? `#${list.id}` : ".strip ul"));
    this.app.showThumbnails();
  }
}

/** Make a list like a fresh one, but leave items as they are that only have another text: one may have the focus. */
function merge(list, fresh) {
  const old = new Map([...list.children].map((item) => [nameOf(item), item]));
  [...fresh.children].forEach((item, at) => {
    const kept = old.get(nameOf(item)) ?? item;
    old.delete(nameOf(item));
    if (list.children[at] !== kept) list.insertBefore(kept, list.children[at] ?? null);
    const [text, other] = [kept, item].map((each) => each.querySelector("span") ?? each);
    if (text.textContent !== other.textContent) text.replaceChildren(...other.childNodes);
  });
  for (const gone of old.values()) gone.remove();
}

const nameOf = (item) => item.value || item.querySelector("[data-open]").dataset.open;
