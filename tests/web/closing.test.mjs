// How a conversation ends.

import assert from "node:assert/strict";
import { test } from "node:test";

import { begin, events, isPending, opened, outcome, received, uncaught } from "./conversing.mjs";
import { MemoryStore } from "./memory_store.mjs";
import { Closed, Lost } from "./subject.mjs";
import { turn, World } from "./world.mjs";

test("close lets everything be settled first", async () => {
  const world = new World({ gateway: { windowMessages: 1 } });
  const line = await opened(world);
  const sent = [line.send("a"), line.send("b"), line.send(new Blob(["c"]))];
  line.onmessage = () => line.close();
  world.gateway.session.send("now");
  const { session } = world.gateway;
  await world.settle();
  assert.deepEqual((await Promise.all(sent)).map(({ seq }) => seq), [1, 2, 3]);
  assert.deepEqual([line.state, session.closed, session.downSettled], ["closed", { code: 1000, reason: "" }, 1]);
  const error = await outcome(line.send("late"));
  assert.ok(error instanceof Closed);
  assert.ok((await outcome(line.ready)) instanceof Closed);
});

test("close heals a broken connection first, but not for ever", async () => {
  const world = new World();
  const line = await opened(world, { closeTimeoutMs: 2000 });
  world.gateway.isStalled = true;
  const sent = line.send("a");
  await world.settle();
  world.cut();
  await world.settle();
  line.close();
  assert.equal(line.state, "closing");
  await world.until(() => world.gateway.resumes === 1);
  await world.until(() => line.state === "closed");
  assert.equal(world.now, 2000);
  assert.ok((await outcome(sent)) instanceof Lost);
  const [{ code, wasClean }] = events(line, "close");
  assert.deepEqual([code, wasClean], [1000, false]);
});

/** A gateway's backend that takes a message every 1,600 ms. */
function slow(world) {
  world.gateway.isStalled = true;
  world.gateway.options.rejects = () => void (world.gateway.isStalled = true);
  const takeOne = () => {
    world.gateway.isStalled = false;
    world.after(1600, takeOne);
  };
  world.after(1600, takeOne);
}

test("close waits for messages that are settled one after the other, longer than for one, and not for ever", async () => {
  for (const [count, lost] of [
    [4, 0],
    [12, 5],
  ]) {
    const world = new World();
    const line = await opened(world, { closeTimeoutMs: 2000 });
    slow(world);
    const sent = Array.from({ length: count }, (_, index) => line.send(`message ${index}`));
    line.close();
    await world.until(() => line.state === "closed");
    const outcomes = await Promise.allSettled(sent);
    assert.equal(outcomes.filter(({ status }) => status === "rejected").length, lost);
    assert.equal(events(line, "close")[0].wasClean, !lost);
  }
});

test("close ends at once where nothing is to be saved", async () => {
  const world = new World();
  world.reachable = false;
  const line = begin(world);
  line.close();
  assert.equal(line.state, "closed");
  await world.settle();
  assert.deepEqual([world.timers.size, world.sockets], [0, []]);
  line.close();
  assert.equal(events(line, "close").length, 1);
});

test("close does not wait for a gateway that says nothing", async () => {
  const world = new World();
  const line = await opened(world, { closeTimeoutMs: 2000 });
  world.cut({ silently: true });
  line.close();
  await world.until(() => line.state === "closed");
  assert.equal(world.now, 2000);
});

test("what handlers throw, and what nobody awaits, harms nothing", async (context) => {
  const found = uncaught(context);
  const world = new World({ gateway: { messageBytes: 3 } });
  const line = await opened(world);
  line.onmessage = () => {
    throw new Error("the application's");
  };
  world.gateway.session.send("a");
  line.send("too big");
  void line.ready;
  await world.settle();
  line.close();
  await world.settle();
  void line.ready;
  line.send("late");
  await turn();
  assert.deepEqual(found, { thrown: ["the application's"], unhandled: [] });
});

test("a fault of ours ends the conversation and nothing else", async () => {
  const world = new World();
  const line = await opened(world);
  const sent = line.send("x");
  world.socket.send = () => {
    throw new Error("broken");
  };
  line.send("y");
  await turn();
  assert.equal(line.state, "closed");
  assert.equal(events(line, "error")[0].error.message, "broken");
  assert.equal((await outcome(sent)).message, "broken");
});

test("close while the connection is broken tells the backend at once, and not when the grace is over", async () => {
  const world = new World();
  const line = await opened(world, { reconnectMinMs: 30_000, reconnectMaxMs: 30_000 });
  world.cut();
  await world.settle();
  assert.equal(line.state, "parked");
  const { session } = world.gateway;
  const { now } = world;
  line.close(4000, "bye");
  await world.settle();
  assert.deepEqual(session.closed, { code: 4000, reason: "bye" });
  assert.deepEqual([line.state, world.now, events(line, "close")[0].wasClean], ["closed", now, true]);
});

test("close while the gateway is away goes on trying, until its time is over", async () => {
  const world = new World();
  const line = await opened(world, { reconnectMinMs: 100, reconnectMaxMs: 100, closeTimeoutMs: 5000 });
  const { session } = world.gateway;
  world.reachable = false;
  world.cut();
  await world.settle();
  line.close();
  await world.until(() => world.now > 2000);
  assert.equal(line.state, "closing");
  world.reachable = true;
  await world.until(() => line.state === "closed");
  assert.deepEqual([session.closed, world.now < 3000], [{ code: 1000, reason: "" }, true]);

  const other = await opened(world, { reconnectMinMs: 100, reconnectMaxMs: 100, closeTimeoutMs: 5000 });
  world.reachable = false;
  world.cut();
  await world.settle();
  const { now } = world;
  other.close();
  await world.until(() => other.state === "closed");
  assert.deepEqual([world.now - now, events(other, "close")[0].wasClean], [5000, false]);
});

test("close while the first connection is being opened leaves no session behind", async () => {
  const world = new World();
  let answer = null;
  world.gateway.answer = (link, open, seq) => (answer = { link, open, seq });
  const line = begin(world);
  await world.settle();
  assert.equal(line.state, "connecting");
  line.close(4000, "changed my mind");
  assert.equal(line.state, "closing", "our OPEN has left: there may be a session");
  world.gateway.answer = null;
  answer.link.receive(world.socket.sent[0].slice().buffer);
  const { session } = world.gateway;
  await world.settle();
  assert.deepEqual([line.state, session.closed], ["closed", { code: 4000, reason: "changed my mind" }]);
});

test("a stored session that is closed while nobody is there is told of it too", async () => {
  const world = new World();
  const store = new MemoryStore(world);
  const line = await opened(world, { store });
  await world.settle();
  world.cut();
  await world.settle();
  const { session } = world.gateway;
  line.close();
  await world.settle();
  assert.deepEqual([line.state, session.closed, store.state], ["closed", { code: 1000, reason: "" }, null]);
});

test("half a surrogate pair in a reason becomes U+FFFD, as in WebSocket", async () => {
  const world = new World();
  const line = await opened(world, { acknowledge: "manual" });
  world.gateway.session.send("x");
  const { session } = world.gateway;
  await world.settle();
  events(line, "message")[0].reject(4000, "\uDE00\uFEFF no \uD83D");
  await world.settle();
  assert.deepEqual([...session.downRefused], [[1, { code: 4000, reason: "\uFFFD\uFEFF no \uFFFD" }]]);
  line.close(4000, "bye \uD83D");
  await world.settle();
  assert.deepEqual(session.closed, { code: 4000, reason: "bye \uFFFD" });
  assert.deepEqual([events(line, "close")[0].reason, events(line, "error")], ["bye \uFFFD", []]);
});

test("a close waits for the handlers that had begun, and tells what they have consumed", async () => {
  const world = new World();
  const line = await opened(world);
  const { session } = world.gateway;
  const ends = [];
  line.onmessage = () => {
    line.close();
    return new Promise((resolve) => ends.push(resolve));
  };
  session.send("a");
  await world.settle();
  assert.deepEqual([line.state, session.closed, session.downSettled], ["closing", undefined, 0]);
  ends[0]();
  await world.settle();
  assert.deepEqual([line.state, session.closed, session.downSettled], ["closed", { code: 1000, reason: "" }, 1]);
});

test("a handler that never ends does not keep a conversation open", async () => {
  const world = new World();
  const line = await opened(world, { closeTimeoutMs: 2000 });
  const { session } = world.gateway;
  line.onmessage = () => new Promise(() => {});
  session.send("a");
  await world.settle();
  line.close();
  await world.until(() => line.state === "closed");
  assert.deepEqual([world.now, session.downSettled], [2000, 0]);
});

test("once a message is dropped at the end, so are all behind it", async () => {
  for (let end = 1; end < 8; end += 1) {
    const world = new World({ seed: end });
    const line = await opened(world);
    const { session } = world.gateway;
    let fault = null;
    line.onmessage = ({ seq }) => {
      if (seq === end && end % 2) line.close();
      else if (seq === end) {
        world.socket.send = () => {
          throw new Error("broken");
        };
        fault = line.send("y");
      }
    };
    for (let seq = 1; seq <= 20; seq += 1) session.send(String(seq));
    await world.until(() => line.state === "closed");
    const numbers = received(line).map(Number);
    assert.deepEqual(numbers, Array.from(numbers, (_, index) => index + 1), "no gap");
    assert.ok(session.downSettled <= numbers.length, "nothing is acknowledged that was not given");
    assert.equal(fault === null, end % 2 === 1);
    assert.equal(line.events.at(-1).type, "close", "nothing comes behind the end");
  }
});
