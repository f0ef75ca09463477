/** What is remembered of refusals: as long as their sender may not have heard. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { Rejections } from "../../gateway/web/src/rejections.js";

const WINDOW = 1024;

for (const apart of [1, 2, 3]) {
  test(`nothing that a sender may not have heard of is forgotten: every ${apart} refused`, () => {
    const rejections = new Rejections();
    const begin = 10 ** 9;
    const newest = begin + WINDOW + 300;
    for (let seq = begin + 1; seq <= newest; seq += apart) {
      rejections.add(seq, 4000 + (seq % 3), `${seq} ${"x".repeat(900)}`, seq, 2); // with a small window of our own
    }
    assert.ok(JSON.stringify(rejections.ranges).length <= 24 * 1024);
    const told = new Map(
      rejections.ranges.flatMap(([first, last, code]) =>
        Array.from({ length: last - first + 1 }, (_, index) => [first + index, code]),
      ),
    );
    for (let seq = begin + 1; seq <= newest; seq += apart) {
      if (seq > newest - WINDOW) assert.ok(told.has(seq), `message ${seq}`);
      if (told.has(seq)) assert.ok([4000 + (seq % 3), 1005].includes(told.get(seq)));
    }
    assert.ok([...told.keys()].every((seq) => (seq - begin - 1) % apart === 0));
  });
}

test("a refusal is forgotten when 1024 messages have come since", () => {
  const rejections = new Rejections();
  rejections.add(3, 4000, "no", 5, 2);
  rejections.add(1028, 4000, "no", 1028, 2);
  assert.ok(rejections.has(3));
  rejections.add(1029, 4000, "no", 1029, 2);
  assert.ok(!rejections.has(3));
});
