// The outbox that survives a reload, as the conversation uses it.

import assert from "node:assert/strict";
import { test } from "node:test";

import { begin, events, opened, outcome, received } from "./conversing.mjs";
import { MemoryStore } from "./memory_store.mjs";
import { Closed, Lost, RecordType, StoreEmptied, StoreFailed, StoreInUse } from "./subject.mjs";
import { turn, World } from "./world.mjs";

test("with a store a message leaves once it was saved", async () => {
  const world = new World();
  const store = new MemoryStore(world);
  const line = await opened(world, { store });
  line.send("a");
  const { socket } = world;
  const count = () => socket.sent.filter(([type]) => type === RecordType.DATA).length;
  assert.equal(count(), 0);
  store.complete();
  await turn();
  assert.equal(count(), 1);
});

test("a reload goes on with the session and sends what was not settled again", async () => {
  const world = new World();
  const store = new MemoryStore(world);
  const first = await opened(world, { store });
  world.gateway.isStalled = true;
  first.send("a");
  first.send(new Uint8Array([1]));
  await world.settle();
  world.cut();
  first.send("offline");
  await world.settle();
  store.crash(false);
  world.timers.clear();

  world.gateway.isStalled = false;
  const second = begin(world, { store });
  await turn();
  assert.deepEqual(
    second.unsettled.map(({ seq }) => seq),
    [1, 2, 3],
  );
  const sent = second.send("new page");
  await world.settle();
  assert.equal((await sent).seq, 4);
  assert.deepEqual(
    world.gateway.consumed.map((each) => (typeof each === "string" ? each : [...each])),
    ["a", [1], "offline", "new page"],
  );
  assert.equal(world.gateway.resumes, 1);
  await world.settle();
  assert.equal(store.messages.size, 0);
});

test("a message whose handler did not finish comes again to the next page, one that was saved does not", async () => {
  const world = new World();
  const store = new MemoryStore(world);
  const first = await opened(world, { store, acknowledge: "manual" });
  world.gateway.session.send("done");
  world.gateway.session.send("not done");
  await world.settle();
  events(first, "message")[0].acknowledge();
  await world.settle();
  world.cut();
  await world.settle();
  store.crash(false);
  world.timers.clear();
  const second = await opened(world, { store });
  assert.deepEqual(received(second), ["not done"]);
});

test("messages wait for the store to be opened, in order", async () => {
  const world = new World();
  const store = new MemoryStore(world);
  const line = begin(world, { store });
  const sent = line.send("early");
  assert.equal(sent.seq, 0);
  const { ready } = line;
  await world.settle();
  await ready;
  assert.equal((await sent).seq, 1);
});

test("the end of the session clears the store, being superseded does not", async () => {
  for (const [code, cleared] of [[4000, true], [4001, false]]) {
    const world = new World();
    const store = new MemoryStore(world);
    const line = await opened(world, { store });
    world.gateway.isStalled = true;
    const sent = line.send("x");
    await world.settle();
    world.gateway.session.link.end(code, "");
    await world.settle();
    assert.deepEqual([line.state, store.wasCleared, store.isOpen], ["closed", cleared, false]);
    assert.ok((await outcome(sent)) instanceof (cleared ? Lost : Closed));
    assert.equal(events(line, "lost").length, cleared ? 1 : 0);
  }
});

test("a store that cannot be had, or fails, is told clearly", async () => {
  const world = new World();
  const busy = { open: () => Promise.reject(new StoreInUse("another tab uses the store x")) };
  const refused = begin(world, { store: busy });
  const early = refused.send("x");
  await world.settle();
  assert.ok(events(refused, "error")[0].error instanceof StoreInUse);
  assert.ok((await outcome(early)) instanceof StoreInUse);
  assert.deepEqual([refused.state, events(refused, "close")[0].reason], ["closed", "another tab uses the store x"]);

  const store = new MemoryStore(world);
  const line = await opened(world, { store });
  store.save = () => Promise.reject(new Error("quota exceeded"));
  const sent = line.send("x");
  await turn();
  const error = await outcome(sent);
  assert.ok(error instanceof StoreFailed);
  assert.equal(error.message, "the store failed: quota exceeded");
  assert.equal(line.state, "closed");
});

test("closing before the store is open lets go of it", async () => {
  const world = new World();
  const store = new MemoryStore(world);
  const line = begin(world, { store });
  line.close();
  await world.settle();
  assert.deepEqual([line.state, store.isOpen, world.sockets.length], ["closed", false, 0]);
});

test("without IndexedDB or Web Locks the store says what is missing", async () => {
  const world = new World();
  const none = begin(world, { store: "chat", platform: { ...world.platform, indexedDB: null } });
  await turn();
  assert.match(events(none, "error")[0].message, /no IndexedDB/);
  const unlocked = begin(world, { store: "chat", platform: { ...world.platform, indexedDB: {}, locks: null } });
  await turn();
  assert.match(events(unlocked, "error")[0].message, /no Web Locks/);
});

test("a store that has lost what was saved is given all of it anew", async () => {
  const world = new World();
  const store = new MemoryStore(world);
  const line = await opened(world, { store });
  world.gateway.isStalled = true;
  for (const each of ["a", "b"]) line.send(each);
  await world.settle();
  const save = store.save.bind(store);
  store.save = (changes) => {
    store.messages.clear();
    store.state = null;
    store.save = save;
    return changes.replace ? save(changes) : Promise.reject(new StoreEmptied("deleted"));
  };
  const sent = line.send("c");
  await world.settle();
  assert.deepEqual([...store.messages.keys()], [1, 2, 3]);
  assert.deepEqual([store.state.token, events(line, "error")], [world.gateway.session.token, []]);
  world.gateway.isStalled = false;
  await world.settle();
  assert.deepEqual([(await sent).seq, world.gateway.consumed], [3, ["a", "b", "c"]]);
});

test("a store that keeps nothing is told as what it is", async () => {
  const world = new World();
  const store = new MemoryStore(world);
  const line = await opened(world, { store });
  store.save = () => Promise.reject(new StoreEmptied("deleted again"));
  line.send("a");
  await world.until(() => line.state === "closed");
  assert.equal(events(line, "error")[0].error.message, "deleted again");
});

test("a store whose opening is never answered is told, and let go of when it is there after all", async () => {
  const world = new World();
  let answer = null;
  let isClosed = false;
  const store = { open: () => new Promise((resolve) => (answer = resolve)), close: () => (isClosed = true) };
  const line = begin(world, { store });
  const sent = line.send("x");
  await world.until(() => line.state === "closed");
  assert.match(events(line, "error")[0].message, /the store was not opened within 20000 ms/);
  assert.ok((await outcome(sent)) instanceof StoreFailed);
  answer(null);
  await turn();
  assert.ok(isClosed);
});

for (const [how, fail] of [
  ["throws", () => { throw new Error("no disk"); }],
  ["rejects", async () => { throw new Error("no disk"); }],
  ["rejects with nothing", () => Promise.reject()],
]) {
  for (const method of ["open", "save", "clear", "close"]) {
    test(`a store whose ${method} ${how} is told as that, and the conversation ends with one close`, async () => {
      const world = new World();
      const store = new MemoryStore(world);
      store[method] = fail;
      const line = begin(world, { store });
      const sent = outcome(line.send("a"));
      await world.settle();
      const isFatal = method === "open" || method === "save";
      if (!isFatal) {
        assert.equal((await sent).rung, "consumed");
        line.close();
      }
      await world.settle();
      assert.deepEqual(events(line, "close").map(({ code }) => code), [isFatal ? 1006 : 1000]);
      const errors = events(line, "error").map(({ error }) => error);
      assert.equal(errors.length, isFatal ? 1 : 0);
      if (!isFatal) return;
      assert.ok(errors[0] instanceof StoreFailed);
      if (!how.endsWith("nothing")) assert.equal(errors[0].cause.message, "no disk");
      assert.ok((await sent) instanceof StoreFailed);
    });
  }
}

test("a store whose methods are not async will do", async () => {
  const world = new World();
  const store = { open: () => null, save: () => {}, clear: () => {}, close: () => {} };
  const line = await opened(world, { store });
  const sent = line.send("a");
  await world.settle();
  assert.equal((await sent).rung, "consumed");
});

test("a save that is never answered is told in the end, and the store is let go of", async () => {
  const world = new World();
  const store = new MemoryStore(world);
  const line = await opened(world, { store });
  store.save = () => new Promise(() => {});
  const sent = outcome(line.send("a"));
  await world.until(() => line.state === "closed");
  assert.ok((await sent) instanceof StoreFailed);
  assert.match((await sent).message, /the store did not save within 60000 ms/);
  assert.equal(line.state, "closed");
  assert.ok(!store.isOpen);
  assert.ok(!store.wasCleared);
});
