// The quick look as a whole: its panes, which one is used, what is fetched for them, and the bar of tools.

import { Cine } from "./cine.js";
import { Study } from "./frames.js";
import { Growing } from "./growing.js";
import { nearest } from "./geometry.js";
import { around } from "./loader.js";
import { Pane } from "./pane.js";
import { explain } from "./documents.js";
import { States } from "./states.js";
import { listen } from "./tools.js";
import { say } from "../say.js";

const MOST_AHEAD = 80;

export class App {
  #cines = new Map();
  #told = "";

  constructor(root) {
    this.root = root;
    this.texts = JSON.parse(root.dataset.texts);
    this.study = new Study(root.dataset.study, (key) => this.loaded(key));
    this.tool = "scroll";
    this.isLinked = true;
    this.showsLayers = true;
    this.states = new States(this);
    this.growing = new Growing(this);
    this.panes = [];
    this.active = null;
  }

  /** Add a pane that shows a series. */
  add(series) {
    const element = document.getElementById("pane").content.firstElementChild.cloneNode(true);
    document.getElementById("panes").append(element);
    const pane = new Pane(element, this);
    this.panes.push(pane);
    element.setAttribute("aria-label", this.texts.pane.replace("{n}", this.panes.length));
    this.#cines.set(pane, new Cine(pane, () => this.told()));
    listen(pane, this);
    element.addEventListener("focusin", () => this.choosePane(pane));
    this.choosePane(pane);
    this.root.dataset.panes = this.panes.length;
    pane.open(series);
    return pane;
  }

  /** Take the pane away that came last. */
  remove() {
    const pane = this.panes.pop();
    this.#cines.get(pane).stop();
    this.#cines.delete(pane);
    pane.element.remove();
    this.root.dataset.panes = this.panes.length;
    this.choosePane(this.panes[0]);
    this.want();
    this.keepAddress();
  }

  /** Show a second series beside the first, or no second one any more. */
  compare(series) {
    if (this.panes.length > 1) {
      this.remove();
      return;
    }
    const following = this.otherSeries();
    this.add(series ?? following);
  }

  /** The series after the one that is shown; the same if there is no other. */
  otherSeries() {
    const all = JSON.parse(this.root.dataset.series);
    const at = all.indexOf(this.panes[0].asked);
    return all[(at + 1) % all.length] ?? all[0];
  }

  /** The pane that keys and buttons are for. */
  choosePane(pane) {
    if (this.active === pane) return;
    this.active = pane;
    for (const each of this.panes) each.element.classList.toggle("active", each === pane);
    this.told();
  }

  cineOf(pane) { return this.#cines.get(pane); }

  /** Show a series in the pane that is used. */
  open(series) {
    this.cineOf(this.active).stop();
    const opening = this.active.open(series);
    this.told();
    return opening;
  }

  /** Whether the study has a series of this UID. */
  has(series) { return JSON.parse(this.root.dataset.series).includes(series); }

  /** Show the first image that a presentation state is about, as it says. */
  async openState(state) {
    const pane = this.active;
    await this.open(state.series);
    const at = pane.series?.images.findIndex((image) => state.shows(image)) ?? -1;
    if (at < 0) return;
    pane.go(at);
    await this.states.choose(pane, state.sop);
    pane.canvas.focus();
  }

  // ------------------------------------------------------------------ what panes tell

  opened(pane) {
    this.cineOf(pane).opened();
    explain(pane, this);
    // A second series begins where the first one is.
    const other = this.panes.find((each) => each !== pane && each.image);
    if (this.isLinked && pane.image && other) pane.go(this.placeIn(pane, other), true);
    if (!pane.image) this.settled();
    this.keepAddress();
    this.told();
  }

  /** Another image is shown. Linked panes follow. */
  moved(pane) {
    if (this.isLinked && pane.image) {
      for (const other of this.panes) {
        if (other !== pane && other.image) other.go(this.placeIn(other, pane), true);
      }
    }
    this.want();
  }

  /** The image of a pane that belongs to the one of another pane: the nearest one, else that with the same number. */
  placeIn(pane, other) {
    const found = nearest(other.image, pane.series.images);
    return found < 0 ? other.index : found;
  }

  drawn(pane) {
    if (!this.root.dataset.first) {
      this.root.dataset.first = String(Math.round(performance.now()));
      this.want();
      this.settled();
    }
    if (pane === this.active) this.told();
  }

  loaded(key) {
    for (const pane of this.panes) if (pane.image?.key === key) pane.redraw();
    // Also where the first image cannot be had.
    if (!this.root.dataset.first && this.study.loader.problem(key)) {
      this.want();
      this.settled();
    }
  }

  /** Have the images fetched that are shown, and those around them as far as the memory goes. */
  want() {
    const lists = this.panes.filter((pane) => pane.image).map((pane) => {
      const { images } = pane.series;
      const room = Math.floor((this.study.cache.limit * 0.75) / this.panes.length / pane.image.bytes);
      const ahead = Math.min(MOST_AHEAD, Math.ceil((room * 2) / 3));
      return around(pane.index, images.length, ahead, Math.min(MOST_AHEAD / 2, Math.floor(room / 3)), pane.way).map((at) => images[at]);
    });
    const wanted = [];
    for (let i = 0; lists.some((list) => i < list.length); i += 1) wanted.push(...lists.filter((list) => i < list.length).map((list) => list[i]));
    // Nothing makes the first image wait.
    const isFirst = !this.root.dataset.first && !wanted.some((image) => this.study.loader.problem(image.key));
    this.study.loader.want(isFirst ? wanted.slice(0, lists.length) : wanted);
  }

  /** The address leads to what is shown. */
  keepAddress() {
    const [first, second] = this.panes.map((pane) => pane.asked);
    const address = new URL(location.href);
    address.search = new URLSearchParams({ series: first, ...(second && { compare: second }) });
    history.replaceState(null, "", address);
  }

  /** What would make the first image wait begins after it: small pictures, and news of the archive. */
  settled() {
    this.showThumbnails();
    this.states.read();
    this.growing.start();
  }

  showThumbnails() {
    for (const picture of document.querySelectorAll("img[data-src]:not([src])")) picture.src = picture.dataset.src;
  }

  /** Pull on the window of a pane, or say why that does not work. */
  pull(pane, x, y) {
    if (pane.shades.pull(x, y) || this.#told === pane.asked) return;
    this.#told = pane.asked;
    say(this.texts.noWindow);
  }

  /** Say that a presentation state cannot be applied. */
  complain(error) { say(this.texts.stateFailed.replace("{why}", error.message), "problem"); }

  /** The bar of tools shows how things are. */
  told() { this.toolbar?.show(); }
}
