// One conversation of the page, what its card's head says of it, and the ways to break it.

import { Kakitome } from "./kakitome.js";
import { Fate, RUNGS } from "./fate.js";
import { inWords, words } from "./words.js";

const RETRY_MAX_MS = 5000;
const SOCKET = { connecting: 0, closed: 3 };

/** What a WebSocket is to somebody whose cable is unplugged: it never opens. Asks no network, so nothing is logged. */
class Unplugged {
  readyState = SOCKET.connecting;
  bufferedAmount = 0;
  protocol = "";

  constructor() {
    setTimeout(() => {
      if (this.readyState === SOCKET.closed) return;
      this.readyState = SOCKET.closed;
      this.onerror?.({});
      this.onclose?.({ code: 1006, reason: "" });
    }, 50);
  }

  close() {
    this.readyState = SOCKET.closed;
  }
}

/** A WebSocket class whose connections can be cut, as by a network: the page learns only that it is over. */
export function cuttable() {
  let current = null;
  const cord = {
    isCut: false,
    webSocket: class {
      constructor(url, protocols) {
        if (cord.isCut) return new Unplugged();
        current = new WebSocket(url, protocols);
        return current;
      }
    },
    toggle() {
      cord.isCut = !cord.isCut;
      if (cord.isCut && current) {
        current.dispatchEvent(new CloseEvent("close", { code: 1006 }));
        current.close();
      }
      if (!cord.isCut) hurry();
      return cord.isCut;
    },
  };
  return cord;
}

/** Every conversation that waits for its next attempt makes it now. */
export function hurry() {
  dispatchEvent(new Event("online"));
}

/** Lines that have no connection although nobody has cut it: the gateway is away. */
const stranded = new Set();

function strand(line, isStranded) {
  const before = stranded.size;
  if (isStranded) stranded.add(line);
  else stranded.delete(line);
  if ((stranded.size > 0) !== before > 0) document.getElementById("away").hidden = stranded.size === 0;
}

/** One conversation: follows its state in the card's head, and the fates of what is sent. */
export class Line {
  #state;
  #handlers;
  #cord;
  #connection = null;
  #pending = new Set();
  #say = null;
  #countdown = null;

  constructor(card, handlers, cord = null) {
    this.#state = card.querySelector(".state");
    this.#handlers = handlers;
    this.#cord = cord;
    inWords(this.#state, () => (this.#state.textContent = (this.#say ?? (() => words(this.#state.dataset.state)))()));
  }

  #show(state, say = () => words(state)) {
    clearInterval(this.#countdown);
    this.#say = say;
    this.#state.dataset.state = state;
    this.#state.textContent = say();
    if (!["reconnecting", "connecting", "parked"].includes(state)) strand(this, false);
    this.#handlers.onstate?.(state);
  }

  #count(retryInMs) {
    const due = performance.now() + retryInMs;
    this.#show("parked", () => {
      const seconds = Math.ceil((due - performance.now()) / 1000);
      return seconds > 0 ? words("nextTry", seconds) : words("reconnecting");
    });
    this.#countdown = setInterval(() => (this.#state.textContent = this.#say()), 250);
  }

  begin(path, options = {}) {
    const webSocket = this.#cord?.webSocket ?? null;
    const connection = new Kakitome(new URL(path, location.href), {
      receipts: RUNGS.slice(0, -1),
      reconnectMaxMs: RETRY_MAX_MS,
      webSocket,
      ...options,
    });
    this.#connection = connection;
    this.#show("connecting");
    const listen = (type, action) =>
      connection.addEventListener(type, (event) => connection === this.#connection && action(event));
    listen("state", ({ state, retryInMs }) => {
      if (state === "parked") this.#count(retryInMs);
      else if (state !== "closed") this.#show(state);
    });
    listen("error", ({ error }) => error.name === "ConnectionFailed" && strand(this, !this.#cord?.isCut));
    listen("message", ({ data }) => this.#handlers.onmessage(data));
    listen("receipt", ({ seq, rung }) => {
      for (const { sent, fate } of this.#pending) if (sent.seq && sent.seq <= seq) fate.climb(rung);
    });
    listen("resume", ({ replayed, duplicates }) => {
      this.#handlers.onresume?.({ replayed, duplicates, waiting: this.#pending.size - replayed });
    });
    listen("close", ({ code, reason }) => this.#show("closed", () => words("closed", code, reason)));
  }

  /** Sends, connected or not; what becomes of it. */
  send(text) {
    const fate = new Fate();
    const sent = this.#connection.send(text);
    const pending = { sent, fate };
    this.#pending.add(pending);
    sent
      .then(({ rung }) => fate.settle(rung))
      .catch((error) => fate.fail(error))
      .finally(() => this.#pending.delete(pending));
    return fate;
  }

  /** Ends the conversation; what arrives later is not shown. */
  end(state) {
    const connection = this.#connection;
    this.#connection = null;
    connection?.close();
    this.#show(state);
  }
}
