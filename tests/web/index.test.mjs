import assert from "node:assert/strict";
import { test } from "node:test";
import { chunkOfFrame, chunksFor, framesOf, SegmentIndex, startFrame } from "../../web/index.js";

const GRID = { first_chunk_frames: 16, chunk_frames: 8, fps: 8 };

/** @param {number} index @param {object} [more] */
function entry(index, more = {}) {
  return { index, rendition: "preview", revision: 0, init: 0, size_bytes: 100, resident: true, ...more };
}

function indexOf(count) {
  const index = new SegmentIndex(GRID);
  for (let chunk = 0; chunk < count; chunk += 1) index.put(entry(chunk));
  return index;
}

test("every frame lies in exactly one chunk", () => {
  for (let frame = 0; frame < 200; frame += 1) {
    const chunk = chunkOfFrame(GRID, frame);
    const start = startFrame(GRID, chunk);
    assert.ok(start <= frame && frame < start + framesOf(GRID, chunk), `frame ${frame}`);
  }
  assert.deepEqual([1, 16, 17, 24, 25, 160].map((frames) => chunksFor(GRID, frames)), [1, 1, 2, 2, 3, 19]);
});

test("frames count only up to the first gap", () => {
  const index = indexOf(3);
  index.put(entry(4));
  assert.equal(index.contiguous, 3);
  assert.equal(index.frames, 32);
  index.put(entry(3));
  assert.equal(index.frames, 48);
});

test("a segment is news only if it is better than what is there", () => {
  const index = indexOf(2);
  assert.equal(index.put(entry(1)), false);
  assert.equal(index.put(entry(1, { revision: 1 })), true);
  assert.equal(index.put(entry(1, { rendition: "enhanced" })), true);
  assert.equal(index.put(entry(1, { revision: 9 })), false, "a preview never replaces what is enhanced");
});

test("what was evicted is news again", () => {
  const index = indexOf(2);
  index.mark(1, false);
  assert.equal(index.put(entry(1)), true);
});

test("a reset forgets the rest of the film", () => {
  const index = indexOf(6);
  index.reset(4);
  assert.equal(index.frames, 40);
});

test("evicts by bytes: first the farthest behind, then the farthest ahead, never what plays next", () => {
  const index = indexOf(10);
  assert.deepEqual(index.evictions(5, 1000), []);
  assert.deepEqual(index.evictions(5, 800), [0, 1]);
  assert.deepEqual(index.evictions(5, 500), [0, 1, 2, 3, 9]);
  assert.deepEqual(index.evictions(5, 0), [0, 1, 2, 3, 9, 8], "4 to 7 stay");
});

test("asks again only for what was evicted near the playhead", () => {
  const index = indexOf(10);
  for (const chunk of [2, 3, 9]) index.mark(chunk, false);
  assert.deepEqual(index.missing(2), [2, 3]);
  assert.deepEqual(index.missing(4), []);
  assert.deepEqual(index.missing(8), [9]);
});

test("what is counted on the way equals what is counted anew", () => {
  const index = new SegmentIndex(GRID);
  let seed = 1;
  const draw = (below) => (seed = (seed * 48271) % 2147483647) % below;
  const known = new Map();
  for (let step = 0; step < 2000; step += 1) {
    const chunk = draw(12);
    const kind = draw(8);
    if (kind < 4) {
      const news = entry(chunk, { revision: draw(9), size_bytes: 1 + draw(50), resident: draw(4) > 0 });
      if (index.put(news)) known.set(chunk, { ...news });
    } else if (kind < 6) {
      index.mark(chunk, kind === 4);
      if (known.has(chunk)) known.get(chunk).resident = kind === 4;
    } else if (kind === 6) {
      index.reset(chunk);
      for (const later of [...known.keys()].filter((k) => k >= chunk)) known.delete(later);
    } else if (chunk === 0) {
      index.evictAll();
      for (const held of known.values()) held.resident = false;
    }
    let contiguous = 0;
    while (known.has(contiguous)) contiguous += 1;
    const bytes = [...known.values()].reduce((sum, held) => sum + (held.resident ? held.size_bytes : 0), 0);
    assert.deepEqual([index.contiguous, index.residentBytes], [contiguous, bytes], `step ${step}`);
  }
});

test("notices what the browser evicted by itself near the playhead", () => {
  const index = indexOf(10);
  index.mark(3, false);
  const isBuffered = (seconds) => seconds >= 4;
  assert.deepEqual(index.lost(1, isBuffered), [1, 2], "3 is known to be out, 4 begins at 5 s");
  assert.deepEqual(index.lost(8, () => false), [8, 9], "chunks that do not exist are not lost");
});

test("the frontier is how far it is enhanced without a gap, and a run is counted from anywhere", () => {
  const index = indexOf(8);
  const enhance = (...chunks) => chunks.forEach((chunk) => index.put(entry(chunk, { rendition: "enhanced" })));
  assert.deepEqual([index.sharpPrefix, index.sharpEnd(0), index.sharpEnd(5)], [0, 0, 5]);
  enhance(0, 1, 3);
  assert.deepEqual([index.sharpPrefix, index.sharpEnd(0), index.sharpEnd(2), index.sharpEnd(3)], [2, 2, 2, 4]);
  enhance(2);
  assert.deepEqual([index.sharpPrefix, index.sharpEnd(1)], [4, 4]);
  index.reset(2);
  assert.equal(index.sharpPrefix, 2);
  index.put(entry(2));
  assert.equal(index.sharpPrefix, 2, "made anew, it is a preview again");
  enhance(...Array(100).keys());
  assert.deepEqual([index.sharpEnd(3), index.sharpEnd(99)], [100, 100]);
});

test("what was evicted is not replaced by something worse", () => {
  const index = indexOf(2);
  index.put(entry(1, { rendition: "enhanced" }));
  index.mark(1, false);
  assert.equal(index.put(entry(1)), false, "a preview that comes late");
  assert.equal(index.get(1)?.rendition, "enhanced");
  assert.equal(index.put(entry(1, { rendition: "enhanced" })), true, "its like, fetched again");
  assert.equal(index.residentBytes, 200);
});
