/** The records of `kakitome.v1` as bytes, and the checked JSON bodies of those that have one (docs/protocol.md). */

import { ProtocolViolation } from "./errors.js";
import { cut, decoder, encoder } from "./text.js";

export const SUBPROTOCOL = "kakitome.v1";
const HEADER_BYTES = 10;
export const FRAGMENT_BYTES = 64 * 1024;
const MAX_BODY_BYTES = 1024 * 1024;
const MAX_JSON_BYTES = 64 * 1024;
export const MAX_CLOSE_REASON_BYTES = 123;
export const MAX_REJECT_REASON_BYTES = 1024;
const MAX_REASON_BYTES = { CLOSE: MAX_CLOSE_REASON_BYTES, REJECT: MAX_REJECT_REASON_BYTES };
export const DEFAULT_WINDOW_MESSAGES = 1024;
export const DEFAULT_WINDOW_BYTES = 4 * 1024 * 1024;

export const TEXT_FLAG = 0x01;
export const MORE_FLAG = 0x02;

/** The records' types by name; the values are those on the wire. PING and PONG (7, 8) exist on TCP only. */
export const RecordType = Object.freeze({ OPEN: 1, OPENED: 2, DATA: 3, ACK: 4, REJECT: 5, CLOSE: 6, AUTH: 9 });
export const TYPE_NAMES = ["", "OPEN", "OPENED", "DATA", "ACK", "REJECT", "CLOSE", "PING", "PONG", "AUTH"];

/** The rungs by their value in an ACK, from 1. */
export const RUNGS = ["", "accepted", "written", "reached", "consumed"];
export const CONSUMED = 4;

const EMPTY = new Uint8Array(0);

/** One record as the payload of a binary WebSocket message. */
export function encodeRecord(type, flags, seq, body = EMPTY) {
  const record = new Uint8Array(HEADER_BYTES + body.length);
  const header = new DataView(record.buffer);
  header.setUint8(0, type);
  header.setUint8(1, flags);
  header.setBigUint64(2, BigInt(seq));
  record.set(body, HEADER_BYTES);
  return record;
}

export function encodeJsonRecord(type, seq, value) {
  return encodeRecord(type, 0, seq, encoder.encode(JSON.stringify(value)));
}

/** `{type, flags, seq, body}` of the record that a binary WebSocket message carries. Throws ProtocolViolation. */
export function parseRecord(data) {
  if (!(data instanceof ArrayBuffer)) throw new ProtocolViolation("a text message, expected records only");
  if (data.byteLength < HEADER_BYTES) {
    throw new ProtocolViolation(`a record of ${data.byteLength} bytes, shorter than its header of ${HEADER_BYTES}`);
  }
  const header = new DataView(data);
  const type = header.getUint8(0);
  const flags = header.getUint8(1);
  const seq = Number(header.getBigUint64(2));
  const body = new Uint8Array(data, HEADER_BYTES);
  // The protocol's limit is 2^63-1. At a million messages a second a session takes 285 years to exceed ours.
  if (!Number.isSafeInteger(seq)) {
    throw new ProtocolViolation(`sequence number ${seq}, expected at most ${Number.MAX_SAFE_INTEGER}`);
  }
  const name = TYPE_NAMES[type];
  switch (type) {
    case RecordType.DATA:
      if (flags & ~(TEXT_FLAG | MORE_FLAG)) {
        throw new ProtocolViolation(`DATA with flags ${flags}, expected bits 0 (text) and 1 (more) only`);
      }
      if (body.length > MAX_BODY_BYTES) {
        throw new ProtocolViolation(`DATA body of ${body.length} bytes, expected at most ${MAX_BODY_BYTES}`);
      }
      break;
    case RecordType.ACK:
      if (flags < 1 || flags > CONSUMED) throw new ProtocolViolation(`ACK of rung ${flags}, expected 1 to 4`);
      if (body.length) throw new ProtocolViolation(`ACK with a body of ${body.length} bytes, expected none`);
      break;
    case RecordType.OPENED:
    case RecordType.REJECT:
    case RecordType.CLOSE:
    case RecordType.AUTH:
      if (flags) throw new ProtocolViolation(`${name} with flags ${flags}, expected none`);
      if (body.length > MAX_JSON_BYTES) {
        throw new ProtocolViolation(`${name} body of ${body.length} bytes, expected at most ${MAX_JSON_BYTES}`);
      }
      if (seq && type === RecordType.CLOSE) throw new ProtocolViolation(`CLOSE of sequence number ${seq}, expected 0`);
      break;
    default:
      throw new ProtocolViolation(`${name || `record type ${type}`} from the gateway`);
  }
  if (!seq && (type === RecordType.DATA || type === RecordType.REJECT)) {
    throw new ProtocolViolation(`${name} with sequence number 0, expected 1 or more`);
  }
  return { type, flags, seq, body };
}

/** The checked JSON bodies; unknown keys are ignored, so that newer gateways can say more. */
export const Body = {
  object(name, body) {
    let value;
    try {
      value = JSON.parse(decoder.decode(body));
    } catch {
      throw new ProtocolViolation(`${name} body is not JSON in UTF-8`);
    }
    if (!isObject(value)) throw new ProtocolViolation(`${name} body: expected an object`);
    return value;
  },

  integer(where, object, key, { least, fallback }) {
    const value = object[key] ?? fallback;
    if (value === null || (Number.isSafeInteger(value) && value >= least)) return value;
    throw new ProtocolViolation(`${where}: ${key}: expected an integer of at least ${least}`);
  },

  opened(body) {
    const value = Body.object("OPENED", body);
    const integer = (...which) => Body.integer("OPENED body", ...which);
    const { session, resumed, settles_at: rung, grace_seconds: grace = 0 } = value;
    const heartbeat = value.heartbeat_seconds ?? null;
    if (typeof session !== "string" || !/^[\x21-\x7e]{1,256}$/.test(session)) {
      throw new ProtocolViolation("OPENED body: session: expected 1 to 256 printable ASCII characters");
    }
    if (typeof resumed !== "boolean") throw new ProtocolViolation("OPENED body: resumed: expected a boolean");
    if (RUNGS.indexOf(rung) < 1) {
      throw new ProtocolViolation(`OPENED body: settles_at: expected one of ${RUNGS.slice(1)}`);
    }
    if (typeof grace !== "number" || !(grace >= 0)) {
      throw new ProtocolViolation("OPENED body: grace_seconds: expected a number of at least 0");
    }
    if (heartbeat !== null && !(typeof heartbeat === "number" && heartbeat > 0)) {
      throw new ProtocolViolation("OPENED body: heartbeat_seconds: expected a number above 0, or null");
    }
    return {
      token: session,
      resumed,
      settlesAt: RUNGS.indexOf(rung),
      graceSeconds: grace,
      heartbeatSeconds: heartbeat,
      windowMessages: integer(value, "window_messages", { least: 1, fallback: DEFAULT_WINDOW_MESSAGES }),
      windowBytes: integer(value, "window_bytes", { least: 1, fallback: DEFAULT_WINDOW_BYTES }),
      messageBytes: integer(value, "message_bytes", { least: 1, fallback: null }),
      expiresInSeconds: Body.seconds("OPENED", value.expires_in_seconds),
      renew: value.renew === true,
      rejected: Body.rejected("OPENED body", value.rejected),
      report: Body.report("OPENED", value.report),
    };
  },

  /** How long a permission lasts; null: it has no end. */
  seconds(name, value) {
    const seconds = value ?? null;
    if (seconds === null || (typeof seconds === "number" && seconds >= 0)) return seconds;
    throw new ProtocolViolation(`${name} body: expires_in_seconds: expected a number of at least 0, or null`);
  },

  /** What became of a credential; `code` is null where it was taken. */
  auth(body) {
    const value = Body.object("AUTH", body);
    const { code = null, reason = "" } = value;
    if (code !== null && !isCode(code)) throw new ProtocolViolation("AUTH body: code: expected 1000 to 4999");
    if (typeof reason !== "string") throw new ProtocolViolation("AUTH body: reason: expected text");
    return { code, reason, expiresInSeconds: Body.seconds("AUTH", value.expires_in_seconds) };
  },

  /** What REJECT and CLOSE have in common. */
  ending(name, body) {
    const value = Body.object(name, body);
    if (!isCode(value.code)) throw new ProtocolViolation(`${name} body: code: expected 1000 to 4999`);
    const reason = value.reason ?? "";
    if (typeof reason !== "string" || encoder.encode(reason).length > MAX_REASON_BYTES[name]) {
      throw new ProtocolViolation(`${name} body: reason: expected at most ${MAX_REASON_BYTES[name]} bytes of text`);
    }
    return { code: value.code, reason, report: Body.report(name, value.report) };
  },

  /** What was refused lately: a list of `[from, to, code, reason]`. */
  rejected(where, value) {
    const ranges = value ?? [];
    const isRange = (range) =>
      Array.isArray(range) &&
      range.length === 4 &&
      range.slice(0, 2).every(Number.isSafeInteger) &&
      range[0] >= 1 &&
      range[0] <= range[1] &&
      isCode(range[2]) &&
      typeof range[3] === "string";
    if (Array.isArray(ranges) && ranges.every(isRange)) return ranges;
    throw new ProtocolViolation(`${where}: rejected: expected a list of [from, to, code, reason]`);
  },

  report(name, value) {
    if (value === null || value === undefined) return null;
    const direction = (key) => {
      const half = value[key];
      if (!isObject(half)) throw new ProtocolViolation(`${name} body: report.${key}: expected an object`);
      const settled = Body.integer(`${name} body: report.${key}`, half, "settled", { least: 0 });
      const range = (rangeKey) => {
        const bounds = half[rangeKey] ?? null;
        const valid = Array.isArray(bounds) && bounds.length === 2 && bounds.every(Number.isSafeInteger);
        if (bounds === null || (valid && bounds[0] >= 1 && bounds[0] <= bounds[1])) return bounds;
        throw new ProtocolViolation(`${name} body: report.${key}.${rangeKey}: expected [from, to]`);
      };
      const rejected = Body.rejected(`${name} body: report.${key}`, half.rejected);
      return { settled, unknown: range("unknown"), neverForwarded: range("never_forwarded"), rejected };
    };
    if (!isObject(value)) throw new ProtocolViolation(`${name} body: report: expected an object`);
    return { upstream: direction("upstream"), downstream: direction("downstream") };
  },
};

/** REJECT of one message of the gateway's; the reason is made to fit. */
export function rejectRecord(seq, code, reason) {
  return encodeJsonRecord(RecordType.REJECT, seq, { code, reason: cut(reason, MAX_REJECT_REASON_BYTES) });
}

/** CLOSE of the session; the reason is made to fit. */
export function closeRecord(code, reason) {
  return encodeJsonRecord(RecordType.CLOSE, 0, { code, reason: cut(reason, MAX_CLOSE_REASON_BYTES) });
}

export function isCode(value) {
  return Number.isInteger(value) && value >= 1000 && value <= 4999;
}

function isObject(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

export function isWithin(seq, range) {
  return range !== null && range[0] <= seq && seq <= range[1];
}

/** Whether a report tells of messages to us behind number `accepted`: it may not know of all that have come. */
export function missesAny(report, accepted) {
  const { unknown = null, neverForwarded = null } = report?.downstream ?? {};
  return neverForwarded !== null || (unknown !== null && unknown[1] > accepted);
}
