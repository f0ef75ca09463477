/** Which messages were refused lately, so that a refusal is not lost with the connection that carried its REJECT. */

import { encoder } from "./text.js";

/** What the list may take as JSON. */
const MAX_REJECTIONS_BYTES = 24 * 1024;

/**
 * A sender is taken to have this window at the least: a gateway between it and us passes on what fits a smaller one of
 * ours, and then the sender may have more unsettled than we can see.
 */
const LEAST_WINDOW_MESSAGES = 1024;

/** Stands for codes that had no room. */
const NO_CODE = 1005;

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
  /** What each of them takes. */
  #sizes = new WeakMap();

  constructor(ranges = [], accepted = 0, windowMessages = 0) {
    this.ranges = ranges;
    this.#forgottenAt = ranges.map(() => accepted + Math.max(windowMessages, LEAST_WINDOW_MESSAGES));
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
    this.#forgottenAt.push(accepted + Math.max(windowMessages, LEAST_WINDOW_MESSAGES));
    this.ranges = this.#shortened(ranges);
  }

  /** The oldest lose first their reasons, then neighbours their codes, then they are forgotten. */
  #shortened(ranges) {
    const sizeOf = (range) => {
      if (!this.#sizes.has(range)) this.#sizes.set(range, encoder.encode(JSON.stringify(range)).length + 1);
      return this.#sizes.get(range);
    };
    let size = ranges.reduce((bytes, range) => bytes + sizeOf(range), 0);
    for (let at = 0; size > MAX_REJECTIONS_BYTES && at < ranges.length; at += 1) {
      const bare = [...ranges[at].slice(0, 3), ""];
      size += sizeOf(bare) - sizeOf(ranges[at]);
      ranges[at] = bare;
    }
    if (size > MAX_REJECTIONS_BYTES) {
      ranges = this.#joined(ranges);
      size = ranges.reduce((bytes, range) => bytes + sizeOf(range), 0);
    }
    while (size > MAX_REJECTIONS_BYTES) {
      size -= sizeOf(ranges.shift());
      this.#forgottenAt.shift();
    }
    return ranges;
  }

  /** One range for those that follow one another, whatever their codes; none has a reason any more. */
  #joined(ranges) {
    const runs = ranges.map((range, index) => ({ range, forgottenAt: this.#forgottenAt[index] }));
    const joined = [];
    for (const run of runs.sort((one, other) => one.range[0] - other.range[0])) {
      const before = joined.at(-1);
      if (!before || before.range[1] + 1 < run.range[0]) {
        joined.push(run);
        continue;
      }
      const [first, last, code] = before.range;
      before.range = [first, Math.max(last, run.range[1]), code === run.range[2] ? code : NO_CODE, ""];
      before.forgottenAt = Math.max(before.forgottenAt, run.forgottenAt);
    }
    this.#forgottenAt = joined.map(({ forgottenAt }) => forgottenAt);
    return joined.map(({ range }) => range);
  }
}
