// What was fetched, up to so many bytes: what was not used for the longest time goes first.

export class Cache {
  #kept = new Map();
  #bytes = 0;

  constructor(limit, dropped = () => {}) {
    this.limit = limit;
    this.dropped = dropped;
  }

  get bytes() { return this.#bytes; }

  has(key) { return this.#kept.has(key); }

  /** What is kept under a key, which counts as a use; or undefined. */
  get(key) {
    const found = this.#kept.get(key);
    if (found) {
      this.#kept.delete(key);
      this.#kept.set(key, found);
    }
    return found?.thing;
  }

  /** Keep a thing of so many bytes. The one that came last stays, however large it is. */
  put(key, thing, bytes) {
    this.drop(key);
    this.#kept.set(key, { thing, bytes });
    this.#bytes += bytes;
    for (const oldest of this.#kept.keys()) {
      if (this.#bytes <= this.limit || oldest === key) break;
      this.drop(oldest);
    }
  }

  /** Keep what is under a key no longer. */
  drop(key) {
    const found = this.#kept.get(key);
    if (!found) return;
    this.#kept.delete(key);
    this.#bytes -= found.bytes;
    this.dropped(found.thing);
  }
}
