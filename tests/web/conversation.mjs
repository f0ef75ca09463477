// Sends numbered messages to an echo through a real gateway, and tells as JSON what came of them.
//
// node conversation.mjs URL RESUMES [PACE_MS]: goes on until the session was resumed so often, with a message every
// PACE_MS. Now and then it says on standard output how often it was resumed; in the end comes JSON.

import assert from "node:assert/strict";

import { Kakitome } from "../../gateway/web/kakitome.js";

const url = process.argv[2];
const [resumes, paceMs] = process.argv.slice(3).map(Number);
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const line = new Kakitome(url, { reconnectMinMs: 10, reconnectMaxMs: 200, connectTimeoutMs: 2000 });
const received = [];
const closed = new Promise((resolve) => (line.onclose = resolve));
let hasEverything = null;
let count = Infinity;
const everything = new Promise((resolve) => (hasEverything = resolve));
line.onmessage = ({ data }) => {
  received.push(data);
  if (received.length % 10 === 0) console.log(`resumed ${line.statistics.resumes} times`);
  if (received.length === count) hasEverything();
};

const sent = [];
for (let number = 1; line.statistics.resumes < resumes; number += 1) {
  await line.ready;
  sent.push(line.send(number % 50 ? `message ${number}` : `message ${number}`.padEnd(100_000)));
  if (paceMs) await pause(paceMs);
  else if (number % 4 === 0) await pause(2); // lets faults strike in between
}
count = sent.length;
if (received.length === count) hasEverything();
const settled = await Promise.all(sent);
await everything;
line.close();
const { code, wasClean } = await closed;
assert.deepEqual(
  received.map((data) => data.trimEnd()),
  Array.from({ length: count }, (_, index) => `message ${index + 1}`),
);
assert.deepEqual(
  settled.map(({ seq }) => seq),
  Array.from({ length: count }, (_, index) => index + 1),
);
console.log(JSON.stringify({ code, wasClean, ...line.statistics, rung: settled[0].rung }));
