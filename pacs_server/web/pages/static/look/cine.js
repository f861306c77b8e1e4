// Playing the images of a pane one after the other, as fast as the file says or somebody chooses.

const STACK_RATE = 12;

export class Cine {
  #timer = 0;
  #due = 0;

  /** `changed` is told when it begins and ends. */
  constructor(pane, changed) {
    Object.assign(this, { pane, changed, rate: STACK_RATE });
  }

  get isRunning() { return this.#timer !== 0; }

  /** Take the rate of a series that was opened. */
  opened() {
    this.stop();
    this.rate = Math.min(Math.max(Math.round(this.pane.image?.rate ?? STACK_RATE), 1), 60);
  }

  toggle() {
    if (this.isRunning) this.stop();
    else this.start();
  }

  start() {
    if ((this.pane.series?.images.length ?? 0) < 2) return;
    this.#due = performance.now();
    this.#timer = requestAnimationFrame((now) => this.#tick(now));
    this.changed();
  }

  stop() {
    cancelAnimationFrame(this.#timer);
    if (this.#timer) {
      this.#timer = 0;
      this.changed();
    }
  }

  #tick(now) {
    const { pane } = this;
    if (!pane.series) {
      this.stop();
      return;
    }
    const { loader } = pane.app.study;
    // What is not there yet is waited for, and not left out; what cannot be had is passed by.
    const ready = loader.get(pane.image.key) || loader.problem(pane.image.key);
    if (now >= this.#due && ready) {
      pane.go((pane.index + 1) % pane.series.images.length);
      // A cine that runs forward is fetched forward, also where it begins anew.
      pane.way = 1;
      this.#due = Math.max(this.#due + 1000 / this.rate, now - 100);
    }
    this.#timer = requestAnimationFrame((then) => this.#tick(then));
  }
}
