// The demonstration page: four conversations through the gateway that served this page, each a session that outlives
// its connections; every message of ours shows how far it provably got.

import { element } from "./fate.js";
import { cuttable, hurry, Line } from "./line.js";
import { inWords, speak, words } from "./words.js";

const LOG_ENTRIES_KEPT = 500;
const IMPRINTS_KEPT = 40;
const STALL_SECONDS = 10;
/** So near to its end a log counts as read to the end. */
const FOLLOWED_PX = 40;

/** The log of one card: keeps the newest entries in sight unless the reader has scrolled up to older ones. */
class Log {
  #list;
  #kept;

  /** Where the list was scrolled to when it was last brought to its end. */
  #followedTo = 0;

  constructor(list, kept = LOG_ENTRIES_KEPT) {
    this.#list = list;
    this.#kept = kept;
    new ResizeObserver(() => this.#isFollowing && this.#follow()).observe(list);
  }

  /** Nobody has scrolled up since, or they have come back; a list that has become lower was not scrolled. */
  get #isFollowing() {
    const { scrollTop, scrollHeight, clientHeight } = this.#list;
    return scrollTop > this.#followedTo - FOLLOWED_PX || scrollHeight - scrollTop - clientHeight < FOLLOWED_PX;
  }

  #follow() {
    this.#list.scrollTop = this.#list.scrollHeight;
    this.#followedTo = this.#list.scrollTop;
  }

  add(entry) {
    const list = this.#list;
    const isFollowing = this.#isFollowing;
    list.append(entry);
    while (list.children.length > this.#kept) list.firstElementChild.remove();
    if (isFollowing) this.#follow();
  }

  /** What has happened, in the words of that name. */
  event(name, ...facts) {
    const entry = element("li", "event");
    this.add(entry);
    inWords(entry, () => (entry.textContent = words(name, ...facts)));
  }

  message(said, { from = null, fate = null } = {}) {
    const entry = element("li", fate ? "message mine" : "message");
    if (from) {
      const note = element("div", "note");
      entry.append(note);
      inWords(note, () => (note.textContent = from()));
    }
    const text = element("div", "words", said);
    text.dir = "auto";
    entry.append(text);
    if (fate) entry.append(fate.element);
    this.add(entry);
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

/** The button that cuts and mends `cord`; `told` hears which. */
function cutter(button, cord, told = () => {}) {
  const show = () => {
    button.ariaPressed = String(cord.isCut);
    button.textContent = words(cord.isCut ? "mend" : "cut");
  };
  inWords(button, show);
  button.addEventListener("click", () => {
    const isCut = !cord.isCut;
    told(isCut);
    cord.toggle();
    show();
  });
}

/** A conversation that begins with the page; its controls work until it has ended. */
function steady(card, path, controls, onmessage, { cord = null, onstate = () => {} } = {}) {
  const again = card.querySelector(".reconnect");
  const handlers = {
    onmessage,
    onstate(state) {
      controls.forEach((control) => (control.disabled = state === "closed"));
      again.hidden = state !== "closed";
      onstate(state);
    },
  };
  const line = new Line(card, handlers, cord);
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

/** Each press leaves its imprint at once, pale until it is known how far it got; its answer numbers it. */
function startDoyasa(card) {
  const stamp = card.querySelector(".stamp");
  const answer = card.querySelector(".answer");
  const imprints = new Log(card.querySelector(".imprints"), IMPRINTS_KEPT);
  const unanswered = [];
  const line = steady(card, "doyasa", [stamp], (text) => {
    answer.textContent = text;
    const note = unanswered.shift();
    const number = /[0-9]+/.exec(text)?.[0];
    if (note && number) inWords(note, () => (note.textContent = words("answered", number)));
  });
  stamp.addEventListener("click", () => {
    const entry = element("li", "imprint");
    const print = stamp.querySelector("svg").cloneNode(true);
    const note = element("span", "note");
    const fate = line.send("どやさ");
    fate.element.append(note);
    entry.append(print, fate.element);
    unanswered.push(note);
    imprints.add(entry);
  });
}

/** A service that is no backend of ours: what Kakitome knows of each text, and what nginx would have told. */
function startEcho(card) {
  const log = new Log(card.querySelector(".log"));
  const form = card.querySelector("form");
  const cord = cuttable();
  const unanswered = [];
  let isOpen = false;

  const lose = (row) => inWords(row.nginx, () => (row.nginx.textContent = words("nginxLost")));
  const controls = [form.querySelector("[type=submit]")];
  const line = steady(
    card,
    "echo",
    controls,
    () => {
      const row = unanswered.shift();
      if (row) inWords(row.echoed, () => (row.echoed.textContent = words("echoed")));
    },
    {
      cord,
      onstate(state) {
        if (isOpen && state !== "open") unanswered.forEach(lose);
        isOpen = state === "open";
      },
    },
  );
  cutter(card.querySelector(".cut"), cord);
  onSubmit(form, (text) => {
    const entry = element("li", "compared");
    const said = element("span", "words", text);
    said.dir = "auto";
    const fate = line.send(text);
    const row = { nginx: element("span", "nginx"), echoed: element("span", "echoed") };
    const ours = element("span", "ours");
    ours.append(fate.element, row.echoed);
    entry.append(said, ours, row.nginx);
    unanswered.push(row);
    log.add(entry);
    if (isOpen) inWords(row.nginx, () => (row.nginx.textContent = words("nginxSent")));
    else lose(row);
  });
}

function startChat(card) {
  const log = new Log(card.querySelector(".log"));
  const empty = card.querySelector(".empty");
  const join = card.querySelector(".join");
  const say = card.querySelector(".say");
  const leave = card.querySelector(".leave");
  const cut = card.querySelector(".cut");
  const stall = card.querySelector(".stall");
  const people = card.querySelector(".members");
  const members = new Map();
  const cord = cuttable();
  let self = null;
  /** What a message takes at least, in ms, the difference of the clocks included. */
  let passage = 0;

  function showMembers() {
    inWords(people, () => (people.textContent = members.size ? words("here", [...members.values()]) : ""));
  }

  function note(name, ...facts) {
    empty.hidden = true;
    log.event(name, ...facts);
  }

  const events = {
    welcome({ id, name, members: present, at }) {
      self = id;
      passage = Date.now() - at;
      present.forEach((member) => members.set(member.id, member.name));
      note("joinedAs", name);
    },
    joined({ id, name }) {
      members.set(id, name);
      note("joined", name);
    },
    left({ id, name }) {
      members.delete(id);
      note("left", name);
    },
    said({ id, name, text, at }) {
      if (id === self) return; // stands in the log since it was sent
      passage = Math.min(passage, Date.now() - at);
      const late = Date.now() - at - passage;
      const seconds = (late / 1000).toFixed(1);
      log.message(text, { from: () => (late < 1000 ? name : words("ago", name, seconds)) });
    },
    stalled({ seconds }) {
      note("stalled", seconds);
    },
  };

  const handlers = {
    onmessage(data) {
      const event = JSON.parse(data);
      events[event.type]?.(event);
      showMembers();
    },
    onstate(state) {
      const joined = !["connecting", "closed", "away"].includes(state);
      const wasJoined = !say.hidden;
      join.hidden = joined || state === "connecting";
      say.hidden = leave.hidden = !joined;
      cut.disabled = stall.disabled = !joined;
      if (joined && !wasJoined) say.querySelector("input").focus();
      if (joined) return;
      members.clear();
      showMembers();
    },
    onresume({ replayed, duplicates, waiting }) {
      note("resumed", waiting, replayed, duplicates);
    },
  };
  const line = new Line(card, handlers, cord);

  onSubmit(join, (name) => {
    if (cord.isCut) cut.click();
    line.begin(`chat?${new URLSearchParams({ name })}`);
    return false; // keeps the name for the next time
  });
  onSubmit(say, (text) => log.message(text, { fate: line.send(text) }));
  leave.addEventListener("click", () => {
    line.end("away");
    note("youLeft");
    join.querySelector("input").focus();
  });
  cutter(cut, cord, (isCut) => note(isCut ? "isCut" : "isMended"));
  // Else the others would see us until the grace is over. Firefox may cut this short as the tab is closed.
  addEventListener("pagehide", () => say.hidden || line.end("away"));
  stall.addEventListener("click", () => line.send(`/stall ${STALL_SECONDS}`));
}

speak(document.getElementById("language"));
document.querySelector("#away button").addEventListener("click", hurry);
startChat(document.getElementById("chat"));
startHello(document.getElementById("hello"));
startDoyasa(document.getElementById("doyasa"));
startEcho(document.getElementById("echo"));
const terminal = new URL("hello", location.href.replace(/^http/, "ws"));
document.getElementById("command").textContent = `kakitome connect ${terminal}`;
