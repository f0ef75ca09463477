// Sends numbered messages to an echo that is restarted meanwhile, and tells as JSON what came of them.
//
// node restarts.mjs URL SESSIONS: goes on until so many sessions have begun and the last has echoed ten messages.

import assert from "node:assert/strict";

import { Kakitome } from "../../gateway/web/kakitome.js";

const url = process.argv[2];
const wanted = Number(process.argv[3]);
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const line = new Kakitome(url, { reconnectMinMs: 10, reconnectMaxMs: 200, connectTimeoutMs: 2000 });
const closed = new Promise((resolve) => (line.onclose = resolve));
let hasEnded = false;
void closed.then(() => (hasEnded = true));
let sessions = 0;
let echoes = 0;
const echoed = new Set();
line.onopen = () => {
  sessions += 1;
  echoes = 0;
};
line.onmessage = ({ data }) => {
  assert.ok(!echoed.has(data), `${data} came twice`);
  echoed.add(data);
  echoes += 1;
  if (echoes % 10 === 0) console.log(`session ${sessions}: ${echoes} echoes`);
};
const lost = new Set();
line.onlost = ({ messages }) => messages.forEach(({ data }) => lost.add(data));

const sent = new Map();
for (let number = 1; (sessions < wanted || echoes < 10) && !hasEnded; number += 1) {
  const message = `message ${number}`;
  sent.set(message, line.send(message).then(() => "settled", (error) => error));
  await pause(2);
}
for (const [message, outcome] of sent) {
  const found = await outcome;
  if (found !== "settled") assert.deepEqual([found.name, found.cause.name], ["Lost", "Closed"], `${message}: ${found}`);
  assert.equal(found !== "settled", lost.has(message), `${message} is lost, or is not, in both ways of telling`);
}
line.close();
const { code, wasClean } = await closed;
console.log(JSON.stringify({ code, wasClean, sessions, lost: lost.size }));
