// Connections that break, and how the conversation goes on.

import assert from "node:assert/strict";
import { test } from "node:test";

import { begin, events, opened, outcome, received, states } from "./conversing.mjs";
import { Closed, ConnectionFailed, Kakitome, Lost, NeverForwarded, RecordType } from "./subject.mjs";
import { turn, World } from "./world.mjs";

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

test("a page that only receives notices that its way has died in silence", async () => {
  const world = new World({ gateway: { heartbeatSeconds: 10 } });
  const line = await opened(world, { silenceTimeoutMs: 5000 });
  await world.until(() => world.now >= 60_000);
  assert.deepEqual([line.state, world.gateway.resumes], ["open", 0], "a quiet backend is no silence");
  world.cut({ silently: true });
  const { now } = world;
  world.gateway.session.send("while nobody heard");
  await world.until(() => world.gateway.resumes === 1);
  assert.ok(world.now - now <= 15_000, `${world.now - now} ms`);
  await world.settle();
  assert.deepEqual(received(line), ["while nobody heard"]);
  line.close();
  await world.until(() => line.state === "closed");
});

test("silence is borne where the application says so", async () => {
  const world = new World({ gateway: { heartbeatSeconds: 10 } });
  const line = await opened(world, { silenceTimeoutMs: null });
  world.cut({ silently: true });
  assert.equal(world.gateway.session.open.heartbeat, undefined);
  assert.equal(world.nextTimer?.due ?? 0, 100, "no timer but that which confirms");
  assert.equal(line.state, "open");
});

test("a message that takes long to leave is no silence while the network takes it", async () => {
  const world = new World();
  const line = await opened(world, { silenceTimeoutMs: 5000 });
  const { socket } = world;
  world.gateway.isStalled = true;
  socket.bufferedAmount = 1_000_000;
  const sent = line.send(new Uint8Array(1_000_000));
  const held = socket.toGateway.splice(0);
  while (socket.bufferedAmount) {
    socket.bufferedAmount -= 100_000;
    world.passTime();
    await turn();
    assert.equal(world.socket, socket);
  }
  socket.toGateway.push(...held);
  world.gateway.isStalled = false;
  await world.settle();
  assert.deepEqual([(await sent).rung, world.gateway.resumes], ["consumed", 0]);
});

test("a network that takes nothing any more is silence, whatever waits for it", async () => {
  const world = new World();
  const line = await opened(world, { silenceTimeoutMs: 5000 });
  world.socket.bufferedAmount = 500_000;
  world.cut({ silently: true });
  line.send(new Uint8Array(1_000_000));
  await world.until(() => world.gateway.resumes === 1);
  assert.equal(world.now, 5000);
});

test("a refused attempt of which only `error` tells, as on Node 22, is over at once", async () => {
  const world = new World();
  class Refused extends EventTarget {
    readyState = 0;
    close() {}
    constructor() {
      super();
      setImmediate(() => this.onerror({ error: new Error("ECONNREFUSED") }));
    }
  }
  const platform = { ...world.platform, WebSocket: Refused };
  const line = begin(world, { platform, attempts: 3, reconnectMinMs: 10, reconnectMaxMs: 10, connectTimeoutMs: 10_000 });
  await world.until(() => line.state === "closed");
  assert.ok(world.now < 1000, `after ${world.now} ms`);
  const errors = events(line, "error").map(({ error }) => error);
  assert.ok(errors.every((error) => error instanceof ConnectionFailed));
  assert.deepEqual(errors.map(({ cause }) => cause.message), Array(3).fill("ECONNREFUSED"));
});

test("an error without a word, as on Node 24, is not what a failure gives as its cause", async () => {
  const world = new World();
  class Refused extends EventTarget {
    readyState = 0;
    close() {}
    constructor() {
      super();
      setImmediate(() => this.onerror({ error: new TypeError("") }));
    }
  }
  const line = begin(world, { platform: { ...world.platform, WebSocket: Refused }, attempts: 1 });
  await world.until(() => line.state === "closed");
  const { cause } = events(line, "error")[0].error;
  assert.deepEqual([cause.name, cause.code], ["Closed", 1006]);
  assert.match(cause.message, /1006/);
});

test("every failure of a connection carries its cause", async () => {
  const world = new World();
  world.reachable = false;
  const refused = begin(world, { attempts: 1 });
  await world.until(() => refused.state === "closed");
  const causeOf = (line) => events(line, "error")[0].error.cause;
  assert.deepEqual([causeOf(refused).name, causeOf(refused).code], ["Closed", 1006]);

  const thrown = new Error("logged out");
  const asked = new Kakitome(() => Promise.reject(thrown), { platform: world.platform, attempts: 1 });
  const errors = [];
  asked.onerror = ({ error }) => errors.push(error);
  await world.until(() => asked.state === "closed");
  assert.equal(errors[0].cause, thrown);

  world.reachable = true;
  world.gateway.answer = () => {};
  const unanswered = begin(world, { attempts: 1, connectTimeoutMs: 3000 });
  await world.until(() => unanswered.state === "closed");
  assert.equal(causeOf(unanswered).name, "TimeoutError");
  world.gateway.answer = null;

  const silent = await opened(world, { silenceTimeoutMs: 5000 });
  world.cut({ silently: true });
  silent.send("into the void");
  await world.until(() => events(silent, "resume").length === 1);
  assert.equal(causeOf(silent).name, "TimeoutError");
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
  assert.deepEqual([code, wasClean, events(line, "error").length], [1006, false, 2]);
  const error = await outcome(sent);
  assert.ok(error instanceof NeverForwarded);
  assert.equal(error.cause.reason, "no connection after 2 attempts");
  assert.ok(error.cause.cause instanceof Closed, "and why the last of them failed");
});

test("a connection that breaks is no attempt, and attempts are counted anew after each session", async () => {
  const world = new World();
  const line = await opened(world, { attempts: 3 });
  for (let times = 0; times < 5; times += 1) {
    world.cut();
    await world.until(() => line.state === "open");
  }
  world.reachable = false;
  world.cut();
  await world.until(() => line.state === "closed");
  assert.equal(events(line, "error").length, 3);
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
  const line = await opened(world, { connectTimeoutMs: 3000 });
  const late = [];
  world.gateway.answer = (link, open) => late.push(open);
  world.cut();
  await world.until(() => late.length === 1);
  await world.until(() => line.state === "parked");
  world.gateway.answer = null;
  await world.until(() => line.state === "open");
  // Now the OPEN that was given up arrives, and takes the session over for a connection that nobody has any more.
  world.gateway.session.link.end(4001, "superseded");
  await world.until(() => world.gateway.resumes === 2);
  assert.equal(line.state, "open");
  world.gateway.session.link.end(4001, "superseded");
  await world.settle();
  assert.equal(line.state, "closed");
});

test("a client that was superseded does not resume by itself, however lately its own connection broke", async () => {
  for (const supersede of [
    (link) => link.end(4001, "superseded"),
    (link) => link.sendJson(RecordType.CLOSE, 0, { code: 4001, reason: "superseded" }),
  ]) {
    const world = new World();
    const line = await opened(world);
    world.cut();
    await world.until(() => line.state === "open");
    const { session } = world.gateway;
    supersede(session.link);
    await world.until(() => line.state === "closed");
    assert.deepEqual([world.gateway.resumes, events(line, "close")[0].code, session.closed], [1, 4001, undefined]);
    assert.deepEqual([world.timers.size, world.sockets], [0, []], "nothing is tried any more");
  }
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
