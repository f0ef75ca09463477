/** Events, and how their handlers are called. */

import { isCode } from "./wire.js";

export const EVENTS = ["open", "message", "close", "error", "state", "receipt", "resume", "rejected", "lost"];

/** An event with its facts as properties. */
export class KakitomeEvent extends Event {
  constructor(type, facts = {}) {
    super(type);
    Object.assign(this, facts);
  }
}

/** One message of the gateway's; `seq` is its number in the session. */
export class KakitomeMessageEvent extends MessageEvent {
  #consume;
  #reject;

  constructor(data, origin, seq, consume, reject) {
    super("message", { data, origin });
    this.seq = seq;
    this.#consume = consume;
    this.#reject = reject;
  }

  /** The message is consumed. Needed with `acknowledge: "manual"` only. */
  acknowledge() {
    this.#consume();
  }

  /** Refuses the message: its sender is told why, and not that it was consumed. */
  reject(code, reason = "") {
    if (!isCode(code)) throw new RangeError(`code ${code}, expected 1000 to 4999`);
    this.#reject(code, String(reason));
  }
}

/** What the handlers of the message events that are being dispatched have thrown, and the promises they gave. */
const handled = new WeakMap();

/** An EventTarget with `on...` properties that finds out how the handlers of a message fared. */
export class Emitter extends EventTarget {
  #watched = new WeakMap();

  addEventListener(type, listener, options) {
    super.addEventListener(type, type === "message" ? this.#watch(listener) : listener, options);
  }

  removeEventListener(type, listener, options) {
    super.removeEventListener(type, type === "message" ? (this.#watched.get(listener) ?? listener) : listener, options);
  }

  /** The one listener that stands for this one, so that it is added once and can be removed. */
  #watch(listener) {
    if (typeof listener !== "function" && typeof listener !== "object") return listener;
    if (listener === null) return listener;
    let watching = this.#watched.get(listener);
    if (!watching) {
      watching = function (event) {
        const outcome = handled.get(event);
        try {
          const given = typeof listener === "function" ? listener.call(this, event) : listener.handleEvent(event);
          if (typeof given?.then === "function") outcome?.promises.push(given);
        } catch (error) {
          outcome?.errors.push(error);
          throw error; // the platform reports it, as it does for any event
        }
      };
      this.#watched.set(listener, watching);
    }
    return watching;
  }

  /** Dispatches the event; `{errors, promises}` of its handlers. */
  dispatchWatched(event) {
    const outcome = { errors: [], promises: [] };
    handled.set(event, outcome);
    this.dispatchEvent(event);
    return outcome;
  }
}

for (const type of EVENTS) {
  const handlers = new WeakMap();
  Object.defineProperty(Emitter.prototype, `on${type}`, {
    enumerable: true,
    configurable: true,
    get() {
      return handlers.get(this) ?? null;
    },
    set(handler) {
      if (!handlers.has(this)) this.addEventListener(type, (event) => handlers.get(this)?.call(this, event));
      handlers.set(this, typeof handler === "function" ? handler : null);
    },
  });
}

/** Gives the class and its objects the constants of WebSocket's `readyState`. */
export function defineStates(owner) {
  for (const [value, name] of ["CONNECTING", "OPEN", "CLOSING", "CLOSED"].entries()) {
    for (const holder of [owner, owner.prototype]) Object.defineProperty(holder, name, { value, enumerable: true });
  }
}
