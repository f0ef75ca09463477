/** A world without sockets and clocks: a network, a gateway, a backend and a browser page that move one step at a time. */

import assert from "node:assert/strict";

import { FakeGateway } from "./fake_gateway.mjs";

/** A seeded generator of numbers in [0, 1): mulberry32. */
export function randomFrom(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Time, tasks and the network; each connection is a `FakeSocket` whose two queues `world` moves on. */
export class World {
  constructor({ seed = 1, gateway = {} } = {}) {
    this.random = randomFrom(seed);
    this.now = 0;
    this.timers = new Map();
    this.lastTimer = 0;
    this.tasks = [];
    this.sockets = [];
    this.reachable = true;
    this.gateway = new FakeGateway(this, gateway);
    this.window = new EventTarget();
    this.document = Object.assign(new EventTarget(), { visibilityState: "visible" });
  }

  /** What `options.platform` replaces. */
  get platform() {
    const world = this;
    return {
      WebSocket: class extends FakeSocket {
        constructor(url, protocols) {
          super(world, url, protocols);
        }
      },
      setTimeout: (action, ms) => this.after(ms, action),
      clearTimeout: (timer) => void this.timers.delete(timer),
      startMacrotask: (action) => void this.tasks.push(action),
      now: () => this.now,
      random: this.random,
      window: this.window,
      document: this.document,
      baseUrl: "http://gateway.test/page",
    };
  }

  /** Has the action run so much later; the timer's number. */
  after(ms, action) {
    this.lastTimer += 1;
    this.timers.set(this.lastTimer, { id: this.lastTimer, due: this.now + ms, action });
    return this.lastTimer;
  }

  pick(choices) {
    return choices[Math.floor(this.random() * choices.length)];
  }

  // --- steps ---

  /** Every step that can be taken now, time aside. */
  possibleSteps() {
    const steps = [];
    if (this.tasks.length) steps.push(() => this.tasks.shift()());
    for (const socket of this.sockets) steps.push(...socket.possibleSteps());
    steps.push(...this.gateway.possibleSteps());
    return steps;
  }

  /** Moves the clock to the next timer and fires it; false where there is none. */
  passTime() {
    const timer = this.nextTimer;
    if (!timer) return false;
    this.timers.delete(timer.id);
    this.now = Math.max(this.now, timer.due);
    timer.action();
    return true;
  }

  get nextTimer() {
    return [...this.timers.values()].sort((one, other) => one.due - other.due)[0] ?? null;
  }

  /** Takes all steps there are, in random order, without letting time pass. */
  async settle() {
    for (;;) {
      await turn();
      const steps = this.possibleSteps();
      if (!steps.length) return;
      this.pick(steps)();
    }
  }

  /** Settles, and lets time pass until `isTrue`. */
  async until(isTrue) {
    for (let steps = 0; ; steps += 1) {
      await this.settle();
      if (isTrue()) return;
      assert.ok(steps < 10_000 && this.passTime(), "it never comes true");
    }
  }

  // --- faults ---

  /** The newest connection that the page has. */
  get socket() {
    return this.sockets.at(-1) ?? null;
  }

  /** Every connection breaks; what is on its way is lost. Both ends notice, each in its time, or not at all. */
  cut({ silently = false } = {}) {
    for (const socket of this.sockets) socket.cut(silently);
  }
}

/** Lets promises that are ready run their callbacks. */
export async function turn() {
  await new Promise((resolve) => setImmediate(resolve));
}

/** As far as a client can see, a WebSocket. */
export class FakeSocket {
  constructor(world, url, protocols) {
    this.world = world;
    this.url = url;
    this.protocols = protocols;
    this.protocol = "";
    this.readyState = 0;
    this.bufferedAmount = 0;
    this.toGateway = [];
    this.toClient = [];
    this.isCut = false;
    this.gatewayKnows = false;
    this.link = null;
    this.sent = [];
    world.sockets.push(this);
  }

  possibleSteps() {
    const steps = [];
    if (this.readyState === 0) steps.push(() => this.#answer());
    if (this.toGateway.length) steps.push(() => this.#toGateway(this.toGateway.shift()));
    if (this.toClient.length && this.readyState < 3) steps.push(() => this.#toClient(this.toClient.shift()));
    if (this.isCut && !this.gatewayKnows) steps.push(() => this.#tellGateway());
    return steps;
  }

  #answer() {
    if (this.isCut || !this.world.reachable) {
      this.#ended(1006, "");
      return;
    }
    this.link = this.world.gateway.connect(this);
    this.readyState = 1;
    this.protocol = this.world.gateway.protocol;
    this.onopen?.({});
  }

  #toGateway(item) {
    if (item.close) {
      this.gatewayKnows = true;
      this.link?.closed();
      this.toClient.push({ close: true, code: 1000, reason: "" });
    } else this.link.receive(item.data);
  }

  #toClient(item) {
    if (item.close) this.#ended(item.code, item.reason);
    else if (this.readyState === 1) this.onmessage?.({ data: item.data });
    if (item.withNext && this.toClient.length) this.#toClient(this.toClient.shift());
  }

  #tellGateway() {
    this.gatewayKnows = true;
    this.link?.closed();
  }

  #ended(code, reason) {
    this.readyState = 3;
    this.world.sockets = this.world.sockets.filter((socket) => socket !== this);
    if (code === 1006) this.onerror?.({});
    this.onclose?.({ code, reason, wasClean: code !== 1006 });
  }

  // --- what the client calls ---

  send(data) {
    assert.equal(this.readyState, 1, "sent on a socket that is not open");
    assert.ok(data instanceof Uint8Array);
    this.sent.push(data);
    if (!this.isCut) this.toGateway.push({ data: data.slice().buffer });
  }

  close(code = 1005, reason = "") {
    if (this.readyState >= 2) return;
    const wasOpen = this.readyState === 1;
    this.readyState = 2;
    if (wasOpen && !this.isCut) this.toGateway.push({ close: true, code, reason });
    else this.toClient.push({ close: true, code: 1006, reason: "" });
  }

  // --- what the gateway and the network do ---

  deliver(data) {
    if (!this.isCut) this.toClient.push({ data: data.slice().buffer, withNext: false });
  }

  /** All from the `first`-th that waits on are one write, and arrive together. */
  deliverTogether(first) {
    for (const item of this.toClient.slice(first, -1)) item.withNext = true;
  }

  closeFromGateway(code, reason = "") {
    this.gatewayKnows = true;
    if (!this.isCut) this.toClient.push({ close: true, code, reason });
  }

  cut(silently) {
    if (this.isCut) return;
    this.isCut = true;
    this.toGateway = [];
    const isForgotten = silently && this.readyState < 2;
    this.toClient = isForgotten ? [] : [{ close: true, code: 1006, reason: "" }];
    if (silently) this.gatewayKnows = true; // neither end is ever told
  }
}
