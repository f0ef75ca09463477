/**
 * Kakitome in browsers and in Node, in one file that a page imports as it is: a WebSocket that knows how far every
 * message got, and survives its connections.
 *
 *     import { Kakitome } from "/kakitome.js";
 *     const line = new Kakitome("/chat");
 *     line.onmessage = ({ data }) => show(data);
 *     await line.send("hello");                     // the far side has it, or the error says what became of it
 *
 * How it works. `Session` is the record protocol `kakitome.v1` (docs/protocol.md) without sockets, timers or a clock:
 * WebSocket messages in, WebSocket messages out, and facts for the application. Within it, `Outbox` keeps our messages
 * until they are settled and `Inbox` puts the gateway's together and knows which of them were consumed. `Kakitome` is
 * the shell: it turns facts into events and promises, with `Connections`, which owns the socket and the timers, `Intake`,
 * where the application's messages come in, and a store.
 *
 * Invariants. A message keeps its number and its bytes until it is settled or the application was told what became of
 * it. Nothing is told to the gateway that the store, if there is one, has not saved: a reload of the page neither loses
 * a message nor gives another one its number. A message's handlers have done their work before it is acknowledged.
 */

// Joined by join.py from the modules in src/: changes are made there.

// --- text ------------------------------------------------------------------------------------------------------------

/** Text as UTF-8: what leaves is well-formed, what comes must be. */

const encoder = new TextEncoder();

// ignoreBOM keeps a leading U+FEFF, which is part of the message.
const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
const lenient = new TextDecoder("utf-8", { ignoreBOM: true });

/** Whether the text has UTF-8: no half of a surrogate pair is in it. */
function isWellFormed(text) {
  return lenient.decode(encoder.encode(text)) === text;
}

/**
 * The text with U+FFFD for each half of a surrogate pair, as WebSocket makes it, cut to so many bytes of UTF-8, never
 * inside a character.
 */
function cut(text, bytes) {
  const encoded = encoder.encode(text);
  if (encoded.length <= bytes) return lenient.decode(encoded);
  let end = bytes;
  while ((encoded[end] & 0xc0) === 0x80) end -= 1;
  return lenient.decode(encoded.subarray(0, end));
}

// --- credential ------------------------------------------------------------------------------------------------------

/** The credential that goes into OPEN (docs/authentication.md): where it comes from, and when a fresh one is worth a try. */

/** The gateway does not know who we are: 401 behind the upgrade. */
const UNAUTHENTICATED = 3000;

/** What the option `token` says, asked anew for each connection: a ticket is good once. */
class Credential {
  #source;
  #isRefused = false;

  constructor(source) {
    this.#source = source;
  }

  /** It has to be asked for, which takes time. */
  get isAsked() {
    return typeof this.#source === "function";
  }

  /** The credential for one connection, or null; a promise of it where it is asked for. Rejects with what asking threw. */
  get() {
    return this.isAsked ? this.#ask() : this.#source;
  }

  async #ask() {
    const token = (await this.#source({ refused: this.#isRefused })) ?? null;
    if (typeof token === "string" && !isWellFormed(token)) {
      throw new TypeError("option token: what the function gave has half of a surrogate pair, expected text that has UTF-8");
    }
    if (token === null || (typeof token === "string" && token)) return token;
    throw new TypeError(`option token: the function gave ${token === "" ? "an empty text" : typeof token}, expected text`);
  }

  /** The gateway refused it. Whether a fresh one is worth another attempt: once in a row, and not of a fixed one. */
  refused() {
    const isFirst = this.isAsked && !this.#isRefused;
    this.#isRefused = true;
    return isFirst;
  }

  accepted() {
    this.#isRefused = false;
  }
}

// --- diagnosis -------------------------------------------------------------------------------------------------------

/** Why a WebSocket failed, which browsers hide from pages: the gateway is asked the same over HTTP, and may say. */

const WORDS_CHARACTERS = 500;

/** What says nothing more than that HTTP was spoken: the gateway would have taken a WebSocket of this page. */
const UPGRADE_REQUIRED = 426;

/**
 * The gateway's words about why it refuses a WebSocket to `url`, or null where nobody says. `fetch` is the platform's.
 *
 * Asks without cookies, and with the page's origin as Referer: browsers send Origin to others' addresses only.
 */
async function diagnosed(url, fetch) {
  const address = new URL(url);
  address.protocol = address.protocol.replace("ws", "http");
  address.hash = "";
  try {
    const answer = await fetch(address.href, {
      mode: "cors",
      credentials: "omit",
      cache: "no-store",
      redirect: "error",
      referrerPolicy: "origin",
    });
    const isText = answer.headers.get("content-type")?.startsWith("text/plain");
    if (answer.ok || answer.status === UPGRADE_REQUIRED || !isText) return null;
    return (await answer.text()).trim().slice(0, WORDS_CHARACTERS) || null;
  } catch {
    return null; // it is away, or it is no gateway of ours
  }
}

// --- errors ----------------------------------------------------------------------------------------------------------

/** Why a message was not settled, why a conversation ended. */

/** Base of all errors of this module. */
class KakitomeError extends Error {
  constructor(message, facts = {}) {
    const { cause, ...others } = facts;
    super(message, cause === undefined ? undefined : { cause });
    this.name = new.target.name;
    Object.assign(this, others);
  }
}

/** The far side refused this one message: `seq`, `code`, `reason`. */
class Rejected extends KakitomeError {
  constructor(seq, code, reason) {
    super(`message ${seq} was rejected with ${code} ${reason}`.trimEnd(), { seq, code, reason });
  }
}

/** The session ended, and nobody can say whether this message arrived: `seq`; `cause` says how it ended. */
class Lost extends KakitomeError {
  constructor(seq, cause) {
    super(`it is unknown whether message ${seq} arrived`, { seq, cause });
  }
}

/**
 * The session ended, and not a byte of this message was sent on: it may be sent again without arriving twice. `seq`;
 * `cause` says how it ended.
 */
class NeverForwarded extends KakitomeError {
  constructor(seq, cause) {
    super(`message ${seq} was never forwarded`, { seq, cause });
  }
}

/** There is no session any more: `code`, `reason`. */
class Closed extends KakitomeError {
  constructor(code, reason, { words = "the conversation was closed with", cause } = {}) {
    super(`${words} ${code} ${reason}`.trimEnd(), { code, reason, cause });
  }
}

/** A `Closed` for what ended with `code`, `reason` and perhaps a `cause`. */
function closedBy({ code, reason, cause = null }, words) {
  return new Closed(code, reason, { words, cause: cause ?? undefined });
}

/** The message is larger than this route takes: `size`, `limit`, in bytes. */
class TooBig extends KakitomeError {
  constructor(size, limit) {
    super(`message of ${size} bytes exceeds the limit of ${limit} bytes`, { size, limit });
  }
}

/** As much waits to be sent as the options allow; `ready` tells when there is room. */
class QueueFull extends KakitomeError {}

/** No connection came about, or the one there was fell silent; it is tried again. `cause` says why. */
class ConnectionFailed extends KakitomeError {
  constructor(message, cause) {
    super(message, { cause });
  }
}

/** A handler of the application's has thrown, or its promise was rejected with `cause`: message `seq` was refused. */
class HandlerFailed extends KakitomeError {
  constructor(seq, cause) {
    super(`a handler of message ${seq} failed: ${cause?.message ?? cause}`, { seq, cause });
  }
}

/** The gateway broke the record protocol, or does not speak it: `code`. */
class ProtocolViolation extends KakitomeError {
  constructor(message, code = 1002) {
    super(message, { code });
  }
}

/** The store does not work. */
class StoreFailed extends KakitomeError {}

/** The store has lost what it had, as when its database was deleted: whoever saves there saves all of it anew. */
class StoreEmptied extends StoreFailed {}

/** Another tab uses this store; one store serves one conversation. */
class StoreInUse extends StoreFailed {}

// --- wire ------------------------------------------------------------------------------------------------------------

/** The records of `kakitome.v1` as bytes, and the checked JSON bodies of those that have one (docs/protocol.md). */

const SUBPROTOCOL = "kakitome.v1";
const HEADER_BYTES = 10;
const FRAGMENT_BYTES = 64 * 1024;
const MAX_BODY_BYTES = 1024 * 1024;
const MAX_JSON_BYTES = 64 * 1024;
const MAX_CLOSE_REASON_BYTES = 123;
const MAX_REJECT_REASON_BYTES = 1024;
const MAX_REASON_BYTES = { CLOSE: MAX_CLOSE_REASON_BYTES, REJECT: MAX_REJECT_REASON_BYTES };
const DEFAULT_WINDOW_MESSAGES = 1024;
const DEFAULT_WINDOW_BYTES = 4 * 1024 * 1024;

const TEXT_FLAG = 0x01;
const MORE_FLAG = 0x02;

/** The records' types by name; the values are those on the wire. PING and PONG (7, 8) exist on TCP only. */
const RecordType = Object.freeze({ OPEN: 1, OPENED: 2, DATA: 3, ACK: 4, REJECT: 5, CLOSE: 6, AUTH: 9 });
const TYPE_NAMES = ["", "OPEN", "OPENED", "DATA", "ACK", "REJECT", "CLOSE", "PING", "PONG", "AUTH"];

/** The rungs by their value in an ACK, from 1. */
const RUNGS = ["", "accepted", "written", "reached", "consumed"];
const CONSUMED = 4;

const EMPTY = new Uint8Array(0);

/** One record as the payload of a binary WebSocket message. */
function encodeRecord(type, flags, seq, body = EMPTY) {
  const record = new Uint8Array(HEADER_BYTES + body.length);
  const header = new DataView(record.buffer);
  header.setUint8(0, type);
  header.setUint8(1, flags);
  header.setBigUint64(2, BigInt(seq));
  record.set(body, HEADER_BYTES);
  return record;
}

function encodeJsonRecord(type, seq, value) {
  return encodeRecord(type, 0, seq, encoder.encode(JSON.stringify(value)));
}

/** `{type, flags, seq, body}` of the record that a binary WebSocket message carries. Throws ProtocolViolation. */
function parseRecord(data) {
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
const Body = {
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
function rejectRecord(seq, code, reason) {
  return encodeJsonRecord(RecordType.REJECT, seq, { code, reason: cut(reason, MAX_REJECT_REASON_BYTES) });
}

/** CLOSE of the session; the reason is made to fit. */
function closeRecord(code, reason) {
  return encodeJsonRecord(RecordType.CLOSE, 0, { code, reason: cut(reason, MAX_CLOSE_REASON_BYTES) });
}

function isCode(value) {
  return Number.isInteger(value) && value >= 1000 && value <= 4999;
}

function isObject(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function isWithin(seq, range) {
  return range !== null && range[0] <= seq && seq <= range[1];
}

/** Whether a report tells of messages to us behind number `accepted`: it may not know of all that have come. */
function missesAny(report, accepted) {
  const { unknown = null, neverForwarded = null } = report?.downstream ?? {};
  return neverForwarded !== null || (unknown !== null && unknown[1] > accepted);
}

// --- options ---------------------------------------------------------------------------------------------------------

/** What an application may choose, and what the client takes from its surroundings. */

const DEFAULTS = {
  acknowledge: "auto",
  receipts: [],
  resend: "never-forwarded",
  windowMessages: DEFAULT_WINDOW_MESSAGES,
  windowBytes: DEFAULT_WINDOW_BYTES,
  messageBytes: 64 * 1024 * 1024,
  queueMessages: 10_000,
  queueBytes: 16 * 1024 * 1024,
  store: null,
  token: null,
  reconnectMinMs: 250,
  reconnectMaxMs: 30_000,
  attempts: Infinity,
  connectTimeoutMs: 10_000,
  silenceTimeoutMs: 20_000,
  closeTimeoutMs: 10_000,
  webSocket: null,
  platform: null,
};

const CHOICES = {
  acknowledge: ["auto", "manual"],
  resend: ["never-forwarded", "none", "all"],
};

/** The least that each number may be. */
const LEAST = {
  windowMessages: 1,
  windowBytes: 1,
  messageBytes: 0,
  queueMessages: 0,
  queueBytes: 0,
  reconnectMinMs: 0,
  reconnectMaxMs: 0,
  attempts: 1,
  connectTimeoutMs: 0,
  silenceTimeoutMs: 0,
  closeTimeoutMs: 0,
};

/** These go to the gateway, as whole numbers. */
const WHOLE = ["windowMessages", "windowBytes"];

/** The options, whole. Throws TypeError for what is not known or cannot be. */
function chosen(options) {
  const given = Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined));
  for (const [key, value] of Object.entries(given)) {
    if (!Object.hasOwn(DEFAULTS, key)) {
      throw new TypeError(`unknown option ${key}, known are ${Object.keys(DEFAULTS).join(", ")}`);
    }
    if (key in CHOICES && !CHOICES[key].includes(value)) {
      throw new TypeError(`option ${key}: ${value}, expected one of ${CHOICES[key].join(", ")}`);
    }
    if (key in LEAST && !(key === "silenceTimeoutMs" && value === null)) checkNumber(key, value);
  }
  for (const rung of given.receipts ?? []) {
    if (!RUNGS.slice(1).includes(rung)) throw new TypeError(`option receipts: ${rung}, expected ${RUNGS.slice(1)}`);
  }
  const { token = null } = given;
  if (token !== null && typeof token !== "function" && !(typeof token === "string" && token)) {
    throw new TypeError(`option token: ${token === "" ? "an empty text" : typeof token}, expected text or a function`);
  }
  if (typeof token === "string" && !isWellFormed(token)) {
    throw new TypeError("option token: half of a surrogate pair is in it, expected text that has UTF-8");
  }
  return { ...DEFAULTS, ...given };
}

/** What of the options is the session's. */
function sessionSettings({ receipts, windowMessages, windowBytes, messageBytes, resend, silenceTimeoutMs }) {
  // The gateway's word that it has a message is also the sign of life that the silence timer waits for.
  const watches = silenceTimeoutMs !== null;
  const wanted = watches ? [...new Set([...receipts, "accepted"])] : receipts;
  return { receipts: wanted, windowMessages, windowBytes, messageBytes, resend, heartbeat: watches };
}

function checkNumber(key, value) {
  const isWhole = WHOLE.includes(key);
  if (typeof value === "number" && value >= LEAST[key] && (!isWhole || Number.isSafeInteger(value))) return;
  const kind = isWhole ? "a whole number" : "a number";
  throw new TypeError(`option ${key}: ${String(value)}, expected ${kind} of at least ${LEAST[key]}`);
}

/** Throws what WebSocket's `close` throws. */
function checkClosing(code, reason) {
  if (code !== 1000 && !(Number.isInteger(code) && code >= 3000 && code <= 4999)) {
    throw new DOMException(`code ${code}, expected 1000 or 3000 to 4999`, "InvalidAccessError");
  }
  if (encoder.encode(reason).length > MAX_CLOSE_REASON_BYTES) {
    throw new DOMException(`reason exceeds ${MAX_CLOSE_REASON_BYTES} bytes`, "SyntaxError");
  }
}

/** Runs actions each in a task of its own, also in a background tab, where timers are throttled to one a minute. */
const startMacrotask = (() => {
  if (typeof globalThis.setImmediate === "function") return (action) => void globalThis.setImmediate(action);
  let port = null;
  const actions = [];
  return (action) => {
    if (!port) {
      const channel = new MessageChannel();
      channel.port1.onmessage = () => actions.shift()();
      port = channel.port2;
    }
    actions.push(action);
    port.postMessage(null);
  };
})();

/** What the option `platform` replaces. */
function surroundings() {
  const isPage = typeof window !== "undefined";
  return {
    WebSocket: globalThis.WebSocket,
    setTimeout: (action, ms) => globalThis.setTimeout(action, ms),
    clearTimeout: (timer) => globalThis.clearTimeout(timer),
    startMacrotask,
    now: () => performance.now(),
    random: Math.random,
    window: isPage ? window : null,
    document: typeof document === "undefined" ? null : document,
    baseUrl: globalThis.location?.href,
    /** Pages only: elsewhere the WebSocket's own error says why. */
    fetch: isPage && globalThis.fetch ? (url, how) => globalThis.fetch(url, how) : null,
    warn: (text) => globalThis.console?.warn(text),
    // To the page's console; elsewhere that could end the process, and the event `error` tells of it.
    reportError: isPage && globalThis.reportError ? (error) => globalThis.reportError(error) : () => {},
  };
}

/** The absolute ws: or wss: URL. Throws SyntaxError, as WebSocket does. */
function resolved(url, base) {
  let absolute;
  try {
    absolute = new URL(url, base);
  } catch {
    throw new DOMException(`${url} is no URL`, "SyntaxError");
  }
  absolute.protocol = { "http:": "ws:", "https:": "wss:" }[absolute.protocol] ?? absolute.protocol;
  return absolute.href;
}

// --- renewal ---------------------------------------------------------------------------------------------------------

/** Renewing a permission on the open connection, before it ends: nothing breaks off (docs/protocol.md, Permissions). */

/** The part of a permission's life after which we need not have been asked: the gateway asks when a quarter is left. */
const UNASKED = 0.85;

/** Between two attempts: the gateway judges no more than two credentials a second. */
const MIN_RETRY_MS = 600;
const MAX_RETRY_MS = 5000;

/** The longest that a timer of browsers can wait. */
const MAX_TIMER_MS = 2 ** 31 - 1;

/**
 * For one connection after the other.
 *
 * The owner hears of `show(token)`, the credential that is to go out, and of `failed(message, cause)`, where none was to
 * be had, or the gateway did not take it: the permission that holds goes on to its end, and it is tried again.
 */
class Renewal {
  #owner;
  #credential;
  #platform;
  #timers;
  #expiresAt = null;
  /** Rises with each connection: what was asked for before is not shown on it. */
  #round = 0;
  #isUnderWay = false;

  constructor(owner, credential, platform, timers) {
    this.#owner = owner;
    this.#credential = credential;
    this.#platform = platform;
    this.#timers = timers;
  }

  /** What the gateway says of the permission of the open connection. */
  hear({ event, code, reason, expiresInSeconds }) {
    if (event === "begins") this.#begins(expiresInSeconds);
    else if (event === "asked") this.#ask();
    else this.#judged(code, reason, expiresInSeconds);
  }

  /** It ends in so many seconds; null: not by itself. */
  #begins(seconds) {
    this.#isUnderWay = false;
    this.#expiresAt = seconds === null ? null : this.#platform.now() + seconds * 1000;
    if (seconds === null) this.#timers.disarm("renew");
    else this.#arm(seconds * 1000 * UNASKED);
  }

  /** The gateway wants another credential, or it is time without that. */
  #ask() {
    if (this.#isUnderWay) return;
    this.#isUnderWay = true;
    const round = this.#round;
    const isCurrent = () => round === this.#round && this.#isUnderWay;
    this.#credential.get().then(
      (token) => this.#owner.guard(() => isCurrent() && this.#show(token)),
      (error) => this.#owner.guard(() => isCurrent() && this.#failed(`no credential: ${error?.message}`, error)),
    );
  }

  #show(token) {
    if (token === null) this.#isUnderWay = false; // nobody any more: the connection ends when its time is over
    else this.#owner.show(token);
  }

  #judged(code, reason, expiresInSeconds) {
    if (code === null) {
      this.#credential.accepted();
      this.#begins(expiresInSeconds);
      return;
    }
    this.#credential.refused();
    this.#failed(`the gateway did not take the credential: ${code} ${reason}`, null);
  }

  #failed(message, cause) {
    this.#isUnderWay = false;
    this.#owner.failed(message, cause);
    if (this.#expiresAt === null) return;
    const leftMs = this.#expiresAt - this.#platform.now();
    if (leftMs > MIN_RETRY_MS) this.#arm(Math.min(Math.max(leftMs / 4, MIN_RETRY_MS), MAX_RETRY_MS));
  }

  #arm(ms) {
    const waitMs = Math.min(ms, MAX_TIMER_MS);
    this.#timers.arm("renew", waitMs, () => (ms > waitMs ? this.#arm(ms - waitMs) : this.#ask()));
  }

  /** The connection is gone, and what was asked for with it. */
  end() {
    this.#round += 1;
    this.#isUnderWay = false;
    this.#expiresAt = null;
    this.#timers.disarm("renew");
  }
}

// --- auths -----------------------------------------------------------------------------------------------------------

/** The AUTH records of one connection: whether they were agreed on, and what waits for an answer. */

/** Sans-I/O: facts come out, and records by `take`. */
class Auths {
  /** OPEN has offered them and, once OPENED has come, OPENED has agreed. */
  #agreed;
  #number = 0;
  /** The newest one, until it is taken. */
  #record = null;

  constructor(offered = false) {
    this.#agreed = offered;
  }

  /** What OPENED says; the facts that follow from it. */
  opened({ renew, expiresInSeconds }) {
    this.#agreed &&= renew;
    return this.#agreed ? [{ type: "permission", event: "begins", expiresInSeconds }] : [];
  }

  /** The fact that the gateway's AUTH tells. Throws ProtocolViolation. */
  receive(seq, body) {
    if (!this.#agreed) throw new ProtocolViolation("AUTH in an open session, which did not agree on it");
    const answer = Body.auth(body);
    if (seq === 0) return { type: "permission", event: "asked", ...answer };
    if (seq !== this.#number || this.#record !== null) {
      throw new ProtocolViolation(`AUTH ${seq}, expected the answer to ${this.#number}`);
    }
    return { type: "permission", event: "judged", ...answer };
  }

  /** Another credential is to be shown, where one is taken. */
  show(credential) {
    if (!this.#agreed) return;
    this.#number += 1;
    this.#record = encodeJsonRecord(RecordType.AUTH, this.#number, { token: credential });
  }

  /** The records to send now. */
  take() {
    const records = this.#record === null ? [] : [this.#record];
    this.#record = null;
    return records;
  }
}

// --- inbox -----------------------------------------------------------------------------------------------------------

/** The gateway's messages. */

/**
 * The gateway's messages: put together, each given once, whatever is sent again.
 *
 * Those up to `accepted` have come whole; those up to `consumed` were consumed, as were those in `#ahead`.
 */
class Inbox {
  #parts = [];
  #size = 0;
  #text = null;
  #isOversize = false;
  #ahead = new Set();
  #unconsumed = new Map();
  #unconsumedBytes = 0;
  #limits;

  constructor(consumed, limits) {
    this.accepted = consumed;
    this.consumed = consumed;
    this.duplicates = 0;
    this.#limits = limits;
  }

  /** What the DATA record completes, `{seq, text, data}`, or null; `data` is null for what is larger than the limit. */
  receive({ flags, seq, body }) {
    const ends = !(flags & MORE_FLAG);
    if (seq <= this.accepted) {
      if (ends) this.duplicates += 1;
      return null;
    }
    if (seq !== this.accepted + 1) {
      throw new ProtocolViolation(`DATA ${seq} after message ${this.accepted}, expected ${this.accepted + 1}`);
    }
    const text = Boolean(flags & TEXT_FLAG);
    if (this.#text === null) this.#begin(seq, text);
    if (this.#text !== text) {
      throw new ProtocolViolation(`a fragment of DATA ${seq} is ${text ? "text" : "binary"}, but the first was not`);
    }
    this.#size += body.length;
    if (this.#size > this.#limits.messageBytes) {
      this.#isOversize = true;
      this.#parts = [];
    } else {
      this.#parts.push(body);
    }
    if (!ends) return null;
    const data = this.#isOversize ? null : joined(this.#parts, this.#size);
    const message = { seq, text, data: text && data ? decodedText(seq, data) : data };
    const size = this.#isOversize ? 0 : this.#size;
    this.forgetUnfinished();
    this.accepted = seq;
    this.#unconsumed.set(seq, size);
    this.#unconsumedBytes += size;
    return message;
  }

  #begin(seq, text) {
    const { windowMessages, windowBytes } = this.#limits;
    if (this.#unconsumed.size >= windowMessages) {
      throw new ProtocolViolation(`DATA ${seq} exceeds the window of ${windowMessages} messages`, 1008);
    }
    if (this.#unconsumedBytes >= windowBytes) {
      throw new ProtocolViolation(`DATA ${seq} exceeds the window of ${windowBytes} bytes`, 1008);
    }
    this.#text = text;
  }

  /** The connection broke: a message that came in part comes again from its first byte. */
  forgetUnfinished() {
    this.#parts = [];
    this.#size = 0;
    this.#text = null;
    this.#isOversize = false;
  }

  /** Marks one message as consumed; whether that is news. The position moves once all before it are. */
  consume(seq) {
    const size = this.#unconsumed.get(seq);
    if (size === undefined) return false;
    this.#unconsumed.delete(seq);
    this.#unconsumedBytes -= size;
    this.#ahead.add(seq);
    while (this.#ahead.delete(this.consumed + 1)) this.consumed += 1;
    return true;
  }
}

function joined(parts, size) {
  if (parts.length === 1) return parts[0];
  const whole = new Uint8Array(size);
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

function decodedText(seq, data) {
  try {
    return decoder.decode(data);
  } catch {
    throw new ProtocolViolation(`text message ${seq} is not UTF-8`, 1007);
  }
}

// --- outbox ----------------------------------------------------------------------------------------------------------

/** Our messages that are not settled. */

/**
 * Our messages that are not settled: kept, sent within the gateway's window, sent again after a resume.
 *
 * `entries[i]` has the number `settled + 1 + i`. Those up to `carried` may have left on some connection, and keep their
 * number; those after it are only waiting. On the present connection, those up to `#reserved` have their place in the
 * window, and those up to `#left` were handed to the socket. A rejected message counts as settled, but stays until all
 * before it are: it is sent again after a resume, because numbers have no gap.
 */
class Outbox {
  #reserved;
  #left;
  #flightMessages = 0;
  #flightBytes = 0;
  #savedUpTo;
  #sendableUpTo;

  constructor({ settled = 0, carried = 0, messages = [] } = {}) {
    this.settled = settled;
    this.carried = Math.max(carried, settled);
    this.windowMessages = DEFAULT_WINDOW_MESSAGES;
    this.windowBytes = DEFAULT_WINDOW_BYTES;
    this.entries = [];
    this.unsettledMessages = 0;
    this.unsettledBytes = 0;
    /** Never carried by any connection: what waits for the window, or for the first connection. */
    this.waitingMessages = 0;
    this.waitingBytes = 0;
    /** Not handed to the present connection's socket. */
    this.unsentBytes = 0;
    /** The newest message of which the gateway said anything on this connection. */
    this.answered = settled;
    for (const { seq, text, data } of messages) {
      if (seq !== this.last + 1) throw new StoreFailed(`the store has message ${seq} after ${this.last}`);
      this.append({ seq: 0, text, data, rejected: false, connection: 0, context: null });
    }
    this.#reserved = this.#left = settled;
    this.#savedUpTo = this.last;
    this.#sendableUpTo = this.carried;
  }

  /** The number of the newest message. */
  get last() {
    return this.settled + this.entries.length;
  }

  get hasRoom() {
    return this.unsettledMessages < this.windowMessages && this.unsettledBytes < this.windowBytes;
  }

  get hasUnanswered() {
    return this.#left > this.answered;
  }

  append(entry) {
    entry.seq = this.last + 1;
    this.entries.push(entry);
    const size = entry.data.length;
    this.unsettledMessages += 1;
    this.unsettledBytes += size;
    this.unsentBytes += size;
    if (entry.seq > this.carried) {
      this.waitingMessages += 1;
      this.waitingBytes += size;
    }
  }

  // --- connections ---

  /**
   * A connection begins whose gateway has all up to `position`: what follows is sent again. `rejected` is what was
   * refused lately. `{settled, refused}`: the entries of which that is news, the refused ones with why.
   */
  resume(position, rejected = []) {
    if (position < this.settled || position > this.carried) {
      throw new ProtocolViolation(`OPENED at ${position}, expected ${this.settled} to ${this.carried}`);
    }
    const refused = this.refuse(rejected);
    const settled = this.settle(Math.max(position, this.settled));
    this.#reserved = this.#left = this.answered = this.settled;
    this.#flightMessages = this.#flightBytes = 0;
    this.unsentBytes = this.entries.reduce((bytes, entry) => bytes + entry.data.length, 0);
    return { settled, refused };
  }

  /** Gives the next messages their places in the window, and with it their numbers for good. */
  reserve(connection) {
    for (;;) {
      const entry = this.entries[this.#reserved - this.settled];
      if (!entry) return;
      const size = entry.data.length;
      if (!entry.rejected) {
        // One that is larger than the window passes when it is alone.
        const isFull = this.#flightMessages >= this.windowMessages || this.#flightBytes + size > this.windowBytes;
        if (this.#flightMessages && isFull) return;
        this.#flightMessages += 1;
        this.#flightBytes += size;
      }
      this.#reserved = entry.seq;
      if (entry.seq > this.carried) {
        this.carried = entry.seq;
        entry.connection = connection;
        this.waitingMessages -= 1;
        this.waitingBytes -= size;
      }
    }
  }

  /** The records that may leave now. */
  take() {
    const records = [];
    const end = Math.min(this.#reserved, this.#sendableUpTo);
    for (let seq = this.#left + 1; seq <= end; seq += 1) {
      const { text, data } = this.entries[seq - this.settled - 1];
      const kind = text ? TEXT_FLAG : 0;
      let at = 0;
      for (; data.length - at > FRAGMENT_BYTES; at += FRAGMENT_BYTES) {
        const fragment = data.subarray(at, at + FRAGMENT_BYTES);
        records.push(encodeRecord(RecordType.DATA, kind | MORE_FLAG, seq, fragment));
      }
      records.push(encodeRecord(RecordType.DATA, kind, seq, data.subarray(at)));
      this.unsentBytes -= data.length;
      this.#left = seq;
    }
    return records;
  }

  // --- the store ---

  unsaved() {
    return this.entries.slice(Math.max(this.#savedUpTo - this.settled, 0));
  }

  markSaved(last, carried) {
    this.#savedUpTo = Math.max(this.#savedUpTo, last);
    this.#sendableUpTo = Math.max(this.#sendableUpTo, carried);
  }

  // --- evidence ---

  /** All up to `seq` are settled; those for which that is news. */
  settle(seq) {
    if (seq > this.carried) {
      throw new ProtocolViolation(`ACK ${seq}, expected at most ${this.carried}, the last message sent`);
    }
    let count = seq - this.settled;
    if (count <= 0) return [];
    while (this.entries[count]?.rejected) count += 1;
    return this.#forget(count);
  }

  /** One message was refused and counts as settled; it, or null where that is no news. */
  reject(seq) {
    if (seq > this.carried) {
      throw new ProtocolViolation(`REJECT ${seq}, expected at most ${this.carried}, the last message sent`);
    }
    this.answered = Math.max(this.answered, seq);
    const entry = this.entries[seq - this.settled - 1];
    if (!entry || entry.rejected) return null;
    this.#uncount(entry);
    entry.rejected = true;
    let count = 0;
    while (this.entries[count]?.rejected) count += 1;
    this.#forget(count);
    return entry;
  }

  /** A list of what was refused lately: `{entry, code, reason}` of those for which that is news. */
  refuse(rejected) {
    const refused = [];
    for (const [first, last, code, reason] of rejected) {
      if (last > this.carried) {
        throw new ProtocolViolation(`message ${last} rejected, expected at most ${this.carried}, the last message sent`);
      }
      for (let seq = Math.max(first, this.settled + 1); seq <= last; seq += 1) {
        const entry = this.reject(seq);
        if (entry) refused.push({ entry, code, reason });
      }
    }
    return refused;
  }

  #forget(count) {
    const gone = this.entries.splice(0, count);
    for (const entry of gone) {
      if (!entry.rejected) this.#uncount(entry);
      if (entry.seq > this.#left) this.unsentBytes -= entry.data.length;
    }
    this.settled += count;
    this.#reserved = Math.max(this.#reserved, this.settled);
    this.#left = Math.max(this.#left, this.settled);
    this.answered = Math.max(this.answered, this.settled);
    return gone.filter((entry) => !entry.rejected);
  }

  #uncount(entry) {
    this.unsettledMessages -= 1;
    this.unsettledBytes -= entry.data.length;
    if (entry.seq <= this.#reserved) {
      this.#flightMessages -= 1;
      this.#flightBytes -= entry.data.length;
    }
  }

  /** Takes out the waiting messages that are larger than `limit`. Those behind them get new numbers. */
  dropTooBig(limit) {
    const isTooBig = (entry) => entry.seq > this.carried && entry.data.length > limit;
    const dropped = this.entries.filter(isTooBig);
    if (!dropped.length) return dropped;
    const kept = this.entries.filter((entry) => !isTooBig(entry));
    for (const { data } of dropped) {
      this.unsettledMessages -= 1;
      this.unsettledBytes -= data.length;
      this.unsentBytes -= data.length;
      this.waitingMessages -= 1;
      this.waitingBytes -= data.length;
    }
    kept.forEach((entry, index) => (entry.seq = this.settled + 1 + index));
    this.entries = kept;
    this.#savedUpTo = this.carried;
    return dropped;
  }
}

/** One of our messages as events show it. */
function told({ seq, text, data }) {
  return { seq, data: text ? decoder.decode(data) : data.slice().buffer };
}

// --- rejections ------------------------------------------------------------------------------------------------------

/** Which messages were refused lately, so that a refusal is not lost with the connection that carried its REJECT. */

/** What the list may take as JSON. */
const MAX_REJECTIONS_BYTES = 24 * 1024;

/**
 * A sender is taken to have this window at the least: a gateway between it and us passes on what fits a smaller one of
 * ours, and then the sender may have more unsettled than we can see.
 */
const LEAST_WINDOW_MESSAGES = 1024;

/** Stands for codes that had no room. */
const NO_CODE = 1005;

/**
 * The gateway's messages that we refused, and that their sender may not know of.
 *
 * It hears of refusals in the order in which they were made; so once it has sent a window full of messages more than it
 * had when one was made, it must have heard of that one (docs/protocol.md, Acknowledgement).
 */
class Rejections {
  /** `[from, to, code, reason]` of each, in that order; another array after each change. */
  ranges = [];
  #forgottenAt = [];
  /** What each of them takes. */
  #sizes = new WeakMap();

  constructor(ranges = [], accepted = 0, windowMessages = 0) {
    this.ranges = ranges;
    this.#forgottenAt = ranges.map(() => accepted + Math.max(windowMessages, LEAST_WINDOW_MESSAGES));
  }

  has(seq) {
    return this.ranges.some(([first, last]) => first <= seq && seq <= last);
  }

  /** Message `seq` was refused when the newest that had come was `accepted`. */
  add(seq, code, reason, accepted, windowMessages) {
    const ranges = this.ranges.filter((_, index) => this.#forgottenAt[index] > accepted);
    this.#forgottenAt = this.#forgottenAt.filter((at) => at > accepted);
    const newest = ranges.at(-1);
    if (newest && newest[1] + 1 === seq && newest[2] === code && newest[3] === reason) {
      ranges.splice(-1, 1, [newest[0], seq, code, reason]);
      this.#forgottenAt.pop();
    } else {
      ranges.push([seq, seq, code, reason]);
    }
    this.#forgottenAt.push(accepted + Math.max(windowMessages, LEAST_WINDOW_MESSAGES));
    this.ranges = this.#shortened(ranges);
  }

  /** The oldest lose first their reasons, then neighbours their codes, then they are forgotten. */
  #shortened(ranges) {
    const sizeOf = (range) => {
      if (!this.#sizes.has(range)) this.#sizes.set(range, encoder.encode(JSON.stringify(range)).length + 1);
      return this.#sizes.get(range);
    };
    let size = ranges.reduce((bytes, range) => bytes + sizeOf(range), 0);
    for (let at = 0; size > MAX_REJECTIONS_BYTES && at < ranges.length; at += 1) {
      const bare = [...ranges[at].slice(0, 3), ""];
      size += sizeOf(bare) - sizeOf(ranges[at]);
      ranges[at] = bare;
    }
    if (size > MAX_REJECTIONS_BYTES) {
      ranges = this.#joined(ranges);
      size = ranges.reduce((bytes, range) => bytes + sizeOf(range), 0);
    }
    while (size > MAX_REJECTIONS_BYTES) {
      size -= sizeOf(ranges.shift());
      this.#forgottenAt.shift();
    }
    return ranges;
  }

  /** One range for those that follow one another, whatever their codes; none has a reason any more. */
  #joined(ranges) {
    const runs = ranges.map((range, index) => ({ range, forgottenAt: this.#forgottenAt[index] }));
    const joined = [];
    for (const run of runs.sort((one, other) => one.range[0] - other.range[0])) {
      const before = joined.at(-1);
      if (!before || before.range[1] + 1 < run.range[0]) {
        joined.push(run);
        continue;
      }
      const [first, last, code] = before.range;
      before.range = [first, Math.max(last, run.range[1]), code === run.range[2] ? code : NO_CODE, ""];
      before.forgottenAt = Math.max(before.forgottenAt, run.forgottenAt);
    }
    this.#forgottenAt = joined.map(({ forgottenAt }) => forgottenAt);
    return joined.map(({ range }) => range);
  }
}

// --- session ---------------------------------------------------------------------------------------------------------

/** The record protocol without I/O. */

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
const SUPERSEDED = 4001;

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
class Session {
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

// --- connections -----------------------------------------------------------------------------------------------------

/** The connections of a conversation, one after the other: when one is tried, kept, given up. */

/** The longest that silence is borne, when connections made anew do not end it. */
const MAX_SILENCE_MS = 300_000;

/** A timer that fires so late was frozen with its page: what has come in meanwhile was not seen yet. */
const FROZEN_MS = 1000;

/** A connection that was quiet for so long is made anew when somebody looks at the page again. */
const STALE_MS = 60_000;

/**
 * So long after a connection of ours ended without an answer to its OPEN, that OPEN may still be on its way, overtake
 * the next one's and supersede it: a 4001 that comes meanwhile may tell of nobody but ourselves.
 */
const GHOST_MS = 30_000;

/** A WebSocket that has dispatched `error` dispatches `close` in the same task; Node's before version 24 never does. */
const CLOSE_FOLLOWS_MS = 100;

const SOCKET_CLOSED = 3;

/**
 * Has at most one socket at a time, and tries for one until it is told to end.
 *
 * The owner has `session`, `guard(action)`, which is the boundary of every entrance, and hears of: `connecting()`;
 * `attached()`, when a socket is up and its OPEN may go; `misconnected(violation)`, where it leads to something else;
 * `received(data)`; `failed(message, cause)`, when a way was given up that goes on elsewhere; `diagnosed(words)`, when the gateway has said
 * why it takes no connection of ours; `show(token)`, another credential for the open connection; and `disconnected(end)`,
 * with the `code`, `reason` and `cause` of the end, whether the session `wasOpen` on the connection, and whether it
 * `isGhost`: superseded by nobody but ourselves.
 */
class Connections {
  #owner;
  #options;
  #platform;
  #timers;
  #findUrl;
  #credential;
  /** Renews the permission of the open connection. */
  renewal;
  /** What goes into OPEN on this connection. */
  token = null;

  #socket = null;
  #attempt = 0;
  /** Our OPEN has left on this socket, and nothing that answers it has come. */
  #awaitsAnswer = false;
  /** Until when each of our OPENs that were given up without an answer may still arrive. */
  #lateOpens = [];

  #hasOpened = false;
  #hasAsked = false;

  /** In a row: attempts that did not open the session; connections that were good for nothing; sessions lost. */
  #failedAttempts = 0;
  #failures = 0;
  #losses = 0;

  #openedAt = 0;
  #heardAt = 0;
  #owedSince = null;
  #silenceDue = Infinity;
  #silenceMs;
  #bytesGiven = 0;
  /** When silence was looked for last: what waited for the network, and what had left. */
  #bytesWaiting = 0;
  #bytesLeft = 0;
  #offlineAt = null;
  #stopListening = [];

  constructor(owner, url, options, platform, timers) {
    this.#owner = owner;
    this.#options = options;
    this.#platform = platform;
    this.#timers = timers;
    this.#findUrl = typeof url === "function" ? url : null;
    this.#credential = new Credential(options.token);
    this.renewal = new Renewal(owner, this.#credential, platform, timers);
    this.url = this.#findUrl ? "" : resolved(url, platform.baseUrl);
    this.#silenceMs = options.silenceTimeoutMs;
    this.#listenToPage();
  }

  get #session() {
    return this.#owner.session;
  }

  /** Another credential can be shown on an open connection. */
  get renews() {
    return this.#credential.isAsked;
  }

  get bufferedAmount() {
    return this.#socket?.bufferedAmount ?? 0;
  }

  /** The gateway may have begun a session for us already. */
  get isAwaitingAnswer() {
    return this.#awaitsAnswer;
  }

  // --- trying ---

  /** The page before this one has gone with the session: its OPEN may be on its way. */
  inherit() {
    this.#lateOpens.push(this.#platform.now() + GHOST_MS);
  }

  connect() {
    this.#timers.disarm("retry");
    this.#owner.connecting();
    const attempt = (this.#attempt += 1);
    const { connectTimeoutMs } = this.#options;
    this.#timers.arm("connect", connectTimeoutMs, () => {
      const message = `no answer within ${connectTimeoutMs} ms`;
      this.drop();
      this.#over(1006, message, new DOMException(message, "TimeoutError"));
    });
    const isCurrent = () => attempt === this.#attempt;
    const fail = (error) => this.#owner.guard(() => isCurrent() && this.#over(1006, String(error?.message), error));
    if (this.#findUrl || this.#credential.isAsked) {
      const find = Promise.resolve().then(this.#findUrl ?? (() => this.url));
      Promise.all([find, this.#credential.get()])
        .then(([url, token]) => isCurrent() && this.#open(resolved(url, this.#platform.baseUrl), token))
        .catch(fail);
      return;
    }
    try {
      this.#open(this.url, this.#credential.get());
    } catch (error) {
      Promise.resolve(error).then(fail); // later, because nobody listens yet to what the constructor does
    }
  }

  /** Throws what `new WebSocket` throws, as for a page of https that wants ws. */
  #open(url, token) {
    const socket = new this.#platform.WebSocket(url, [SUBPROTOCOL]);
    this.url = url;
    this.token = token;
    this.#socket = socket;
    this.#bytesGiven = 0;
    socket.binaryType = "arraybuffer";
    let cause = null;
    const whenCurrent = (action) => (event) => this.#owner.guard(() => socket === this.#socket && action(event));
    socket.onopen = whenCurrent(() => {
      if (socket.protocol === SUBPROTOCOL) {
        this.#heardAt = this.#platform.now();
        this.#owner.attached();
      } else {
        this.#owner.misconnected(new ProtocolViolation(`${this.url} does not speak ${SUBPROTOCOL}`));
      }
    });
    socket.onmessage = whenCurrent(({ data }) => {
      this.#heardAt = this.#platform.now();
      this.#awaitsAnswer = false;
      this.#owner.received(data);
      if (!this.#session.outbox.hasUnanswered) this.#owedSince = null;
    });
    socket.onclose = whenCurrent(({ code, reason }) => {
      this.#socket = null;
      if (code !== 1006) this.#awaitsAnswer = false;
      this.#over(code, reason, cause);
    });
    socket.onerror = whenCurrent((event) => {
      cause = event?.error?.message ? event.error : null; // Node 24's is a TypeError without a word
      this.#timers.arm("failed", CLOSE_FOLLOWS_MS, () => {
        this.drop();
        this.#over(1006, "", cause);
      });
    });
  }

  /** Sends what the session gives; with OPEN the answer is awaited. */
  transmit(records, { isOpen = false } = {}) {
    if (!this.#socket) return;
    for (const record of records) {
      this.#socket.send(record);
      this.#bytesGiven += record.length;
    }
    if (isOpen) this.#awaitsAnswer = true;
    if (this.#session.outbox.hasUnanswered) this.#owedSince ??= this.#platform.now();
    if (this.#session.hasClosed) this.#timers.disarm("silence");
    else this.#watchSilence();
  }

  /** The session is open on this connection. */
  opened() {
    this.#timers.disarm("connect");
    this.#credential.accepted();
    this.#hasOpened = true;
    this.#failedAttempts = 0;
    this.#openedAt = this.#platform.now();
    this.#watchSilence();
  }

  /** The connection is good for something: the next one, should it break, is tried soon. */
  progressed() {
    this.#failures = 0;
    this.#silenceMs = this.#options.silenceTimeoutMs;
  }

  // --- giving up ---

  /** The gateway has said in a record that this connection is over. */
  dismiss(code, reason, { isLoss = false } = {}) {
    this.drop();
    if (isLoss) this.#losses += 1;
    this.#over(code, reason, null);
  }

  #over(code, reason, cause) {
    const wasOpen = this.#session.isOpen;
    this.#forgetAnswer();
    this.#attempt += 1;
    for (const name of ["connect", "silence", "failed"]) this.#timers.disarm(name);
    this.#session.detach();
    if (wasOpen && this.#platform.now() - this.#openedAt > this.#options.reconnectMaxMs) {
      this.#losses = 0;
      this.progressed();
    }
    if (!wasOpen) this.#failedAttempts += 1;
    if (code === 1006) this.#askWhy();
    const isGhost = code === SUPERSEDED && this.#isSupersededByUs();
    this.#owner.disconnected({ code, reason, cause, wasOpen, isGhost });
  }

  #isSupersededByUs() {
    const now = this.#platform.now();
    this.#lateOpens = this.#lateOpens.filter((until) => now < until);
    return this.#lateOpens.shift() !== undefined;
  }

  #forgetAnswer() {
    this.renewal.end();
    if (this.#awaitsAnswer) this.#lateOpens.push(this.#platform.now() + GHOST_MS);
    this.#awaitsAnswer = false;
    this.#owedSince = null;
  }

  /** Our credential was refused: whether a connection with a fresh one is on its way. */
  renew(code) {
    if (code !== UNAUTHENTICATED || !this.#credential.refused()) return false;
    this.connect();
    return true;
  }

  /** Asks once, where the first attempt of all has failed, why; the owner hears of it by `diagnosed(words)`. */
  #askWhy() {
    const { fetch } = this.#platform;
    if (!fetch || this.#hasOpened || this.#hasAsked || !this.url) return;
    this.#hasAsked = true;
    const { url } = this;
    diagnosed(url, fetch).then((words) => {
      if (words && !this.#hasOpened) this.#owner.diagnosed(`no connection to ${url}: ${words}`);
    });
  }

  /** In how many ms the next attempt comes; null where the application allows no more of them. */
  retry() {
    const { attempts, reconnectMinMs, reconnectMaxMs } = this.#options;
    this.#failures += 1;
    if (this.#failedAttempts >= attempts) return null;
    // Half of it is left to chance, so that the clients of a gateway that restarted do not all come at once.
    const times = Math.max(this.#failures, this.#losses);
    const longest = Math.min(reconnectMaxMs, reconnectMinMs * 2 ** (times - 1));
    const retryInMs = longest * (0.5 + this.#platform.random() / 2);
    this.#timers.arm("retry", retryInMs, () => this.connect());
    return retryInMs;
  }

  /** Goes on with a new connection; the gateway ends the old one when the new one has come. */
  #replace() {
    this.drop();
    this.#timers.disarm("silence");
    this.#session.detach();
    this.connect();
  }

  drop() {
    const socket = this.#socket;
    if (!socket) return;
    this.#socket = null;
    this.#timers.disarm("failed");
    this.#forgetAnswer();
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.onerror = () => {}; // `ws` throws where nobody listens
    socket.close();
  }

  /** No more connections. */
  end() {
    this.#attempt += 1;
    for (const stop of this.#stopListening) stop();
    this.drop();
  }

  // --- the page ---

  #listenToPage() {
    const { window, document } = this.#platform;
    const listen = (target, type, action) => {
      if (!target) return;
      const listener = () => this.#owner.guard(action);
      target.addEventListener(type, listener);
      this.#stopListening.push(() => target.removeEventListener(type, listener));
    };
    listen(window, "offline", () => (this.#offlineAt = this.#platform.now()));
    listen(window, "online", () => {
      // What had a way through the old network may have none through the new one; a resume costs little.
      if (this.#socket && this.#offlineAt !== null && this.#heardAt <= this.#offlineAt) this.#replace();
      this.#offlineAt = null;
      this.hurry();
    });
    listen(window, "pageshow", () => this.hurry());
    listen(document, "resume", () => this.hurry());
    listen(document, "visibilitychange", () => document.visibilityState === "visible" && this.hurry());
  }

  /** There is reason to hope: does not wait for the back-off. */
  hurry() {
    if (this.#socket?.readyState === SOCKET_CLOSED) {
      // A page that comes out of the back-forward cache was not told of its socket's end.
      this.drop();
      this.#over(1006, "", null);
    }
    if (this.#timers.has("retry")) {
      this.#failures = 0;
      this.connect();
    } else if (this.#session?.isOpen && this.#platform.now() - this.#heardAt > STALE_MS) {
      this.#replace();
    }
  }

  // --- silence ---

  /**
   * When silence will have lasted too long, or null where it may last: the gateway owes an answer to what we have sent,
   * and it has promised to say something now and then (a page sees nothing of its pings).
   */
  #silenceEnd() {
    const { silenceTimeoutMs } = this.#options;
    const session = this.#session;
    if (silenceTimeoutMs === null || !session?.isOpen || session.hasClosed) return null;
    if (session.outbox.hasUnanswered) {
      return Math.max(this.#heardAt, this.#owedSince) + this.#silenceMs;
    }
    if (session.heartbeatSeconds === null) return null;
    return this.#heardAt + session.heartbeatSeconds * 1000 + silenceTimeoutMs;
  }

  #watchSilence() {
    const end = this.#silenceEnd();
    if (end === null || (this.#timers.has("silence") && this.#silenceDue <= end)) return;
    this.#armSilence(end - this.#platform.now());
  }

  #armSilence(ms) {
    this.#silenceDue = this.#platform.now() + ms;
    this.#bytesWaiting = this.bufferedAmount;
    this.#bytesLeft = this.#bytesGiven - this.#bytesWaiting;
    this.#timers.arm("silence", ms, () => this.#checkSilence());
  }

  #checkSilence() {
    const end = this.#silenceEnd();
    if (end === null) return;
    const now = this.#platform.now();
    if (now - this.#silenceDue > FROZEN_MS) {
      this.#armSilence(FROZEN_MS);
    } else if (now < end) {
      this.#armSilence(end - now);
    } else if (this.#bytesWaiting && this.#bytesGiven - this.bufferedAmount > this.#bytesLeft) {
      // The network took of what waited: the way is slow and lives. Where nothing waits, the kernel may take it in vain.
      this.#armSilence(this.#silenceMs);
    } else {
      const message = `nothing heard for ${Math.round(now - Math.max(this.#heardAt, this.#owedSince ?? 0))} ms`;
      this.#owner.failed(message, new DOMException(message, "TimeoutError"));
      // A gateway that gives no receipts may only be slow to settle: ask less often while asking does not help.
      this.#silenceMs = Math.min(this.#silenceMs * 2, Math.max(MAX_SILENCE_MS, this.#silenceMs));
      this.#replace();
    }
  }
}

// --- events ----------------------------------------------------------------------------------------------------------

/** Events, and how their handlers are called. */

const EVENTS = ["open", "message", "close", "error", "state", "receipt", "resume", "rejected", "lost"];

/** An event with its facts as properties. */
class KakitomeEvent extends Event {
  constructor(type, facts = {}) {
    super(type);
    Object.assign(this, facts);
  }
}

/** One message of the gateway's; `seq` is its number in the session. */
class KakitomeMessageEvent extends MessageEvent {
  #consume;
  #reject;

  constructor(data, origin, seq, consume, reject) {
    super("message", { data, origin });
    this.seq = seq;
    this.#consume = consume;
    this.#reject = reject;
  }

  /** The message is consumed. Needed with `acknowledge: "manual"` only. */
  acknowledge() {
    this.#consume();
  }

  /** Refuses the message: its sender is told why, and not that it was consumed. */
  reject(code, reason = "") {
    if (!isCode(code)) throw new RangeError(`code ${code}, expected 1000 to 4999`);
    this.#reject(code, String(reason));
  }
}

/** What the handlers of the message events that are being dispatched have thrown, and the promises they gave. */
const handled = new WeakMap();

/** An EventTarget with `on...` properties that finds out how the handlers of a message fared. */
class Emitter extends EventTarget {
  #watched = new WeakMap();

  addEventListener(type, listener, options) {
    super.addEventListener(type, type === "message" ? this.#watch(listener) : listener, options);
  }

  removeEventListener(type, listener, options) {
    super.removeEventListener(type, type === "message" ? (this.#watched.get(listener) ?? listener) : listener, options);
  }

  /** The one listener that stands for this one, so that it is added once and can be removed. */
  #watch(listener) {
    if (typeof listener !== "function" && typeof listener !== "object") return listener;
    if (listener === null) return listener;
    let watching = this.#watched.get(listener);
    if (!watching) {
      watching = function (event) {
        const outcome = handled.get(event);
        try {
          const given = typeof listener === "function" ? listener.call(this, event) : listener.handleEvent(event);
          if (typeof given?.then === "function") outcome?.promises.push(given);
        } catch (error) {
          outcome?.errors.push(error);
          throw error; // the platform reports it, as it does for any event
        }
      };
      this.#watched.set(listener, watching);
    }
    return watching;
  }

  /** Dispatches the event; `{errors, promises}` of its handlers. */
  dispatchWatched(event) {
    const outcome = { errors: [], promises: [] };
    handled.set(event, outcome);
    this.dispatchEvent(event);
    return outcome;
  }
}

for (const type of EVENTS) {
  const handlers = new WeakMap();
  Object.defineProperty(Emitter.prototype, `on${type}`, {
    enumerable: true,
    configurable: true,
    get() {
      return handlers.get(this) ?? null;
    },
    set(handler) {
      if (!handlers.has(this)) this.addEventListener(type, (event) => handlers.get(this)?.call(this, event));
      handlers.set(this, typeof handler === "function" ? handler : null);
    },
  });
}

/** Gives the class and its objects the constants of WebSocket's `readyState`. */
function defineStates(owner) {
  for (const [value, name] of ["CONNECTING", "OPEN", "CLOSING", "CLOSED"].entries()) {
    for (const holder of [owner, owner.prototype]) Object.defineProperty(holder, name, { value, enumerable: true });
  }
}

// --- deliveries ------------------------------------------------------------------------------------------------------

/** The gateway's messages on their way through the application's handlers. */

/** What the sender is told where a handler has failed; the details are not its business. */
const HANDLER_FAILED_CODE = 1011;
const HANDLER_FAILED_REASON = "the receiver failed to handle the message";

/**
 * Gives each message to the handlers, and finds out whether it was consumed.
 *
 * The owner has `isCurrent(session, generation)`, whether that session still takes an answer, `acknowledge()`, when there
 * is something to tell, `dispatchWatched(event)`, `handlerFailed(error)`, `handled()`, when nothing is awaited any more,
 * and `guard(action)`.
 */
class Deliveries {
  #owner;
  #isAuto;
  #platform;
  /** The handlers whose promises are not settled, and those of them that a close waits for. */
  #underWay = new Set();
  #awaited = new Set();
  #isDispatching = false;
  #awaitsPresent = false;

  constructor(owner, acknowledge, platform) {
    this.#owner = owner;
    this.#isAuto = acknowledge === "auto";
    this.#platform = platform;
  }

  get isAwaiting() {
    return this.#awaitsPresent || this.#awaited.size > 0;
  }

  /** From now on those that have begun are awaited; those that begin later are not. */
  awaitThoseUnderWay() {
    this.#awaited = new Set(this.#underWay);
    this.#awaitsPresent = this.#isDispatching;
  }

  /**
   * Gives one message to the handlers, and acknowledges it when they have returned and their promises are fulfilled. A
   * message whose handler has failed was not consumed: it is refused, so that its sender knows.
   */
  deliver(session, { seq, text, data }, binaryType, origin) {
    const { generation } = session;
    const whenCurrent = (action) => {
      if (!this.#owner.isCurrent(session, generation)) return;
      action();
      this.#owner.acknowledge();
    };
    const consume = () => whenCurrent(() => session.consume(seq));
    const reject = (code, reason) => whenCurrent(() => session.reject(seq, code, reason));
    const fail = (cause) => {
      if (this.#isAuto) reject(HANDLER_FAILED_CODE, HANDLER_FAILED_REASON);
      this.#owner.handlerFailed(new HandlerFailed(seq, cause));
    };
    let content = data;
    if (!text) content = binaryType === "blob" ? new Blob([data]) : data.slice().buffer;
    const event = new KakitomeMessageEvent(content, origin, seq, consume, reject);
    this.#isDispatching = true;
    const { errors, promises } = this.#owner.dispatchWatched(event);
    this.#isDispatching = false;
    for (const error of errors) fail(error);
    if (promises.length) this.#await(promises, consume, fail);
    else if (this.#isAuto) consume(); // which is nothing for one that was refused
    if (!this.#awaitsPresent) return;
    this.#awaitsPresent = false;
    if (!this.isAwaiting) this.#owner.handled();
  }

  #await(promises, consume, fail) {
    const handling = Promise.allSettled(promises).then((outcomes) =>
      this.#owner.guard(() => {
        for (const { status, reason } of outcomes) {
          if (status === "fulfilled") continue;
          fail(reason);
          this.#platform.reportError?.(reason);
        }
        if (this.#isAuto) consume();
        this.#underWay.delete(handling);
        if (this.#awaited.delete(handling) && !this.isAwaiting) this.#owner.handled();
      }),
    );
    this.#underWay.add(handling);
    if (this.#awaitsPresent) this.#awaited.add(handling);
  }
}

// --- intake ----------------------------------------------------------------------------------------------------------

/** What the application hands over to be sent: checked, kept in order, refused when too much waits. */

/**
 * Between `send` and the session's outbox. A message waits here behind a Blob that is being read, and while the store is
 * being opened.
 *
 * The owner has `session`, null until the store was opened, `closing`, which is `{code, reason}` once nothing more is
 * taken, and `flush()`.
 */
class Intake {
  #owner;
  #options;
  #platform;
  #staged = [];
  /** Those who wait for room, oldest first: each has its turn, so that nobody is overtaken for ever. */
  #waiters = [];
  #isTurnTaken = false;
  #turnEnds = false;

  constructor(owner, options, platform) {
    this.#owner = owner;
    this.#options = options;
    this.#platform = platform;
    this.bytes = 0;
  }

  get isEmpty() {
    return this.#staged.length === 0;
  }

  /** Takes one message; `sending` is told what becomes of it. */
  take(data, sending) {
    const { session, closing } = this.#owner;
    if (closing) {
      sending.reject(new Closed(closing.code, closing.reason));
      return;
    }
    const blob = typeof Blob !== "undefined" && data instanceof Blob ? data : null;
    const message = { text: false, data: null, ...(blob ? {} : encoded(data)), size: 0, sending, error: null };
    message.size = blob ? blob.size : message.data.length;
    const limit = session?.messageLimit ?? Infinity;
    const waitingBytes = (session?.outbox.waitingBytes ?? 0) + this.bytes;
    const waitingMessages = (session?.outbox.waitingMessages ?? 0) + this.#staged.length;
    const { queueMessages, queueBytes } = this.#options;
    if (message.size > limit) {
      sending.reject(new TooBig(message.size, limit));
    } else if (waitingMessages && (waitingMessages >= queueMessages || waitingBytes + message.size > queueBytes)) {
      const waiting = `${waitingMessages} messages of ${waitingBytes} bytes wait to be sent already`;
      const room = `room is for ${queueMessages} messages (queueMessages) of ${queueBytes} bytes (queueBytes)`;
      sending.reject(new QueueFull(`${waiting}, and this one has ${message.size} bytes: ${room}`));
    } else if (blob || this.#staged.length || !session) {
      this.#stage(message, blob);
    } else {
      this.#append(message);
      this.#owner.flush();
    }
    this.#isTurnTaken = false;
    this.updateReady();
  }

  #stage(message, blob) {
    this.#staged.push(message);
    this.bytes += message.size;
    if (!blob) return;
    blob
      .arrayBuffer()
      .then(
        (buffer) => (message.data = new Uint8Array(buffer)),
        (error) => (message.error = error),
      )
      .then(() => this.#owner.staged());
  }

  /** Hands on what need not wait here any more. */
  unstage() {
    const { session } = this.#owner;
    while (this.#staged.length && (this.#staged[0].data || this.#staged[0].error)) {
      const message = this.#staged.shift();
      this.bytes -= message.size;
      if (message.error) message.sending.reject(message.error);
      else if (message.size > session.messageLimit) {
        message.sending.reject(new TooBig(message.size, session.messageLimit));
      } else this.#append(message);
    }
  }

  #append({ text, data, sending }) {
    sending.entry = this.#owner.session.append(text, data, sending);
  }

  /** Nothing more leaves: all that waits here is told why. */
  rejectAll(error) {
    for (const { sending } of this.#staged) sending.reject(error);
    this.#staged = [];
    this.bytes = 0;
    for (const waiter of this.#waiters) waiter.reject(error);
    this.#waiters = [];
  }

  /**
   * Resolves when the window has room, in the order in which they came, and for one at a time: whoever was let in has
   * sent, or has let a task pass, before the next one is.
   */
  get ready() {
    const waiter = deferred();
    this.#waiters.push(waiter);
    this.updateReady();
    return waiter.promise;
  }

  updateReady() {
    const { session, closing } = this.#owner;
    if (closing) {
      for (const waiter of this.#waiters) waiter.reject(new Closed(closing.code, closing.reason));
      this.#waiters = [];
    } else if (this.#waiters.length && this.#isTurnTaken) {
      this.#endTurnSoon();
    } else if (this.#waiters.length && this.isEmpty && session?.outbox.hasRoom) {
      this.#isTurnTaken = true;
      this.#waiters.shift().resolve();
      if (this.#waiters.length) this.#endTurnSoon();
    }
  }

  #endTurnSoon() {
    if (this.#turnEnds) return;
    this.#turnEnds = true;
    this.#platform.startMacrotask(() => {
      this.#turnEnds = false;
      this.#isTurnTaken = false;
      this.updateReady();
    });
  }
}

/** A promise with its ends; that nobody looks at its rejection is no fault of the program's. */
function deferred() {
  const ends = {};
  ends.promise = new Promise((resolve, reject) => Object.assign(ends, { resolve, reject }));
  ends.promise.catch(() => {});
  return ends;
}

/** What `send` was given, as bytes of our own: the caller may change its buffer. */
function encoded(data) {
  if (data instanceof ArrayBuffer) return { text: false, data: new Uint8Array(data.slice(0)) };
  if (ArrayBuffer.isView(data)) {
    return { text: false, data: new Uint8Array(data.buffer, data.byteOffset, data.byteLength).slice() };
  }
  return { text: true, data: encoder.encode(String(data)) };
}

// --- saving ----------------------------------------------------------------------------------------------------------

/** A conversation's dealings with its store. */

/** How long any store may take to be opened, and to save: longer than ours takes to give up by itself. */
const OPEN_PATIENCE_MS = 20_000;
const SAVE_PATIENCE_MS = 60_000;

/** In a page that was frozen meanwhile the answer may be here, and not have been heard yet. */
const LATE_ANSWER_MS = 500;

/** A store that says so oftener in a row that it has lost what was saved does not keep it. */
const MAX_SAVES_ANEW = 3;

/**
 * Opens the store, saves one thing after the other, lets go of it.
 *
 * The owner hears of `opened(stored)`, `saved()`, when the next thing can be saved, and `failed(error)`, each in its
 * `guard(action)`; nothing of it after `end`.
 */
class Saving {
  #owner;
  #store;
  #timers;
  #isOpened = false;
  #isEnded = false;
  #savesAnew = 0;

  constructor(owner, store, timers) {
    this.#owner = owner;
    this.#store = store;
    this.#timers = timers;
    this.isBusy = false;
  }

  open() {
    this.#awaitFor(OPEN_PATIENCE_MS, "was not opened");
    attempted(() => this.#store.open()).then(
      (stored) => {
        if (this.#isEnded) {
          this.#close(); // nobody waits for it any more
          return;
        }
        this.#isOpened = true;
        this.#timers.disarm("store");
        this.#tell(() => this.#owner.opened(stored));
      },
      (error) => this.#fail(error),
    );
  }

  /** Saves what the session gives, and tells the session. */
  save(session, changes) {
    this.isBusy = true;
    this.#awaitFor(SAVE_PATIENCE_MS, "did not save");
    attempted(() => this.#store.save(changes)).then(
      () => {
        this.#savesAnew = 0;
        this.#goOn(() => session.markSaved(changes));
      },
      (error) => {
        this.#savesAnew += 1;
        if (error instanceof StoreEmptied && this.#savesAnew <= MAX_SAVES_ANEW) this.#goOn(() => session.saveAnew());
        else this.#fail(error);
      },
    );
  }

  /** Whoever never answers has failed. */
  #awaitFor(ms, failing) {
    const giveUp = () => this.#owner.failed(new StoreFailed(`the store ${failing} within ${ms} ms`));
    this.#timers.arm("store", ms, () => this.#timers.arm("store", LATE_ANSWER_MS, giveUp));
  }

  #goOn(action) {
    this.isBusy = false;
    if (!this.#isEnded) this.#timers.disarm("store");
    this.#tell(() => {
      action();
      this.#owner.saved();
    });
  }

  #fail(cause) {
    const isKnown = cause instanceof StoreFailed;
    const error = isKnown ? cause : new StoreFailed(`the store failed: ${cause?.message}`, { cause });
    this.#tell(() => this.#owner.failed(error));
  }

  #tell(action) {
    if (!this.#isEnded) this.#owner.guard(action);
  }

  /** Lets go of the store; unless it is to be kept, what it has is forgotten. */
  end(keeps) {
    this.#isEnded = true;
    if (!this.#isOpened) return;
    const close = () => this.#close();
    if (keeps) close();
    // A resume of what is left there is told that the session is gone.
    else attempted(() => this.#store.clear()).then(close, close);
  }

  /** What a store throws here is nothing that the end of a conversation waits for. */
  #close() {
    attempted(() => this.#store.close()).catch(() => {});
  }
}

/** What a store's method promises, also where it throws at once, or is not an async one. */
function attempted(action) {
  try {
    return Promise.resolve(action());
  } catch (error) {
    return Promise.reject(error);
  }
}

// --- store -----------------------------------------------------------------------------------------------------------

/** The outbox that survives a reload. */

/** How long a page that is being reloaded may take to let go of its store. */
const LOCK_PATIENCE_MS = 3000;

/** How long IndexedDB may take to answer; it has been seen never to. */
const ANSWER_PATIENCE_MS = 10_000;
const THAW_MS = 500;

/** How often a write is tried, with a pause before the next time that grows. */
const TRIES = 3;
const PAUSE_MS = 200;

/** What trying again, on a new connection, does not mend. */
const LASTING = new Set([
  "ConstraintError",
  "DataCloneError",
  "DataError",
  "NotFoundError",
  "QuotaExceededError",
  "VersionError",
]);

/**
 * One conversation in IndexedDB: its state and its outbox, saved together. One tab at a time holds it, by a Web Lock.
 *
 * Browsers close the connection to a database when they see fit, and whoever wants to delete it must not be kept from
 * it: so a connection that is gone is opened anew by the next write. Writes are durable against the end of the page and
 * of the browser, not against a power cut ("relaxed").
 */
class IndexedDbStore {
  #name;
  #platform;
  #database = null;
  #wasOpened = false;
  /** What was saved is gone: the next write must be whole. */
  #isEmptied = false;
  #isClosed = false;
  #release = null;
  #writing = Promise.resolve();

  constructor(name, platform = {}) {
    this.#name = `kakitome:${name}`;
    this.#platform = {
      indexedDB: globalThis.indexedDB,
      locks: globalThis.navigator?.locks,
      setTimeout: (action, ms) => globalThis.setTimeout(action, ms),
      clearTimeout: (timer) => globalThis.clearTimeout(timer),
      ...platform,
    };
  }

  /** Takes the store; what it has: null, or the state with `messages`. Rejects with StoreInUse or StoreFailed. */
  async open() {
    const { indexedDB, locks } = this.#platform;
    if (!indexedDB) throw new StoreFailed("there is no IndexedDB here");
    if (!locks) {
      throw new StoreFailed("there are no Web Locks here (they need https or localhost) to keep a second tab out");
    }
    await this.#lock(locks);
    try {
      await this.#connect();
      return await this.#load();
    } catch (cause) {
      this.close();
      throw failure("IndexedDB failed", cause);
    }
  }

  #lock(locks) {
    const { setTimeout, clearTimeout } = this.#platform;
    const waiting = new AbortController();
    const timer = setTimeout(() => waiting.abort(), LOCK_PATIENCE_MS);
    return new Promise((resolve, reject) => {
      const hold = () => {
        clearTimeout(timer);
        resolve();
        return new Promise((release) => (this.#release = release));
      };
      locks.request(this.#name, { signal: waiting.signal }, hold).catch((cause) => {
        clearTimeout(timer);
        if (waiting.signal.aborted) reject(new StoreInUse(`another tab uses the store ${this.#name}`, { cause }));
        else reject(failure("Web Locks failed", cause)); // as in a frame that is not let near any storage
      });
    });
  }

  /** Opens the database, and makes it where there is none. */
  async #connect() {
    const request = this.#platform.indexedDB.open(this.#name, 1);
    request.onupgradeneeded = () => {
      this.#isEmptied = this.#wasOpened;
      request.result.createObjectStore("state");
      request.result.createObjectStore("outbox", { keyPath: "seq" });
    };
    const opening = answered(request);
    let database;
    try {
      database = await this.#within(opening, "open");
    } catch (error) {
      opening.then((late) => late.close(), () => {}); // it would be in the way of whoever wants to delete it
      throw error;
    }
    if (this.#isClosed) {
      database.close();
      throw new StoreFailed("the store was closed");
    }
    this.#database = database;
    this.#wasOpened = true;
    database.onversionchange = () => this.#disconnect(database);
    database.onclose = () => this.#disconnect(database);
  }

  #disconnect(database = this.#database) {
    database?.close();
    if (this.#database === database) this.#database = null;
  }

  /** What is promised, or StoreFailed where it takes too long. */
  #within(promised, action) {
    const { setTimeout, clearTimeout } = this.#platform;
    return new Promise((resolve, reject) => {
      const giveUp = () => reject(new StoreFailed(`IndexedDB did not ${action} within ${ANSWER_PATIENCE_MS} ms`));
      // In a page that was frozen meanwhile the answer may be here, and not have been heard yet.
      let timer = setTimeout(() => (timer = setTimeout(giveUp, THAW_MS)), ANSWER_PATIENCE_MS);
      promised.then(resolve, reject).finally(() => clearTimeout(timer));
    });
  }

  async #load() {
    const transaction = this.#database.transaction(["state", "outbox"]);
    const loading = Promise.all([
      answered(transaction.objectStore("state").get("session")),
      answered(transaction.objectStore("outbox").getAll()),
    ]);
    const [state, messages] = await this.#within(loading, "read");
    return state ? { ...state, messages } : null;
  }

  /**
   * Saves all of `{state, appended, replace}` or nothing; `replace` puts `appended` in place of the whole outbox. Rejects
   * with StoreEmptied where only what was saved before and is gone would make it whole.
   */
  save({ state, appended, replace }) {
    return this.#write(replace, (states, outbox) => {
      if (replace) outbox.clear();
      for (const { seq, text, data } of appended) outbox.put({ seq, text, data });
      if (state.settled) outbox.delete(this.#settledKeys(state.settled));
      states.put(state, "session");
    });
  }

  #settledKeys(settled) {
    return (this.#platform.IDBKeyRange ?? globalThis.IDBKeyRange).upperBound(settled);
  }

  /** Forgets the conversation. */
  clear() {
    return this.#write(true, (states, outbox) => {
      states.clear();
      outbox.clear();
    });
  }

  /** One write after the other; `isWhole` if it needs nothing that was saved before. */
  #write(isWhole, change) {
    const written = this.#writing.then(() => this.#tryToWrite(isWhole, change));
    this.#writing = written.catch(() => {});
    return written;
  }

  async #tryToWrite(isWhole, change) {
    for (let tries = 1; ; tries += 1) {
      try {
        if (!this.#database) await this.#connect();
        if (this.#isEmptied && !isWhole) throw new StoreEmptied(`the database ${this.#name} was deleted`);
        await this.#within(this.#transact(change), "save");
        this.#isEmptied = false;
        return;
      } catch (cause) {
        const isLasting = cause instanceof StoreEmptied || LASTING.has(cause?.name);
        if (isLasting || this.#isClosed || tries === TRIES) throw failure("IndexedDB does not save", cause);
        this.#disconnect();
        await new Promise((resolve) => this.#platform.setTimeout(resolve, PAUSE_MS * tries));
      }
    }
  }

  #transact(change) {
    return new Promise((resolve, reject) => {
      const transaction = this.#database.transaction(["state", "outbox"], "readwrite", { durability: "relaxed" });
      transaction.oncomplete = () => resolve();
      transaction.onabort = () => reject(transaction.error ?? new DOMException("it gave up", "AbortError"));
      try {
        change(transaction.objectStore("state"), transaction.objectStore("outbox"));
      } catch (error) {
        reject(error);
        transaction.abort(); // else what it had done before would last
      }
    });
  }

  /** Lets go of the store; what was saved stays. */
  close() {
    this.#isClosed = true;
    this.#disconnect();
    this.#release?.();
    this.#release = null;
  }
}

function answered(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

function failure(what, cause) {
  return cause instanceof StoreFailed ? cause : new StoreFailed(`${what}: ${cause?.message}`, { cause });
}

// --- timers ----------------------------------------------------------------------------------------------------------

/** Named timers, of which each has one time at most. */

/** How often a time is put off that something goes on in, the first one counted. */
const TIMES = 6;

class Timers {
  #platform;
  #guard;
  #running = new Map();

  /** `guard` runs each timer's action. */
  constructor(platform, guard) {
    this.#platform = platform;
    this.#guard = guard;
  }

  has(name) {
    return this.#running.has(name);
  }

  arm(name, ms, action) {
    this.disarm(name);
    const fire = () => {
      this.#running.delete(name);
      this.#guard(action);
    };
    this.#running.set(name, this.#platform.setTimeout(fire, ms));
  }

  /** The same, put off for as long again where `progress()` has grown meanwhile. */
  armWhile(progress, name, ms, action, times = TIMES) {
    const before = progress();
    this.arm(name, ms, () => {
      if (times > 1 && progress() > before) this.armWhile(progress, name, ms, action, times - 1);
      else action();
    });
  }

  disarm(name) {
    if (!this.#running.has(name)) return;
    this.#platform.clearTimeout(this.#running.get(name));
    this.#running.delete(name);
  }

  disarmAll() {
    for (const name of [...this.#running.keys()]) this.disarm(name);
  }
}

// --- kakitome --------------------------------------------------------------------------------------------------------

/** What an application sees: a WebSocket that survives its connections. */

/** Records that the gateway wrote together with OPENED have come by then. */
const CONFIRM_MS = 100;

/** A conversation with a backend, through as many connections as it takes; see kakitome.d.ts for each member. */
class Kakitome extends Emitter {
  #options;
  #platform;
  #timers;
  #connections;
  #intake;
  #deliveries;
  #binaryType = "blob";
  #state = "connecting";
  #hasOpened = false;
  #closing = null;

  #session = null;
  #saving;
  #isDraining = false;
  #acksDue = false;
  #acksScheduled = false;
  /** How the last connection ended, as the cause of what is lost with its session. */
  #lastEnd = { code: 1006, reason: "", cause: null };
  #statistics = { resumes: 0, replayed: 0, duplicates: 0 };

  constructor(url, options = {}) {
    super();
    this.#options = chosen(options);
    this.#platform = { ...surroundings(), ...options.platform };
    if (options.webSocket) this.#platform.WebSocket = options.webSocket;
    if (!this.#platform.WebSocket) throw new TypeError("there is no WebSocket here: give one as option webSocket");
    this.#timers = new Timers(this.#platform, (action) => this.#guard(action));
    this.#connections = this.#makeConnections(url);
    this.#intake = this.#makeIntake();
    this.#deliveries = this.#makeDeliveries();
    const { store } = this.#options;
    const kept = typeof store === "string" ? new IndexedDbStore(store, options.platform ?? {}) : store;
    this.#saving = kept ? this.#makeSaving(kept) : null;
    if (this.#saving) this.#saving.open();
    else this.#begin(null);
  }

  #makeConnections(url) {
    const line = this;
    const owner = {
      get session() {
        return line.#session;
      },
      guard: (action) => this.#guard(action),
      connecting: () => this.#setState(this.#hasOpened ? "reconnecting" : "connecting"),
      attached: () => {
        this.#flush();
        this.#connections.transmit([this.#session.attach(this.#connections.token, this.#connections.renews)], { isOpen: true });
      },
      misconnected: (error) => {
        this.#dispatch("error", { error, message: error.message });
        this.#abandon(1002, error.message, error);
      },
      received: (data) => this.#received(data),
      failed: (message, cause) => this.#dispatchFailure(message, cause),
      diagnosed: (words) => this.#diagnosed(words),
      show: (token) => this.#flush(this.#session.authenticate(token)),
      disconnected: (end) => this.#disconnected(end),
    };
    return new Connections(owner, url, this.#options, this.#platform, this.#timers);
  }

  #makeIntake() {
    const line = this;
    const owner = {
      get session() {
        return line.#session;
      },
      get closing() {
        return line.readyState >= Kakitome.CLOSING ? line.#closing : null;
      },
      flush: () => this.#flush(),
      staged: () => this.#guard(() => this.#unstage()),
    };
    return new Intake(owner, this.#options, this.#platform);
  }

  #makeDeliveries() {
    const owner = {
      isCurrent: (session, generation) => session.generation === generation && this.#state !== "closed",
      acknowledge: () => this.#acknowledgeSoon(),
      dispatchWatched: (event) => this.dispatchWatched(event),
      handlerFailed: (error) => this.#dispatch("error", { error, message: error.message }),
      handled: () => this.#closeWhenReady(),
      guard: (action) => this.#guard(action),
    };
    return new Deliveries(owner, this.#options.acknowledge, this.#platform);
  }

  #makeSaving(store) {
    const owner = {
      opened: (stored) => this.#begin(stored),
      saved: () => this.#flush(),
      failed: (error) => this.#storeFailed(error),
      guard: (action) => this.#guard(action),
    };
    return new Saving(owner, store, this.#timers);
  }

  // --- what the application sees ---

  get url() {
    return this.#connections.url;
  }

  get protocol() {
    return this.#hasOpened ? SUBPROTOCOL : "";
  }

  get extensions() {
    return "";
  }

  get binaryType() {
    return this.#binaryType;
  }

  set binaryType(type) {
    if (type === "blob" || type === "arraybuffer") this.#binaryType = type;
  }

  get state() {
    return this.#state;
  }

  get readyState() {
    if (this.#state === "closed") return Kakitome.CLOSED;
    if (this.#state === "closing") return Kakitome.CLOSING;
    return this.#hasOpened ? Kakitome.OPEN : Kakitome.CONNECTING;
  }

  get bufferedAmount() {
    return (this.#session?.outbox.unsentBytes ?? 0) + this.#intake.bytes + this.#connections.bufferedAmount;
  }

  get settlesAt() {
    return this.#session?.token ? RUNGS[this.#session.settlesAt] : null;
  }

  get statistics() {
    return { ...this.#statistics };
  }

  get unsettled() {
    return this.#session?.unsettled() ?? [];
  }

  get ready() {
    return this.#intake.ready;
  }

  send(data) {
    const sending = { ...deferred(), entry: null, outcome: null };
    const sent = sending.promise;
    Object.defineProperties(sent, {
      seq: { get: () => sending.outcome?.seq ?? sending.entry?.seq ?? 0 },
      rung: { get: () => sending.outcome?.rung ?? (sending.entry && this.#session.rungOf(sending.entry.seq)) },
    });
    this.#guard(() => this.#intake.take(data, sending));
    return sent;
  }

  close(code = 1000, reason = "") {
    checkClosing(code, reason);
    if (this.readyState >= Kakitome.CLOSING) return;
    this.#guard(() => this.#beginClosing(code, cut(String(reason), MAX_CLOSE_REASON_BYTES)));
  }

  // --- sending ---

  #unstage() {
    if (!this.#session || this.#state === "closed") return;
    this.#intake.unstage();
    this.#closeWhenReady();
    this.#flush();
  }

  /** Saves what there is to save, then sends what may be sent. */
  #flush() {
    if (this.#saving?.isBusy || !this.#session) return;
    for (;;) {
      const changes = this.#session.changes();
      if (changes && this.#saving) {
        this.#saving.save(this.#session, changes);
        return;
      }
      if (changes) this.#session.markSaved(changes);
      const records = this.#session.take(this.#acksDue);
      if (!records.length) break;
      this.#connections.transmit(records);
    }
    this.#acksDue = false;
    this.#intake.updateReady();
  }

  // --- receiving ---

  #received(data) {
    this.#session.receive(data);
    this.#drain();
    this.#flush();
  }

  /** Tells the application what has happened. Its handlers may call anything of ours. */
  #drain() {
    if (this.#isDraining) return;
    this.#isDraining = true;
    if (this.#session.isOver) {
      // The events that tell of the end still come, but nothing can be sent any more.
      this.#closing = this.#session.ending;
      this.#setState("closing");
      this.#intake.updateReady();
    }
    try {
      // After the end nothing more is given: what is dropped is dropped from there on, so that there is no gap.
      for (let fact; this.#state !== "closed" && (fact = this.#session.nextFact()); ) this.#tell(fact);
    } finally {
      this.#isDraining = false;
    }
  }

  #tell(fact) {
    switch (fact.type) {
      case "opened":
        this.#opened();
        this.#dispatch("open");
        break;
      case "resumed":
        this.#opened();
        this.#statistics.resumes += 1;
        this.#statistics.replayed += fact.replayed;
        this.#dispatch("resume", { replayed: fact.replayed, duplicates: fact.duplicates });
        break;
      case "permission":
        this.#connections.renewal.hear(fact);
        break;
      case "refused":
      case "superseded":
      case "session lost":
        this.#connections.dismiss(fact.code, fact.reason, { isLoss: fact.type === "session lost" });
        break;
      case "message":
        this.#connections.progressed();
        this.#deliveries.deliver(this.#session, fact, this.#binaryType, this.url && new URL(this.url).origin);
        this.#statistics.duplicates = this.#session.inbox.duplicates;
        break;
      case "receipt":
        this.#connections.progressed();
        // The receipts for the silence timer alone are no news for the application.
        if (this.#options.receipts.includes(fact.rung) || RUNGS.indexOf(fact.rung) >= this.#session.settlesAt) {
          this.#dispatch("receipt", { seq: fact.seq, rung: fact.rung });
        }
        break;
      case "settled":
        this.#settle(fact.entry, fact.rung, (sending) => sending.resolve({ seq: fact.entry.seq, rung: fact.rung }));
        break;
      case "rejected":
        this.#refuse(fact.entry, fact.code, fact.reason, new Rejected(fact.entry.seq, fact.code, fact.reason));
        break;
      case "too big": {
        const error = new TooBig(fact.entry.data.length, fact.limit);
        this.#refuse(fact.entry, 1009, error.message, error);
        break;
      }
      case "lost":
        this.#lose(fact);
        break;
      case "fault":
        this.#dispatch("error", { error: fact.fault, message: fact.fault.message });
        break;
      case "ended":
        this.#connections.transmit(this.#session.take(true));
        this.#finish(fact.code, fact.reason, { wasClean: fact.byPeer, report: fact.report });
        break;
    }
  }

  #opened() {
    this.#hasOpened = true;
    this.#acksDue = true; // what was consumed or refused after OPEN had left
    this.#connections.opened();
    this.#timers.arm("confirm", CONFIRM_MS, () => this.#drain(this.#session.confirm()));
    this.#setState("open");
  }

  /** One ACK tells of all that is consumed within a task. */
  #acknowledgeSoon() {
    if (this.#acksScheduled) return;
    this.#acksScheduled = true;
    this.#platform.startMacrotask(() =>
      this.#guard(() => {
        this.#acksScheduled = false;
        this.#acknowledge();
      }),
    );
  }

  #acknowledge() {
    if (this.#state === "closed") return;
    this.#acksDue = true;
    this.#flush();
  }

  #settle(entry, rung, tell) {
    const sending = entry.context;
    if (!sending) return;
    sending.outcome = { seq: entry.seq, rung };
    tell(sending);
  }

  #refuse(entry, code, reason, error) {
    this.#settle(entry, null, (sending) => sending.reject(error));
    this.#dispatch("rejected", { ...told(entry), code, reason });
  }

  #lose({ unknown, neverForwarded, accepted, report }) {
    const { ending } = this.#session;
    const words = ending ? undefined : "the session was lost, its connection ended with";
    const cause = closedBy(ending ?? this.#lastEnd, words);
    const giveUp = (entries, Fate) => {
      for (const entry of entries) {
        this.#settle(entry, this.#session.rungOf(entry.seq), (sending) => sending.reject(new Fate(entry.seq, cause)));
      }
      return entries.map(told);
    };
    const messages = giveUp(unknown, Lost);
    const kept = giveUp(neverForwarded, NeverForwarded);
    if (messages.length || kept.length || missesAny(report, accepted)) {
      this.#dispatch("lost", { messages, neverForwarded: kept, report });
    }
  }

  // --- connections ---

  #begin(stored) {
    if (stored) this.#connections.inherit();
    this.#session = new Session(sessionSettings(this.#options), stored);
    this.#unstage();
    this.#intake.updateReady();
    this.#connections.connect();
  }

  #disconnected({ code, reason, cause, wasOpen, isGhost }) {
    const session = this.#session;
    if (wasOpen) this.#lastEnd = { code, reason, cause };
    if (this.#state === "closed") return;
    const isPassing = isGhost || session.isPassing(code, wasOpen);
    if (!session.hasClosed && this.#connections.renew(code)) return;
    if (session.hasClosed) {
      this.#finish(session.ending.code, session.ending.reason, { wasClean: code !== 1006 });
    } else if (code === SUPERSEDED && !isGhost) {
      this.#abandon(code, reason, cause);
    } else if (!isPassing) {
      session.end(code, reason, { byPeer: true });
      this.#drain();
    } else if (this.#state === "closing" && this.#isNothingToTell) {
      this.#finish(this.#closing.code, this.#closing.reason, { wasClean: false });
    } else {
      const failure = cause ?? closedBy({ code, reason }, "the connection ended with");
      if (!wasOpen) this.#dispatchFailure(`no connection: ${code} ${reason}`.trimEnd(), failure);
      if (this.#state === "closed") return; // a handler of that event may have closed
      const retryInMs = this.#connections.retry();
      if (retryInMs === null) {
        this.#abandon(1006, `no connection after ${this.#options.attempts} attempts`, failure);
      } else if (this.#hasOpened) this.#setState("parked", { retryInMs });
    }
  }

  // --- ending ---

  /** Nobody waits for our CLOSE, and nothing of ours for a connection. */
  get #isNothingToTell() {
    const { token, isSettled } = this.#session;
    return token === null && isSettled && this.#intake.isEmpty && !this.#connections.isAwaitingAnswer;
  }

  #beginClosing(code, reason) {
    const session = this.#session;
    if (!session) {
      this.#finish(code, reason, { wasClean: false, keepsStore: true });
      return;
    }
    this.#closing = { code, reason };
    this.#deliveries.awaitThoseUnderWay();
    this.#closeWhenReady();
    this.#setState("closing");
    this.#intake.updateReady();
    if (!session.isOpen && this.#isNothingToTell) {
      this.#finish(code, reason, { wasClean: false });
      return;
    }
    this.#timers.armWhile(() => session.outbox.settled, "close", this.#options.closeTimeoutMs, () => {
      if (session.hasClosed) this.#finish(code, reason, { wasClean: false });
      else {
        session.end(code, reason);
        this.#drain();
      }
    });
    this.#acknowledgeSoon(); // with what the handler that closes has consumed
    if (!this.#isDraining) this.#acknowledge(); // no handler does: a page that is about to go has no other chance
    this.#connections.hurry(); // the backend is told at once, and not when the grace of a parked session is over
  }

  /** CLOSE goes when all that was handed over is settled, and the handlers that had begun have ended. */
  #closeWhenReady() {
    if (!this.#closing || this.#state === "closed" || !this.#intake.isEmpty || this.#deliveries.isAwaiting) return;
    this.#session.close(this.#closing.code, this.#closing.reason);
    this.#acknowledgeSoon();
  }

  /** Stops trying. The session is not known to have ended: a store keeps it for the next time. */
  #abandon(code, reason, cause = null) {
    const fitting = cut(reason, MAX_CLOSE_REASON_BYTES);
    if (this.#saving) {
      this.#finish(code, fitting, { wasClean: false, keepsStore: true });
      return;
    }
    this.#lastEnd = { code, reason, cause };
    this.#session.end(code, fitting, { cause });
    this.#drain();
  }

  #storeFailed(error) {
    this.#dispatch("error", { error, message: error.message });
    this.#finish(1006, cut(error.message, MAX_CLOSE_REASON_BYTES), { wasClean: false, keepsStore: true, cause: error });
  }

  #finish(code, reason, { wasClean, report = null, keepsStore = false, cause = null }) {
    if (this.#state === "closed") return;
    this.#closing = { code, reason };
    this.#timers.disarmAll();
    this.#connections.end();
    const closed = cause ?? new Closed(code, reason);
    for (const entry of this.#session?.outbox.entries ?? []) {
      if (!entry.rejected) this.#settle(entry, null, (sending) => sending.reject(closed));
    }
    this.#saving?.end(keepsStore || !this.#session);
    this.#setState("closed");
    this.#intake.rejectAll(closed);
    this.#dispatch("close", { code, reason, wasClean, report });
  }

  // --- within ---

  #setState(state, facts = {}) {
    const previous = this.#state;
    if (previous === state || previous === "closed" || (previous === "closing" && state !== "closed")) return;
    this.#state = state;
    this.#dispatch("state", { state, previous, ...facts });
  }

  #dispatch(type, facts) {
    this.dispatchEvent(new KakitomeEvent(type, facts));
  }

  #dispatchFailure(message, cause) {
    this.#dispatch("error", { error: new ConnectionFailed(message, cause), message });
  }

  #diagnosed(words) {
    this.#platform.warn(`Kakitome: ${words}`);
    if (this.#state !== "closed") this.#guard(() => this.#dispatchFailure(words));
  }

  /** The boundary of every entrance: a fault of ours ends this conversation and nothing else. */
  #guard(action) {
    try {
      action();
    } catch (error) {
      if (this.#state === "closed") return;
      this.#dispatch("error", { error, message: String(error?.message) });
      this.#finish(1006, "a fault in the client", { wasClean: false, keepsStore: true, cause: error });
    }
  }
}

defineStates(Kakitome);

export {
  Kakitome,
  Kakitome as default,
  Closed,
  ConnectionFailed,
  HandlerFailed,
  KakitomeError,
  Lost,
  NeverForwarded,
  ProtocolViolation,
  QueueFull,
  Rejected,
  StoreEmptied,
  StoreFailed,
  StoreInUse,
  TooBig,
  IndexedDbStore,
  Session,
  encodeRecord,
  parseRecord,
  RecordType,
};
