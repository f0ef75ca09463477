/** The gateway's messages. */

import { ProtocolViolation } from "./errors.js";
import { decoder } from "./text.js";
import { MORE_FLAG, TEXT_FLAG } from "./wire.js";

/**
 * The gateway's messages: put together, each given once, whatever is sent again.
 *
 * Those up to `accepted` have come whole; those up to `consumed` were consumed, as were those in `#ahead`.
 */
export class Inbox {
  #parts = [];
  #size = 0;
  #text = null;
  #isOversize = false;
  #ahead = new Set();
  #unconsumed = new Map();
  #unconsumedBytes = 0;
  #limits;

  constructor(consumed, limits) {
    this.accepted = consumed;
    this.consumed = consumed;
    this.duplicates = 0;
    this.#limits = limits;
  }

  /** What the DATA record completes, `{seq, text, data}`, or null; `data` is null for what is larger than the limit. */
  receive({ flags, seq, body }) {
    const ends = !(flags & MORE_FLAG);
    if (seq <= this.accepted) {
      if (ends) this.duplicates += 1;
      return null;
    }
    if (seq !== this.accepted + 1) {
      throw new ProtocolViolation(`DATA ${seq} after message ${this.accepted}, expected ${this.accepted + 1}`);
    }
    const text = Boolean(flags & TEXT_FLAG);
    if (this.#text === null) this.#begin(seq, text);
    if (this.#text !== text) {
      throw new ProtocolViolation(`a fragment of DATA ${seq} is ${text ? "text" : "binary"}, but the first was not`);
    }
    this.#size += body.length;
    if (this.#size > this.#limits.messageBytes) {
      this.#isOversize = true;
      this.#parts = [];
    } else {
      this.#parts.push(body);
    }
    if (!ends) return null;
    const data = this.#isOversize ? null : joined(this.#parts, this.#size);
    const message = { seq, text, data: text && data ? decodedText(seq, data) : data };
    const size = this.#isOversize ? 0 : this.#size;
    this.forgetUnfinished();
    this.accepted = seq;
    this.#unconsumed.set(seq, size);
    this.#unconsumedBytes += size;
    return message;
  }

  #begin(seq, text) {
    const { windowMessages, windowBytes } = this.#limits;
    if (this.#unconsumed.size >= windowMessages) {
      throw new ProtocolViolation(`DATA ${seq} exceeds the window of ${windowMessages} messages`, 1008);
    }
    if (this.#unconsumedBytes >= windowBytes) {
      throw new ProtocolViolation(`DATA ${seq} exceeds the window of ${windowBytes} bytes`, 1008);
    }
    this.#text = text;
  }

  /** The connection broke: a message that came in part comes again from its first byte. */
  forgetUnfinished() {
    this.#parts = [];
    this.#size = 0;
    this.#text = null;
    this.#isOversize = false;
  }

  /** Marks one message as consumed; whether that is news. The position moves once all before it are. */
  consume(seq) {
    const size = this.#unconsumed.get(seq);
    if (size === undefined) return false;
    this.#unconsumed.delete(seq);
    this.#unconsumedBytes -= size;
    this.#ahead.add(seq);
    while (this.#ahead.delete(this.consumed + 1)) this.consumed += 1;
    return true;
  }
}

function joined(parts, size) {
  if (parts.length === 1) return parts[0];
  const whole = new Uint8Array(size);
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

function decodedText(seq, data) {
  try {
    return decoder.decode(data);
  } catch {
    throw new ProtocolViolation(`text message ${seq} is not UTF-8`, 1007);
  }
}
