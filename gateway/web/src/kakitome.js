/** What an application sees: a WebSocket that survives its connections. */

import { Connections } from "./connections.js";
import { Deliveries } from "./deliveries.js";
import { Closed, closedBy, ConnectionFailed, Lost, NeverForwarded, Rejected, TooBig } from "./errors.js";
import { defineStates, Emitter, KakitomeEvent } from "./events.js";
import { deferred, Intake } from "./intake.js";
import { checkClosing, chosen, sessionSettings, surroundings } from "./options.js";
import { told } from "./outbox.js";
import { Saving } from "./saving.js";
import { Session, SUPERSEDED } from "./session.js";
import { IndexedDbStore } from "./store.js";
import { cut } from "./text.js";
import { Timers } from "./timers.js";
import { MAX_CLOSE_REASON_BYTES, missesAny, RUNGS, SUBPROTOCOL } from "./wire.js";

/** Records that the gateway wrote together with OPENED have come by then. */
const CONFIRM_MS = 100;

/** A conversation with a backend, through as many connections as it takes; see kakitome.d.ts for each member. */
export class Kakitome extends Emitter {
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
