// Fetches what is wanted, the most urgent first, a few at a time; what nobody wants any more is given up.

const AGAIN_MS = 5000;

export class Loader {
  #running = new Map();
  #wanted = [];
  #failed = new Map();

  /** `fetchOne(item, signal)` promises { thing, bytes }; `changed(key)` is told what was loaded or has failed. */
  constructor(fetchOne, cache, { atOnce = 4, changed = () => {}, now = () => Date.now() } = {}) {
    Object.assign(this, { fetchOne, cache, atOnce, changed, now });
  }

  /** Say what is wanted: items with a `key`, the most urgent first. */
  want(items) {
    this.#wanted = items;
    const keys = new Set(items.map((item) => item.key));
    for (const [key, control] of this.#running) {
      if (!keys.has(key)) {
        this.#running.delete(key);
        control.abort();
      }
    }
    this.#next();
  }

  /** The thing of a key, or undefined. */
  get(key) { return this.cache.get(key); }

  /** Why a key could not be had, or undefined. */
  problem(key) { return this.#failed.get(key)?.error; }

  /** How many are being fetched. */
  get running() { return this.#running.size; }

  /** Try again what has failed. */
  retry() {
    this.#failed.clear();
    this.#next();
  }

  #next() {
    for (const item of this.#wanted) {
      if (this.#running.size >= this.atOnce) return;
      if (this.cache.has(item.key) || this.#running.has(item.key) || this.#hasJustFailed(item.key)) continue;
      this.#load(item);
    }
  }

  #hasJustFailed(key) {
    const failed = this.#failed.get(key);
    return Boolean(failed) && this.now() - failed.at < AGAIN_MS;
  }

  async #load(item) {
    const control = new AbortController();
    this.#running.set(item.key, control);
    try {
      const { thing, bytes } = await this.fetchOne(item, control.signal);
      if (control.signal.aborted) return;
      this.#failed.delete(item.key);
      this.cache.put(item.key, thing, bytes);
    } catch (error) {
      if (control.signal.aborted) return;
      this.#failed.set(item.key, { error, at: this.now() });
    }
    this.#running.delete(item.key);
    this.changed(item.key);
    this.#next();
  }
}

/** The numbers around a place, nearest first, `ahead` of them on the side to which `way` (1 or -1) leads, and `behind`. */
export function around(place, count, ahead, behind, way = 1) {
  const found = [place];
  for (let step = 1; step <= Math.max(ahead, behind); step += 1) {
    if (step <= ahead) found.push(place + step * way);
    if (step <= behind) found.push(place - step * way);
  }
  return found.filter((each) => each >= 0 && each < count);
}
