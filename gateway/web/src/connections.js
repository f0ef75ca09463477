/** The connections of a conversation, one after the other: when one is tried, kept, given up. */

import { Credential, UNAUTHENTICATED } from "./credential.js";
import { diagnosed } from "./diagnosis.js";
import { ProtocolViolation } from "./errors.js";
import { resolved } from "./options.js";
import { Renewal } from "./renewal.js";
import { SUPERSEDED } from "./session.js";
import { SUBPROTOCOL } from "./wire.js";

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
export class Connections {
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
