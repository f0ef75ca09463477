/** A conversation's dealings with its store. */

import { StoreEmptied, StoreFailed } from "./errors.js";

/** How long any store may take to be opened, and to save: longer than ours takes to give up by itself. */
const OPEN_PATIENCE_MS = 20_000;
const SAVE_PATIENCE_MS = 60_000;

/** In a page that was frozen meanwhile the answer may be here, and not have been heard yet. */
const LATE_ANSWER_MS = 500;

/** A store that says so oftener in a row that it has lost what was saved does not keep it. */
const MAX_SAVES_ANEW = 3;

/**
 * Opens the store, saves one thing after the other, lets go of it.
 *
 * The owner hears of `opened(stored)`, `saved()`, when the next thing can be saved, and `failed(error)`, each in its
 * `guard(action)`; nothing of it after `end`.
 */
export class Saving {
  #owner;
  #store;
  #timers;
  #isOpened = false;
  #isEnded = false;
  #savesAnew = 0;

  constructor(owner, store, timers) {
    this.#owner = owner;
    this.#store = store;
    this.#timers = timers;
    this.isBusy = false;
  }

  open() {
    this.#awaitFor(OPEN_PATIENCE_MS, "was not opened");
    attempted(() => this.#store.open()).then(
      (stored) => {
        if (this.#isEnded) {
          this.#close(); // nobody waits for it any more
          return;
        }
        this.#isOpened = true;
        this.#timers.disarm("store");
        this.#tell(() => this.#owner.opened(stored));
      },
      (error) => this.#fail(error),
    );
  }

  /** Saves what the session gives, and tells the session. */
  save(session, changes) {
    this.isBusy = true;
    this.#awaitFor(SAVE_PATIENCE_MS, "did not save");
    attempted(() => this.#store.save(changes)).then(
      () => {
        this.#savesAnew = 0;
        this.#goOn(() => session.markSaved(changes));
      },
      (error) => {
        this.#savesAnew += 1;
        if (error instanceof StoreEmptied && this.#savesAnew <= MAX_SAVES_ANEW) this.#goOn(() => session.saveAnew());
        else this.#fail(error);
      },
    );
  }

  /** Whoever never answers has failed. */
  #awaitFor(ms, failing) {
    const giveUp = () => this.#owner.failed(new StoreFailed(`the store ${failing} within ${ms} ms`));
    this.#timers.arm("store", ms, () => this.#timers.arm("store", LATE_ANSWER_MS, giveUp));
  }

  #goOn(action) {
    this.isBusy = false;
    if (!this.#isEnded) this.#timers.disarm("store");
    this.#tell(() => {
      action();
      this.#owner.saved();
    });
  }

  #fail(cause) {
    const isKnown = cause instanceof StoreFailed;
    const error = isKnown ? cause : new StoreFailed(`the store failed: ${cause?.message}`, { cause });
    this.#tell(() => this.#owner.failed(error));
  }

  #tell(action) {
    if (!this.#isEnded) this.#owner.guard(action);
  }

  /** Lets go of the store; unless it is to be kept, what it has is forgotten. */
  end(keeps) {
    this.#isEnded = true;
    if (!this.#isOpened) return;
    const close = () => this.#close();
    if (keeps) close();
    // A resume of what is left there is told that the session is gone.
    else attempted(() => this.#store.clear()).then(close, close);
  }

  /** What a store throws here is nothing that the end of a conversation waits for. */
  #close() {
    attempted(() => this.#store.close()).catch(() => {});
  }
}

/** What a store's method promises, also where it throws at once, or is not an async one. */
function attempted(action) {
  try {
    return Promise.resolve(action());
  } catch (error) {
    return Promise.reject(error);
  }
}
