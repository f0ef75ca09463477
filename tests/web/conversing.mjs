// A conversation in a world of its own, and what its tests ask of it.

import assert from "node:assert/strict";

import { Kakitome } from "./subject.mjs";
import { turn } from "./world.mjs";

/** A conversation with its events, in order. */
export function begin(world, options = {}) {
  const line = new Kakitome("/chat", { platform: world.platform, ...options });
  line.binaryType = "arraybuffer";
  line.events = [];
  for (const type of ["open", "message", "close", "error", "state", "receipt", "resume", "rejected", "lost"]) {
    line.addEventListener(type, (event) => line.events.push(event));
  }
  return line;
}

export async function opened(world, options) {
  const line = begin(world, options);
  await world.settle();
  assert.equal(line.state, "open");
  return line;
}

export const events = (line, type) => line.events.filter((event) => event.type === type);
export const received = (line) => events(line, "message").map(({ data }) => data);
export const states = (line) => events(line, "state").map(({ state }) => state);

/** What became of a promise, once it is settled. */
export async function outcome(promise) {
  return promise.then(
    (value) => value,
    (error) => error,
  );
}

export const isPending = async (promise) => {
  const pending = {};
  return (await Promise.race([promise.catch(() => null), turn().then(() => pending)])) === pending;
};

/** What nobody caught while `context`'s test runs: errors that handlers threw, and promises that nobody looked at. */
export function uncaught(context) {
  const found = { thrown: [], unhandled: [] };
  const threw = (error) => found.thrown.push(error.message);
  const rejected = (error) => found.unhandled.push(error);
  const before = process.listeners("uncaughtException");
  process.removeAllListeners("uncaughtException");
  process.on("uncaughtException", threw);
  process.on("unhandledRejection", rejected);
  context.after(() => {
    process.removeAllListeners("uncaughtException");
    for (const listener of before) process.on("uncaughtException", listener);
    process.off("unhandledRejection", rejected);
  });
  return found;
}
