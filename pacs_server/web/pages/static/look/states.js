// The presentation states of the study: which of them are about an image, and which one is chosen.

import { text } from "./dataset.js";
import { explain } from "./documents.js";
import { table } from "./frames.js";
import { overlaysOf } from "./overlays.js";
import { isState, State } from "./state.js";

const MOST_SERIES = 50;

export class States {
  #states = [];
  #listed = "";
  isRead = false;

  constructor(app) {
    this.app = app;
    this.select = document.getElementById("state");
    this.select.addEventListener("change", () => this.choose(app.active, this.select.value));
  }

  /** Read the states of the study anew. */
  async read() {
    const { study, root } = this.app;
    const series = JSON.parse(root.dataset.states).slice(0, MOST_SERIES);
    const found = await Promise.all(series.map((uid) => study.series(uid).catch(() => ({ instances: [] }))));
    const known = new Map(this.#states.map((state) => [state.sop, state]));
    const states = found.flatMap(({ instances }) => instances.filter(isState)).map((ds) => new State(ds));
    this.#states = states.map((state) => known.get(state.sop) ?? state);
    this.isRead = true;
    for (const pane of this.app.panes) if (pane.series && !pane.image) explain(pane, this.app);
    this.app.told();
  }

  /** Those that are about an image. */
  about(image) { return image ? this.#states.filter((state) => state.shows(image)) : []; }

  /** Those of a series of states. */
  of({ instances }) {
    const sops = new Set(instances.map((ds) => text(ds, "00080018")));
    return this.#states.filter((state) => sops.has(state.sop));
  }

  /** Have a pane show its image as a state says, named by its UID; as the file says if the name is empty. */
  async choose(pane, sop) {
    const { app } = this;
    const { image } = pane;
    const state = this.about(image).find((each) => each.sop === sop) ?? null;
    if (!state) {
      pane.choose(null);
      app.told();
      return;
    }
    try {
      await state.load(table, (ds) => app.study.overlays(ds, overlaysOf(ds), 1), image);
    } catch (error) {
      app.complain(error);
      return;
    }
    if (pane.image && state.shows(pane.image)) pane.choose(state);
    app.told();
  }

  /** The next one in the list. */
  next() {
    const found = ["", ...this.about(this.app.active.image).map((state) => state.sop)];
    const at = found.indexOf(this.app.active.state?.sop ?? "");
    this.choose(this.app.active, found[(at + 1) % found.length]);
  }

  /** List those that are about the image of a pane. */
  list(pane) {
    const found = this.about(pane.image);
    const listed = found.map((state) => state.sop).join();
    if (listed !== this.#listed) {
      this.#listed = listed;
      const first = this.select.options[0];
      const options = found.map((state) => Object.assign(new Option(state.name, state.sop), { title: state.about }));
      this.select.replaceChildren(first, ...options);
    }
    this.select.closest(".group").hidden = !this.#states.length;
    this.select.disabled = !found.length;
    this.select.value = pane.state?.sop ?? "";
  }
}
