/**
 * A world without sockets and clocks: a network, a gateway, a backend and a browser page that move one step at a time.
 *
 * The gateway is a slow, obvious model of docs/protocol.md that checks whatever a client does against it. It keeps
 * each session's facts plainly: what it accepted, what the backend got (`forwarded`), what the backend consumed.
 */

import assert from "node:assert/strict";

import { encodeRecord, parseRecord, RecordType } from "../../gateway/web/kakitome.js";

const FRAGMENT_BYTES = 64 * 1024;
const text = new TextEncoder();
const decode = (bytes) => new TextDecoder().decode(bytes);

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
      setTimeout: (action, ms) => {
        this.lastTimer += 1;
        this.timers.set(this.lastTimer, { id: this.lastTimer, due: this.now + ms, action });
        return this.lastTimer;
      },
      clearTimeout: (timer) => void this.timers.delete(timer),
      startMacrotask: (action) => void this.tasks.push(action),
      now: () => this.now,
      random: this.random,
      window: this.window,
      document: this.document,
      baseUrl: "http://gateway.test/page",
    };
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

const DEFAULTS = {
  settlesAt: "consumed",
  windowMessages: 8,
  windowBytes: 200_000,
  messageBytes: 1024 * 1024,
  rejects: () => null,
  receipts: true,
};

/** Sessions by token, and the backend behind each. */
export class FakeGateway {
  constructor(world, options) {
    this.world = world;
    this.options = { ...DEFAULTS, ...options };
    this.protocol = "kakitome.v1";
    this.sessions = new Map();
    this.reports = new Map();
    this.lastToken = 0;
    this.answer = null;
    this.isStalled = false;
    /** All that any session's backend consumed, in order: text, or the bytes. */
    this.consumed = [];
    /** Messages of the backend's that the client refused. */
    this.refused = [];
    this.resumes = 0;
  }

  get session() {
    return [...this.sessions.values()].at(-1) ?? null;
  }

  possibleSteps() {
    return [...this.sessions.values()].flatMap((session) => session.possibleSteps());
  }

  connect(socket) {
    return new FakeLink(this, socket);
  }

  /** The process ends and another takes its place; sessions live on in a backend that speaks records. */
  restart() {
    this.world.cut();
    for (const session of this.sessions.values()) session.moved();
  }

  /** Every session ends; each is told of, or not, when its client comes back. */
  forget({ report = true } = {}) {
    for (const [token, session] of this.sessions) {
      this.reports.set(token, report && !session.hasMoved ? session.report() : null);
      session.link = null;
    }
    this.sessions.clear();
    this.world.cut();
  }
}

/** One connection as the gateway has it. */
class FakeLink {
  constructor(gateway, socket) {
    this.gateway = gateway;
    this.socket = socket;
    this.session = null;
    this.isDead = false;
  }

  closed() {
    if (this.session?.link === this) this.session.link = null;
    this.isDead = true;
  }

  send(type, flags, seq, body) {
    this.socket.deliver(encodeRecord(type, flags, seq, body));
  }

  sendJson(type, seq, body) {
    this.send(type, 0, seq, text.encode(JSON.stringify(body)));
  }

  end(code, reason) {
    this.socket.closeFromGateway(code, reason);
    this.closed();
  }

  receive(data) {
    if (this.isDead) return;
    const type = new DataView(data).getUint8(0);
    if (!this.session) {
      assert.equal(type, RecordType.OPEN, "OPEN comes first");
      this.#open(data);
      return;
    }
    const { flags, seq, body } = parseRecord(data);
    switch (type) {
      case RecordType.DATA:
        this.session.receive(flags, seq, body);
        break;
      case RecordType.ACK:
        assert.equal(flags, 4);
        this.session.acknowledged(seq);
        break;
      case RecordType.REJECT:
        this.session.refused(seq, JSON.parse(decode(body)));
        break;
      case RecordType.CLOSE: {
        const { code, reason } = JSON.parse(decode(body));
        this.session.closed = { code, reason };
        this.gateway.sessions.delete(this.session.token);
        this.end(code >= 3000 || code === 1000 ? code : 1000, reason);
        break;
      }
      default:
        assert.fail(`record type ${type} from the client`);
    }
  }

  #open(data) {
    const { gateway } = this;
    const header = new DataView(data);
    const seq = Number(header.getBigUint64(2));
    const open = JSON.parse(decode(new Uint8Array(data, 10)));
    if (gateway.answer) {
      gateway.answer(this, open, seq);
      return;
    }
    const known = gateway.sessions.get(open.session);
    const session = known ?? new FakeSession(gateway);
    session.link?.end(4001, "superseded");
    session.link = this;
    session.open = open;
    this.session = session;
    const { settlesAt, windowMessages, windowBytes, messageBytes } = gateway.options;
    const body = {
      session: session.token,
      resumed: known !== undefined,
      settles_at: settlesAt,
      window_messages: windowMessages,
      window_bytes: windowBytes,
      message_bytes: messageBytes,
      grace_seconds: 120,
      report: known ? null : (gateway.reports.get(open.session) ?? null),
    };
    if (known) {
      gateway.resumes += 1;
      session.replayFrom(seq);
    }
    const first = this.socket.toClient.length;
    this.sendJson(RecordType.OPENED, session.settled, body);
    for (const [refused, refusal] of session.rejected) this.sendJson(RecordType.REJECT, refused, refusal);
    this.socket.deliverTogether(first);
    session.flush();
  }
}

class FakeSession {
  constructor(gateway) {
    this.gateway = gateway;
    gateway.lastToken += 1;
    this.token = `token-${gateway.lastToken}`;
    gateway.sessions.set(this.token, this);
    this.link = null;
    this.open = null;
    this.hasMoved = false;
    // upstream
    this.accepted = 0;
    this.forwarded = 0;
    this.settled = 0;
    this.ackedToClient = 0;
    this.receiptTo = 0;
    this.messages = new Map();
    this.rejected = new Map();
    this.parts = [];
    this.kind = null;
    this.duplicates = 0;
    // downstream
    this.down = [];
    this.downSent = 0;
    this.downSettled = 0;
    this.downRefused = new Map();
  }

  possibleSteps() {
    const steps = [];
    const { options, isStalled } = this.gateway;
    if (this.forwarded < this.accepted && !isStalled) steps.push(() => (this.forwarded += 1));
    if (this.settled < this.forwarded && !isStalled) steps.push(() => this.#consume());
    if (!this.link) return steps;
    if (this.ackedToClient < this.settled) {
      const rung = ["", "accepted", "written", "reached", "consumed"].indexOf(options.settlesAt);
      steps.push(() => this.link.send(RecordType.ACK, rung, (this.ackedToClient = this.settled)));
    }
    if (options.receipts && this.open.receipts.includes("accepted") && this.receiptTo < this.accepted) {
      steps.push(() => this.link.send(RecordType.ACK, 1, (this.receiptTo = this.accepted)));
    }
    return steps;
  }

  // --- upstream ---

  receive(flags, seq, body) {
    const ends = !(flags & 2);
    assert.ok(body.length <= FRAGMENT_BYTES, "a fragment is too long");
    if (seq <= this.accepted) {
      this.duplicates += ends;
      return;
    }
    assert.equal(seq, this.accepted + 1, "a gap in the client's messages");
    this.kind ??= flags & 1;
    assert.equal(this.kind, flags & 1);
    this.parts.push(body);
    if (!ends) return;
    const data = Buffer.concat(this.parts);
    this.messages.set(seq, this.kind ? data.toString() : new Uint8Array(data));
    this.forgetUnfinished();
    this.accepted = seq;
    const unsettled = [...this.messages].filter(([each]) => each > this.settled && !this.rejected.has(each));
    const bytes = unsettled.reduce((sum, [, each]) => sum + Buffer.byteLength(each), 0);
    assert.ok(unsettled.length <= this.gateway.options.windowMessages, "the window in messages is exceeded");
    assert.ok(unsettled.length === 1 || bytes <= this.gateway.options.windowBytes, "the window in bytes is exceeded");
  }

  forgetUnfinished() {
    this.parts = [];
    this.kind = null;
  }

  #consume() {
    const seq = this.settled + 1;
    const message = this.messages.get(seq);
    const refusal = this.gateway.options.rejects(message);
    if (refusal) {
      this.rejected.set(seq, refusal);
      this.link?.sendJson(RecordType.REJECT, seq, refusal);
    } else {
      this.gateway.consumed.push(message);
    }
    this.settled = seq;
    this.messages.delete(seq);
    if (this.accepted < seq) {
      // The backend had it from the gateway before this one.
      this.accepted = seq;
      this.forgetUnfinished();
    }
  }

  /** Another gateway has the session: it knows what the backend's OPENED says, and the backend has what it got. */
  moved() {
    this.hasMoved = true;
    this.accepted = this.settled;
    this.receiptTo = this.settled;
    this.messages = new Map([...this.messages].filter(([seq]) => seq <= this.forwarded));
  }

  report() {
    const range = (from, to) => (from <= to ? [from, to] : null);
    return {
      upstream: {
        settled: this.settled,
        unknown: range(this.settled + 1, this.forwarded),
        never_forwarded: range(this.forwarded + 1, this.accepted),
      },
      downstream: {
        settled: this.downSettled,
        unknown: range(this.downSettled + 1, this.downSent),
        never_forwarded: range(this.downSent + 1, this.down.length),
      },
    };
  }

  // --- downstream ---

  /** The backend sends a message: text, or bytes. */
  send(message) {
    this.down.push(message);
    this.flush();
  }

  replayFrom(seq) {
    assert.ok(seq >= this.downSettled, "OPEN's position is behind what was acknowledged");
    assert.ok(seq <= this.downSent, "OPEN's position is beyond what was sent");
    this.forgetUnfinished();
    this.downSettled = this.downSent = seq;
    this.ackedToClient = this.settled;
  }

  flush() {
    if (!this.link) return;
    while (this.downSent < this.down.length && this.downSent - this.downSettled < this.open.window_messages) {
      this.downSent += 1;
      const message = this.down[this.downSent - 1];
      const kind = typeof message === "string" ? 1 : 0;
      const bytes = kind ? text.encode(message) : message;
      let at = 0;
      for (; bytes.length - at > FRAGMENT_BYTES; at += FRAGMENT_BYTES) {
        this.link.send(RecordType.DATA, kind | 2, this.downSent, bytes.subarray(at, at + FRAGMENT_BYTES));
      }
      this.link.send(RecordType.DATA, kind, this.downSent, bytes.subarray(at));
    }
  }

  acknowledged(seq) {
    assert.ok(seq <= this.downSent, "the client acknowledges what was not sent");
    this.downSettled = Math.max(this.downSettled, seq);
    this.flush();
  }

  refused(seq, body) {
    assert.ok(seq <= this.downSent, "the client refuses what was not sent");
    if (seq > this.downSettled) this.downRefused.set(seq, body);
  }
}

/** A store whose writes last until `world` completes them. */
export class MemoryStore {
  constructor(world) {
    this.world = world;
    this.state = null;
    this.messages = new Map();
    this.pending = [];
    this.isOpen = false;
    this.wasCleared = false;
    this.crashes = 0;
  }

  async open() {
    assert.ok(!this.isOpen);
    this.isOpen = true;
    const { crashes } = this;
    await turn();
    if (this.crashes !== crashes) await new Promise(() => {}); // the page is gone
    if (!this.state) return null;
    return { ...this.state, messages: [...this.messages.values()].sort((one, other) => one.seq - other.seq) };
  }

  save({ state, appended, replace }) {
    assert.ok(this.isOpen && !this.pending.length, "one save at a time");
    return new Promise((resolve) => {
      const apply = () => {
        if (replace) this.messages.clear();
        for (const { seq, text: isText, data } of appended) this.messages.set(seq, { seq, text: isText, data });
        for (const seq of [...this.messages.keys()]) if (seq <= state.settled) this.messages.delete(seq);
        this.state = { ...state };
      };
      this.pending.push({ apply, resolve });
      this.world.tasks.push(() => this.complete());
    });
  }

  async clear() {
    this.state = null;
    this.messages.clear();
    this.wasCleared = true;
  }

  close() {
    this.isOpen = false;
  }

  /** The write under way is done. */
  complete() {
    const write = this.pending.shift();
    write?.apply();
    write?.resolve();
  }

  /** The page is gone: a write under way was made, or was not. */
  crash(completes) {
    this.crashes += 1;
    if (completes) this.pending[0]?.apply();
    this.pending = [];
    this.isOpen = false;
  }
}
