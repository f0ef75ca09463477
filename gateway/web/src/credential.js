/** The credential that goes into OPEN (docs/authentication.md): where it comes from, and when a fresh one is worth a try. */

import { isWellFormed } from "./text.js";

/** The gateway does not know who we are: 401 behind the upgrade. */
export const UNAUTHENTICATED = 3000;

/** What the option `token` says, asked anew for each connection: a ticket is good once. */
export class Credential {
  #source;
  #isRefused = false;

  constructor(source) {
    this.#source = source;
  }

  /** It has to be asked for, which takes time. */
  get isAsked() {
    return typeof this.#source === "function";
  }

  /** The credential for one connection, or null; a promise of it where it is asked for. Rejects with what asking threw. */
  get() {
    return this.isAsked ? this.#ask() : this.#source;
  }

  async #ask() {
    const token = (await this.#source({ refused: this.#isRefused })) ?? null;
    if (typeof token === "string" && !isWellFormed(token)) {
      throw new TypeError("option token: what the function gave has half of a surrogate pair, expected text that has UTF-8");
    }
    if (token === null || (typeof token === "string" && token)) return token;
    throw new TypeError(`option token: the function gave ${token === "" ? "an empty text" : typeof token}, expected text`);
  }

  /** The gateway refused it. Whether a fresh one is worth another attempt: once in a row, and not of a fixed one. */
  refused() {
    const isFirst = this.isAsked && !this.#isRefused;
    this.#isRefused = true;
    return isFirst;
  }

  accepted() {
    this.#isRefused = false;
  }
}
