// The bar of tools, and the keys that do the same.

const PAGE = 10;

/** What can be done to a pane, by name: buttons with data-do, and keys. */
const deeds = {
  invert: ({ active }) => active.shades.invert(),
  fit: ({ active }) => active.fit(),
  actual: ({ active }) => active.actualSize(),
  turn: ({ active }) => active.turn(1),
  back: ({ active }) => active.turn(-1),
  flip: ({ active }) => active.flip(),
  flop: ({ active }) => active.flip(true),
  larger: ({ active }) => active.zoom(1.25),
  smaller: ({ active }) => active.zoom(0.8),
  undo: ({ active }) => active.measuring.undo(),
  reset: (app) => {
    app.study.loader.retry();
    app.active.measuring.clear();
    app.active.restart();
  },
  play: (app) => app.cineOf(app.active).toggle(),
  compare: (app) => app.compare(),
  link: (app) => {
    app.isLinked = !app.isLinked;
    app.moved(app.active);
  },
  overlays: (app) => {
    app.showsLayers = !app.showsLayers;
    for (const pane of app.panes) pane.redraw();
  },
  state: (app) => app.states.next(),
  texts: ({ root }) => root.classList.toggle("bare"),
  help: () => {
    const help = document.getElementById("keys");
    if (help.open) help.close();
    else help.showModal();
  },
};

const keys = {
  i: "invert", f: "fit", o: "actual", t: "turn", "[": "back", "]": "turn", h: "flip", v: "flop", "+": "larger", "=": "larger", "-": "smaller",
  r: "reset", " ": "play", c: "compare", l: "link", d: "texts", g: "overlays", a: "state", "?": "help", Backspace: "undo", Delete: "undo",
};
const tools = { s: "scroll", w: "window", z: "zoom", p: "pan", m: "measure" };
const steps = {
  ArrowUp: (index) => index - 1, ArrowLeft: (index) => index - 1, ArrowDown: (index) => index + 1, ArrowRight: (index) => index + 1,
  PageUp: (index) => index - PAGE, PageDown: (index) => index + PAGE, Home: () => 0, End: () => Infinity,
};

export class Toolbar {
  #listed = "";

  constructor(app) {
    this.app = app;
    this.windows = document.getElementById("window");
    this.rate = document.getElementById("rate");
    this.windows.addEventListener("change", () => app.active.shades.choose(Number(this.windows.value)));
    this.rate.addEventListener("change", () => { app.cineOf(app.active).rate = Math.min(Math.max(Number(this.rate.value) || 1, 1), 60); });
    document.getElementById("series").addEventListener("change", (event) => app.open(event.target.value));
    document.addEventListener("click", (event) => this.#clicked(event));
    document.addEventListener("keydown", (event) => this.#pressed(event));
    this.show();
  }

  do(name) {
    deeds[name]?.(this.app);
    this.show();
  }

  #clicked(event) {
    const { app } = this;
    const found = event.target.closest("[data-do], [data-tool], [data-open]");
    if (!found || event.ctrlKey || event.metaKey || event.shiftKey) return;
    if (found.matches("a")) event.preventDefault();
    if (found.dataset.do) this.do(found.dataset.do);
    else if (found.dataset.tool) app.tool = found.dataset.tool;
    else if (found.dataset.open) app.open(found.dataset.open);
    this.show();
  }

  #pressed(event) {
    const { app } = this;
    const { key, target } = event;
    if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    if (target.matches("input:not([type=range]), select, textarea")) return;
    // Buttons and links have these keys for themselves.
    if (target.matches("button, a, summary") && (key === " " || key === "Enter")) return;
    const cine = app.cineOf(app.active);
    if (key in steps && target.matches("[type=range]")) {
      cine.stop();
      return;
    }
    if (key in steps) {
      cine.stop();
      app.active.go(Math.min(steps[key](app.active.index), 1e9));
    } else if (/^[1-9]$/.test(key)) app.active.shades.choose(Number(key) - 1);
    else if (key.toLowerCase() in tools) app.tool = tools[key.toLowerCase()];
    else if (key in keys || key.toLowerCase() in keys) this.do(keys[key] ?? keys[key.toLowerCase()]);
    else return;
    event.preventDefault();
    this.show();
  }

  /** Buttons and lists say how things are. */
  show() {
    const { app } = this;
    const { active, root } = app;
    if (!active) return;
    const pressed = {
      invert: active.shades.isInverted, compare: app.panes.length > 1, link: app.isLinked, texts: !root.classList.contains("bare"),
      overlays: app.showsLayers, play: app.cineOf(active)?.isRunning ?? false,
    };
    for (const [name, is] of Object.entries(pressed)) {
      for (const button of root.querySelectorAll(`[data-do="${name}"]`)) button.setAttribute("aria-pressed", String(is));
    }
    for (const button of root.querySelectorAll("[data-tool]")) button.setAttribute("aria-pressed", String(button.dataset.tool === app.tool));
    for (const link of root.querySelectorAll("[data-open]")) {
      const shown = app.panes.some((pane) => pane.asked === link.dataset.open);
      if (shown) link.setAttribute("aria-current", active.asked === link.dataset.open ? "true" : "false");
      else link.removeAttribute("aria-current");
    }
    for (const pane of app.panes) pane.canvas.dataset.drags = app.tool;
    document.getElementById("series").value = active.asked;
    if (document.activeElement !== this.rate) this.rate.value = app.cineOf(active)?.rate ?? "";
    app.states.list(active);
    this.#listWindows();
  }

  #listWindows() {
    const { active } = this.app;
    const found = active.shades.windows;
    const listed = JSON.stringify(found.map((each) => each.name));
    if (listed !== this.#listed) {
      this.#listed = listed;
      const own = new Option(found.length ? this.app.texts.own : "–", "");
      own.hidden = true;
      this.windows.replaceChildren(own, ...found.map((each, at) => new Option(at < 9 ? `${at + 1}  ${each.name}` : each.name, at)));
      this.windows.disabled = !found.length;
    }
    const chosen = JSON.stringify(active.shades.choice);
    const at = found.findIndex((each) => JSON.stringify(each.choice) === chosen);
    this.windows.value = at < 0 ? "" : String(at);
  }
}
