// Random faults at random moments, from a seed: every message exactly once, or told what became of it.
//
// KAKITOME_FUZZ_SEED repeats one run, KAKITOME_FUZZ_RUNS sets how many there are.

import assert from "node:assert/strict";
import { test } from "node:test";

import { Closed, Kakitome, Lost, NeverForwarded, Rejected } from "./subject.mjs";
import { MemoryStore } from "./memory_store.mjs";
import { turn, World } from "./world.mjs";

const SEED = process.env.KAKITOME_FUZZ_SEED;
const RUNS = Number(process.env.KAKITOME_FUZZ_RUNS ?? 25);
const SEEDS = SEED ? [Number(SEED)] : Array.from({ length: RUNS }, (_, run) => run + 1);

const LARGE = 150_000;
const LATENCY_MS = 15_000;

/** Runs `attempt` with each seed; a failure names its seed. */
function fuzz(name, attempt) {
  test(name, async () => {
    for (const seed of SEEDS) {
      try {
        await attempt(seed);
      } catch (error) {
        error.message = `${error.message} (KAKITOME_FUZZ_SEED=${seed})`;
        throw error;
      }
    }
  });
}

/** The label of a message, which may be padded text or bytes. */
const labelOf = (message) => (typeof message === "string" ? message : new TextDecoder().decode(message)).trimEnd();

function payload(world, label) {
  const padded = world.random() < 0.05 ? label.padEnd(LARGE) : label;
  return world.random() < 0.3 ? new TextEncoder().encode(padded) : padded;
}

/** One page that sends and receives; `outcomes` has what became of each message it sent, by label. */
class Page {
  constructor(world, options) {
    this.world = world;
    this.outcomes = new Map();
    this.received = [];
    this.lost = [];
    this.line = new Kakitome("/", { platform: world.platform, ...options });
    this.line.binaryType = "arraybuffer";
    this.line.onmessage = (event) => {
      this.received.push(labelOf(event.data));
      if (options.acknowledge === "manual") this.#acknowledgeLater(event);
    };
    this.line.onlost = ({ messages, neverForwarded }) => {
      this.lost.push(...[...messages, ...neverForwarded].map(({ data }) => labelOf(data)));
    };
    this.line.onerror = ({ error }) => assert.equal(error.name, "ConnectionFailed", error.stack);
  }

  #acknowledgeLater(event) {
    const acknowledge = () => {
      if (this.world.random() < 0.3) this.world.tasks.push(acknowledge);
      else event.acknowledge();
    };
    this.world.tasks.push(acknowledge);
  }

  send(label) {
    this.outcomes.set(label, null);
    this.line.send(payload(this.world, label)).then(
      (value) => this.#conclude(label, value),
      (error) => this.#conclude(label, error),
    );
  }

  #conclude(label, outcome) {
    assert.equal(this.outcomes.get(label), null, "told once");
    this.outcomes.set(label, outcome);
  }

  get isSettled() {
    return [...this.outcomes.values()].every((outcome) => outcome !== null);
  }
}

/** Takes one random step of the world's, or lets promises run. */
async function step(world) {
  if (world.random() < 0.3) await turn();
  const steps = world.possibleSteps();
  if (steps.length && world.random() < 0.95) world.pick(steps)();
  else if (world.random() < 0.5) await passTime(world, (world.nextTimer?.due ?? world.now) - world.now);
}

/** Nothing stays on its way for longer than `LATENCY_MS`. */
async function passTime(world, ms) {
  if (ms > LATENCY_MS) await world.settle();
  world.now += ms;
  if (world.nextTimer?.due <= world.now) world.passTime();
}

async function fault(world, others) {
  const faults = [
    () => world.cut(),
    () => world.cut(),
    () => world.cut({ silently: true }),
    () => (world.reachable = world.random() < 0.7),
    () => world.window.dispatchEvent(new Event(world.pick(["offline", "online", "pageshow"]))),
    () => world.socket?.closeFromGateway(world.pick([1001, 1011, 1012, 1013])),
    () => passTime(world, world.random() * 40_000),
    ...others,
  ];
  await world.pick(faults)();
}

/** Everything works again, and somebody looks at the page: a connection that died in silence is given up. */
function heal(world) {
  world.reachable = true;
  world.gateway.isStalled = false;
  world.now += 120_000;
  world.document.dispatchEvent(new Event("visibilitychange"));
}

const same = (one, other, why) => assert.deepEqual(one, other, why);
const unique = (labels) => assert.equal(new Set(labels).size, labels.length, "nothing is doubled");

fuzz("cut at any point, and gateways that are replaced: each message exactly once, in order", async (seed) => {
  const world = new World({ seed, gateway: { windowMessages: 1 + (seed % 9), messageBytes: null } });
  const acknowledge = world.pick(["auto", "manual"]);
  const page = new Page(world, { acknowledge, windowMessages: 1 + (seed % 7), silenceTimeoutMs: 20_000 });
  let sent = 0;
  const backendSent = [];
  for (let steps = 0; steps < 600; steps += 1) {
    const chance = world.random();
    if (chance < 0.15) page.send(`up ${(sent += 1)}`);
    else if (chance < 0.25 && page.line.readyState === 1) {
      backendSent.push(`down ${backendSent.length + 1}`);
      world.gateway.session.send(payload(world, backendSent.at(-1)));
    } else if (chance < 0.28) await fault(world, [() => world.gateway.restart()]);
    else await step(world);
  }
  heal(world);
  await world.until(() => page.isSettled && world.gateway.session?.downSettled === backendSent.length);
  const labels = Array.from({ length: sent }, (_, index) => `up ${index + 1}`);
  same(world.gateway.consumed.map(labelOf), labels, "upstream");
  same(page.received, backendSent, "downstream");
  same([...page.outcomes.values()].map(({ seq }) => seq), labels.map((_, index) => index + 1), "told");
  same([page.line.bufferedAmount, page.line.unsettled, page.line.state], [0, [], "open"]);
  page.line.close();
  await world.until(() => page.line.state === "closed");
  same([world.timers.size, world.sockets], [0, []], "nothing is left behind");
});

fuzz("sessions that are gone: nothing told that is not so, nothing doubled, nothing untold", async (seed) => {
  const settlesAt = seed % 2 ? "reached" : "consumed";
  const rejects = (message) => (Number(labelOf(message).slice(3)) % 11 ? null : { code: 4000, reason: "eleven" });
  const world = new World({ seed, gateway: { settlesAt, messageBytes: null, rejects: seed % 3 ? () => null : rejects } });
  const resend = world.pick(["never-forwarded", "never-forwarded", "none"]);
  const page = new Page(world, { resend });
  let sent = 0;
  for (let steps = 0; steps < 600; steps += 1) {
    const chance = world.random();
    if (chance < 0.15) page.send(`up ${(sent += 1)}`);
    else if (chance < 0.18) {
      const moves = settlesAt === "consumed" ? [() => world.gateway.restart()] : [];
      await fault(world, [() => world.gateway.forget({ report: world.random() < 0.7 }), ...moves]);
    } else if (chance < 0.2) world.gateway.isStalled = !world.gateway.isStalled;
    else await step(world);
  }
  heal(world);
  await world.until(() => page.isSettled);
  const consumed = world.gateway.consumed.map(labelOf);
  unique(consumed);
  unique(page.lost);
  const arrived = new Set(consumed);
  const lost = new Set(page.lost);
  for (const [label, outcome] of page.outcomes) {
    if (outcome instanceof NeverForwarded) {
      assert.ok(!arrived.has(label), `${label} was told never forwarded, but arrived`);
      same([resend, lost.has(label)], ["none", true]);
    } else if (outcome instanceof Lost) assert.ok(lost.has(label), `${label} is given back`);
    else if (outcome instanceof Rejected) assert.ok(!arrived.has(label), `${label} was rejected, but arrived`);
    else {
      same(outcome.rung, settlesAt);
      // Of a session that is gone no REJECT comes again, and its report counts what was refused as settled.
      const mayBeRefused = rejects(label) && world.gateway.reports.size;
      assert.ok(arrived.has(label) || mayBeRefused, `${label} was told settled, and did not arrive`);
    }
  }
  const inOrder = consumed.map((label) => Number(label.slice(3)));
  same(inOrder, [...inOrder].sort((one, other) => one - other), "order is kept from session to session");
});

fuzz("reloads with a store, which may catch a write half-way: each stored message exactly once", async (seed) => {
  const world = new World({ seed, gateway: { windowMessages: 1 + (seed % 9), messageBytes: null } });
  const store = new MemoryStore(world);
  const options = { store, acknowledge: world.pick(["auto", "manual"]) };
  const pages = [new Page(world, options)];
  const backendSent = [];
  let sent = 0;
  const reload = () => {
    store.crash(world.random() < 0.5);
    world.timers.clear();
    world.tasks = [];
    // The page's sockets die with it; nobody hears of it there.
    for (const socket of world.sockets) {
      socket.cut(false);
      socket.toClient = [];
      socket.readyState = 3;
      socket.onopen = socket.onmessage = socket.onclose = null;
    }
    const old = pages.at(-1);
    old.stored = [...store.messages.keys()];
    world.sockets = world.sockets.filter((socket) => socket.possibleSteps().length);
    world.window = new EventTarget();
    world.document = Object.assign(new EventTarget(), { visibilityState: "visible" });
    old.consumed = store.state?.consumed ?? 0;
    pages.push(new Page(world, options));
  };
  const isStored = () => store.state?.token && store.state.token === world.gateway.session?.token;
  for (let steps = 0; steps < 800; steps += 1) {
    const chance = world.random();
    if (chance < 0.15) pages.at(-1).send(`up ${(sent += 1)}`);
    else if (chance < 0.25 && isStored()) {
      backendSent.push(`down ${backendSent.length + 1}`);
      world.gateway.session.send(payload(world, backendSent.at(-1)));
    } else if (chance < 0.28) await fault(world, [reload, reload, () => world.gateway.restart()]);
    else await step(world);
  }
  heal(world);
  const page = pages.at(-1);
  await world.until(() => page.isSettled && world.gateway.session?.downSettled === backendSent.length);
  const consumed = world.gateway.consumed.map((each) => Number(labelOf(each).slice(3)));
  unique(consumed);
  same(consumed, [...consumed].sort((one, other) => one - other), "order is kept from page to page");
  const arrived = new Set(consumed.map((number) => `up ${number}`));
  for (const { outcomes } of pages) {
    for (const [label, outcome] of outcomes) if (outcome) assert.ok(arrived.has(label), `${label}: ${outcome.stack ?? outcome.rung}`);
  }
  const used = [...world.gateway.sessions.values()].filter(({ accepted, down }) => accepted || down.length);
  assert.ok(used.length <= 1, "all pages went on with one session, once it was stored");
  let from = 0;
  for (const { received, consumed: position } of pages) {
    if (received.length) {
      same(received, backendSent.slice(from, from + received.length), "each page goes on where the last was saved");
    }
    from = position;
  }
  same([store.messages.size, store.state.settled], [0, world.gateway.session.settled]);
  assert.ok(![...page.outcomes.values()].some((outcome) => outcome instanceof Closed));
});
