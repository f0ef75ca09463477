/**
 * The gateway of `World`, and the backend behind it: a slow, obvious model of docs/protocol.md that checks whatever a
 * client does against it. It keeps each session's facts plainly: what it accepted, what the backend got (`forwarded`),
 * what the backend consumed.
 */

import assert from "node:assert/strict";

import { encodeRecord, parseRecord, RecordType } from "./subject.mjs";

const FRAGMENT_BYTES = 64 * 1024;
const text = new TextEncoder();
const decode = (bytes) => new TextDecoder().decode(bytes);

const DEFAULTS = {
  settlesAt: "consumed",
  windowMessages: 8,
  windowBytes: 200_000,
  messageBytes: 1024 * 1024,
  rejects: () => null,
  receipts: true,
  heartbeatSeconds: null,
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
    /** For how many seconds a permission lasts; null: nothing is said of it. `shown` are the credentials of AUTH. */
    this.permission = null;
    this.shown = [];
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

  /** Every session is lost, and each client told so in a CLOSE. */
  lose(code, reason, { report = true } = {}) {
    for (const session of this.sessions.values()) {
      session.link.sendJson(RecordType.CLOSE, 0, { code, reason, report: report ? session.report() : null });
      session.link.end(code, reason);
    }
    this.sessions.clear();
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
      case RecordType.AUTH:
        this.gateway.shown.push({ seq, token: JSON.parse(decode(body)).token });
        break;
      default:
        assert.fail(`record type ${type} from the client`);
    }
  }

  /** Says again what the client was told last, as long as the connection seems to be there. */
  #beat(ms) {
    this.gateway.world.after(ms, () => {
      if (this.isDead || this.socket.readyState !== 1) return;
      const rung = ["", "accepted", "written", "reached", "consumed"].indexOf(this.gateway.options.settlesAt);
      this.send(RecordType.ACK, rung, this.session.ackedToClient);
      this.#beat(ms);
    });
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
    const { settlesAt, windowMessages, windowBytes, messageBytes, heartbeatSeconds } = gateway.options;
    if (open.heartbeat && heartbeatSeconds) this.#beat(heartbeatSeconds * 1000);
    const body = {
      session: session.token,
      resumed: known !== undefined,
      settles_at: settlesAt,
      window_messages: windowMessages,
      window_bytes: windowBytes,
      message_bytes: messageBytes,
      grace_seconds: 120,
      heartbeat_seconds: open.heartbeat ? heartbeatSeconds : null,
      ...(gateway.permission === null ? {} : { expires_in_seconds: gateway.permission, renew: open.renew === true }),
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
