// A gateway that lets nobody in, or not without a credential: what is told, and what is tried again.

import assert from "node:assert/strict";
import { test } from "node:test";

import { begin, events, opened, states } from "./conversing.mjs";
import { ConnectionFailed, RecordType } from "./subject.mjs";
import { World } from "./world.mjs";

const WORDS = "this gateway refuses pages of http://page.test; add it to routes[].origins";

/** A gateway that opens sessions for one credential, and says `code` to any other; `seen` are those it was shown. */
function guarded(world, good, code = 3000) {
  const seen = [];
  const open = (link, body, seq) => {
    seen.push(body.token);
    if (body.token !== good) {
      link.sendJson(RecordType.CLOSE, 0, { code, reason: "not you" });
      link.end(code, "not you");
      return;
    }
    world.gateway.answer = null;
    const record = new TextEncoder().encode(JSON.stringify(body));
    const data = new DataView(new ArrayBuffer(10 + record.length));
    data.setUint8(0, RecordType.OPEN);
    data.setBigUint64(2, BigInt(seq));
    new Uint8Array(data.buffer).set(record, 10);
    link.receive(data.buffer);
    world.gateway.answer = open;
  };
  world.gateway.answer = open;
  return seen;
}

/** What the gateway answers over HTTP; `asked` are the requests. */
function answering(world, { status = 403, type = "text/plain; charset=utf-8", words = WORDS } = {}) {
  const asked = [];
  const warnings = [];
  const platform = {
    ...world.platform,
    warn: (text) => warnings.push(text),
    fetch: async (url, how) => {
      asked.push({ url, how });
      if (status === null) throw new TypeError("Failed to fetch");
      return new Response(words, { status, headers: { "content-type": type } });
    },
  };
  return { asked, warnings, platform };
}

const messages = (line) => events(line, "error").map(({ message }) => message);

test("a fixed credential goes into each OPEN", async () => {
  const world = new World();
  const seen = guarded(world, "secret");
  const line = begin(world, { token: "secret" });
  await world.until(() => line.state === "open");
  world.cut();
  await world.until(() => seen.length === 2 && line.state === "open");
  assert.deepEqual(seen, ["secret", "secret"]);
});

test("without a credential OPEN has none", async () => {
  const world = new World();
  const line = await opened(world);
  assert.equal(Object.hasOwn(world.gateway.session.open, "token"), false);
  line.close();
});

test("a function is asked for each connection, and may take its time", async () => {
  const world = new World();
  const seen = guarded(world, "ticket");
  const asked = [];
  const token = async (facts) => {
    asked.push(facts);
    await null;
    return "ticket";
  };
  const line = begin(world, { token });
  await world.until(() => line.state === "open");
  world.cut();
  await world.until(() => seen.length === 2 && line.state === "open");
  assert.deepEqual(asked, [{ refused: false }, { refused: false }]);
  assert.equal(line.statistics.resumes, 1);
});

test("3000 asks for a fresh credential, at once and once", async () => {
  const world = new World();
  const seen = guarded(world, "fresh");
  const line = begin(world, { token: ({ refused }) => (refused ? "fresh" : "stale") });
  const sent = line.send("waits");
  await world.settle();
  assert.equal(line.state, "open");
  assert.deepEqual(seen, ["stale", "fresh"]);
  assert.equal((await sent).seq, 1);
  assert.equal(events(line, "error").length, 0);
});

test("3000 to a fresh credential is the end", async () => {
  const world = new World();
  const seen = guarded(world, "never");
  const line = begin(world, { token: () => "stale" });
  await world.settle();
  assert.equal(seen.length, 2);
  assert.deepEqual(states(line), ["closed"]);
  assert.equal(events(line, "close")[0].code, 3000);
});

test("after a good one, a credential that has run out is renewed again", async () => {
  const world = new World();
  const asked = [];
  let good = "first";
  const seen = guarded(world, good);
  const line = begin(world, { token: ({ refused }) => (asked.push(refused), refused ? good : "first") });
  await world.until(() => line.state === "open");
  for (const next of ["second", "third"]) {
    good = next;
    const renewed = guarded(world, next);
    world.cut();
    await world.until(() => renewed.includes(next) && line.state === "open");
    assert.deepEqual(renewed, ["first", next]);
  }
  assert.deepEqual(seen, ["first"]);
  assert.deepEqual(asked, [false, false, true, false, true]);
});

test("a permission that has run out parks the session, and a fresh credential resumes it", async () => {
  const world = new World();
  const seen = guarded(world, "first");
  const line = begin(world, { token: ({ refused }) => (refused ? "second" : "first") });
  await world.until(() => line.state === "open");
  const renewed = guarded(world, "second");
  const sent = line.send("on its way");
  world.gateway.session.link.end(3000, "the permission has run out");
  await world.until(() => line.state === "open" && renewed.length);
  assert.equal((await sent).seq, 1);
  assert.deepEqual([...seen, ...renewed], ["first", "second"]);
  assert.equal(line.statistics.resumes, 1);
});

test("3000 to a fixed credential, and 3003 to any, is the end", async () => {
  for (const [token, code] of [
    ["fixed", 3000],
    ["fixed", 3003],
    [() => "asked", 3003],
  ]) {
    const world = new World();
    const seen = guarded(world, "another", code);
    const line = begin(world, { token });
    await world.settle();
    assert.equal(seen.length, 1);
    assert.deepEqual(
      events(line, "close").map((close) => [close.code, close.reason]),
      [[code, "not you"]],
    );
  }
});

test("1013, nobody knows at present, is tried again later", async () => {
  const world = new World();
  guarded(world, "another", 1013);
  const line = begin(world, { token: () => "good" });
  await world.settle();
  assert.equal(events(line, "close").length, 0);
  const seen = guarded(world, "good");
  await world.until(() => line.state === "open");
  assert.deepEqual(seen, ["good"]);
});

test("a function that fails, or gives no text, is told of and asked again", async () => {
  const world = new World();
  const answers = [() => Promise.reject(new Error("logged out")), () => 7, () => "", () => "\udc00", () => "good"];
  const seen = guarded(world, "good");
  const line = begin(world, { token: () => answers.shift()() });
  await world.until(() => line.state === "open");
  assert.deepEqual(seen, ["good"]);
  assert.deepEqual(
    events(line, "error").map(({ error }) => error.cause.message),
    [
      "logged out",
      "option token: the function gave number, expected text",
      "option token: the function gave an empty text, expected text",
      "option token: what the function gave has half of a surrogate pair, expected text that has UTF-8",
    ],
  );
});

test("a credential that cannot be one is refused at once", () => {
  for (const token of ["", 7, {}, "half \ud83d"]) {
    assert.throws(() => begin(new World(), { token }), { name: "TypeError", message: /^option token: .*expected text/ });
  }
});

test("after a failed first attempt the gateway is asked over HTTP why, once and without cookies", async () => {
  const world = new World();
  world.reachable = false;
  const { asked, warnings, platform } = answering(world);
  const line = begin(world, { platform });
  await world.until(() => messages(line).some((message) => message.includes(WORDS)) && messages(line).length >= 4);
  assert.equal(asked.length, 1);
  assert.match(asked[0].url, /^http:\/\//);
  assert.equal(asked[0].how.credentials, "omit");
  assert.equal(asked[0].how.referrerPolicy, "origin");
  assert.equal(warnings.length, 1);
  assert.ok(warnings[0].endsWith(WORDS), warnings[0]);
  const told = events(line, "error").find(({ message }) => message.includes(WORDS));
  assert.ok(told.error instanceof ConnectionFailed);
});

test("what is said after the conversation has ended is for the console only", async () => {
  const world = new World();
  world.reachable = false;
  const { warnings, platform } = answering(world);
  const line = begin(world, { platform, attempts: 1 });
  await world.settle();
  await world.settle();
  assert.equal(line.state, "closed");
  assert.equal(warnings.length, 1);
  assert.equal(events(line, "error").filter(({ message }) => message.includes(WORDS)).length, 0);
});

test("nothing is made of an answer that says nothing of a refusal", async () => {
  for (const answer of [{ status: null }, { status: 426 }, { status: 200 }, { status: 404, type: "text/html" }]) {
    const world = new World();
    world.reachable = false;
    const { asked, warnings, platform } = answering(world, answer);
    const line = begin(world, { platform });
    await world.until(() => events(line, "error").length >= 3);
    assert.equal(asked.length, 1);
    assert.deepEqual(warnings, []);
    assert.ok(messages(line).every((message) => message.startsWith("no connection: 1006")));
  }
});

test("a connection that once was open is not asked about when it breaks", async () => {
  const world = new World();
  const { asked, platform } = answering(world);
  const line = await opened(world, { platform });
  world.reachable = false;
  world.cut();
  await world.until(() => events(line, "error").length >= 2);
  assert.deepEqual(asked, []);
});
