// A session that is gone, and what is told of its messages.

import assert from "node:assert/strict";
import { test } from "node:test";

import { events, opened, outcome, received, states } from "./conversing.mjs";
import { MemoryStore } from "./memory_store.mjs";
import { encodeRecord, Lost, NeverForwarded, RecordType } from "./subject.mjs";
import { World } from "./world.mjs";

test("what is unknown comes back to the application, what never left is sent again", async () => {
  const world = new World({ gateway: { settlesAt: "reached" } });
  const line = await opened(world);
  line.send("settled");
  await world.settle();
  world.gateway.isStalled = true;
  const unknown = line.send("unknown");
  const never = line.send(new Uint8Array([7]));
  await world.settle();
  const session = world.gateway.session;
  session.forwarded = 2;
  world.gateway.forget();
  world.gateway.isStalled = false;
  const onlost = [];
  line.onlost = ({ messages, report }) => {
    onlost.push(messages, report.upstream);
    for (const { data } of messages) line.send(`again: ${data}`);
  };
  await world.until(() => events(line, "open").length === 2);
  assert.ok((await outcome(unknown)) instanceof Lost);
  assert.deepEqual(await never, { seq: 1, rung: "reached" });
  assert.deepEqual(onlost, [
    [{ seq: 2, data: "unknown" }],
    { settled: 1, unknown: [2, 2], neverForwarded: [3, 3], rejected: [] },
  ]);
  assert.deepEqual(
    world.gateway.consumed.map((each) => (typeof each === "string" ? each : [...each])),
    ["settled", [7], "again: unknown"],
  );
});

test("resend none tells of those that never left", async () => {
  const world = new World();
  const line = await opened(world, { resend: "none" });
  world.gateway.isStalled = true;
  const sent = line.send("never");
  await world.settle();
  world.gateway.forget();
  await world.until(() => events(line, "lost").length === 1);
  assert.ok((await outcome(sent)) instanceof NeverForwarded);
  assert.deepEqual(events(line, "lost")[0].neverForwarded, [{ seq: 1, data: "never" }]);
});

test("the gateway's CLOSE ends the conversation with its report", async () => {
  const world = new World();
  const line = await opened(world);
  world.gateway.isStalled = true;
  const sent = line.send("x");
  await world.settle();
  const { session } = world.gateway;
  const report = session.report();
  session.link.sendJson(RecordType.CLOSE, 0, { code: 4000, reason: "enough", report });
  session.link.end(4000, "enough");
  await world.settle();
  assert.ok((await outcome(sent)) instanceof NeverForwarded);
  const [close] = events(line, "close");
  assert.deepEqual([close.code, close.reason, close.wasClean], [4000, "enough", true]);
  assert.deepEqual(close.report.upstream, { settled: 0, unknown: null, neverForwarded: [1, 1], rejected: [] });
});

for (const [code, why] of [
  [1011, "the backend failed"],
  [1012, "the backend restarts in good order"],
  [1013, "the backend has no room"],
  [1014, "the backend was killed"],
  [4004, "the backend does not know the session"],
]) {
  test(`CLOSE ${code} says that the session is lost: ${why}; a new one begins by itself`, async () => {
    const world = new World();
    const line = await opened(world);
    line.send("consumed");
    await world.settle();
    world.gateway.isStalled = true;
    const [unknown, never] = [line.send("unknown"), line.send("never forwarded")];
    await world.settle();
    const { session } = world.gateway;
    session.forwarded = 2;
    world.gateway.lose(code, why);
    await world.until(() => events(line, "open").length === 2);
    const error = await outcome(unknown);
    assert.ok(error instanceof Lost);
    assert.deepEqual([error.cause.name, error.cause.code, error.cause.reason], ["Closed", code, why]);
    assert.deepEqual(events(line, "lost").map(({ messages }) => messages), [[{ seq: 2, data: "unknown" }]]);
    assert.equal(events(line, "close").length, 0);
    world.gateway.isStalled = false;
    await world.settle();
    assert.deepEqual(await never, { seq: 1, rung: "consumed" }, "sent in the new session");
    assert.deepEqual(world.gateway.consumed, ["consumed", "never forwarded"]);
    assert.deepEqual(states(line), ["open", "parked", "reconnecting", "open"]);
  });

  test(`CLOSE ${code} in answer to OPEN fails the attempt and not the conversation`, async () => {
    const world = new World();
    const line = await opened(world);
    world.gateway.answer = (link) => link.sendJson(RecordType.CLOSE, 0, { code, reason: why });
    world.cut();
    await world.until(() => events(line, "error").length === 3);
    world.gateway.answer = null;
    await world.until(() => line.state === "open");
    assert.equal(world.gateway.resumes, 1);
  });
}

test("a session that another gateway still has goes on, and nothing is lost", async () => {
  const world = new World();
  const line = await opened(world);
  world.gateway.isStalled = true;
  const sent = line.send("x");
  await world.settle();
  const { session } = world.gateway;
  session.link.sendJson(RecordType.CLOSE, 0, { code: 1012, reason: "", report: session.report() });
  session.link.end(1012, "");
  world.gateway.isStalled = false;
  let settled = null;
  void sent.then((outcome) => (settled = outcome));
  await world.until(() => settled);
  assert.deepEqual([settled.seq, events(line, "lost").length, world.gateway.resumes], [1, 0, 1]);
});

test("without any report all that was sent is unknown", async () => {
  const world = new World();
  const line = await opened(world);
  world.gateway.isStalled = true;
  const sent = line.send("x");
  await world.settle();
  world.gateway.lose(1012, "restart", { report: false });
  await world.until(() => events(line, "open").length === 2);
  assert.ok((await outcome(sent)) instanceof Lost);
});

test("sessions that are lost again and again are begun less and less often", async () => {
  const world = new World();
  const line = await opened(world, { reconnectMinMs: 100, reconnectMaxMs: 10_000 });
  for (let times = 0; times < 6; times += 1) {
    line.send("poison");
    await world.settle();
    world.gateway.lose(1011, "the handler failed");
    await world.until(() => line.state === "open");
  }
  assert.ok(world.now > 100 * (2 ** 6 - 1) * 0.5, `after ${world.now} ms`);
  world.now += 20_000;
  world.gateway.lose(1012, "restart");
  await world.settle();
  assert.ok(events(line, "state").at(-1).retryInMs <= 100, "the last one held");
});

test("a lost session that had a store is lost there too", async () => {
  const world = new World();
  const store = new MemoryStore(world);
  const line = await opened(world, { store });
  world.gateway.isStalled = true;
  line.send("unknown");
  await world.settle();
  world.gateway.session.forwarded = 1;
  world.gateway.lose(1012, "restart");
  await world.until(() => events(line, "open").length === 2);
  await world.settle();
  assert.deepEqual([store.state.token, store.messages.size], [world.gateway.session.token, 0]);
});

test("losses of the gateway's messages are told too, those that have come are none", async () => {
  for (const [hasCome, told] of [
    [false, [[1, 1]]],
    [true, []],
  ]) {
    const world = new World();
    const line = await opened(world, { acknowledge: "manual" });
    world.gateway.session.send("unacknowledged");
    if (hasCome) await world.settle();
    world.gateway.forget();
    await world.until(() => events(line, "open").length === 2);
    assert.deepEqual(events(line, "lost").map(({ report }) => report.downstream.unknown), told);
  }
});

test("an end behind messages that have come and are not acknowledged yet loses nothing", async () => {
  const world = new World();
  const line = await opened(world, { acknowledge: "manual" });
  const { session } = world.gateway;
  session.send("last words");
  session.link.sendJson(RecordType.CLOSE, 0, { code: 1000, reason: "", report: session.report() });
  session.link.end(1000, "");
  await world.until(() => line.state === "closed");
  assert.deepEqual([received(line).length, events(line, "lost").length], [1, 0]);
  assert.deepEqual(events(line, "close")[0].report.downstream.unknown, [1, 1]);
});

test("a violation of the gateway's is told to both sides", async () => {
  const world = new World();
  const line = await opened(world);
  const { socket } = world;
  socket.deliver(encodeRecord(RecordType.DATA, 0, 9));
  const { session } = world.gateway;
  await world.settle();
  assert.match(events(line, "error")[0].message, /DATA 9 after message 0/);
  assert.equal(events(line, "close")[0].code, 1002);
  assert.deepEqual(session.closed, { code: 1002, reason: "DATA 9 after message 0, expected 1" });
});
