/** Named timers, of which each has one time at most. */

export class Timers {
  #platform;
  #guard;
  #running = new Map();

  /** `guard` runs each timer's action. */
  constructor(platform, guard) {
    this.#platform = platform;
    this.#guard = guard;
  }

  has(name) {
    return this.#running.has(name);
  }

  arm(name, ms, action) {
    this.disarm(name);
    const fire = () => {
      this.#running.delete(name);
      this.#guard(action);
    };
    this.#running.set(name, this.#platform.setTimeout(fire, ms));
  }

  disarm(name) {
    if (!this.#running.has(name)) return;
    this.#platform.clearTimeout(this.#running.get(name));
    this.#running.delete(name);
  }

  disarmAll() {
    for (const name of [...this.#running.keys()]) this.disarm(name);
  }
}
