// The shell: what an application sees of a conversation, whatever happens to its connections.

import assert from "node:assert/strict";
import { test } from "node:test";

import {
  Closed,
  ConnectionFailed,
  Kakitome,
  Lost,
  NeverForwarded,
  QueueFull,
  Rejected,
  RecordType,
  StoreFailed,
  StoreInUse,
  TooBig,
  encodeRecord,
} from "../../gateway/web/kakitome.js";
import { MemoryStore, turn, World } from "./world.mjs";

/** A conversation with its events, in order. */
function begin(world, options = {}) {
  const line = new Kakitome("/chat", { platform: world.platform, ...options });
  line.binaryType = "arraybuffer";
  line.events = [];
  for (const type of ["open", "message", "close", "error", "state", "receipt", "resume", "rejected", "lost"]) {
    line.addEventListener(type, (event) => line.events.push(event));
  }
  return line;
}

async function opened(world, options) {
  const line = begin(world, options);
  await world.settle();
  assert.equal(line.state, "open");
  return line;
}

const events = (line, type) => line.events.filter((event) => event.type === type);
const received = (line) => events(line, "message").map(({ data }) => data);
const states = (line) => events(line, "state").map(({ state }) => state);

/** What became of a promise, once it is settled. */
async function outcome(promise) {
  return promise.then(
    (value) => value,
    (error) => error,
  );
}

const isPending = async (promise) => {
  const pending = {};
  return (await Promise.race([promise.catch(() => null), turn().then(() => pending)])) === pending;
};

// --- as a WebSocket -------------------------------------------------------------------------------------------

test("it feels like a WebSocket", async () => {
  const world = new World();
  const line = new Kakitome("/chat?room=1", { platform: world.platform });
  const seen = [];
  line.onopen = function (event) {
    assert.equal(this, line);
    seen.push(event.type);
  };
  line.onmessage = ({ data, origin }) => seen.push([data, origin]);
  line.onclose = ({ code, reason, wasClean }) => seen.push([code, reason, wasClean]);
  assert.deepEqual([line.readyState, line.url, line.protocol], [0, "ws://gateway.test/chat?room=1", ""]);
  await world.settle();
  assert.deepEqual([line.readyState, line.protocol, line.extensions, line.OPEN], [1, "kakitome.v1", "", Kakitome.OPEN]);
  world.gateway.session.send("hello");
  await world.settle();
  line.close(4000, "bye");
  assert.equal(line.readyState, 2);
  await world.settle();
  assert.equal(line.readyState, 3);
  assert.deepEqual(seen, ["open", ["hello", "ws://gateway.test"], [4000, "bye", true]]);
  assert.deepEqual(world.sockets, []);
});

test("binary messages come as Blob, as WebSocket's do, or as ArrayBuffer", async () => {
  const world = new World();
  const line = await opened(world);
  line.binaryType = "blob";
  world.gateway.session.send(new Uint8Array([1, 2]));
  await world.settle();
  line.binaryType = "nonsense";
  assert.equal(line.binaryType, "blob");
  line.binaryType = "arraybuffer";
  world.gateway.session.send(new Uint8Array([3]));
  await world.settle();
  const [blob, buffer] = received(line);
  assert.ok(blob instanceof Blob);
  assert.deepEqual([...new Uint8Array(await blob.arrayBuffer())], [1, 2]);
  assert.deepEqual([...new Uint8Array(buffer)], [3]);
});

test("anything that WebSocket sends can be sent, and the caller may change its buffer", async () => {
  const world = new World();
  const line = await opened(world);
  const bytes = new Uint8Array([1, 2, 3, 4]);
  line.send("書留");
  line.send(new Blob(["blob"]));
  line.send(bytes.buffer);
  line.send(bytes.subarray(1, 3));
  line.send(new DataView(bytes.buffer, 3));
  line.send(42);
  bytes.fill(0);
  await world.settle();
  assert.deepEqual(
    world.gateway.consumed.map((each) => (typeof each === "string" ? each : [...each])),
    ["書留", [...Buffer.from("blob")], [1, 2, 3, 4], [2, 3], [4], "42"],
  );
});

test("a Blob that cannot be read is told, and does not hold up those behind it", async () => {
  const world = new World();
  const line = await opened(world);
  const broken = new Blob(["x"]);
  broken.arrayBuffer = () => Promise.reject(new Error("the file is gone"));
  const lost = line.send(broken);
  const sent = line.send("next");
  await world.settle();
  assert.equal((await outcome(lost)).message, "the file is gone");
  assert.deepEqual(await sent, { seq: 1, rung: "consumed" });
});

test("a handler can be set, read, replaced and taken away", async () => {
  const world = new World();
  const line = new Kakitome("/", { platform: world.platform });
  const seen = [];
  assert.equal(line.onmessage, null);
  line.onmessage = () => seen.push("first");
  const second = () => seen.push("second");
  line.onmessage = second;
  assert.equal(line.onmessage, second);
  await world.settle();
  world.gateway.session.send("a");
  await world.settle();
  line.onmessage = null;
  world.gateway.session.send("b");
  await world.settle();
  assert.deepEqual(seen, ["second"]);
});

test("nonsense is refused at once", () => {
  const { platform } = new World();
  assert.throws(() => new Kakitome("http://[", { platform }), { name: "SyntaxError" });
  assert.throws(() => new Kakitome("/", { platform, retries: 3 }), /unknown option retries, known are/);
  assert.throws(() => new Kakitome("/", { platform, acknowledge: "never" }), /auto, manual/);
  assert.throws(() => new Kakitome("/", { platform, receipts: ["delivered"] }), /delivered/);
  assert.throws(() => new Kakitome("/", { platform: { ...platform, WebSocket: undefined } }), /no WebSocket here/);
  const line = new Kakitome("https://gateway.test/x", { platform });
  assert.equal(line.url, "wss://gateway.test/x");
  assert.throws(() => line.close(1001), { name: "InvalidAccessError" });
  assert.throws(() => line.close(1000, "書".repeat(42)), { name: "SyntaxError" });
});

// --- sending --------------------------------------------------------------------------------------------------

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
  assert.ok((await outcome(sent[2])) instanceof QueueFull);
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

// --- receiving ------------------------------------------------------------------------------------------------

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

// --- reconnecting ---------------------------------------------------------------------------------------------

test("a broken connection is resumed, and nothing is lost or doubled", async () => {
  const world = new World();
  const line = await opened(world);
  world.gateway.isStalled = true;
  const sent = ["a", "b"].map((each) => line.send(each));
  await world.settle();
  world.cut();
  await world.settle();
  sent.push(line.send("c"));
  world.gateway.session.send("while away");
  await world.until(() => line.state === "open" && events(line, "resume").length);
  world.gateway.isStalled = false;
  await world.settle();
  assert.deepEqual(await Promise.all(sent.map(async (each) => (await each).seq)), [1, 2, 3]);
  assert.deepEqual(world.gateway.consumed, ["a", "b", "c"]);
  assert.deepEqual(received(line), ["while away"]);
  assert.deepEqual(states(line), ["open", "parked", "reconnecting", "open"]);
  const [resume] = events(line, "resume");
  assert.deepEqual([resume.replayed, resume.duplicates], [2, 0]);
  assert.deepEqual(line.statistics, { resumes: 1, replayed: 2, duplicates: 0 });
  assert.equal(events(line, "error").length, 0);
});

test("attempts back off, with jitter, and a good connection lets them begin anew", async () => {
  const world = new World();
  const line = await opened(world, { reconnectMinMs: 100, reconnectMaxMs: 1000 });
  world.reachable = false;
  world.cut();
  await world.until(() => events(line, "state").filter(({ state }) => state === "parked").length === 8);
  const delays = events(line, "state")
    .filter(({ state }) => state === "parked")
    .map(({ retryInMs }) => retryInMs);
  [100, 200, 400, 800, 1000, 1000, 1000, 1000].forEach((longest, index) => {
    assert.ok(longest / 2 <= delays[index] && delays[index] <= longest, `${delays[index]} of ${longest}`);
  });
  assert.equal(new Set(delays).size, 8);
  assert.ok(events(line, "error").every(({ error }) => error instanceof ConnectionFailed));
  world.reachable = true;
  await world.until(() => line.state === "open");
  line.send("x");
  await world.settle();
  world.cut();
  await world.settle();
  assert.ok(events(line, "state").at(-1).retryInMs <= 100);
});

test("a gateway that opens and drops is not hammered", async () => {
  const world = new World();
  const line = await opened(world, { reconnectMinMs: 100, reconnectMaxMs: 10_000 });
  for (let times = 0; times < 6; times += 1) {
    world.cut();
    await world.until(() => line.state === "open");
  }
  assert.ok(world.now > 100 * (2 ** 6 - 1) * 0.5);
  world.now += 20_000;
  world.cut();
  await world.settle();
  assert.ok(events(line, "state").at(-1).retryInMs <= 100, "it was open for long");
});

test("back online, or seen again, it tries at once", async () => {
  for (const happens of [
    (world) => world.window.dispatchEvent(new Event("online")),
    (world) => world.document.dispatchEvent(new Event("visibilitychange")),
    (world) => world.document.dispatchEvent(new Event("resume")),
    (world) => world.window.dispatchEvent(new Event("pageshow")),
  ]) {
    const world = new World();
    const line = await opened(world);
    world.reachable = false;
    world.cut();
    for (let times = 0; times < 5; times += 1) await world.until(() => line.state === "parked");
    const { now } = world;
    world.reachable = true;
    happens(world);
    await world.settle();
    assert.deepEqual([line.state, world.now], ["open", now]);
    line.close();
    await world.settle();
    happens(world);
    assert.equal(line.state, "closed");
  }
});

test("a page that is hidden has no reason to hurry", async () => {
  const world = new World();
  const line = await opened(world);
  world.cut();
  await world.settle();
  world.document.visibilityState = "hidden";
  world.document.dispatchEvent(new Event("visibilitychange"));
  await world.settle();
  assert.equal(line.state, "parked");
});

test("a connection from before the network changed is replaced, one that works is kept", async () => {
  const world = new World();
  const line = await opened(world);
  world.now += 10;
  world.window.dispatchEvent(new Event("offline"));
  world.now += 10;
  world.window.dispatchEvent(new Event("online"));
  await world.settle();
  assert.equal(events(line, "resume").length, 1);
  assert.equal(line.state, "open");
  world.window.dispatchEvent(new Event("offline"));
  world.now += 10;
  world.gateway.session.send("still here");
  await world.settle();
  world.window.dispatchEvent(new Event("online"));
  await world.settle();
  assert.equal(events(line, "resume").length, 1);
});

test("a connection that was quiet for long is made anew when somebody looks", async () => {
  const world = new World();
  const line = await opened(world);
  world.cut({ silently: true });
  const look = async () => {
    world.document.dispatchEvent(new Event("visibilitychange"));
    await world.settle();
  };
  world.now += 30_000;
  await look();
  assert.equal(world.gateway.resumes, 0);
  world.now += 31_000;
  await look();
  assert.deepEqual([world.gateway.resumes, line.state], [1, "open"]);
});

test("a socket whose end nobody told is noticed when the page comes back", async () => {
  const world = new World();
  const line = await opened(world);
  world.socket.readyState = 3;
  world.window.dispatchEvent(new Event("pageshow"));
  await world.settle();
  assert.equal(line.state, "open");
  assert.equal(world.gateway.resumes, 1);
});

test("a connection that swallows messages in silence is replaced", async () => {
  const world = new World();
  const line = await opened(world, { silenceTimeoutMs: 5000 });
  world.cut({ silently: true });
  const sent = line.send("into the void");
  await world.until(() => events(line, "resume").length === 1);
  assert.equal(world.now, 5000);
  await world.settle();
  assert.equal((await sent).seq, 1);
  assert.match(events(line, "error")[0].message, /nothing heard for 5000 ms/);
});

test("a backend that is slow is no silence, for the gateway has the message", async () => {
  const world = new World();
  const line = await opened(world, { silenceTimeoutMs: 5000 });
  world.gateway.isStalled = true;
  line.send("slow");
  await world.settle();
  while (world.passTime()) await world.settle();
  assert.equal(world.gateway.resumes, 0);
});

test("where the gateway gives no receipts, silence is asked about less and less", async () => {
  const world = new World({ gateway: { receipts: false } });
  const line = await opened(world, { silenceTimeoutMs: 5000 });
  world.gateway.isStalled = true;
  line.send("slow");
  await world.until(() => world.gateway.resumes === 4);
  assert.ok(world.now >= 5000 + 10_000 + 20_000 + 40_000);
});

test("a frozen page looks at what has come before it calls that silence", async () => {
  const world = new World();
  const line = await opened(world, { silenceTimeoutMs: 5000 });
  line.send("x");
  world.now += 60_000;
  world.passTime();
  await world.settle();
  assert.equal(world.gateway.resumes, 0);
  assert.equal(line.state, "open");
});

test("an attempt that is not answered is given up", async () => {
  const world = new World();
  world.gateway.answer = () => {};
  const line = begin(world, { connectTimeoutMs: 3000 });
  await world.until(() => events(line, "error").length === 1);
  assert.equal(world.now, 3000);
  world.gateway.answer = null;
  await world.until(() => line.state === "open");
});

test("the URL may be made anew for each attempt", async () => {
  const world = new World();
  let ticket = 0;
  const line = begin(world, {});
  const asked = new Kakitome(async () => `/chat?ticket=${(ticket += 1)}`, { platform: world.platform });
  await world.settle();
  assert.equal(asked.url, "ws://gateway.test/chat?ticket=1");
  world.cut();
  await world.until(() => asked.state === "open" && line.state === "open");
  assert.equal(asked.url, "ws://gateway.test/chat?ticket=2");
});

test("a URL that cannot be had counts as a failed attempt", async () => {
  const world = new World();
  let times = 0;
  const line = new Kakitome(
    () => {
      times += 1;
      if (times === 1) throw new Error("logged out");
      return times === 2 ? Promise.reject(new Error("logged out")) : times === 3 ? "http://[" : "/chat";
    },
    { platform: world.platform },
  );
  const errors = [];
  line.onerror = ({ message }) => errors.push(message);
  await world.until(() => line.state === "open");
  assert.equal(errors.length, 3);
  assert.match(errors[0], /no connection: 1006 logged out/);
});

test("after so many attempts it gives up", async () => {
  const world = new World();
  world.reachable = false;
  const line = begin(world, { attempts: 2 });
  const sent = line.send("x");
  await world.until(() => line.state === "closed");
  const [{ code, wasClean }] = events(line, "close");
  assert.deepEqual([code, wasClean, events(line, "error").length], [1006, false, 3]);
  assert.ok((await outcome(sent)) instanceof NeverForwarded);
});

for (const code of [1001, 1006, 1011, 1012, 1013, 1014]) {
  test(`close code ${code} is survived`, async () => {
    const world = new World();
    const line = await opened(world);
    world.gateway.session.link.end(code, "for a while");
    await world.until(() => events(line, "resume").length === 1);
    assert.equal(events(line, "close").length, 0);
  });
}

for (const code of [1000, 1002, 1008, 1009, 4000, 4001]) {
  test(`close code ${code} is the end`, async () => {
    const world = new World();
    const line = await opened(world);
    world.gateway.isStalled = true;
    const sent = line.send("x");
    await world.settle();
    world.gateway.session.link.end(code, "enough");
    await world.settle();
    const [close] = events(line, "close");
    assert.deepEqual([close.code, close.reason, line.state, world.timers.size], [code, "enough", "closed", 0]);
    const error = await outcome(sent);
    assert.ok(error instanceof Lost);
    assert.ok(error.cause instanceof Closed);
    assert.deepEqual(events(line, "lost")[0].messages, [{ seq: 1, data: "x" }]);
  });
}

test("a connection of our own that was late does not end the conversation", async () => {
  const world = new World();
  const line = await opened(world);
  world.cut();
  await world.until(() => line.state === "open");
  world.gateway.session.link.end(4001, "superseded");
  await world.until(() => world.gateway.resumes === 2);
  assert.equal(line.state, "open");
  world.now += 60_000;
  world.gateway.session.link.end(4001, "superseded");
  await world.settle();
  assert.equal(line.state, "closed");
});

test("a server that does not speak the protocol is not asked again", async () => {
  const world = new World();
  world.gateway.protocol = "";
  const line = begin(world);
  await world.settle();
  assert.equal(line.state, "closed");
  assert.match(events(line, "error")[0].message, /does not speak kakitome.v1/);
  assert.equal(events(line, "close")[0].code, 1002);
});

// --- a session that is gone -----------------------------------------------------------------------------------

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
    { settled: 1, unknown: [2, 2], neverForwarded: [3, 3] },
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
  session.link.sendJson(RecordType.CLOSE, 0, { code: 1014, reason: "backend reset", report });
  session.link.end(1014, "backend reset");
  await world.settle();
  assert.ok((await outcome(sent)) instanceof NeverForwarded);
  const [close] = events(line, "close");
  assert.deepEqual([close.code, close.reason, close.wasClean], [1014, "backend reset", true]);
  assert.deepEqual(close.report.upstream, { settled: 0, unknown: null, neverForwarded: [1, 1] });
});

test("losses of the gateway's messages are told too", async () => {
  const world = new World();
  const line = await opened(world, { acknowledge: "manual" });
  world.gateway.session.send("unacknowledged");
  await world.settle();
  world.gateway.forget();
  await world.until(() => events(line, "lost").length === 1);
  assert.deepEqual(events(line, "lost")[0].report.downstream.unknown, [1, 1]);
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

// --- closing --------------------------------------------------------------------------------------------------

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

// --- the store ------------------------------------------------------------------------------------------------

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
