// A session without I/O, and what its tests say to it.

import assert from "node:assert/strict";

import { encodeRecord, parseRecord, ProtocolViolation, RecordType, Session } from "./subject.mjs";

export const { OPENED, DATA, ACK, REJECT, CLOSE } = RecordType;
export const TEXT = 1;
export const MORE = 2;

export const bytes = (value) => new TextEncoder().encode(value);
export const record = (type, flags, seq, body) => encodeRecord(type, flags, seq, body).buffer;
export const json = (type, seq, body) => record(type, 0, seq, bytes(JSON.stringify(body)));
export const parsed = (sent) => {
  const { type, flags, seq, body } = parseRecord(sent.slice().buffer);
  return { type, flags, seq, body: new TextDecoder().decode(body) };
};
export const opened = (seq = 0, more = {}) =>
  json(OPENED, seq, { session: "token", resumed: false, settles_at: "consumed", ...more });

/** Saves at once and takes all; the records as [type, flags, seq]. */
export function turn(session, acknowledge = true) {
  const records = [];
  for (;;) {
    const changes = session.changes();
    if (changes) session.markSaved(changes);
    const taken = session.take(acknowledge).map(parsed);
    if (!taken.length) return records.map(({ type, flags, seq }) => [type, flags, seq]);
    records.push(...taken);
  }
}

export function facts(session) {
  const all = [];
  for (let fact = session.nextFact(); fact; fact = session.nextFact()) all.push(fact);
  return all;
}

/** An open session. */
export function open(settings = {}, more = {}) {
  const session = new Session(settings);
  session.attach();
  session.receive(opened(0, more));
  assert.deepEqual(
    facts(session).map(({ type }) => type),
    ["opened"],
  );
  return session;
}

export function append(session, ...texts) {
  return texts.map((each) => session.append(true, bytes(each)));
}

export function resume(session, position, more = {}) {
  session.detach();
  session.attach();
  session.receive(opened(position, { resumed: true, ...more }));
}

/** The fault that the session ended with. */
export function fault(session) {
  assert.ok(session.isOver, "the session goes on");
  const { fault: found } = facts(session).find(({ type }) => type === "fault");
  assert.ok(found instanceof ProtocolViolation);
  return found;
}

/** OPEN, as the gateway reads it. */
export function parsedOpen(sent) {
  const header = new DataView(sent.buffer);
  const body = JSON.parse(new TextDecoder().decode(sent.subarray(10)));
  return { type: header.getUint8(0), seq: Number(header.getBigUint64(2)), body };
}
