/** The record protocol without I/O. */

import { Auths } from "./auths.js";
import { UNAUTHENTICATED } from "./credential.js";
import { ProtocolViolation } from "./errors.js";
import { Inbox } from "./inbox.js";
import { Outbox, told } from "./outbox.js";
import { Rejections } from "./rejections.js";
import { cut } from "./text.js";
import {
  Body,
  closeRecord,
  CONSUMED,
  DEFAULT_WINDOW_BYTES,
  DEFAULT_WINDOW_MESSAGES,
  encodeJsonRecord,
  encodeRecord,
  isWithin,
  MAX_CLOSE_REASON_BYTES,
  MAX_REJECT_REASON_BYTES,
  parseRecord,
  RecordType,
  rejectRecord,
  RUNGS,
  TYPE_NAMES,
} from "./wire.js";

/**
 * Close codes that tell of the gateway's or the connection's state and not of the session's: it is worth trying again.
 * 1005 is a Close without a code; 1006 and 1015 stand for none at all.
 */
const PASSING_CODES = new Set([1001, 1005, 1006, 1011, 1012, 1013, 1014, 1015]);

/**
 * A CLOSE with one of these says that the session is lost and nobody meant it to end (docs/protocol.md, Ending): we come
 * back with its token, and OPENED decides. 4004 is what a backend says of a session that it does not know.
 */
const LOST_CODES = new Set([1011, 1012, 1013, 1014, 4004]);

/** Another connection has taken the session over. */
export const SUPERSEDED = 4001;

/** So often in a row a gateway may know less of the session than we do: it may not have heard of another one's part. */
const TIMES_BEHIND = 4;

const TRY_AGAIN_LATER = 1013;

const Phase = Object.freeze({ DETACHED: "detached", OPENING: "opening", OPEN: "open", OVER: "over" });

/**
 * One client's session, whatever connections carry it, as a state machine without I/O.
 *
 * A turn of the caller's: `receive` with what came in, the calls of the application, `nextFact` until there is none,
 * `changes` and (after they were saved) `markSaved`, `take` and send what it gives. `stored` is what a store had of it.
 */
export class Session {
  #phase = Phase.DETACHED;
  #connection = 0;
  #facts = [];
  #positions = [0, 0, 0, 0, 0];
  #saved = null;
  #generation = 0;
  #revision = 0;
  #mustReplace = false;
  #acked;
  #told = 0;
  #rejects = new Map();
  #refused;
  #presumed = new Map();
  #closeSent = false;
  /** `{report, connection}` of a CLOSE that told that the session is lost, until OPENED decides. */
  #loss = null;
  /** Gateways in a row that knew less of the session than we do. */
  #timesBehind = 0;
  #settings;
  #auths = new Auths();

  constructor(settings = {}, stored = null) {
    this.#settings = {
      windowMessages: DEFAULT_WINDOW_MESSAGES,
      windowBytes: DEFAULT_WINDOW_BYTES,
      messageBytes: Infinity,
      receipts: [],
      resend: "never-forwarded",
      heartbeat: false,
      ...settings,
    };
    this.token = stored?.token ?? null;
    this.settlesAt = CONSUMED;
    this.graceSeconds = 0;
    /** How often the gateway says something at least while both sides are silent; null: it may be silent. */
    this.heartbeatSeconds = null;
    /** The largest message that the gateway takes; Infinity: any, or not known yet. */
    this.messageLimit = Infinity;
    this.outbox = new Outbox(stored ?? {});
    this.inbox = new Inbox(stored?.consumed ?? 0, this.#settings);
    this.#acked = this.inbox.consumed;
    this.#refused = new Rejections(stored?.rejected, this.inbox.consumed, this.#settings.windowMessages);
    /** `{code, reason, cause, record}` once the session has ended, or shall end when everything is settled. */
    this.ending = null;
    if (stored) this.#saved = this.#state();
  }

  get isOpen() {
    return this.#phase === Phase.OPEN;
  }

  get isOver() {
    return this.#phase === Phase.OVER;
  }

  /** Rises when the gateway has begun a new session in place of the old one: numbers start again. */
  get generation() {
    return this.#generation;
  }

  /** Our CLOSE has left: nothing more is sent. */
  get hasClosed() {
    return this.#closeSent;
  }

  /** Nothing of ours is unsettled. */
  get isSettled() {
    return this.outbox.entries.length === 0;
  }

  /** The next thing that happened, or undefined: `{type, ...}`, in the order in which they happened. */
  nextFact() {
    return this.#facts.shift();
  }

  // --- connections ---

  /** A connection is up; its OPEN, with the `credential` that lets us in; `renews`: another one can be shown later. */
  attach(credential = null, renews = false) {
    this.detach();
    this.#auths = new Auths(renews);
    this.#phase = Phase.OPENING;
    this.#connection += 1;
    this.#told = this.#saved?.consumed ?? 0;
    const { receipts, windowMessages, windowBytes, heartbeat } = this.#settings;
    const body = {
      ...(this.token === null ? {} : { session: this.token }),
      receipts,
      window_messages: windowMessages,
      window_bytes: windowBytes,
      ...(this.#saved?.rejected ? { rejected: this.#saved.rejected } : {}),
      ...(heartbeat ? { heartbeat } : {}),
      ...(credential === null ? {} : { token: credential }),
      ...(renews ? { renew: true } : {}),
    };
    return encodeJsonRecord(RecordType.OPEN, this.#told, body);
  }

  /** The connection is gone; the session waits for the next one. */
  detach() {
    if (this.#phase !== Phase.OVER) this.#phase = Phase.DETACHED;
    this.inbox.forgetUnfinished();
  }

  /** Takes a message of the attached connection. A fault of the gateway's ends the session, as `fail` does. */
  receive(data) {
    if (this.#phase !== Phase.OPENING && this.#phase !== Phase.OPEN) return;
    try {
      this.#receive(parseRecord(data));
    } catch (fault) {
      if (!(fault instanceof ProtocolViolation)) throw fault;
      this.fail(fault);
    }
  }

  #receive(record) {
    const { type, flags, seq, body } = record;
    if (type !== RecordType.REJECT) this.confirm();
    if (type === RecordType.CLOSE) {
      this.#closed(Body.ending("CLOSE", body));
    } else if ((this.#phase === Phase.OPENING) !== (type === RecordType.OPENED)) {
      throw new ProtocolViolation(`${TYPE_NAMES[type]} ${this.isOpen ? "in an open session" : "before OPENED"}`);
    } else if (type === RecordType.OPENED) {
      this.#opened(seq, Body.opened(body));
    } else if (type === RecordType.DATA) {
      const message = this.inbox.receive(record);
      if (message?.data === null) this.reject(seq, 1009, `message exceeds ${this.#settings.messageBytes} bytes`);
      else if (message && this.#refused.has(seq)) this.inbox.consume(seq); // by the page before this one
      else if (message) this.#facts.push({ type: "message", ...message });
    } else if (type === RecordType.ACK) {
      this.#acknowledged(flags, seq);
    } else if (type === RecordType.AUTH) {
      this.#facts.push(this.#auths.receive(seq, body));
    } else {
      const { code, reason } = Body.ending("REJECT", body);
      const presumed = this.#presumed.get(seq);
      this.#presumed.delete(seq);
      const entry = presumed ?? this.outbox.reject(seq);
      if (entry) this.#facts.push({ type: "rejected", entry, code, reason });
    }
  }

  #opened(seq, body) {
    const { carried, settled: known } = this.outbox;
    if (body.resumed) {
      if (this.token === null) throw new ProtocolViolation("OPENED resumes a session, but none was asked for");
      if (seq < known && this.#timesBehind < TIMES_BEHIND) {
        this.#timesBehind += 1;
        const reason = `OPENED at ${seq}, but message ${known} is settled: the gateway is behind`;
        this.#facts.push({ type: "refused", code: TRY_AGAIN_LATER, reason });
        return;
      }
      const { settled, refused } = this.outbox.resume(seq, body.rejected);
      this.#refusedBefore(refused);
      for (const entry of settled) this.#presumed.set(entry.seq, entry);
      this.#positions.fill(this.outbox.settled);
      // A message whose REJECT has not left must not be told as consumed: its REJECT follows, and then the ACK.
      this.#acked = this.#told;
      const replayed = carried - this.outbox.settled;
      this.#facts.push({ type: "resumed", replayed, duplicates: this.inbox.accepted - this.#told });
    } else {
      if (seq) throw new ProtocolViolation(`OPENED at ${seq} in a new session, expected 0`);
      if (this.token !== null) this.#renew(body.report);
      this.#facts.push({ type: "opened" });
    }
    this.#loss = null;
    this.#timesBehind = 0;
    this.token = body.token;
    this.settlesAt = body.settlesAt;
    this.graceSeconds = body.graceSeconds;
    this.heartbeatSeconds = body.heartbeatSeconds;
    this.messageLimit = body.messageBytes ?? Infinity;
    this.outbox.windowMessages = body.windowMessages;
    this.outbox.windowBytes = body.windowBytes;
    this.#phase = Phase.OPEN;
    this.#facts.push(...this.#auths.opened(body));
    for (const entry of this.outbox.dropTooBig(this.messageLimit)) {
      this.#renumbered();
      this.#facts.push({ type: "too big", entry, limit: this.messageLimit });
    }
  }

  /** The old session is gone and a new one begins: what is known never to have left is sent in it. */
  #renew(opened) {
    const { report, connection } = opened || !this.#loss ? { report: opened, connection: this.#connection } : this.#loss;
    const { unknown, neverForwarded } = this.#sortOut(report, connection);
    const { accepted } = this.inbox;
    const { resend } = this.#settings;
    this.outbox = new Outbox();
    this.inbox = new Inbox(0, this.#settings);
    this.#positions.fill(0);
    this.#rejects.clear();
    this.#refused = new Rejections();
    this.#acked = 0;
    this.#generation += 1;
    this.#renumbered();
    const again = [...(resend === "all" ? unknown : []), ...(resend === "none" ? [] : neverForwarded)];
    const lost = {
      unknown: resend === "all" ? [] : unknown.map(copied),
      neverForwarded: resend === "none" ? neverForwarded.map(copied) : [],
    };
    for (const entry of again) {
      entry.connection = 0;
      this.outbox.append(entry);
    }
    this.#facts.push({ type: "lost", ...lost, accepted, report });
  }

  /** What the store has, or is about to have, bears the wrong numbers. */
  #renumbered() {
    this.#revision += 1;
    this.#mustReplace = true;
  }

  /**
   * What became of each message, as far as the report tells; what it calls settled is.
   *
   * It says nothing about those behind all that its gateway had accepted. That gateway, which has given the report on
   * `gatewaysConnection`, did not send them on; but where a session can move from gateway to gateway (both hops speak
   * records), one before it may have.
   */
  #sortOut(report, gatewaysConnection) {
    const unknown = [];
    const neverForwarded = [];
    const { outbox } = this;
    const upstream = report?.upstream;
    if (upstream) this.#settleReported(upstream);
    for (const entry of outbox.entries.filter(({ rejected }) => !rejected)) {
      const { seq, connection } = entry;
      const mayHaveMoved = this.settlesAt === CONSUMED && connection !== gatewaysConnection;
      if (seq > outbox.carried || isWithin(seq, upstream?.neverForwarded ?? null)) neverForwarded.push(entry);
      else if (!upstream || isWithin(seq, upstream.unknown) || mayHaveMoved) unknown.push(entry);
      else neverForwarded.push(entry);
    }
    return { unknown, neverForwarded };
  }

  #settleReported({ settled, rejected }) {
    this.#refusedBefore(this.outbox.refuse(rejected));
    this.#settled(this.outbox.settle(Math.min(settled, this.outbox.carried)), this.settlesAt);
  }

  /** The far side has refused these; their REJECTs were lost. */
  #refusedBefore(refused) {
    for (const each of refused) this.#facts.push({ type: "rejected", ...each });
  }

  /**
   * What OPENED settled is settled. Not at once: the REJECT of a message among them may have been lost with its
   * connection, and then comes again behind OPENED, before anything else.
   */
  confirm() {
    this.#settled([...this.#presumed.values()], this.settlesAt);
    this.#presumed.clear();
  }

  #acknowledged(rung, seq) {
    const { outbox } = this;
    if (rung >= this.settlesAt) {
      this.#settled(outbox.settle(seq), rung);
    } else if (seq > outbox.carried) {
      throw new ProtocolViolation(`ACK ${seq}, expected at most ${outbox.carried}, the last message sent`);
    }
    outbox.answered = Math.max(outbox.answered, seq);
    if (seq <= this.#positions[rung]) return;
    for (let below = 1; below <= rung; below += 1) this.#positions[below] = Math.max(this.#positions[below], seq);
    this.#facts.push({ type: "receipt", seq, rung: RUNGS[rung] });
  }

  #settled(entries, rung) {
    for (const entry of entries) this.#facts.push({ type: "settled", entry, rung: RUNGS[rung] });
  }

  #closed({ code, reason, report }) {
    // Another connection has the session now: this one is over, the session is not.
    if (code === SUPERSEDED) {
      this.#facts.push({ type: "superseded", code, reason });
      return;
    }
    // An answer to OPEN that names a passing state of the gateway ends this attempt and not the session; so does one that
    // asks who we are, while our credential can be renewed.
    const isPassing = PASSING_CODES.has(code) || LOST_CODES.has(code) || code === UNAUTHENTICATED;
    if (this.#phase === Phase.OPENING && isPassing) {
      this.#facts.push({ type: "refused", code, reason });
      return;
    }
    if (LOST_CODES.has(code) && !this.#closeSent) {
      this.confirm();
      if (report) this.#settleReported(report.upstream);
      this.#loss = { report, connection: this.#connection };
      this.#facts.push({ type: "session lost", code, reason });
      return;
    }
    // The answer to our own CLOSE need not repeat why.
    const ours = this.#closeSent && code === this.ending.code ? this.ending.reason : "";
    this.end(code, reason || ours, { report, byPeer: true });
  }

  /** Ends the session because the gateway broke the protocol; `take` then gives the CLOSE that says so. */
  fail(fault) {
    this.#facts.push({ type: "fault", fault });
    this.end(fault.code, cut(fault.message, MAX_CLOSE_REASON_BYTES));
  }

  /** Ends the session at once: what is not settled is sorted out and told, nothing more is taken. */
  end(code, reason, { report = null, byPeer = false, cause = null } = {}) {
    if (this.isOver) return;
    this.confirm();
    const known = report || !this.#loss ? { report, connection: this.#connection } : this.#loss;
    const { unknown, neverForwarded } = this.#sortOut(known.report, known.connection);
    this.ending = { code, reason, cause, record: this.isOpen && !byPeer ? closeRecord(code, reason) : null };
    this.#phase = Phase.OVER;
    this.outbox = new Outbox();
    this.#facts.push({ type: "lost", unknown, neverForwarded, accepted: this.inbox.accepted, report: known.report });
    this.#facts.push({ type: "ended", code, reason, report: known.report, byPeer });
  }

  // --- the application ---

  /** Shows another credential on the open connection, where it takes one. */
  authenticate(credential) {
    if (this.isOpen) this.#auths.show(credential);
  }

  /** Takes a message of ours, room or not. `context` is the caller's. */
  append(text, data, context = null) {
    const entry = { seq: 0, text, data, rejected: false, connection: 0, context };
    this.outbox.append(entry);
    return entry;
  }

  /** The highest rung known of one of our messages, by name, or null. */
  rungOf(seq) {
    for (let rung = CONSUMED; rung > 0; rung -= 1) if (this.#positions[rung] >= seq) return RUNGS[rung];
    return null;
  }

  /** Whether a connection that ended so is worth making anew. */
  isPassing(code, wasOpen) {
    // A page that was frozen between its handshake and its OPEN was too late for one that waits for no more than that.
    return PASSING_CODES.has(code) || code === 4004 || (!wasOpen && code === 1008);
  }

  /** Our messages that are under way, as the application is told of them. */
  unsettled() {
    const entries = this.outbox.entries.filter((entry) => !entry.rejected);
    return entries.map((entry) => ({ ...told(entry), rung: this.rungOf(entry.seq) }));
  }

  /** Marks a message of the gateway's as consumed. */
  consume(seq) {
    this.inbox.consume(seq);
  }

  /** Refuses a message of the gateway's, which counts as consumed then. */
  reject(seq, code, reason) {
    if (!this.inbox.consume(seq)) return;
    const why = cut(reason, MAX_REJECT_REASON_BYTES);
    this.#refused.add(seq, code, why, this.inbox.accepted, this.#settings.windowMessages);
    this.#rejects.set(seq, rejectRecord(seq, code, why));
  }

  /** Ends the session for good once everything of ours is settled. */
  close(code, reason) {
    this.ending ??= { code, reason, cause: null, record: closeRecord(code, reason) };
  }

  // --- the store ---

  /** What is to be saved before it may be told, or null: `{state, appended, replace}`, to be saved as one. */
  changes() {
    if (this.isOver) return null;
    if (this.isOpen) this.outbox.reserve(this.#connection);
    const state = this.#state();
    const appended = this.#mustReplace ? [...this.outbox.entries] : this.outbox.unsaved();
    const saved = this.#saved;
    const isNews = saved === null || Object.keys(state).some((key) => state[key] !== saved[key]);
    if (!isNews && !appended.length && !this.#mustReplace) return null;
    const changes = { state, appended, replace: this.#mustReplace, revision: this.#revision };
    this.#mustReplace = false;
    return changes;
  }

  /** The store has lost what it had: all of it is to be saved anew. */
  saveAnew() {
    this.#renumbered();
  }

  /** The changes are saved: what they say may be told. */
  markSaved({ state, appended, revision }) {
    if (revision !== this.#revision) return;
    this.#saved = state;
    this.outbox.markSaved(appended.at(-1)?.seq ?? 0, state.carried);
  }

  #state() {
    return {
      token: this.token,
      consumed: this.#tellable(),
      settled: this.outbox.settled,
      carried: this.outbox.carried,
      ...(this.#refused.ranges.length ? { rejected: this.#refused.ranges } : {}),
    };
  }

  /** How far our consuming may be told once it is saved: not beyond a refused message that only its REJECT tells of. */
  #tellable() {
    const untold = [...this.#rejects.keys()].filter((seq) => !this.#refused.has(seq));
    return Math.min(this.inbox.consumed, ...untold.map((seq) => seq - 1));
  }

  // --- to the gateway ---

  /** The records to send now; ACK and REJECT only if `acknowledge`, so that the caller can gather them. */
  take(acknowledge) {
    if (this.isOver && this.ending.record && !this.#closeSent) {
      this.#closeSent = true;
      return [this.ending.record];
    }
    if (!this.isOpen || this.#closeSent) return [];
    const records = this.#auths.take();
    const closes = this.ending !== null && this.isSettled;
    if (acknowledge || closes) {
      records.push(...this.#rejects.values());
      this.#rejects.clear();
      const consumed = this.#saved?.consumed ?? 0;
      if (consumed > this.#acked) {
        this.#acked = consumed;
        records.push(encodeRecord(RecordType.ACK, CONSUMED, consumed));
      }
    }
    records.push(...this.outbox.take());
    if (closes) {
      this.#closeSent = true;
      records.push(this.ending.record);
    }
    return records;
  }
}

/** A message as it was when its session ended; sent again it gets another number. */
function copied(entry) {
  return { ...entry };
}
