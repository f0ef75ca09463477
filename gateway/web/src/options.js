/** What an application may choose, and what the client takes from its surroundings. */

import { encoder, isWellFormed } from "./text.js";
import { DEFAULT_WINDOW_BYTES, DEFAULT_WINDOW_MESSAGES, MAX_CLOSE_REASON_BYTES, RUNGS } from "./wire.js";

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
export function chosen(options) {
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
export function sessionSettings({ receipts, windowMessages, windowBytes, messageBytes, resend, silenceTimeoutMs }) {
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
export function checkClosing(code, reason) {
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
export function surroundings() {
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
export function resolved(url, base) {
  let absolute;
  try {
    absolute = new URL(url, base);
  } catch {
    throw new DOMException(`${url} is no URL`, "SyntaxError");
  }
  absolute.protocol = { "http:": "ws:", "https:": "wss:" }[absolute.protocol] ?? absolute.protocol;
  return absolute.href;
}
