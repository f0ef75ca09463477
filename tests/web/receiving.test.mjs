// What is received, and when it is acknowledged.

import assert from "node:assert/strict";
import { test } from "node:test";

import { events, opened, received, uncaught } from "./conversing.mjs";
import { MemoryStore } from "./memory_store.mjs";
import { HandlerFailed, RecordType } from "./subject.mjs";
import { turn, World } from "./world.mjs";

test("messages are acknowledged after their handlers have run, once a task", async () => {
  const world = new World();
  const line = await opened(world);
  const socket = world.socket;
  const acknowledged = () => socket.sent.filter(([type]) => type === RecordType.ACK).length;
  line.onmessage = () => assert.equal(acknowledged(), 0);
  for (const each of ["a", "b", "c"]) world.gateway.session.send(each);
  while (socket.toClient.length) socket.possibleSteps().at(-1)();
  assert.equal(world.tasks.length, 1);
  await world.settle();
  assert.equal(acknowledged(), 1);
  assert.equal(world.gateway.session.downSettled, 3);
});

test("with manual acknowledgement the application says when, or refuses", async () => {
  const world = new World();
  const line = await opened(world, { acknowledge: "manual" });
  for (const each of ["a", "b", "c"]) world.gateway.session.send(each);
  await world.settle();
  const [a, b, c] = events(line, "message");
  assert.equal(world.gateway.session.downSettled, 0);
  c.acknowledge();
  b.reject(4022, "not for me");
  await world.settle();
  assert.equal(world.gateway.session.downSettled, 0);
  assert.throws(() => a.reject(200), RangeError);
  a.acknowledge();
  a.acknowledge();
  await world.settle();
  assert.equal(world.gateway.session.downSettled, 3);
  assert.deepEqual([...world.gateway.session.downRefused], [[2, { code: 4022, reason: "not for me" }]]);
});

test("what was acknowledged late is not confused with a new session's message", async () => {
  const world = new World();
  const line = await opened(world, { acknowledge: "manual" });
  world.gateway.session.send("old");
  await world.settle();
  world.gateway.forget();
  await world.until(() => events(line, "open").length === 2);
  world.gateway.session.send("new");
  await world.settle();
  const [old, fresh] = events(line, "message");
  assert.deepEqual([old.seq, fresh.seq], [1, 1]);
  old.acknowledge();
  await world.settle();
  assert.equal(world.gateway.session.downSettled, 0);
  fresh.acknowledge();
  await world.settle();
  assert.equal(world.gateway.session.downSettled, 1);
});

// --- handlers that fail, and those that take their time -----------------------------------------------------------

const REFUSAL = { code: 1011, reason: "the receiver failed to handle the message" };

for (const [name, listen] of [
  ["onmessage", (line, handler) => (line.onmessage = handler)],
  ["addEventListener", (line, handler) => line.addEventListener("message", handler)],
  ["handleEvent", (line, handler) => line.addEventListener("message", { handleEvent: handler })],
]) {
  test(`a message whose handler throws was not consumed: it is refused (${name})`, async (context) => {
    const found = uncaught(context);
    const world = new World();
    const line = await opened(world);
    const thrown = new Error("secret");
    listen(line, ({ data }) => {
      if (data === "b") throw thrown;
    });
    const { session } = world.gateway;
    for (const each of ["a", "b", "c"]) session.send(each);
    await world.settle();
    assert.deepEqual([session.downSettled, [...session.downRefused]], [3, [[2, REFUSAL]]]);
    const [{ error }] = events(line, "error");
    assert.ok(error instanceof HandlerFailed);
    assert.deepEqual([error.seq, error.cause, line.state], [2, thrown, "open"]);
    await turn();
    assert.deepEqual(found, { thrown: ["secret"], unhandled: [] }, "and the platform reports it, as for any event");
  });

  test(`a message is consumed when the promise of its handler is fulfilled (${name})`, async (context) => {
    const found = uncaught(context);
    const world = new World();
    const line = await opened(world);
    const ends = new Map();
    listen(line, ({ data }) => new Promise((resolve, reject) => ends.set(data, { resolve, reject })));
    const { session } = world.gateway;
    for (const each of ["a", "b", "c"]) session.send(each);
    await world.settle();
    assert.deepEqual([[...ends.keys()], session.downSettled], [["a", "b", "c"], 0], "all are given at once");
    ends.get("c").resolve();
    const thrown = new Error("secret");
    ends.get("b").reject(thrown);
    await world.settle();
    assert.equal(session.downSettled, 0, "the first is under way");
    ends.get("a").resolve();
    await world.settle();
    assert.deepEqual([session.downSettled, [...session.downRefused]], [3, [[2, REFUSAL]]]);
    assert.deepEqual(events(line, "error").map(({ error }) => [error.name, error.cause]), [["HandlerFailed", thrown]]);
    assert.deepEqual(found, { thrown: [], unhandled: [] });
  });
}

test("one handler of several that fails is enough, and a promise that is none of ours will do", async (context) => {
  uncaught(context);
  const world = new World();
  const line = await opened(world);
  line.addEventListener("message", () => {
    throw new Error("first");
  });
  line.addEventListener("message", () => ({ then: (resolve) => resolve() }));
  const { session } = world.gateway;
  session.send("a");
  await world.settle();
  assert.deepEqual([...session.downRefused], [[1, REFUSAL]]);
});

test("what a handler has said of its message stands, though it fails", async (context) => {
  uncaught(context);
  const world = new World();
  const line = await opened(world);
  line.onmessage = async (event) => {
    if (event.data === "a") event.acknowledge();
    else event.reject(4022, "no such room");
    throw new Error("too late");
  };
  const { session } = world.gateway;
  for (const each of ["a", "b"]) session.send(each);
  await world.settle();
  assert.deepEqual([session.downSettled, [...session.downRefused]], [2, [[2, { code: 4022, reason: "no such room" }]]]);
});

test("with manual acknowledgement a handler that fails leaves its message to the application", async (context) => {
  uncaught(context);
  const world = new World();
  const line = await opened(world, { acknowledge: "manual" });
  line.onmessage = async () => {
    throw new Error("not now");
  };
  const { session } = world.gateway;
  session.send("a");
  await world.settle();
  assert.deepEqual([session.downSettled, session.downRefused.size, events(line, "error").length], [0, 0, 1]);
  events(line, "message")[0].acknowledge();
  await world.settle();
  assert.equal(session.downSettled, 1);
});

test("a handler that ends in the next session says nothing of its messages", async () => {
  const world = new World();
  const line = await opened(world);
  const ends = [];
  line.onmessage = () => new Promise((resolve) => ends.push(resolve));
  world.gateway.session.send("old");
  await world.settle();
  world.gateway.forget();
  await world.until(() => events(line, "open").length === 2);
  world.gateway.session.send("new");
  await world.settle();
  ends[0]();
  await world.settle();
  assert.equal(world.gateway.session.downSettled, 0);
});

test("a message whose handler had not ended comes again to the next page", async () => {
  const world = new World();
  const store = new MemoryStore(world);
  const line = await opened(world, { store });
  line.onmessage = ({ data }) => data === "slow" && new Promise(() => {});
  for (const each of ["quick", "slow"]) world.gateway.session.send(each);
  await world.settle();
  world.cut();
  await world.settle();
  store.crash(false);
  world.timers.clear();
  const next = await opened(world, { store });
  assert.deepEqual(received(next), ["slow"]);
});

test("listeners of messages are added once, called once where they say so, and can be removed", async () => {
  const world = new World();
  const line = await opened(world);
  const seen = [];
  const twice = () => void seen.push("twice");
  const gone = { handleEvent: () => void seen.push("gone") };
  line.addEventListener("message", twice);
  line.addEventListener("message", twice);
  line.addEventListener("message", () => void seen.push("once"), { once: true });
  line.addEventListener("message", gone);
  line.removeEventListener("message", gone);
  line.removeEventListener("message", () => {});
  line.addEventListener("message", null);
  line.addEventListener("message", function (event) {
    assert.equal(this, line);
    assert.equal(event.target, line);
  });
  for (const each of ["a", "b"]) world.gateway.session.send(each);
  await world.settle();
  assert.deepEqual(seen, ["twice", "once", "twice"]);
  assert.deepEqual(events(line, "error"), []);
});
