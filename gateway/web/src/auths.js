/** The AUTH records of one connection: whether they were agreed on, and what waits for an answer. */

import { ProtocolViolation } from "./errors.js";
import { Body, encodeJsonRecord, RecordType } from "./wire.js";

/** Sans-I/O: facts come out, and records by `take`. */
export class Auths {
  /** OPEN has offered them and, once OPENED has come, OPENED has agreed. */
  #agreed;
  #number = 0;
  /** The newest one, until it is taken. */
  #record = null;

  constructor(offered = false) {
    this.#agreed = offered;
  }

  /** What OPENED says; the facts that follow from it. */
  opened({ renew, expiresInSeconds }) {
    this.#agreed &&= renew;
    return this.#agreed ? [{ type: "permission", event: "begins", expiresInSeconds }] : [];
  }

  /** The fact that the gateway's AUTH tells. Throws ProtocolViolation. */
  receive(seq, body) {
    if (!this.#agreed) throw new ProtocolViolation("AUTH in an open session, which did not agree on it");
    const answer = Body.auth(body);
    if (seq === 0) return { type: "permission", event: "asked", ...answer };
    if (seq !== this.#number || this.#record !== null) {
      throw new ProtocolViolation(`AUTH ${seq}, expected the answer to ${this.#number}`);
    }
    return { type: "permission", event: "judged", ...answer };
  }

  /** Another credential is to be shown, where one is taken. */
  show(credential) {
    if (!this.#agreed) return;
    this.#number += 1;
    this.#record = encodeJsonRecord(RecordType.AUTH, this.#number, { token: credential });
  }

  /** The records to send now. */
  take() {
    const records = this.#record === null ? [] : [this.#record];
    this.#record = null;
    return records;
  }
}
