/** Which messages were refused lately, so that a refusal is not lost with the connection that carried its REJECT. */

import { encoder } from "./text.js";

/** What the list may take as JSON. */
const MAX_REJECTIONS_BYTES = 24 * 1024;

/**
 * The gateway's messages that we refused, and that their sender may not know of.
 *
 * It hears of refusals in the order in which they were made; so once it has sent a window full of messages more than it
 * had when one was made, it must have heard of that one (docs/protocol.md, Acknowledgement).
 */
export class Rejections {
  /** `[from, to, code, reason]` of each, in that order; another array after each change. */
  ranges = [];
  #forgottenAt = [];

  constructor(ranges = [], accepted = 0, windowMessages = 0) {
    this.ranges = ranges;
    this.#forgottenAt = ranges.map(() => accepted + windowMessages);
  }

  has(seq) {
    return this.ranges.some(([first, last]) => first <= seq && seq <= last);
  }

  /** Message `seq` was refused when the newest that had come was `accepted`. */
  add(seq, code, reason, accepted, windowMessages) {
    const ranges = this.ranges.filter((_, index) => this.#forgottenAt[index] > accepted);
    this.#forgottenAt = this.#forgottenAt.filter((at) => at > accepted);
    const newest = ranges.at(-1);
    if (newest && newest[1] + 1 === seq && newest[2] === code && newest[3] === reason) {
      ranges.splice(-1, 1, [newest[0], seq, code, reason]);
      this.#forgottenAt.pop();
    } else {
      ranges.push([seq, seq, code, reason]);
    }
    this.#forgottenAt.push(accepted + windowMessages);
    this.ranges = this.#shortened(ranges);
  }

  /** The oldest lose first their reasons, and only then are forgotten. */
  #shortened(ranges) {
    const sizeOf = (range) => encoder.encode(JSON.stringify(range)).length + 1;
    let size = ranges.reduce((bytes, range) => bytes + sizeOf(range), 0);
    for (let at = 0; size > MAX_REJECTIONS_BYTES && at < ranges.length; at += 1) {
      const bare = [...ranges[at].slice(0, 3), ""];
      size += sizeOf(bare) - sizeOf(ranges[at]);
      ranges[at] = bare;
    }
    while (size > MAX_REJECTIONS_BYTES) {
      size -= sizeOf(ranges.shift());
      this.#forgottenAt.shift();
    }
    return ranges;
  }
}
