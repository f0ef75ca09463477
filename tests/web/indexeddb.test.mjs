// The outbox in IndexedDB: connections that are lost, databases that are deleted, answers that never come.

import assert from "node:assert/strict";
import { test } from "node:test";

import { begin, events } from "./conversing.mjs";
import { IndexedDbStore, StoreEmptied, StoreFailed, StoreInUse } from "./subject.mjs";
import { turn, World } from "./world.mjs";

const { forceCloseDatabase, IDBFactory, IDBKeyRange } = await import(process.env.KAKITOME_NPM);

/** Web Locks, as far as the store uses them. */
class Locks {
  #held = new Map();

  async request(name, { signal }, action) {
    while (this.#held.has(name)) {
      const aborted = new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason)));
      await Promise.race([this.#held.get(name), aborted]);
    }
    const holding = Promise.resolve(action());
    this.#held.set(name, holding);
    await holding;
    this.#held.delete(name);
  }
}

/** IndexedDB and what else the store takes from its surroundings; `databases` are those that were opened. */
function surroundings() {
  const indexedDB = new IDBFactory();
  const databases = [];
  const open = indexedDB.open.bind(indexedDB);
  indexedDB.open = (...which) => {
    const request = open(...which);
    request.addEventListener("success", () => databases.push(request.result));
    return request;
  };
  return { indexedDB, databases, IDBKeyRange, locks: new Locks() };
}

const message = (seq) => ({ seq, text: true, data: new TextEncoder().encode(String(seq)) });
const stateOf = (carried) => ({ token: "token", consumed: 0, settled: 0, carried });
const saved = (appended, replace = false) => ({
  state: stateOf(appended.at(-1)?.seq ?? 0),
  appended,
  replace,
});

/** What the next page finds. */
async function found(platform) {
  const store = new IndexedDbStore("outbox", platform);
  const stored = await store.open();
  store.close();
  return stored?.messages.map(({ seq }) => seq) ?? null;
}

const deleted = (indexedDB) =>
  new Promise((resolve, reject) => {
    const request = indexedDB.deleteDatabase("kakitome:outbox");
    request.onsuccess = () => resolve();
    request.onblocked = () => reject(new Error("blocked"));
  });

test("what was saved is there for the next page, until it is cleared", async () => {
  const platform = surroundings();
  const store = new IndexedDbStore("outbox", platform);
  assert.equal(await store.open(), null);
  await store.save(saved([message(1), message(2)]));
  await store.save({ state: { ...stateOf(3), settled: 1 }, appended: [message(3)], replace: false });
  store.close();
  assert.deepEqual(await found(platform), [2, 3]);
  const next = new IndexedDbStore("outbox", platform);
  await next.open();
  await next.clear();
  next.close();
  assert.equal(await found(platform), null);
});

test("a lost connection is opened anew by the next write", async () => {
  const platform = surroundings();
  const store = new IndexedDbStore("outbox", platform);
  await store.open();
  await store.save(saved([message(1)]));
  forceCloseDatabase(platform.databases.at(-1));
  await store.save(saved([message(2)]));
  platform.databases.at(-1).close(); // of which no event tells
  await store.save(saved([message(3)]));
  assert.equal(platform.databases.length, 3);
  store.close();
  assert.deepEqual(await found(platform), [1, 2, 3]);
});

test("a write that the browser aborts is made again, a disk that is full is told", async () => {
  const platform = surroundings();
  const store = new IndexedDbStore("outbox", platform);
  await store.open();
  const failing = (name, times) => {
    const database = platform.databases.at(-1);
    const transaction = database.transaction.bind(database);
    database.transaction = (...which) => {
      if ((times -= 1) < 0) return transaction(...which);
      throw new DOMException("Connection to Indexed Database server lost", name);
    };
  };
  failing("UnknownError", 1);
  await store.save(saved([message(1)]));
  failing("QuotaExceededError", 1);
  await assert.rejects(store.save(saved([message(2)])), (error) => {
    assert.ok(error instanceof StoreFailed);
    assert.equal(error.cause.name, "QuotaExceededError");
    return true;
  });
  assert.equal(platform.databases.length, 2, "which is not tried again");
  store.close();
  assert.deepEqual(await found(platform), [1]);
});

test("nobody is kept from deleting the database, and what it lacks then is asked for", async () => {
  const platform = surroundings();
  const store = new IndexedDbStore("outbox", platform);
  await store.open();
  await store.save(saved([message(1)]));
  await deleted(platform.indexedDB);
  await assert.rejects(store.save(saved([message(2)])), StoreEmptied);
  await assert.rejects(store.save(saved([message(2)])), StoreEmptied);
  await store.save(saved([message(1), message(2)], true));
  await store.save(saved([message(3)]));
  store.close();
  assert.deepEqual(await found(platform), [1, 2, 3]);
});

test("a conversation goes on when its database is deleted, and is whole there afterwards", async () => {
  const platform = surroundings();
  const world = new World();
  const line = begin(world, { store: "outbox", platform: { ...world.platform, ...platform } });
  const eventually = async (isTrue) => {
    for (let turns = 0; !isTrue(); turns += 1) {
      assert.ok(turns < 1000, "it never comes true");
      await world.settle();
    }
  };
  await eventually(() => line.state === "open");
  world.gateway.isStalled = true;
  line.send("a");
  await eventually(() => world.gateway.session.accepted === 1);
  await deleted(platform.indexedDB);
  line.send("b");
  await eventually(() => world.gateway.session.accepted === 2);
  world.cut({ silently: true }); // as the page is gone
  assert.deepEqual(events(line, "error"), []);
  for (const database of platform.databases) database.close();
  platform.locks = new Locks();
  assert.deepEqual(await found(platform), [1, 2]);
});

test("an open that is never answered is told, and lets go of what comes late", async () => {
  const platform = surroundings();
  const requests = [];
  platform.indexedDB.open = () => {
    const request = {};
    requests.push(request);
    return request;
  };
  const timers = [];
  platform.setTimeout = (action, ms) => timers.push({ action, ms });
  platform.clearTimeout = () => {};
  const store = new IndexedDbStore("outbox", platform);
  const opening = store.open();
  opening.catch(() => {});
  await turn();
  for (const { action } of timers.splice(0)) action(); // also the lock's, which was had in time
  for (const { action } of timers.splice(0)) action();
  await assert.rejects(opening, { name: "StoreFailed", message: "IndexedDB did not open within 10000 ms" });
  let isClosed = false;
  requests[0].result = { close: () => (isClosed = true) };
  requests[0].onsuccess();
  await turn();
  assert.ok(isClosed);
});

test("a write that is never answered is told in the end", async () => {
  const platform = surroundings();
  const store = new IndexedDbStore("outbox", platform);
  await store.open();
  store.close();
  const timers = [];
  const dead = new IndexedDbStore("outbox", {
    ...platform,
    setTimeout: (action) => void timers.push(action),
    clearTimeout: () => {},
  });
  await dead.open();
  const database = platform.databases.at(-1);
  const silent = () => ({ objectStore: () => ({ put() {}, delete() {}, clear() {} }) });
  database.transaction = silent;
  platform.indexedDB.open = () => {
    const request = { result: database };
    setImmediate(() => request.onsuccess());
    return request;
  };
  const saving = dead.save(saved([message(1)]));
  let outcome = null;
  saving.catch((error) => (outcome = error));
  for (let turns = 0; turns < 100 && !outcome; turns += 1) {
    await turn();
    timers.shift()?.();
  }
  assert.equal(outcome?.message, "IndexedDB did not save within 10000 ms");
});

test("one tab at a time has the store", async () => {
  const platform = surroundings();
  const store = new IndexedDbStore("outbox", platform);
  await store.open();
  const other = new IndexedDbStore("outbox", { ...platform, setTimeout: (action) => setTimeout(action, 0) });
  await assert.rejects(other.open(), StoreInUse);
  store.close();
  assert.equal(await new IndexedDbStore("outbox", platform).open(), null);
});

test("Web Locks that are refused are not taken for another tab", async () => {
  const { indexedDB } = surroundings();
  const refused = new DOMException("the document is sandboxed", "SecurityError");
  const locks = { request: () => Promise.reject(refused) };
  const error = await new IndexedDbStore("outbox", { indexedDB, locks }).open().catch((raised) => raised);
  assert.ok(error instanceof StoreFailed);
  assert.ok(!(error instanceof StoreInUse));
  assert.equal(error.cause, refused);
});

test("a write that fails half-way leaves all as it was", async () => {
  const platform = surroundings();
  const store = new IndexedDbStore("outbox", platform);
  await store.open();
  await store.save(saved([message(1)]));
  const changes = saved([message(2), { ...message(3), data: () => "cannot be cloned" }], true);
  await assert.rejects(store.save(changes), (error) => error instanceof StoreFailed);
  store.close();
  assert.deepEqual(await found(platform), [1]);
});
