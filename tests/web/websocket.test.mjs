// What an application sees that knows WebSocket.

import assert from "node:assert/strict";
import { test } from "node:test";

import { opened, outcome, received } from "./conversing.mjs";
import { Kakitome } from "./subject.mjs";
import { World } from "./world.mjs";

test("it feels like a WebSocket", async () => {
  const world = new World();
  const line = new Kakitome("/chat?room=1", { platform: world.platform });
  const seen = [];
  line.onopen = function (event) {
    assert.equal(this, line);
    seen.push(event.type);
  };
  line.onmessage = ({ data, origin }) => seen.push([data, origin]);
  line.onclose = ({ code, reason, wasClean }) => seen.push([code, reason, wasClean]);
  assert.deepEqual([line.readyState, line.url, line.protocol], [0, "ws://gateway.test/chat?room=1", ""]);
  await world.settle();
  assert.deepEqual([line.readyState, line.protocol, line.extensions, line.OPEN], [1, "kakitome.v1", "", Kakitome.OPEN]);
  world.gateway.session.send("hello");
  await world.settle();
  line.close(4000, "bye");
  assert.equal(line.readyState, 2);
  await world.settle();
  assert.equal(line.readyState, 3);
  assert.deepEqual(seen, ["open", ["hello", "ws://gateway.test"], [4000, "bye", true]]);
  assert.deepEqual(world.sockets, []);
});

test("binary messages come as Blob, as WebSocket's do, or as ArrayBuffer", async () => {
  const world = new World();
  const line = await opened(world);
  line.binaryType = "blob";
  world.gateway.session.send(new Uint8Array([1, 2]));
  await world.settle();
  line.binaryType = "nonsense";
  assert.equal(line.binaryType, "blob");
  line.binaryType = "arraybuffer";
  world.gateway.session.send(new Uint8Array([3]));
  await world.settle();
  const [blob, buffer] = received(line);
  assert.ok(blob instanceof Blob);
  assert.deepEqual([...new Uint8Array(await blob.arrayBuffer())], [1, 2]);
  assert.deepEqual([...new Uint8Array(buffer)], [3]);
});

test("anything that WebSocket sends can be sent, and the caller may change its buffer", async () => {
  const world = new World();
  const line = await opened(world);
  const bytes = new Uint8Array([1, 2, 3, 4]);
  line.send("書留");
  line.send(new Blob(["blob"]));
  line.send(bytes.buffer);
  line.send(bytes.subarray(1, 3));
  line.send(new DataView(bytes.buffer, 3));
  line.send(42);
  bytes.fill(0);
  await world.settle();
  assert.deepEqual(
    world.gateway.consumed.map((each) => (typeof each === "string" ? each : [...each])),
    ["書留", [...Buffer.from("blob")], [1, 2, 3, 4], [2, 3], [4], "42"],
  );
});

test("a Blob that cannot be read is told, and does not hold up those behind it", async () => {
  const world = new World();
  const line = await opened(world);
  const broken = new Blob(["x"]);
  broken.arrayBuffer = () => Promise.reject(new Error("the file is gone"));
  const lost = line.send(broken);
  const sent = line.send("next");
  await world.settle();
  assert.equal((await outcome(lost)).message, "the file is gone");
  assert.deepEqual(await sent, { seq: 1, rung: "consumed" });
});

test("a handler can be set, read, replaced and taken away", async () => {
  const world = new World();
  const line = new Kakitome("/", { platform: world.platform });
  const seen = [];
  assert.equal(line.onmessage, null);
  line.onmessage = () => seen.push("first");
  const second = () => seen.push("second");
  line.onmessage = second;
  assert.equal(line.onmessage, second);
  await world.settle();
  world.gateway.session.send("a");
  await world.settle();
  line.onmessage = null;
  world.gateway.session.send("b");
  await world.settle();
  assert.deepEqual(seen, ["second"]);
});

test("nonsense is refused at once", () => {
  const { platform } = new World();
  assert.throws(() => new Kakitome("http://[", { platform }), { name: "SyntaxError" });
  assert.throws(() => new Kakitome("/", { platform, retries: 3 }), /unknown option retries, known are/);
  assert.throws(() => new Kakitome("/", { platform, acknowledge: "never" }), /auto, manual/);
  assert.throws(() => new Kakitome("/", { platform, receipts: ["delivered"] }), /delivered/);
  assert.throws(() => new Kakitome("/", { platform: { ...platform, WebSocket: undefined } }), /no WebSocket here/);
  const line = new Kakitome("https://gateway.test/x", { platform });
  assert.equal(line.url, "wss://gateway.test/x");
  assert.throws(() => line.close(1001), { name: "InvalidAccessError" });
  assert.throws(() => line.close(1000, "書".repeat(42)), { name: "SyntaxError" });
});
