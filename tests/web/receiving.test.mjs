// What is received, and when it is acknowledged.

import assert from "node:assert/strict";
import { test } from "node:test";

import { events, opened } from "./conversing.mjs";
import { RecordType } from "./subject.mjs";
import { World } from "./world.mjs";

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
