import assert from "node:assert/strict";
import { test } from "node:test";
import { Refetches } from "../../web/refetches.js";

test("what failed is held back for two seconds, what is on its way is not asked for twice", () => {
  let now = 0;
  const refetches = new Refetches(() => now);
  assert.equal(refetches.mayBegin(3), true);
  refetches.begin(3);
  now = 60_000;
  assert.deepEqual([refetches.mayBegin(3), refetches.isRecent(3)], [false, true]);
  refetches.failed(3);
  now += 1999;
  assert.equal(refetches.mayBegin(3), false);
  now += 1;
  assert.equal(refetches.mayBegin(3), true);
});

test("what came may be fetched again at once, but is recent for a while", () => {
  let now = 0;
  const refetches = new Refetches(() => now);
  refetches.begin(3);
  refetches.done(3);
  assert.deepEqual([refetches.mayBegin(3), refetches.isRecent(3)], [true, true]);
  now = 2000;
  assert.equal(refetches.isRecent(3), false);
});

test("forgiving concerns what failed, not what is on its way", () => {
  const refetches = new Refetches(() => 0);
  for (const index of [1, 2]) refetches.begin(index);
  refetches.failed(1);
  refetches.forgive();
  assert.deepEqual([refetches.mayBegin(1), refetches.mayBegin(2)], [true, false]);
});
