// The test vectors of docs/protocol.md, as far as they concern what a gateway sends to a client.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { encodeRecord, parseRecord, RecordType, Session } from "./subject.mjs";

// The highest sequence number is not exact as a JavaScript number; as text it is.
const source = readFileSync(new URL("../../docs/vectors/records.json", import.meta.url), "utf8");
const vectors = JSON.parse(source.replace(/"seq": (\d+)/g, '"seq": "$1"'));
const buffer = (hex) => Uint8Array.from(Buffer.from(hex, "hex")).buffer;

for (const { name, type, flags, seq, body_hex: body, websocket_hex: hex } of vectors.valid) {
  if (!hex) continue;
  test(`valid: ${name}`, () => {
    const encoded = encodeRecord(type, flags, seq, new Uint8Array(buffer(body)));
    assert.equal(Buffer.from(encoded).toString("hex"), hex);
    if (type === RecordType.OPEN) return; // only clients send it
    if (!Number.isSafeInteger(Number(seq))) {
      assert.throws(() => parseRecord(buffer(hex)), { message: /sequence number/ });
      return;
    }
    const record = parseRecord(buffer(hex));
    assert.deepEqual([record.type, record.flags, String(record.seq)], [type, flags, seq]);
    assert.equal(Buffer.from(record.body).toString("hex"), body);
  });
}

for (const { name, websocket_hex: hex, because } of vectors.invalid) {
  if (!hex) continue;
  test(`invalid: ${name}`, () => {
    assert.throws(() => parseRecord(buffer(hex)), { name: "ProtocolViolation", message: new RegExp(because) });
  });
}

for (const { name, type, body, because } of vectors.invalid_bodies) {
  if (type === "OPEN") continue;
  test(`invalid body: ${name}`, () => {
    const session = new Session();
    session.append(false, new Uint8Array(1));
    session.attach();
    const opened = JSON.stringify({ session: "token", resumed: false, settles_at: "consumed" });
    if (type !== "OPENED") session.receive(encodeRecord(RecordType.OPENED, 0, 0, Buffer.from(opened)).buffer);
    session.changes();
    session.receive(encodeRecord(RecordType[type], 0, type === "REJECT" ? 1 : 0, Buffer.from(body)).buffer);
    const facts = [];
    for (let fact = session.nextFact(); fact; fact = session.nextFact()) facts.push(fact);
    const { fault } = facts.find((fact) => fact.type === "fault");
    assert.match(fault.message, new RegExp(because));
  });
}
