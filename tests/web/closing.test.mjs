// How a conversation ends.

import assert from "node:assert/strict";
import { test } from "node:test";

import { begin, events, opened, outcome } from "./conversing.mjs";
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
  const thrown = [];
  const record = (error) => thrown.push(error.message);
  const unhandled = [];
  const rejected = (error) => unhandled.push(error);
  const before = process.listeners("uncaughtException");
  process.removeAllListeners("uncaughtException");
  process.on("uncaughtException", record);
  process.on("unhandledRejection", rejected);
  context.after(() => {
    process.removeAllListeners("uncaughtException");
    for (const listener of before) process.on("uncaughtException", listener);
    process.off("unhandledRejection", rejected);
  });
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
  assert.deepEqual([thrown, unhandled], [["the application's"], []]);
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
