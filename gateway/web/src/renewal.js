/** Renewing a permission on the open connection, before it ends: nothing breaks off (docs/protocol.md, Permissions). */

/** The part of a permission's life after which we need not have been asked: the gateway asks when a quarter is left. */
const UNASKED = 0.85;

/** Between two attempts: the gateway judges no more than two credentials a second. */
const MIN_RETRY_MS = 600;
const MAX_RETRY_MS = 5000;

/** The longest that a timer of browsers can wait. */
const MAX_TIMER_MS = 2 ** 31 - 1;

/**
 * For one connection after the other.
 *
 * The owner hears of `show(token)`, the credential that is to go out, and of `failed(message, cause)`, where none was to
 * be had, or the gateway did not take it: the permission that holds goes on to its end, and it is tried again.
 */
export class Renewal {
  #owner;
  #credential;
  #platform;
  #timers;
  #expiresAt = null;
  /** Rises with each connection: what was asked for before is not shown on it. */
  #round = 0;
  #isUnderWay = false;

  constructor(owner, credential, platform, timers) {
    this.#owner = owner;
    this.#credential = credential;
    this.#platform = platform;
    this.#timers = timers;
  }

  /** What the gateway says of the permission of the open connection. */
  hear({ event, code, reason, expiresInSeconds }) {
    if (event === "begins") this.#begins(expiresInSeconds);
    else if (event === "asked") this.#ask();
    else this.#judged(code, reason, expiresInSeconds);
  }

  /** It ends in so many seconds; null: not by itself. */
  #begins(seconds) {
    this.#isUnderWay = false;
    this.#expiresAt = seconds === null ? null : this.#platform.now() + seconds * 1000;
    if (seconds === null) this.#timers.disarm("renew");
    else this.#arm(seconds * 1000 * UNASKED);
  }

  /** The gateway wants another credential, or it is time without that. */
  #ask() {
    if (this.#isUnderWay) return;
    this.#isUnderWay = true;
    const round = this.#round;
    const isCurrent = () => round === this.#round && this.#isUnderWay;
    this.#credential.get().then(
      (token) => this.#owner.guard(() => isCurrent() && this.#show(token)),
      (error) => this.#owner.guard(() => isCurrent() && this.#failed(`no credential: ${error?.message}`, error)),
    );
  }

  #show(token) {
    if (token === null) this.#isUnderWay = false; // nobody any more: the connection ends when its time is over
    else this.#owner.show(token);
  }

  #judged(code, reason, expiresInSeconds) {
    if (code === null) {
      this.#credential.accepted();
      this.#begins(expiresInSeconds);
      return;
    }
    this.#credential.refused();
    this.#failed(`the gateway did not take the credential: ${code} ${reason}`, null);
  }

  #failed(message, cause) {
    this.#isUnderWay = false;
    this.#owner.failed(message, cause);
    if (this.#expiresAt === null) return;
    const leftMs = this.#expiresAt - this.#platform.now();
    if (leftMs > MIN_RETRY_MS) this.#arm(Math.min(Math.max(leftMs / 4, MIN_RETRY_MS), MAX_RETRY_MS));
  }

  #arm(ms) {
    const waitMs = Math.min(ms, MAX_TIMER_MS);
    this.#timers.arm("renew", waitMs, () => (ms > waitMs ? this.#arm(ms - waitMs) : this.#ask()));
  }

  /** The connection is gone, and what was asked for with it. */
  end() {
    this.#round += 1;
    this.#isUnderWay = false;
    this.#expiresAt = null;
    this.#timers.disarm("renew");
  }
}
