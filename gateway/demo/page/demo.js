// The demonstration page: three conversations, each with its own WebSocket to the gateway that served this page.

const LOG_ENTRIES_KEPT = 500;

/** The WebSocket address of a path on the gateway that served this page. */
function address(path) {
  const url = new URL(path, location.href);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  return url;
}

/** A new element with a class and, as text and never as markup, its content. */
function element(tag, className, text = "") {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return made;
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

  message(words, { note = "", mine = false } = {}) {
    const entry = element("li", mine ? "message mine" : "message");
    if (note && !mine) entry.append(element("div", "note", note));
    const text = element("div", "words", words);
    text.dir = "auto";
    entry.append(text);
    if (note && mine) entry.append(element("div", "note", note));
    this.#add(entry);
  }
}

/** One conversation over WebSocket; shows its state in the card's head. */
class Line {
  #state;
  #socket = null;
  #onmessage;
  #onchange;

  constructor(card, { onmessage, onchange = () => {} }) {
    this.#state = card.querySelector(".state");
    this.#onmessage = onmessage;
    this.#onchange = onchange;
  }

  #show(state, text = state) {
    this.#state.dataset.state = state;
    this.#state.textContent = text;
    this.#onchange(state);
  }

  connect(path) {
    const socket = new WebSocket(address(path));
    this.#socket = socket;
    this.#show("connecting");
    socket.onopen = () => this.#show("open");
    socket.onmessage = ({ data }) => this.#onmessage(data);
    socket.onclose = ({ code, reason }) => {
      if (this.#socket !== socket) return;
      this.#socket = null;
      this.#show("closed", code === 1006 ? "connection lost" : `closed: ${code} ${reason}`.trim());
    };
  }

  get open() {
    return this.#socket?.readyState === WebSocket.OPEN;
  }

  send(text) {
    this.#socket.send(text);
  }

  /** Ends the conversation at once; what arrives later is not shown. */
  close(state, text) {
    const socket = this.#socket;
    this.#socket = null;
    if (socket) {
      socket.onmessage = null;
      socket.close(1000);
    }
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

/** Lets the card's controls follow the connection, and its button connect again. */
function steady(card, path, controls, onmessage) {
  const again = card.querySelector(".reconnect");
  const line = new Line(card, {
    onmessage,
    onchange(state) {
      controls.forEach((control) => (control.disabled = state !== "open"));
      again.hidden = state !== "closed";
    },
  });
  again.addEventListener("click", () => line.connect(path));
  line.connect(path);
  return line;
}

function startHello(card) {
  const log = new Log(card.querySelector(".log"));
  const form = card.querySelector("form");
  const line = steady(card, "hello", [form.querySelector("button")], (text) => log.message(text));
  onSubmit(form, (text) => {
    if (!line.open) return false;
    log.message(text, { mine: true });
    line.send(text);
  });
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
  const people = card.querySelector(".members");
  const members = new Map();
  let self = null;

  function showMembers() {
    const names = [...members.values()];
    people.textContent = names.length ? `Here: ${names.join(", ")}.` : "";
  }

  const events = {
    welcome({ id, name, members: present }) {
      self = id;
      members.clear();
      present.forEach((member) => members.set(member.id, member.name));
      log.event(`You joined as ${name}`);
      say.querySelector("input").focus();
    },
    joined({ id, name }) {
      members.set(id, name);
      log.event(`${name} joined`);
    },
    left({ id, name }) {
      members.delete(id);
      log.event(`${name} left`);
    },
    said({ id, name, text }) {
      log.message(text, { note: name, mine: id === self });
    },
  };

  const line = new Line(card, {
    onmessage(data) {
      const event = JSON.parse(data);
      events[event.type]?.(event);
      showMembers();
    },
    onchange(state) {
      const joined = state === "open";
      join.hidden = joined || state === "connecting";
      say.hidden = leave.hidden = !joined;
      if (!joined) {
        members.clear();
        showMembers();
      }
    },
  });

  onSubmit(join, (name) => {
    line.connect(`chat?${new URLSearchParams({ name })}`);
    return false; // keeps the name for the next time
  });
  onSubmit(say, (text) => {
    if (!line.open) return false;
    line.send(text);
  });
  leave.addEventListener("click", () => {
    line.close("away", "not joined");
    log.event("You left");
    join.querySelector("input").focus();
  });
}

startHello(document.getElementById("hello"));
startDoyasa(document.getElementById("doyasa"));
startChat(document.getElementById("chat"));
document.getElementById("command").textContent = `kakitome connect ${address("hello")}`;
