/** What the application hands over to be sent: checked, kept in order, refused when too much waits. */

import { Closed, QueueFull, TooBig } from "./errors.js";
import { encoder } from "./text.js";

/**
 * Between `send` and the session's outbox. A message waits here behind a Blob that is being read, and while the store is
 * being opened.
 *
 * The owner has `session`, null until the store was opened, `closing`, which is `{code, reason}` once nothing more is
 * taken, and `flush()`.
 */
export class Intake {
  #owner;
  #options;
  #platform;
  #staged = [];
  /** Those who wait for room, oldest first: each has its turn, so that nobody is overtaken for ever. */
  #waiters = [];
  #isTurnTaken = false;
  #turnEnds = false;

  constructor(owner, options, platform) {
    this.#owner = owner;
    this.#options = options;
    this.#platform = platform;
    this.bytes = 0;
  }

  get isEmpty() {
    return this.#staged.length === 0;
  }

  /** Takes one message; `sending` is told what becomes of it. */
  take(data, sending) {
    const { session, closing } = this.#owner;
    if (closing) {
      sending.reject(new Closed(closing.code, closing.reason));
      return;
    }
    const blob = typeof Blob !== "undefined" && data instanceof Blob ? data : null;
    const message = { text: false, data: null, ...(blob ? {} : encoded(data)), size: 0, sending, error: null };
    message.size = blob ? blob.size : message.data.length;
    const limit = session?.messageLimit ?? Infinity;
    const waitingBytes = (session?.outbox.waitingBytes ?? 0) + this.bytes;
    const waitingMessages = (session?.outbox.waitingMessages ?? 0) + this.#staged.length;
    const { queueMessages, queueBytes } = this.#options;
    if (message.size > limit) {
      sending.reject(new TooBig(message.size, limit));
    } else if (waitingMessages && (waitingMessages >= queueMessages || waitingBytes + message.size > queueBytes)) {
      const waiting = `${waitingMessages} messages of ${waitingBytes} bytes wait to be sent already`;
      const room = `room is for ${queueMessages} messages (queueMessages) of ${queueBytes} bytes (queueBytes)`;
      sending.reject(new QueueFull(`${waiting}, and this one has ${message.size} bytes: ${room}`));
    } else if (blob || this.#staged.length || !session) {
      this.#stage(message, blob);
    } else {
      this.#append(message);
      this.#owner.flush();
    }
    this.#isTurnTaken = false;
    this.updateReady();
  }

  #stage(message, blob) {
    this.#staged.push(message);
    this.bytes += message.size;
    if (!blob) return;
    blob
      .arrayBuffer()
      .then(
        (buffer) => (message.data = new Uint8Array(buffer)),
        (error) => (message.error = error),
      )
      .then(() => this.#owner.staged());
  }

  /** Hands on what need not wait here any more. */
  unstage() {
    const { session } = this.#owner;
    while (this.#staged.length && (this.#staged[0].data || this.#staged[0].error)) {
      const message = this.#staged.shift();
      this.bytes -= message.size;
      if (message.error) message.sending.reject(message.error);
      else if (message.size > session.messageLimit) {
        message.sending.reject(new TooBig(message.size, session.messageLimit));
      } else this.#append(message);
    }
  }

  #append({ text, data, sending }) {
    sending.entry = this.#owner.session.append(text, data, sending);
  }

  /** Nothing more leaves: all that waits here is told why. */
  rejectAll(error) {
    for (const { sending } of this.#staged) sending.reject(error);
    this.#staged = [];
    this.bytes = 0;
    for (const waiter of this.#waiters) waiter.reject(error);
    this.#waiters = [];
  }

  /**
   * Resolves when the window has room, in the order in which they came, and for one at a time: whoever was let in has
   * sent, or has let a task pass, before the next one is.
   */
  get ready() {
    const waiter = deferred();
    this.#waiters.push(waiter);
    this.updateReady();
    return waiter.promise;
  }

  updateReady() {
    const { session, closing } = this.#owner;
    if (closing) {
      for (const waiter of this.#waiters) waiter.reject(new Closed(closing.code, closing.reason));
      this.#waiters = [];
    } else if (this.#waiters.length && this.#isTurnTaken) {
      this.#endTurnSoon();
    } else if (this.#waiters.length && this.isEmpty && session?.outbox.hasRoom) {
      this.#isTurnTaken = true;
      this.#waiters.shift().resolve();
      if (this.#waiters.length) this.#endTurnSoon();
    }
  }

  #endTurnSoon() {
    if (this.#turnEnds) return;
    this.#turnEnds = true;
    this.#platform.startMacrotask(() => {
      this.#turnEnds = false;
      this.#isTurnTaken = false;
      this.updateReady();
    });
  }
}

/** A promise with its ends; that nobody looks at its rejection is no fault of the program's. */
export function deferred() {
  const ends = {};
  ends.promise = new Promise((resolve, reject) => Object.assign(ends, { resolve, reject }));
  ends.promise.catch(() => {});
  return ends;
}

/** What `send` was given, as bytes of our own: the caller may change its buffer. */
function encoded(data) {
  if (data instanceof ArrayBuffer) return { text: false, data: new Uint8Array(data.slice(0)) };
  if (ArrayBuffer.isView(data)) {
    return { text: false, data: new Uint8Array(data.buffer, data.byteOffset, data.byteLength).slice() };
  }
  return { text: true, data: encoder.encode(String(data)) };
}
