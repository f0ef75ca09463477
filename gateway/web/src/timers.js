/** Named timers, of which each has one time at most. */

/** How often a time is put off that something goes on in, the first one counted. */
const TIMES = 6;

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

  /** The same, put off for as long again where `progress()` has grown meanwhile. */
  armWhile(progress, name, ms, action, times = TIMES) {
    const before = progress();
    this.arm(name, ms, () => {
      if (times > 1 && progress() > before) this.armWhile(progress, name, ms, action, times - 1);
      else action();
    });
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
