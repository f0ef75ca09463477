/** The gateway's messages on their way through the application's handlers. */

import { HandlerFailed } from "./errors.js";
import { KakitomeMessageEvent } from "./events.js";

/** What the sender is told where a handler has failed; the details are not its business. */
const HANDLER_FAILED_CODE = 1011;
const HANDLER_FAILED_REASON = "the receiver failed to handle the message";

/**
 * Gives each message to the handlers, and finds out whether it was consumed.
 *
 * The owner has `isCurrent(session, generation)`, whether that session still takes an answer, `acknowledge()`, when there
 * is something to tell, `dispatchWatched(event)`, `handlerFailed(error)`, `handled()`, when nothing is awaited any more,
 * and `guard(action)`.
 */
export class Deliveries {
  #owner;
  #isAuto;
  #platform;
  /** The handlers whose promises are not settled, and those of them that a close waits for. */
  #underWay = new Set();
  #awaited = new Set();
  #isDispatching = false;
  #awaitsPresent = false;

  constructor(owner, acknowledge, platform) {
    this.#owner = owner;
    this.#isAuto = acknowledge === "auto";
    this.#platform = platform;
  }

  get isAwaiting() {
    return this.#awaitsPresent || this.#awaited.size > 0;
  }

  /** From now on those that have begun are awaited; those that begin later are not. */
  awaitThoseUnderWay() {
    this.#awaited = new Set(this.#underWay);
    this.#awaitsPresent = this.#isDispatching;
  }

  /**
   * Gives one message to the handlers, and acknowledges it when they have returned and their promises are fulfilled. A
   * message whose handler has failed was not consumed: it is refused, so that its sender knows.
   */
  deliver(session, { seq, text, data }, binaryType, origin) {
    const { generation } = session;
    const whenCurrent = (action) => {
      if (!this.#owner.isCurrent(session, generation)) return;
      action();
      this.#owner.acknowledge();
    };
    const consume = () => whenCurrent(() => session.consume(seq));
    const reject = (code, reason) => whenCurrent(() => session.reject(seq, code, reason));
    const fail = (cause) => {
      if (this.#isAuto) reject(HANDLER_FAILED_CODE, HANDLER_FAILED_REASON);
      this.#owner.handlerFailed(new HandlerFailed(seq, cause));
    };
    let content = data;
    if (!text) content = binaryType === "blob" ? new Blob([data]) : data.slice().buffer;
    const event = new KakitomeMessageEvent(content, origin, seq, consume, reject);
    this.#isDispatching = true;
    const { errors, promises } = this.#owner.dispatchWatched(event);
    this.#isDispatching = false;
    for (const error of errors) fail(error);
    if (promises.length) this.#await(promises, consume, fail);
    else if (this.#isAuto) consume(); // which is nothing for one that was refused
    if (!this.#awaitsPresent) return;
    this.#awaitsPresent = false;
    if (!this.isAwaiting) this.#owner.handled();
  }

  #await(promises, consume, fail) {
    const handling = Promise.allSettled(promises).then((outcomes) =>
      this.#owner.guard(() => {
        for (const { status, reason } of outcomes) {
          if (status === "fulfilled") continue;
          fail(reason);
          this.#platform.reportError?.(reason);
        }
        if (this.#isAuto) consume();
        this.#underWay.delete(handling);
        if (this.#awaited.delete(handling) && !this.isAwaiting) this.#owner.handled();
      }),
    );
    this.#underWay.add(handling);
    if (this.#awaitsPresent) this.#awaited.add(handling);
  }
}
