// The record protocol without I/O: what Session takes and refuses, sends and sends again.

import assert from "node:assert/strict";
import { test } from "node:test";

import {
  ACK,
  append,
  bytes,
  CLOSE,
  DATA,
  facts,
  fault,
  json,
  MORE,
  open,
  OPENED,
  opened,
  parsedOpen,
  record,
  REJECT,
  resume,
  TEXT,
  turn,
} from "./sessions.mjs";
import { encodeRecord, parseRecord, ProtocolViolation, RecordType, Session } from "./subject.mjs";

// --- records ---------------------------------------------------------------------------------------------------

test("a record is its type, flags and 64-bit number, and the body", () => {
  assert.equal(Buffer.from(encodeRecord(DATA, TEXT, 258, bytes("é"))).toString("hex"), "03010000000000000102c3a9");
  const largest = encodeRecord(ACK, 4, Number.MAX_SAFE_INTEGER);
  assert.equal(parseRecord(largest.buffer).seq, 2 ** 53 - 1);
});

for (const [why, message, expected] of [
  ["text", "hello", /text message/],
  ["no header", new ArrayBuffer(9), /9 bytes/],
  ["a number beyond 2^53-1", encodeRecord(ACK, 4, 2n ** 53n).buffer, /sequence number/],
  ["an unknown type", record(10, 0, 0), /record type 10/],
  ["OPEN", json(RecordType.OPEN, 0, {}), /OPEN from the gateway/],
  ["PING", record(7, 0, 0, bytes("x")), /PING from the gateway/],
  ["DATA 0", record(DATA, 0, 0), /sequence number 0/],
  ["DATA with unknown flags", record(DATA, 4, 1), /flags 4/],
  ["DATA that is too long", record(DATA, 0, 1, new Uint8Array(2 ** 20 + 1)), /1048577 bytes/],
  ["ACK of no rung", record(ACK, 0, 1), /rung 0/],
  ["ACK of rung 5", record(ACK, 5, 1), /rung 5/],
  ["ACK with a body", record(ACK, 4, 1, bytes("x")), /a body of 1/],
  ["REJECT 0", json(REJECT, 0, { code: 4000 }), /sequence number 0/],
  ["REJECT with flags", record(REJECT, 1, 1, bytes("{}")), /flags 1/],
  ["CLOSE with a number", json(CLOSE, 1, { code: 1000 }), /sequence number 1/],
  ["CLOSE that is too long", json(CLOSE, 0, { code: 1000, reason: "x".repeat(65536) }), /at most 65536/],
]) {
  test(`refused as a record: ${why}`, () => {
    assert.throws(() => parseRecord(message), { name: "ProtocolViolation", message: expected });
    const session = open();
    session.receive(message);
    assert.match(fault(session).message, expected);
  });
}

test("any bytes are a record or a ProtocolViolation", () => {
  let state = 1;
  const next = () => (state = (Math.imul(state, 1103515245) + 12345) >>> 0) >>> 16;
  for (let run = 0; run < 20_000; run += 1) {
    const message = new Uint8Array(next() % 40).map(() => next());
    if (message.length) message[0] = next() % 10;
    if (message.length > 9 && next() % 2) message.fill(0, 2, 9);
    const session = open();
    append(session, "a", "b");
    turn(session);
    session.receive(message.buffer);
    for (const fact of facts(session)) assert.ok(fact.type);
  }
});

// --- opening ---------------------------------------------------------------------------------------------------

test("OPEN names the windows and the receipts, and no session before there is one", () => {
  const session = new Session({ receipts: ["reached"], windowMessages: 3, windowBytes: 50 });
  const { type, seq, body } = parsedOpen(session.attach());
  assert.deepEqual([type, seq], [1, 0]);
  assert.deepEqual(body, { receipts: ["reached"], window_messages: 3, window_bytes: 50 });
});

test("nothing goes out before OPENED", () => {
  const session = new Session();
  append(session, "early");
  session.attach();
  assert.deepEqual(turn(session), []);
  session.receive(opened());
  assert.deepEqual(turn(session), [[DATA, TEXT, 1]]);
});

for (const [key, value] of [
  ["session", ""],
  ["session", "a b"],
  ["session", 7],
  ["resumed", 1],
  ["settles_at", "delivered"],
  ["settles_at", ""],
  ["window_messages", 0],
  ["window_bytes", 1.5],
  ["window_bytes", 2 ** 53],
  ["message_bytes", -1],
  ["grace_seconds", -1],
  ["grace_seconds", "long"],
  ["report", []],
  ["report", { upstream: {}, downstream: {} }],
  ["report", { upstream: { settled: 0, unknown: [2, 1] }, downstream: { settled: 0 } }],
  ["report", { upstream: { settled: 0, never_forwarded: [1] }, downstream: { settled: 0 } }],
]) {
  test(`refused in OPENED: ${key} ${JSON.stringify(value)}`, () => {
    const session = new Session();
    session.attach();
    session.receive(opened(0, { [key]: value }));
    assert.match(fault(session).message, new RegExp(key));
  });
}

for (const body of ["", "[]", "null", "{", "\uD800"]) {
  test(`refused as OPENED's body: ${JSON.stringify(body)}`, () => {
    const session = new Session();
    session.attach();
    session.receive(record(OPENED, 0, 0, body === "\uD800" ? new Uint8Array([0xed, 0xa0, 0x80]) : bytes(body)));
    assert.match(fault(session).message, /OPENED body/);
  });
}

test("keys that are not known are ignored", () => {
  const session = open({}, { novelty: { any: "thing" } });
  assert.ok(session.isOpen);
});

test("a session that nobody asked for is not resumed", () => {
  const session = new Session();
  session.attach();
  session.receive(opened(0, { resumed: true }));
  assert.match(fault(session).message, /none was asked for/);
});

test("a new session begins at 0", () => {
  const session = new Session();
  session.attach();
  session.receive(opened(3));
  assert.match(fault(session).message, /OPENED at 3/);
});

test("only OPENED and CLOSE answer OPEN, and OPENED comes once", () => {
  const early = new Session();
  early.attach();
  early.receive(record(ACK, 4, 0));
  assert.match(fault(early).message, /ACK before OPENED/);
  const twice = open();
  twice.receive(opened());
  assert.match(fault(twice).message, /OPENED in an open session/);
});

test("an answer that names a passing state ends the attempt, any other the session", () => {
  const busy = new Session();
  busy.attach();
  busy.receive(json(CLOSE, 0, { code: 1013, reason: "overload" }));
  assert.deepEqual(facts(busy), [{ type: "refused", code: 1013, reason: "overload" }]);
  assert.ok(!busy.isOver);
  const refused = new Session();
  refused.attach();
  refused.receive(json(CLOSE, 0, { code: 4003, reason: "not you" }));
  assert.ok(refused.isOver);
});

// --- windows ---------------------------------------------------------------------------------------------------

test("no more messages leave than the window has room for", () => {
  const session = open({}, { window_messages: 2 });
  append(session, "a", "b", "c", "d");
  assert.deepEqual(turn(session), [[DATA, TEXT, 1], [DATA, TEXT, 2]]);
  assert.deepEqual(turn(session), []);
  session.receive(record(ACK, 4, 1));
  assert.deepEqual(turn(session), [[DATA, TEXT, 3]]);
  assert.ok(!session.outbox.hasRoom);
});

test("no more bytes leave than the window has room for, but one message always does", () => {
  const session = open({}, { window_bytes: 4 });
  append(session, "aaaaaa", "bb", "cc", "d");
  assert.deepEqual(turn(session), [[DATA, TEXT, 1]]);
  session.receive(record(ACK, 4, 1));
  assert.deepEqual(turn(session), [[DATA, TEXT, 2], [DATA, TEXT, 3]]);
});

test("a rejected message gives its place in the window back", () => {
  const session = open({}, { window_messages: 2 });
  append(session, "a", "b", "c");
  turn(session);
  session.receive(json(REJECT, 2, { code: 4000, reason: "no" }));
  assert.deepEqual(turn(session), [[DATA, TEXT, 3]]);
});

test("what is settled gives its bytes back", () => {
  const session = open({}, { window_bytes: 4 });
  append(session, "aaaa");
  assert.ok(!session.outbox.hasRoom);
  turn(session);
  session.receive(record(ACK, 4, 1));
  assert.ok(session.outbox.hasRoom);
  assert.deepEqual([session.outbox.unsettledBytes, session.outbox.unsentBytes, session.outbox.waitingBytes], [0, 0, 0]);
});

test("what is settled before it was sent again need not be sent again", () => {
  const session = open();
  append(session, "aa", "bb", "cc");
  turn(session);
  resume(session, 0, { window_messages: 1 });
  assert.deepEqual(turn(session), [[DATA, TEXT, 1]]);
  session.receive(record(ACK, 4, 2));
  assert.equal(session.outbox.unsentBytes, 2);
  assert.deepEqual(turn(session), [[DATA, TEXT, 3]]);
  assert.equal(session.outbox.unsentBytes, 0);
});

test("a gateway that exceeds our window is stopped", () => {
  const messages = open({ windowMessages: 1 });
  messages.receive(record(DATA, 0, 1));
  messages.receive(record(DATA, 0, 2));
  assert.equal(fault(messages).code, 1008);
  const large = open({ windowBytes: 3 });
  large.receive(record(DATA, 0, 1, bytes("12345")));
  large.receive(record(DATA, 0, 2));
  assert.equal(fault(large).code, 1008);
});

// --- sending ---------------------------------------------------------------------------------------------------

test("a long message leaves in fragments of 64 KiB", () => {
  const session = open({}, { message_bytes: null });
  session.append(false, new Uint8Array(2 * 65536));
  session.append(false, new Uint8Array(0));
  assert.deepEqual(turn(session), [[DATA, MORE, 1], [DATA, 0, 1], [DATA, 0, 2]]);
});

test("an ACK settles all up to its number, and resolves each once", () => {
  const session = open();
  append(session, "a", "b", "c");
  turn(session);
  session.receive(record(ACK, 4, 2));
  session.receive(record(ACK, 4, 1));
  assert.deepEqual(
    facts(session).map(({ type, seq, entry, rung }) => [type, seq ?? entry.seq, rung]),
    [["settled", 1, "consumed"], ["settled", 2, "consumed"], ["receipt", 2, "consumed"]],
  );
  assert.equal(session.outbox.settled, 2);
});

test("a lower rung is a receipt and settles nothing; the settling rung may be a lower one", () => {
  const consumed = open();
  append(consumed, "a");
  turn(consumed);
  consumed.receive(record(ACK, 3, 1));
  assert.deepEqual(facts(consumed), [{ type: "receipt", seq: 1, rung: "reached" }]);
  assert.equal(consumed.rungOf(1), "reached");
  const reached = open({}, { settles_at: "reached" });
  append(reached, "a");
  turn(reached);
  reached.receive(record(ACK, 3, 1));
  assert.deepEqual(
    facts(reached).map(({ type }) => type),
    ["settled", "receipt"],
  );
});

test("an ACK or REJECT beyond what was sent is a violation", () => {
  for (const message of [record(ACK, 4, 2), record(ACK, 1, 2), json(REJECT, 2, { code: 4000, reason: "" })]) {
    const session = open();
    append(session, "a");
    turn(session);
    session.receive(message);
    assert.match(fault(session).message, /2, expected at most 1/);
  }
});

test("a REJECT settles one message; those before it still have to be", () => {
  const session = open();
  append(session, "a", "b", "c");
  turn(session);
  session.receive(json(REJECT, 2, { code: 4000, reason: "bad" }));
  session.receive(json(REJECT, 2, { code: 4000, reason: "again" }));
  const [rejected, ...rest] = facts(session);
  assert.deepEqual([rejected.type, rejected.entry.seq, rejected.code, rejected.reason], ["rejected", 2, 4000, "bad"]);
  assert.deepEqual(rest, []);
  assert.equal(session.outbox.settled, 0);
  session.receive(record(ACK, 4, 1));
  assert.equal(session.outbox.settled, 2, "the rejected one is passed over");
  assert.deepEqual(
    facts(session).filter(({ type }) => type === "settled").map(({ entry }) => entry.seq),
    [1],
  );
});

test("a message that is too big is dropped as soon as the limit is known, and the others close up", () => {
  const session = new Session();
  append(session, "a", "long", "b");
  session.attach();
  session.receive(opened(0, { message_bytes: 2 }));
  const [, dropped] = facts(session);
  assert.deepEqual([dropped.type, dropped.entry.seq, dropped.limit], ["too big", 2, 2]);
  const changes = session.changes();
  assert.ok(changes.replace);
  assert.deepEqual(changes.appended.map(({ seq }) => seq), [1, 2]);
  session.markSaved(changes);
  assert.deepEqual(turn(session), [[DATA, TEXT, 1], [DATA, TEXT, 2]]);
});

// --- resuming --------------------------------------------------------------------------------------------------

test("a resume settles up to the gateway's position and sends the rest again", () => {
  const session = open();
  append(session, "a", "b", "c");
  turn(session);
  append(session, "new");
  resume(session, 1);
  assert.deepEqual(facts(session), [{ type: "resumed", replayed: 2, duplicates: 0 }]);
  session.confirm();
  const [settled] = facts(session);
  assert.deepEqual([settled.type, settled.entry.seq, settled.rung], ["settled", 1, "consumed"]);
  assert.deepEqual(turn(session), [[DATA, TEXT, 2], [DATA, TEXT, 3], [DATA, TEXT, 4]]);
});

test("a REJECT that was lost with its connection comes again behind OPENED, in time", () => {
  const session = open();
  append(session, "a", "b", "c");
  turn(session);
  resume(session, 2);
  session.receive(json(REJECT, 2, { code: 4000, reason: "no" }));
  session.receive(record(ACK, 4, 3));
  assert.deepEqual(
    facts(session).map(({ type, entry }) => [type, entry?.seq]),
    [["resumed", undefined], ["rejected", 2], ["settled", 1], ["settled", 3], ["receipt", undefined]],
  );
});

test("a rejected message is sent again with the others, because numbers have no gap", () => {
  const session = open();
  append(session, "a", "b", "c");
  turn(session);
  session.receive(json(REJECT, 2, { code: 4000, reason: "" }));
  resume(session, 0);
  assert.deepEqual(turn(session), [[DATA, TEXT, 1], [DATA, TEXT, 2], [DATA, TEXT, 3]]);
});

test("a position that cannot be is a violation", () => {
  for (const position of [0, 3]) {
    const session = open();
    append(session, "a", "b", "c");
    const changes = session.changes();
    session.markSaved(changes);
    session.receive(record(ACK, 4, 1));
    session.outbox.carried = 2;
    facts(session);
    for (let times = 0; position === 0 && times < 4; times += 1) {
      resume(session, position);
      assert.deepEqual(facts(session).map(({ type, code }) => [type, code]), [["refused", 1013]]);
      assert.equal(session.isOpen, false);
    }
    resume(session, position);
    assert.match(fault(session).message, /expected 1 to 2/);
  }
});

test("a gateway that is behind, because another one had the session, is left", () => {
  const session = open();
  append(session, "a", "b");
  turn(session);
  session.receive(record(ACK, 4, 1));
  facts(session);
  for (let rounds = 0; rounds < 2; rounds += 1) {
    for (let times = 0; times < 4; times += 1) {
      resume(session, 0);
      assert.deepEqual(facts(session).map(({ type, code }) => [type, code]), [["refused", 1013]]);
    }
    resume(session, 1);
    assert.ok(session.isOpen);
    assert.deepEqual(turn(session), [[DATA, TEXT, 2]]);
    facts(session);
  }
});

test("a session resumes any number of times, before the first message too", () => {
  const session = open();
  for (let times = 0; times < 5; times += 1) resume(session, 0);
  append(session, "a");
  for (let times = 0; times < 5; times += 1) {
    resume(session, 0);
    assert.deepEqual(turn(session), [[DATA, TEXT, 1]]);
  }
});

test("OPEN tells how far was consumed, and what comes again is dropped", () => {
  const session = open();
  for (const seq of [1, 2, 3]) session.receive(record(DATA, TEXT, seq, bytes("x")));
  session.consume(1);
  session.consume(3);
  turn(session);
  session.detach();
  const { seq, body } = parsedOpen(session.attach());
  assert.deepEqual([seq, body.session], [1, "token"]);
  facts(session);
  session.receive(opened(0, { resumed: true }));
  assert.deepEqual(facts(session), [{ type: "resumed", replayed: 0, duplicates: 2 }]);
  session.receive(record(DATA, TEXT, 2, bytes("x")));
  session.receive(record(DATA, TEXT, 3, bytes("x")));
  assert.deepEqual(facts(session), []);
  assert.equal(session.inbox.duplicates, 2);
  session.consume(2);
  assert.deepEqual(turn(session), [[ACK, 4, 3]]);
});

test("an interrupted message is put together anew", () => {
  const session = open();
  session.receive(record(DATA, TEXT | MORE, 1, bytes("lost ")));
  resume(session, 0);
  session.receive(record(DATA, TEXT | MORE, 1, bytes("kept ")));
  session.receive(record(DATA, TEXT, 1, bytes("whole")));
  assert.equal(facts(session).at(-1).data, "kept whole");
});
