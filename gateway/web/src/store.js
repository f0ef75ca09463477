/** The outbox that survives a reload. */

import { StoreEmptied, StoreFailed, StoreInUse } from "./errors.js";

/** How long a page that is being reloaded may take to let go of its store. */
const LOCK_PATIENCE_MS = 3000;

/** How long IndexedDB may take to answer; it has been seen never to. */
const ANSWER_PATIENCE_MS = 10_000;
const THAW_MS = 500;

/** How often a write is tried, with a pause before the next time that grows. */
const TRIES = 3;
const PAUSE_MS = 200;

/** What trying again, on a new connection, does not mend. */
const LASTING = new Set([
  "ConstraintError",
  "DataCloneError",
  "DataError",
  "NotFoundError",
  "QuotaExceededError",
  "VersionError",
]);

/**
 * One conversation in IndexedDB: its state and its outbox, saved together. One tab at a time holds it, by a Web Lock.
 *
 * Browsers close the connection to a database when they see fit, and whoever wants to delete it must not be kept from
 * it: so a connection that is gone is opened anew by the next write. Writes are durable against the end of the page and
 * of the browser, not against a power cut ("relaxed").
 */
export class IndexedDbStore {
  #name;
  #platform;
  #database = null;
  #wasOpened = false;
  /** What was saved is gone: the next write must be whole. */
  #isEmptied = false;
  #isClosed = false;
  #release = null;
  #writing = Promise.resolve();

  constructor(name, platform = {}) {
    this.#name = `kakitome:${name}`;
    this.#platform = {
      indexedDB: globalThis.indexedDB,
      locks: globalThis.navigator?.locks,
      setTimeout: (action, ms) => globalThis.setTimeout(action, ms),
      clearTimeout: (timer) => globalThis.clearTimeout(timer),
      ...platform,
    };
  }

  /** Takes the store; what it has: null, or the state with `messages`. Rejects with StoreInUse or StoreFailed. */
  async open() {
    const { indexedDB, locks } = this.#platform;
    if (!indexedDB) throw new StoreFailed("there is no IndexedDB here");
    if (!locks) {
      throw new StoreFailed("there are no Web Locks here (they need https or localhost) to keep a second tab out");
    }
    await this.#lock(locks);
    try {
      await this.#connect();
      return await this.#load();
    } catch (cause) {
      this.close();
      throw failure("IndexedDB failed", cause);
    }
  }

  #lock(locks) {
    const { setTimeout, clearTimeout } = this.#platform;
    const waiting = new AbortController();
    const timer = setTimeout(() => waiting.abort(), LOCK_PATIENCE_MS);
    return new Promise((resolve, reject) => {
      const hold = () => {
        clearTimeout(timer);
        resolve();
        return new Promise((release) => (this.#release = release));
      };
      locks.request(this.#name, { signal: waiting.signal }, hold).catch((cause) => {
        clearTimeout(timer);
        if (waiting.signal.aborted) reject(new StoreInUse(`another tab uses the store ${this.#name}`, { cause }));
        else reject(failure("Web Locks failed", cause)); // as in a frame that is not let near any storage
      });
    });
  }

  /** Opens the database, and makes it where there is none. */
  async #connect() {
    const request = this.#platform.indexedDB.open(this.#name, 1);
    request.onupgradeneeded = () => {
      this.#isEmptied = this.#wasOpened;
      request.result.createObjectStore("state");
      request.result.createObjectStore("outbox", { keyPath: "seq" });
    };
    const opening = answered(request);
    let database;
    try {
      database = await this.#within(opening, "open");
    } catch (error) {
      opening.then((late) => late.close(), () => {}); // it would be in the way of whoever wants to delete it
      throw error;
    }
    if (this.#isClosed) {
      database.close();
      throw new StoreFailed("the store was closed");
    }
    this.#database = database;
    this.#wasOpened = true;
    database.onversionchange = () => this.#disconnect(database);
    database.onclose = () => this.#disconnect(database);
  }

  #disconnect(database = this.#database) {
    database?.close();
    if (this.#database === database) this.#database = null;
  }

  /** What is promised, or StoreFailed where it takes too long. */
  #within(promised, action) {
    const { setTimeout, clearTimeout } = this.#platform;
    return new Promise((resolve, reject) => {
      const giveUp = () => reject(new StoreFailed(`IndexedDB did not ${action} within ${ANSWER_PATIENCE_MS} ms`));
      // In a page that was frozen meanwhile the answer may be here, and not have been heard yet.
      let timer = setTimeout(() => (timer = setTimeout(giveUp, THAW_MS)), ANSWER_PATIENCE_MS);
      promised.then(resolve, reject).finally(() => clearTimeout(timer));
    });
  }

  async #load() {
    const transaction = this.#database.transaction(["state", "outbox"]);
    const loading = Promise.all([
      answered(transaction.objectStore("state").get("session")),
      answered(transaction.objectStore("outbox").getAll()),
    ]);
    const [state, messages] = await this.#within(loading, "read");
    return state ? { ...state, messages } : null;
  }

  /**
   * Saves all of `{state, appended, replace}` or nothing; `replace` puts `appended` in place of the whole outbox. Rejects
   * with StoreEmptied where only what was saved before and is gone would make it whole.
   */
  save({ state, appended, replace }) {
    return this.#write(replace, (states, outbox) => {
      if (replace) outbox.clear();
      for (const { seq, text, data } of appended) outbox.put({ seq, text, data });
      if (state.settled) outbox.delete(this.#settledKeys(state.settled));
      states.put(state, "session");
    });
  }

  #settledKeys(settled) {
    return (this.#platform.IDBKeyRange ?? globalThis.IDBKeyRange).upperBound(settled);
  }

  /** Forgets the conversation. */
  clear() {
    return this.#write(true, (states, outbox) => {
      states.clear();
      outbox.clear();
    });
  }

  /** One write after the other; `isWhole` if it needs nothing that was saved before. */
  #write(isWhole, change) {
    const written = this.#writing.then(() => this.#tryToWrite(isWhole, change));
    this.#writing = written.catch(() => {});
    return written;
  }

  async #tryToWrite(isWhole, change) {
    for (let tries = 1; ; tries += 1) {
      try {
        if (!this.#database) await this.#connect();
        if (this.#isEmptied && !isWhole) throw new StoreEmptied(`the database ${this.#name} was deleted`);
        await this.#within(this.#transact(change), "save");
        this.#isEmptied = false;
        return;
      } catch (cause) {
        const isLasting = cause instanceof StoreEmptied || LASTING.has(cause?.name);
        if (isLasting || this.#isClosed || tries === TRIES) throw failure("IndexedDB does not save", cause);
        this.#disconnect();
        await new Promise((resolve) => this.#platform.setTimeout(resolve, PAUSE_MS * tries));
      }
    }
  }

  #transact(change) {
    return new Promise((resolve, reject) => {
      const transaction = this.#database.transaction(["state", "outbox"], "readwrite", { durability: "relaxed" });
      transaction.oncomplete = () => resolve();
      transaction.onabort = () => reject(transaction.error ?? new DOMException("it gave up", "AbortError"));
      try {
        change(transaction.objectStore("state"), transaction.objectStore("outbox"));
      } catch (error) {
        reject(error);
        transaction.abort(); // else what it had done before would last
      }
    });
  }

  /** Lets go of the store; what was saved stays. */
  close() {
    this.#isClosed = true;
    this.#disconnect();
    this.#release?.();
    this.#release = null;
  }
}

function answered(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

function failure(what, cause) {
  return cause instanceof StoreFailed ? cause : new StoreFailed(`${what}: ${cause?.message}`, { cause });
}
