// A permission that ends: another credential is shown on the open connection, and nothing breaks off.

import assert from "node:assert/strict";
import { test } from "node:test";

import { begin, events } from "./conversing.mjs";
import { RecordType } from "./subject.mjs";
import { World } from "./world.mjs";

/** A gateway whose permissions last so long, and a client with credentials 1, 2, 3; `asked` is what it was asked with. */
async function permitted(seconds, { token } = {}) {
  const world = new World();
  world.gateway.permission = seconds;
  const asked = [];
  const line = begin(world, { token: token ?? ((facts) => (asked.push(facts.refused), `token-${asked.length}`)) });
  await world.until(() => line.state === "open");
  return { world, line, asked, link: world.gateway.session.link };
}

/** The number of another message, once it is delivered. */
async function delivered(world, line) {
  let seq = 0;
  line.send("goes on").then((sent) => (seq = sent.seq));
  await world.until(() => seq > 0);
  return seq;
}

const ask = (link, seconds) => link.sendJson(RecordType.AUTH, 0, { expires_in_seconds: seconds });
const errors = (line) => events(line, "error").map(({ message }) => message);

test("OPEN offers renewal where credentials can be asked for, and only there", async () => {
  for (const [token, offered] of [
    [() => "asked", true],
    ["fixed", undefined],
    [null, undefined],
  ]) {
    const world = new World();
    const line = begin(world, { token });
    await world.until(() => line.state === "open");
    assert.equal(world.gateway.session.open.renew, offered);
  }
});

test("asked for another credential, it is shown on the open connection", async () => {
  const { world, line, asked, link } = await permitted(60);
  ask(link, 15);
  await world.until(() => world.gateway.shown.length === 1);
  assert.deepEqual(world.gateway.shown, [{ seq: 1, token: "token-2" }]);
  link.sendJson(RecordType.AUTH, 1, { expires_in_seconds: 60 });
  assert.equal(await delivered(world, line), 1);
  ask(link, 15);
  await world.until(() => world.gateway.shown.length === 2);
  assert.deepEqual(world.gateway.shown[1], { seq: 2, token: "token-3" });
  assert.deepEqual([asked, line.statistics.resumes, errors(line)], [[false, false, false], 0, []]);
});

test("it is time without being asked", async () => {
  const { world, link } = await permitted(100);
  const began = world.now;
  await world.until(() => world.gateway.shown.length === 1);
  assert.equal(world.now - began, 85_000);
  link.sendJson(RecordType.AUTH, 1, {});
  await world.settle();
  assert.equal(world.gateway.shown.length, 1, "a permission without an end is not renewed");
});

test("what the gateway does not take is told, and another is tried before the end", async () => {
  const { world, line, asked, link } = await permitted(20);
  ask(link, 5);
  for (const seq of [1, 2]) {
    await world.until(() => world.gateway.shown.length === seq);
    link.sendJson(RecordType.AUTH, seq, { expires_in_seconds: 5, code: 1013, reason: "nobody knows" });
  }
  await world.until(() => world.gateway.shown.length === 3);
  link.sendJson(RecordType.AUTH, 3, { expires_in_seconds: 20 });
  await world.until(() => world.gateway.shown.length === 4);
  assert.deepEqual(asked, [false, false, true, true, false]);
  const told = "the gateway did not take the credential: 1013 nobody knows";
  assert.deepEqual(errors(line), [told, told]);
  assert.equal(line.state, "open");
});

test("a function that fails is asked again, and a connection that is gone takes none", async () => {
  let times = 0;
  const token = async () => {
    times += 1;
    if (times === 2) throw new Error("offline");
    return `token-${times}`;
  };
  const { world, line, link } = await permitted(20, { token });
  ask(link, 5);
  await world.until(() => world.gateway.shown.length === 1);
  assert.deepEqual(errors(line), ["no credential: offline"]);
  world.cut();
  await world.until(() => line.state === "open" && line.statistics.resumes === 1);
  assert.deepEqual(world.gateway.shown, [{ seq: 1, token: "token-3" }]);
  assert.equal(await delivered(world, line), 1);
});

test("a credential that comes too late is not shown on the next connection", async () => {
  const gates = [];
  const token = () => new Promise((resolve) => gates.push(resolve));
  const world = new World();
  world.gateway.permission = 20;
  const line = begin(world, { token });
  await world.until(() => gates.length === 1);
  gates[0]("first");
  await world.until(() => line.state === "open");
  ask(world.gateway.session.link, 5);
  await world.until(() => gates.length === 2);
  world.cut();
  await world.until(() => gates.length === 3);
  gates[2]("third");
  await world.until(() => line.state === "open");
  gates[1]("second");
  assert.equal(await delivered(world, line), 1);
  assert.deepEqual(world.gateway.shown, []);
});

test("AUTH that was not agreed on, or answers nothing, is a protocol error", async () => {
  for (const [permission, seq, body, words] of [
    [null, 0, {}, "did not agree"],
    [20, 7, {}, "expected the answer to 0"],
    [20, 0, { expires_in_seconds: -1 }, "expires_in_seconds"],
    [20, 0, { code: 7 }, "code: expected"],
  ]) {
    const { world, line, link } = await permitted(permission);
    link.sendJson(RecordType.AUTH, seq, body);
    await world.settle();
    assert.equal(line.state, "closed");
    assert.match(errors(line)[0], new RegExp(words));
  }
});
