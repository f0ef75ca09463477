// The record protocol without I/O: what Session receives, saves, and tells of its end.

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
  opened,
  parsed,
  parsedOpen,
  record,
  REJECT,
  resume,
  TEXT,
  turn,
} from "./sessions.mjs";
import { Session } from "./subject.mjs";

// --- a session that is gone ------------------------------------------------------------------------------------

const REPORT = {
  upstream: { settled: 1, unknown: [2, 3], never_forwarded: [4, 4] },
  downstream: { settled: 0, unknown: null, never_forwarded: null },
};

function forgotten(settings, report = REPORT, more = {}) {
  const session = open(settings, more);
  append(session, "a", "b", "c", "d", "e");
  turn(session);
  append(session, "f");
  session.detach();
  session.attach();
  session.receive(opened(0, { session: "fresh", report, ...more }));
  return session;
}

const labels = (entries) => entries.map(({ data }) => new TextDecoder().decode(data)).join("");

test("the report tells each message's fate; what was never forwarded is sent in the new session", () => {
  const session = forgotten({}, REPORT, { settles_at: "reached" });
  const [settled, lost, begun] = facts(session);
  assert.equal(settled.entry.seq, 1);
  assert.deepEqual([labels(lost.unknown), labels(lost.neverForwarded)], ["bc", ""]);
  assert.equal(begun.type, "opened");
  assert.deepEqual(session.outbox.entries.map(({ seq }) => seq), [1, 2, 3]);
  assert.equal(labels(session.outbox.entries), "def", "e was sent, but its gateway never had it");
  assert.deepEqual(turn(session).map(([, , seq]) => seq), [1, 2, 3]);
});

test("where sessions move, what the report does not reach is unknown", () => {
  const session = forgotten({});
  const lost = facts(session)[1];
  assert.equal(labels(lost.unknown), "bce");
  assert.equal(labels(session.outbox.entries), "df");
});

test("without a report all that was sent is unknown", () => {
  const session = forgotten({}, null);
  const [lost] = facts(session);
  assert.equal(labels(lost.unknown), "abcde");
  assert.equal(labels(session.outbox.entries), "f");
});

test("resend none gives all back, resend all sends all again", () => {
  const [, none] = facts(forgotten({ resend: "none" }));
  assert.deepEqual([labels(none.unknown), labels(none.neverForwarded)], ["bce", "df"]);
  const all = forgotten({ resend: "all" });
  assert.equal(labels(facts(all)[1].unknown), "");
  assert.equal(labels(all.outbox.entries), "bcedf");
});

test("in the new session the gateway's messages are numbered from 1 again", () => {
  const session = open();
  session.receive(record(DATA, 0, 1));
  session.detach();
  session.attach();
  session.receive(opened(0, { session: "fresh" }));
  facts(session);
  session.receive(record(DATA, 0, 1));
  assert.equal(facts(session)[0].seq, 1);
});

// --- receiving -------------------------------------------------------------------------------------------------

test("text and binary messages come whole, text as strings with its U+FEFF", () => {
  const session = open();
  session.receive(record(DATA, TEXT, 1, bytes("\uFEFFどやさ")));
  session.receive(record(DATA, 0, 2, bytes("abc")));
  const [text, binary] = facts(session);
  assert.deepEqual([text.seq, text.text, text.data], [1, true, "\uFEFFどやさ"]);
  assert.deepEqual([binary.seq, binary.text, [...binary.data]], [2, false, [97, 98, 99]]);
});

test("text may be cut inside a character, but must be UTF-8", () => {
  const [first, second, third] = bytes("書");
  const session = open();
  session.receive(record(DATA, TEXT | MORE, 1, new Uint8Array([first])));
  session.receive(record(DATA, TEXT, 1, new Uint8Array([second, third])));
  assert.equal(facts(session)[0].data, "書");
  session.receive(record(DATA, TEXT, 2, new Uint8Array([first])));
  assert.equal(fault(session).code, 1007);
});

test("a gap, and a message that changes its kind, are violations", () => {
  const gap = open();
  gap.receive(record(DATA, 0, 2));
  assert.match(fault(gap).message, /DATA 2 after message 0/);
  const kind = open();
  kind.receive(record(DATA, MORE, 1));
  kind.receive(record(DATA, TEXT, 1));
  assert.match(fault(kind).message, /fragment/);
});

test("a message larger than the limit is rejected without being kept", () => {
  const session = open({ messageBytes: 4 });
  session.receive(record(DATA, MORE, 1, bytes("123")));
  session.receive(record(DATA, MORE, 1, bytes("456")));
  session.receive(record(DATA, 0, 1, bytes("789")));
  session.receive(record(DATA, 0, 2, bytes("ok")));
  session.consume(2);
  assert.deepEqual(facts(session).map(({ seq }) => seq), [2]);
  assert.deepEqual(turn(session), [[REJECT, 0, 1], [ACK, 4, 2]]);
});

test("what is consumed is acknowledged once all before it is, and only when asked for", () => {
  const session = open();
  for (const seq of [1, 2, 3]) session.receive(record(DATA, 0, seq));
  session.consume(2);
  assert.deepEqual(turn(session), []);
  session.consume(1);
  session.consume(1);
  session.consume(7);
  assert.deepEqual(turn(session, false), []);
  assert.deepEqual(turn(session), [[ACK, 4, 2]]);
  assert.deepEqual(turn(session), []);
});

test("a message whose REJECT has not left is told by OPEN as refused", () => {
  const session = open();
  for (const seq of [1, 2]) session.receive(record(DATA, 0, seq));
  session.consume(1);
  turn(session);
  session.reject(2, 4000, "no");
  const changes = session.changes();
  if (changes) session.markSaved(changes);
  session.detach();
  const { seq, body } = parsedOpen(session.attach());
  assert.deepEqual([seq, body.rejected], [2, [[2, 2, 4000, "no"]]]);
  session.receive(opened(0, { resumed: true }));
  assert.deepEqual(turn(session), [[REJECT, 0, 2]]);
});

// --- saving before telling -------------------------------------------------------------------------------------

test("a message leaves only when it was saved, and that it may have left", () => {
  const session = open();
  append(session, "a");
  const changes = session.changes();
  assert.deepEqual(session.take(true), []);
  assert.equal(changes.state.carried, 1);
  assert.deepEqual(changes.appended.map(({ seq }) => seq), [1]);
  session.markSaved(changes);
  assert.equal(session.take(true).length, 1);
  assert.equal(session.changes(), null);
});

test("only what was saved as consumed is told", () => {
  const session = open();
  turn(session);
  session.receive(record(DATA, 0, 1));
  session.consume(1);
  const changes = session.changes();
  assert.deepEqual(session.take(true), []);
  session.detach();
  assert.equal(parsedOpen(session.attach()).seq, 0);
  session.markSaved(changes);
  session.receive(opened(0, { resumed: true }));
  assert.deepEqual(turn(session), [[ACK, 4, 1]]);
});

test("a save that was under way when numbers changed does not count", () => {
  const session = open();
  append(session, "a", "a", "a");
  const stale = session.changes();
  session.detach();
  session.attach();
  session.receive(opened(0, { session: "fresh" }));
  append(session, "b");
  session.markSaved(stale);
  assert.deepEqual(session.take(true), []);
  const changes = session.changes();
  assert.deepEqual([changes.replace, changes.state.token, changes.appended.length], [true, "fresh", 1]);
  session.markSaved(changes);
  append(session, "c");
  assert.deepEqual(session.changes().appended.map(({ seq }) => seq), [2]);
});

test("a stored session goes on where it was", () => {
  const messages = [2, 3, 4].map((seq) => ({ seq, text: true, data: bytes("x") }));
  const session = new Session({}, { token: "kept", consumed: 5, settled: 1, carried: 3, messages });
  const { seq, body } = parsedOpen(session.attach());
  assert.deepEqual([seq, body.session], [5, "kept"]);
  session.receive(opened(2, { session: "kept", resumed: true }));
  assert.deepEqual(facts(session).at(-1), { type: "resumed", replayed: 1, duplicates: 0 });
  assert.deepEqual(turn(session), [[DATA, TEXT, 3], [DATA, TEXT, 4]]);
});

test("a store with a gap is refused", () => {
  const messages = [{ seq: 3, text: true, data: bytes("x") }];
  const stored = { token: "kept", consumed: 0, settled: 1, carried: 3, messages };
  assert.throws(() => new Session({}, stored), { name: "StoreFailed", message: /message 3 after 1/ });
});

// --- ending ----------------------------------------------------------------------------------------------------

test("our CLOSE goes behind the last settlement, and the last ACK before it", () => {
  const session = open();
  append(session, "a");
  session.receive(record(DATA, 0, 1));
  session.consume(1);
  session.close(1000, "done");
  assert.deepEqual(turn(session, false), [[DATA, TEXT, 1]]);
  session.receive(record(ACK, 4, 1));
  assert.deepEqual(turn(session, false), [[ACK, 4, 1], [CLOSE, 0, 0]]);
  assert.ok(session.hasClosed);
});

test("the answer to our CLOSE leaves our reason", () => {
  const session = open();
  session.close(4000, "done");
  turn(session);
  session.receive(json(CLOSE, 0, { code: 4000, reason: "" }));
  const ended = facts(session).at(-1);
  assert.deepEqual([ended.code, ended.reason, ended.byPeer], [4000, "done", true]);
});

test("the gateway's CLOSE ends the session with its report", () => {
  const session = open({}, { settles_at: "reached" });
  append(session, "a", "b", "c", "d", "e");
  turn(session);
  session.receive(json(CLOSE, 0, { code: 4000, reason: "enough", report: REPORT }));
  const [settled, lost, ended] = facts(session);
  assert.equal(settled.entry.seq, 1);
  assert.deepEqual([labels(lost.unknown), labels(lost.neverForwarded)], ["bc", "de"]);
  assert.deepEqual([ended.code, ended.reason, ended.byPeer], [4000, "enough", true]);
  assert.deepEqual(turn(session), []);
  session.receive(record(ACK, 4, 5));
  assert.deepEqual(facts(session), []);
});

test("a violation is answered with a CLOSE that says what was wrong", () => {
  const session = open();
  session.receive(record(DATA, 0, 5));
  const [sent, ...none] = session.take(true).map(parsed);
  assert.deepEqual(JSON.parse(sent.body), { code: 1002, reason: "DATA 5 after message 0, expected 1" });
  assert.deepEqual(none, []);
  assert.deepEqual(session.take(true), []);
});

for (const body of [{}, { code: 999 }, { code: 5000 }, { code: "1000" }, { code: 1000, reason: 7 }]) {
  test(`refused as CLOSE's and REJECT's body: ${JSON.stringify(body)}`, () => {
    for (const message of [json(CLOSE, 0, body), json(REJECT, 1, body)]) {
      const session = open();
      append(session, "a");
      turn(session);
      session.receive(message);
      assert.match(fault(session).message, /body: (code|reason)/);
    }
  });
}

// --- a REJECT that was lost together with its ACK ---------------------------------------------------------------

test("OPENED tells what was rejected before", () => {
  const session = open();
  append(session, "taken", "refused", "under way");
  turn(session);
  resume(session, 2, { rejected: [[2, 2, 4022, "no such room"]] });
  session.confirm();
  const told = facts(session).map(({ type, entry, code, reason }) => [type, entry?.seq, code, reason]);
  assert.deepEqual(told.filter(([type]) => type !== "resumed"), [
    ["rejected", 2, 4022, "no such room"],
    ["settled", 1, undefined, undefined],
  ]);
  assert.deepEqual(session.outbox.entries.map(({ seq }) => seq), [3]);
});

test("a loss report tells what was rejected before", () => {
  const upstream = { settled: 2, unknown: [3, 3], never_forwarded: null, rejected: [[1, 1, 4000, ""]] };
  const session = open();
  append(session, "refused", "taken", "unknown");
  turn(session);
  session.receive(json(CLOSE, 0, { code: 1000, report: { ...REPORT, upstream } }));
  const told = facts(session).map(({ type, entry }) => [type, entry?.seq]);
  assert.deepEqual(told.slice(0, 2), [["rejected", 1], ["settled", 2]]);
});

test("rejecting what was never sent is a fault", () => {
  const session = open();
  resume(session, 0, { rejected: [[1, 1, 4000, ""]] });
  assert.match(fault(session).message, /message 1 rejected, expected at most 0/);
});

test("OPEN tells what was refused here before, also after a reload of the page", () => {
  const session = open();
  session.receive(record(DATA, TEXT, 1, bytes("x")));
  session.receive(record(DATA, TEXT, 2, bytes("y")));
  facts(session);
  session.reject(1, 4022, "no");
  session.consume(2);
  const { state } = session.changes();
  assert.deepEqual(state.rejected, [[1, 1, 4022, "no"]]);
  session.markSaved({ state, appended: [], revision: 0 });
  assert.equal(session.changes(), null, "nothing new is to be saved");
  assert.deepEqual(session.take(true).map(parsed).map(({ type }) => type), [REJECT, ACK]);
  session.detach(); // and both were lost
  for (const one of [session, new Session({}, { ...state, messages: [] })]) {
    const { seq, body } = parsedOpen(one.attach());
    assert.deepEqual([seq, body.rejected], [2, [[1, 1, 4022, "no"]]]);
  }
});

test("what was refused ahead of its turn is not given again after a reload of the page", () => {
  const session = new Session({}, { token: "token", consumed: 0, settled: 0, carried: 0, rejected: [[2, 2, 4000, ""]] });
  session.attach();
  session.receive(opened(0, { resumed: true }));
  for (const seq of [1, 2, 3]) session.receive(record(DATA, TEXT, seq, bytes("x")));
  assert.deepEqual(facts(session).filter(({ type }) => type === "message").map(({ seq }) => seq), [1, 3]);
  session.consume(1);
  assert.equal(session.inbox.consumed, 2);
});

test("refusals are remembered for a window of messages, of 1024 at the least, and no more than fit", () => {
  const session = open({ windowMessages: 600 });
  for (let seq = 1; seq <= 1200; seq += 1) {
    session.receive(record(DATA, TEXT, seq, bytes("x")));
    session.reject(seq, 4000 + (seq % 2), seq <= 1200 - 1024 ? "gone by then" : "x".repeat(1000));
  }
  const { rejected } = session.changes().state;
  assert.ok(JSON.stringify(rejected).length <= 24 * 1024);
  assert.deepEqual([rejected[0].slice(0, 3), rejected.at(-1)[3].length], [[177, 177, 4001], 1000]);
});
