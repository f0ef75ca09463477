// What the tests drive: a conversation with an echo, and a diary of it that outlives the page.

import { Kakitome } from "/kakitome.js";

const DIARY = "kakitome-test-diary";

/** `sent`: the number of the last message sent by any page. `received`: [seq, data] as the handlers saw them. */
const diary = JSON.parse(localStorage.getItem(DIARY) ?? '{"sent": 0, "received": []}');
const write = () => localStorage.setItem(DIARY, JSON.stringify(diary));

const test = { diary, line: null, outcomes: [], states: [], errors: [], lost: 0, isPumping: false };

test.begin = (url, options = {}) => {
  const line = new Kakitome(url, { reconnectMinMs: 10, reconnectMaxMs: 200, connectTimeoutMs: 2000, ...options });
  line.onmessage = ({ seq, data }) => {
    diary.received.push([seq, data]);
    write();
  };
  line.onstate = ({ state }) => test.states.push(state);
  line.onerror = ({ error }) => test.errors.push(`${error.name}: ${error.message}`);
  line.onlost = ({ messages, neverForwarded }) => (test.lost += messages.length + neverForwarded.length);
  test.line = line;
};

/** Sends so many messages; what becomes of each is in `outcomes`, by order: its rung, or the error's name. */
test.send = (count) => {
  for (let number = 0; number < count; number += 1) {
    diary.sent += 1;
    write();
    const index = test.outcomes.push(null) - 1;
    test.line.send(`message ${diary.sent}`).then(
      ({ rung }) => (test.outcomes[index] = rung),
      ({ name }) => (test.outcomes[index] = name),
    );
  }
};

/** Sends a message every few milliseconds, as many as the window has room for, until `isPumping` is false. */
test.pump = async () => {
  test.isPumping = true;
  while (test.isPumping) {
    await test.line.ready;
    test.send(1);
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
};

test.isSettled = () => test.outcomes.every((outcome) => outcome !== null);

/** How many messages the outbox in IndexedDB holds. */
test.storedMessages = (name) =>
  new Promise((resolve, reject) => {
    const opening = indexedDB.open(`kakitome:${name}`);
    opening.onerror = () => reject(opening.error);
    opening.onsuccess = () => {
      const counting = opening.result.transaction("outbox").objectStore("outbox").count();
      counting.onsuccess = () => {
        resolve(counting.result);
        opening.result.close();
      };
    };
  });

/** Deletes the outbox in IndexedDB while the conversation has it open: whether nobody was in the way. */
test.deleteStore = (name) =>
  new Promise((resolve) => {
    const deleting = indexedDB.deleteDatabase(`kakitome:${name}`);
    deleting.onsuccess = () => resolve(true);
    deleting.onblocked = () => resolve(false);
  });

window.test = test;
