/** Our messages that are not settled. */

import { ProtocolViolation, StoreFailed } from "./errors.js";
import { decoder } from "./text.js";
import {
  DEFAULT_WINDOW_BYTES,
  DEFAULT_WINDOW_MESSAGES,
  encodeRecord,
  FRAGMENT_BYTES,
  MORE_FLAG,
  RecordType,
  TEXT_FLAG,
} from "./wire.js";

/**
 * Our messages that are not settled: kept, sent within the gateway's window, sent again after a resume.
 *
 * `entries[i]` has the number `settled + 1 + i`. Those up to `carried` may have left on some connection, and keep their
 * number; those after it are only waiting. On the present connection, those up to `#reserved` have their place in the
 * window, and those up to `#left` were handed to the socket. A rejected message counts as settled, but stays until all
 * before it are: it is sent again after a resume, because numbers have no gap.
 */
export class Outbox {
  #reserved;
  #left;
  #flightMessages = 0;
  #flightBytes = 0;
  #savedUpTo;
  #sendableUpTo;

  constructor({ settled = 0, carried = 0, messages = [] } = {}) {
    this.settled = settled;
    this.carried = Math.max(carried, settled);
    this.windowMessages = DEFAULT_WINDOW_MESSAGES;
    this.windowBytes = DEFAULT_WINDOW_BYTES;
    this.entries = [];
    this.unsettledMessages = 0;
    this.unsettledBytes = 0;
    /** Never carried by any connection: what waits for the window, or for the first connection. */
    this.waitingMessages = 0;
    this.waitingBytes = 0;
    /** Not handed to the present connection's socket. */
    this.unsentBytes = 0;
    /** The newest message of which the gateway said anything on this connection. */
    this.answered = settled;
    for (const { seq, text, data } of messages) {
      if (seq !== this.last + 1) throw new StoreFailed(`the store has message ${seq} after ${this.last}`);
      this.append({ seq: 0, text, data, rejected: false, connection: 0, context: null });
    }
    this.#reserved = this.#left = settled;
    this.#savedUpTo = this.last;
    this.#sendableUpTo = this.carried;
  }

  /** The number of the newest message. */
  get last() {
    return this.settled + this.entries.length;
  }

  get hasRoom() {
    return this.unsettledMessages < this.windowMessages && this.unsettledBytes < this.windowBytes;
  }

  get hasUnanswered() {
    return this.#left > this.answered;
  }

  append(entry) {
    entry.seq = this.last + 1;
    this.entries.push(entry);
    const size = entry.data.length;
    this.unsettledMessages += 1;
    this.unsettledBytes += size;
    this.unsentBytes += size;
    if (entry.seq > this.carried) {
      this.waitingMessages += 1;
      this.waitingBytes += size;
    }
  }

  // --- connections ---

  /**
   * A connection begins whose gateway has all up to `position`: what follows is sent again. `rejected` is what was
   * refused lately. `{settled, refused}`: the entries of which that is news, the refused ones with why.
   */
  resume(position, rejected = []) {
    if (position < this.settled || position > this.carried) {
      throw new ProtocolViolation(`OPENED at ${position}, expected ${this.settled} to ${this.carried}`);
    }
    const refused = this.refuse(rejected);
    const settled = this.settle(Math.max(position, this.settled));
    this.#reserved = this.#left = this.answered = this.settled;
    this.#flightMessages = this.#flightBytes = 0;
    this.unsentBytes = this.entries.reduce((bytes, entry) => bytes + entry.data.length, 0);
    return { settled, refused };
  }

  /** Gives the next messages their places in the window, and with it their numbers for good. */
  reserve(connection) {
    for (;;) {
      const entry = this.entries[this.#reserved - this.settled];
      if (!entry) return;
      const size = entry.data.length;
      if (!entry.rejected) {
        // One that is larger than the window passes when it is alone.
        const isFull = this.#flightMessages >= this.windowMessages || this.#flightBytes + size > this.windowBytes;
        if (this.#flightMessages && isFull) return;
        this.#flightMessages += 1;
        this.#flightBytes += size;
      }
      this.#reserved = entry.seq;
      if (entry.seq > this.carried) {
        this.carried = entry.seq;
        entry.connection = connection;
        this.waitingMessages -= 1;
        this.waitingBytes -= size;
      }
    }
  }

  /** The records that may leave now. */
  take() {
    const records = [];
    const end = Math.min(this.#reserved, this.#sendableUpTo);
    for (let seq = this.#left + 1; seq <= end; seq += 1) {
      const { text, data } = this.entries[seq - this.settled - 1];
      const kind = text ? TEXT_FLAG : 0;
      let at = 0;
      for (; data.length - at > FRAGMENT_BYTES; at += FRAGMENT_BYTES) {
        const fragment = data.subarray(at, at + FRAGMENT_BYTES);
        records.push(encodeRecord(RecordType.DATA, kind | MORE_FLAG, seq, fragment));
      }
      records.push(encodeRecord(RecordType.DATA, kind, seq, data.subarray(at)));
      this.unsentBytes -= data.length;
      this.#left = seq;
    }
    return records;
  }

  // --- the store ---

  unsaved() {
    return this.entries.slice(Math.max(this.#savedUpTo - this.settled, 0));
  }

  markSaved(last, carried) {
    this.#savedUpTo = Math.max(this.#savedUpTo, last);
    this.#sendableUpTo = Math.max(this.#sendableUpTo, carried);
  }

  // --- evidence ---

  /** All up to `seq` are settled; those for which that is news. */
  settle(seq) {
    if (seq > this.carried) {
      throw new ProtocolViolation(`ACK ${seq}, expected at most ${this.carried}, the last message sent`);
    }
    let count = seq - this.settled;
    if (count <= 0) return [];
    while (this.entries[count]?.rejected) count += 1;
    return this.#forget(count);
  }

  /** One message was refused and counts as settled; it, or null where that is no news. */
  reject(seq) {
    if (seq > this.carried) {
      throw new ProtocolViolation(`REJECT ${seq}, expected at most ${this.carried}, the last message sent`);
    }
    this.answered = Math.max(this.answered, seq);
    const entry = this.entries[seq - this.settled - 1];
    if (!entry || entry.rejected) return null;
    this.#uncount(entry);
    entry.rejected = true;
    let count = 0;
    while (this.entries[count]?.rejected) count += 1;
    this.#forget(count);
    return entry;
  }

  /** A list of what was refused lately: `{entry, code, reason}` of those for which that is news. */
  refuse(rejected) {
    const refused = [];
    for (const [first, last, code, reason] of rejected) {
      if (last > this.carried) {
        throw new ProtocolViolation(`message ${last} rejected, expected at most ${this.carried}, the last message sent`);
      }
      for (let seq = Math.max(first, this.settled + 1); seq <= last; seq += 1) {
        const entry = this.reject(seq);
        if (entry) refused.push({ entry, code, reason });
      }
    }
    return refused;
  }

  #forget(count) {
    const gone = this.entries.splice(0, count);
    for (const entry of gone) {
      if (!entry.rejected) this.#uncount(entry);
      if (entry.seq > this.#left) this.unsentBytes -= entry.data.length;
    }
    this.settled += count;
    this.#reserved = Math.max(this.#reserved, this.settled);
    this.#left = Math.max(this.#left, this.settled);
    this.answered = Math.max(this.answered, this.settled);
    return gone.filter((entry) => !entry.rejected);
  }

  #uncount(entry) {
    this.unsettledMessages -= 1;
    this.unsettledBytes -= entry.data.length;
    if (entry.seq <= this.#reserved) {
      this.#flightMessages -= 1;
      this.#flightBytes -= entry.data.length;
    }
  }

  /** Takes out the waiting messages that are larger than `limit`. Those behind them get new numbers. */
  dropTooBig(limit) {
    const isTooBig = (entry) => entry.seq > this.carried && entry.data.length > limit;
    const dropped = this.entries.filter(isTooBig);
    if (!dropped.length) return dropped;
    const kept = this.entries.filter((entry) => !isTooBig(entry));
    for (const { data } of dropped) {
      this.unsettledMessages -= 1;
      this.unsettledBytes -= data.length;
      this.unsentBytes -= data.length;
      this.waitingMessages -= 1;
      this.waitingBytes -= data.length;
    }
    kept.forEach((entry, index) => (entry.seq = this.settled + 1 + index));
    this.entries = kept;
    this.#savedUpTo = this.carried;
    return dropped;
  }
}

/** One of our messages as events show it. */
export function told({ seq, text, data }) {
  return { seq, data: text ? decoder.decode(data) : data.slice().buffer };
}
