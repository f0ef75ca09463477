// The demonstration page: three conversations through the gateway that served this page, each a session that outlives
// its connections; every message of ours shows how far it provably got.

import { Kakitome } from "./kakitome.js";

const RUNGS = ["accepted", "written", "reached", "consumed"];
const LOG_ENTRIES_KEPT = 500;
const STALL_SECONDS = 10;

/** A new element with a class and, as text and never as markup, its content. */
function element(tag, className, text = "") {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return made;
}

/** What became of one message: a ladder that fills, and its end in words. */
class Fate {
  #steps = RUNGS.map(() => document.createElement("i"));
  #words = element("span", "", "waiting");
  #began = performance.now();
  #rung = -1;

  constructor() {
    this.element = element("div", "fate");
    const ladder = element("span", "ladder");
    ladder.setAttribute("aria-hidden", "true");
    ladder.append(...this.#steps);
    this.element.append(ladder, this.#words);
  }

  climb(rung) {
    const reached = RUNGS.indexOf(rung);
    if (reached <= this.#rung || this.element.dataset.fate) return;
    this.#rung = reached;
    this.#steps.forEach((step, index) => step.classList.toggle("climbed", index <= reached));
    this.#words.textContent = rung;
  }

  settle(rung) {
    this.climb(rung ?? RUNGS.at(-1));
    this.element.dataset.fate = "settled";
    const ms = performance.now() - this.#began;
    this.#words.textContent += ms < 1000 ? ` in ${Math.ceil(ms)} ms` : ` in ${(ms / 1000).toFixed(1)} s`;
  }

  fail(words) {
    this.element.dataset.fate = "failed";
    this.#words.textContent = words;
  }
}

/** The log of one card: keeps the newest entries in sight unless the reader has scrolled up to older ones. */
class Log {
  #list;

  constructor(list) {
    this.#list = list;
  }

  #add(entry) {
    const list = this.#list;
    const following = list.scrollHeight - list.scrollTop - list.clientHeight < 40;
    list.append(entry);
    while (list.children.length > LOG_ENTRIES_KEPT) list.firstElementChild.remove();
    if (following) list.scrollTop = list.scrollHeight;
  }

  event(text) {
    this.#add(element("li", "event", text));
  }

  message(words, { from = "", fate = null } = {}) {
    const entry = element("li", fate ? "message mine" : "message");
    if (from) entry.append(element("div", "note", from));
    const text = element("div", "words", words);
    text.dir = "auto";
    entry.append(text);
    if (fate) entry.append(fate.element);
    this.#add(entry);
  }
}

/** A WebSocket class whose connections can be cut, as by a network: the page learns only that it is over. */
function cuttable() {
  let isCut = false;
  let current = null;
  return {
    webSocket: class extends WebSocket {
      constructor(url, protocols) {
        // Nothing answers WebSockets there.
        super(isCut ? new URL("cut-off", url) : url, protocols);
        current = this;
      }
    },
    toggle() {
      isCut = !isCut;
      if (isCut && current) {
        current.dispatchEvent(new CloseEvent("close", { code: 1006 }));
        current.close();
      }
      return isCut;
    },
  };
}

/** One conversation: follows its state in the card's head, and the fates of what is sent. */
class Line {
  #state;
  #handlers;
  #connection = null;
  #pending = new Set();

  constructor(card, handlers) {
    this.#state = card.querySelector(".state");
    this.#handlers = handlers;
  }

  #show(state, text = state) {
    this.#state.dataset.state = state;
    this.#state.textContent = text;
    this.#handlers.onstate?.(state);
  }

  begin(path, options = {}) {
    const connection = new Kakitome(new URL(path, location.href), { receipts: RUNGS, reconnectMaxMs: 1000, ...options });
    this.#connection = connection;
    this.#show("connecting");
    const listen = (type, action) =>
      connection.addEventListener(type, (event) => connection === this.#connection && action(event));
    listen("state", ({ state }) => state !== "closed" && this.#show(state));
    listen("message", ({ data }) => this.#handlers.onmessage(data));
    listen("receipt", ({ seq, rung }) => {
      for (const { sent, fate } of this.#pending) if (sent.seq && sent.seq <= seq) fate.climb(rung);
    });
    listen("resume", ({ replayed, duplicates }) => {
      this.#handlers.onresume?.({ replayed, duplicates, waiting: this.#pending.size - replayed });
    });
    listen("close", ({ code, reason }) => this.#show("closed", `closed: ${code} ${reason}`.trim()));
  }

  /** Sends, connected or not; what becomes of it. */
  send(text) {
    const fate = new Fate();
    const sent = this.#connection.send(text);
    const pending = { sent, fate };
    this.#pending.add(pending);
    sent
      .then(({ rung }) => fate.settle(rung))
      .catch((error) => fate.fail(error.message))
      .finally(() => this.#pending.delete(pending));
    return fate;
  }

  /** Ends the conversation; what arrives later is not shown. */
  end(state, text) {
    const connection = this.#connection;
    this.#connection = null;
    connection?.close();
    this.#show(state, text);
  }
}

/** Calls `use` with the trimmed text of the form's input when it is sent and not empty, and empties the input. */
function onSubmit(form, use) {
  const input = form.querySelector("input");
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const text = input.value.trim();
    if (text && use(text) !== false) input.value = "";
  });
}

/** A conversation that begins with the page; its controls work until it has ended. */
function steady(card, path, controls, onmessage) {
  const again = card.querySelector(".reconnect");
  const line = new Line(card, {
    onmessage,
    onstate(state) {
      controls.forEach((control) => (control.disabled = state === "closed"));
      again.hidden = state !== "closed";
    },
  });
  again.addEventListener("click", () => line.begin(path));
  line.begin(path);
  return line;
}

function startHello(card) {
  const log = new Log(card.querySelector(".log"));
  const form = card.querySelector("form");
  const line = steady(card, "hello", [form.querySelector("button")], (text) => log.message(text));
  onSubmit(form, (text) => log.message(text, { fate: line.send(text) }));
}

function startDoyasa(card) {
  const stamp = card.querySelector(".stamp");
  const answer = card.querySelector(".answer");
  const line = steady(card, "doyasa", [stamp], (text) => {
    answer.textContent = text;
    answer.classList.remove("fresh");
    void answer.offsetWidth; // lets the animation start anew
    answer.classList.add("fresh");
  });
  stamp.addEventListener("click", () => line.send("どやさ"));
}

function startChat(card) {
  const log = new Log(card.querySelector(".log"));
  const join = card.querySelector(".join");
  const say = card.querySelector(".say");
  const leave = card.querySelector(".leave");
  const trouble = card.querySelector(".trouble");
  const cut = trouble.querySelector(".cut");
  const people = card.querySelector(".members");
  const members = new Map();
  const cord = cuttable();
  let self = null;
  /** What a message takes at least, in ms, the difference of the clocks included. */
  let passage = 0;

  function showMembers() {
    const names = [...members.values()];
    people.textContent = names.length ? `Here: ${names.join(", ")}.` : "";
  }

  const events = {
    welcome({ id, name, members: present, at }) {
      self = id;
      passage = Date.now() - at;
      present.forEach((member) => members.set(member.id, member.name));
      log.event(`You joined as ${name}`);
    },
    joined({ id, name }) {
      members.set(id, name);
      log.event(`${name} joined`);
    },
    left({ id, name }) {
      members.delete(id);
      log.event(`${name} left`);
    },
    said({ id, name, text, at }) {
      if (id === self) return; // stands in the log since it was sent
      passage = Math.min(passage, Date.now() - at);
      const late = Date.now() - at - passage;
      log.message(text, { from: late < 1000 ? name : `${name}, ${(late / 1000).toFixed(1)} s ago` });
    },
    stalled({ seconds }) {
      log.event(`The service takes nothing from you for ${seconds} s`);
    },
  };

  const line = new Line(card, {
    onmessage(data) {
      const event = JSON.parse(data);
      events[event.type]?.(event);
      showMembers();
    },
    onstate(state) {
      const joined = !["connecting", "closed", "away"].includes(state);
      const wasJoined = !say.hidden;
      join.hidden = joined || state === "connecting";
      say.hidden = leave.hidden = trouble.hidden = !joined;
      if (joined && !wasJoined) say.querySelector("input").focus();
      if (joined) return;
      members.clear();
      showMembers();
    },
    onresume({ replayed, duplicates, waiting }) {
      const ours = `${waiting} of your messages had waited, ${replayed} were sent again`;
      log.event(`Resumed: ${ours}, ${duplicates} came twice and were dropped`);
    },
  });

  onSubmit(join, (name) => {
    if (cut.ariaPressed === "true") cut.click();
    line.begin(`chat?${new URLSearchParams({ name })}`, { webSocket: cord.webSocket });
    return false; // keeps the name for the next time
  });
  onSubmit(say, (text) => log.message(text, { fate: line.send(text) }));
  leave.addEventListener("click", () => {
    line.end("away", "not joined");
    log.event("You left");
    join.querySelector("input").focus();
  });
  cut.addEventListener("click", () => {
    const isCut = cord.toggle();
    cut.ariaPressed = String(isCut);
    cut.textContent = isCut ? "Mend the connection" : "Cut the connection";
    log.event(isCut ? "Connection cut: write on, your messages wait" : "Connection mended");
  });
  // Else the others would see us until the grace is over.
  addEventListener("pagehide", ({ persisted }) => persisted || line.end("away", "not joined"));
  trouble.querySelector(".stall").addEventListener("click", () => line.send(`/stall ${STALL_SECONDS}`));
}

startHello(document.getElementById("hello"));
startDoyasa(document.getElementById("doyasa"));
startChat(document.getElementById("chat"));
const terminal = new URL("hello", location.href.replace(/^http/, "ws"));
document.getElementById("command").textContent = `kakitome connect ${terminal}`;
