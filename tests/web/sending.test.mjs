// What becomes of what is sent.

import assert from "node:assert/strict";
import { test } from "node:test";

import { begin, events, isPending, opened, outcome } from "./conversing.mjs";
import { QueueFull, Rejected, TooBig } from "./subject.mjs";
import { turn, World } from "./world.mjs";

test("send resolves when the message is settled", async () => {
  const world = new World({ gateway: { settlesAt: "reached" } });
  const line = begin(world);
  const sent = line.send("before it is open");
  assert.deepEqual([sent.seq, sent.rung], [1, null]);
  await world.settle();
  assert.deepEqual(await sent, { seq: 1, rung: "reached" });
  assert.deepEqual([sent.seq, sent.rung, line.settlesAt], [1, "reached", "reached"]);
  assert.deepEqual(
    events(line, "receipt").map(({ seq, rung }) => [seq, rung]),
    [[1, "reached"]],
  );
});

test("receipts of lower rungs come when they are asked for", async () => {
  const world = new World();
  const line = await opened(world, { receipts: ["accepted"] });
  world.gateway.isStalled = true;
  const sent = line.send("x");
  await world.settle();
  assert.ok(await isPending(sent));
  assert.equal(sent.rung, "accepted");
  assert.deepEqual(line.unsettled, [{ seq: 1, data: "x", rung: "accepted" }]);
  world.gateway.isStalled = false;
  await world.settle();
  assert.deepEqual(
    events(line, "receipt").map(({ seq, rung }) => [seq, rung]),
    [[1, "accepted"], [1, "consumed"]],
  );
});

test("a refused message rejects with the code and the reason", async () => {
  const refusal = { code: 4022, reason: "no such room" };
  const world = new World({ gateway: { rejects: (message) => (message === "bad" ? refusal : null) } });
  const line = await opened(world);
  const [good, bad] = [line.send("good"), line.send("bad")];
  await world.settle();
  assert.equal((await good).seq, 1);
  const error = await outcome(bad);
  assert.ok(error instanceof Rejected);
  assert.deepEqual([error.seq, error.code, error.reason], [2, 4022, "no such room"]);
  const [event] = events(line, "rejected");
  assert.deepEqual([event.seq, event.data, event.code], [2, "bad", 4022]);
});

test("a message that is too big is told, whether the limit is known yet or not", async () => {
  const world = new World({ gateway: { messageBytes: 4 } });
  const line = begin(world);
  const early = line.send("too long");
  const kept = line.send("ok");
  await world.settle();
  for (const sent of [early, line.send("12345"), line.send(new Blob(["12345"]))]) {
    const error = await outcome(sent);
    assert.ok(error instanceof TooBig);
    assert.equal(error.limit, 4);
  }
  assert.deepEqual([(await kept).seq, world.gateway.consumed], [1, ["ok"]]);
});

test("what the window has no room for waits, in order, up to the queue's bound", async () => {
  const world = new World({ gateway: { windowMessages: 2 } });
  const line = await opened(world, { queueMessages: 3 });
  world.gateway.isStalled = true;
  const sent = ["a", "b", "c", "d", "e", "f"].map((each) => line.send(each));
  await world.settle();
  assert.equal(line.bufferedAmount, 3, "c, d and e wait");
  assert.ok((await outcome(sent[5])) instanceof QueueFull);
  const ready = line.ready;
  assert.ok(await isPending(ready));
  world.gateway.isStalled = false;
  await world.settle();
  assert.equal(await outcome(ready), undefined);
  assert.equal(line.bufferedAmount, 0);
  assert.deepEqual(world.gateway.consumed, ["a", "b", "c", "d", "e"]);
});

test("the queue is bounded in bytes, but takes one message of any size", async () => {
  const world = new World({ gateway: { windowBytes: 4 } });
  const line = await opened(world, { queueBytes: 5 });
  world.gateway.isStalled = true;
  const sent = ["1234", "1234567890", "1"].map((each) => line.send(each));
  const refusal = await outcome(sent[2]);
  assert.ok(refusal instanceof QueueFull);
  assert.match(refusal.message, /bytes wait to be sent already, and this one has \d+ bytes: room is for \d+ messages/);
  world.gateway.isStalled = false;
  await world.settle();
  assert.deepEqual(world.gateway.consumed, ["1234", "1234567890"]);
});

test("awaiting ready keeps within the window without a queue", async () => {
  const world = new World({ gateway: { windowMessages: 3 } });
  const line = await opened(world, { queueMessages: 1 });
  const sent = [];
  const producing = (async () => {
    for (let number = 0; number < 50; number += 1) {
      await line.ready;
      sent.push(line.send(String(number)));
    }
  })();
  await world.until(() => sent.length === 50);
  await producing;
  await Promise.all(sent);
  assert.equal(world.gateway.consumed.length, 50);
});

/** Takes one step after the other: for those who never stop sending, as `settle` would wait for. */
async function steps(world, isTrue) {
  for (let taken = 0; !isTrue(); taken += 1) {
    assert.ok(taken < 20_000, "it never comes true");
    await turn();
    const possible = world.possibleSteps();
    if (possible.length) world.pick(possible)();
  }
}

test("a large message does not starve behind small ones, wherever it has to wait", async () => {
  const LARGE = 3_900_000;
  const world = new World({ gateway: { windowBytes: 4_000_000, messageBytes: null } });
  const line = await opened(world, { queueBytes: 4_000_000 });
  const told = { small: 0, large: 0 };
  let hasLarge = false;
  const small = async () => {
    while (!hasLarge) {
      await line.ready;
      await line.send(new Uint8Array(60_000));
      told.small += 1;
    }
  };
  const tasks = Array.from({ length: 12 }, small);
  await steps(world, () => told.small > 20);
  const large = (async () => {
    await line.ready;
    await line.send(new Uint8Array(LARGE));
    hasLarge = true;
  })();
  const { small: before } = told;
  await steps(world, () => hasLarge);
  await steps(world, () => line.unsettled.length === 0);
  await Promise.all([large, ...tasks]);
  assert.ok(told.small - before < 200, `${told.small - before} small messages went before it`);
});

test("those who wait for room come in one after the other, in their order", async () => {
  const world = new World({ gateway: { windowMessages: 1 } });
  const line = await opened(world, { queueMessages: 1 });
  const order = [];
  const tasks = Array.from({ length: 5 }, async (_, number) => {
    await line.ready;
    order.push(number);
    return line.send(String(number));
  });
  let isDone = false;
  const all = Promise.all(tasks).then(() => (isDone = true));
  await world.until(() => isDone);
  await all;
  assert.deepEqual(order, [0, 1, 2, 3, 4]);
  assert.deepEqual(world.gateway.consumed, ["0", "1", "2", "3", "4"], "and nobody met a full queue");
});

test("whoever asks for room and does not send holds nobody up", async () => {
  const world = new World();
  const line = await opened(world);
  for (let times = 0; times < 5; times += 1) void line.ready;
  let isThere = false;
  void line.ready.then(() => (isThere = true));
  await world.until(() => isThere);
});
