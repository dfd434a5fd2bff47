import assert from "node:assert/strict";
import { test } from "node:test";
import { partsToEnhance, READ_AHEAD_FRAMES, reachOf, sayCaughtUp, sayFrontier, secondsToRefresh } from "../../web/sharpness.js";

const PLAYING = { from: 24, to: 32, frame: 20, fps: 8, rate: 1, rested_s: 60, cost_s: 0.02 };

test("one plays up to where even what is decoded ahead is enhanced", () => {
  assert.equal(reachOf(48, 8, 1), (48 - READ_AHEAD_FRAMES) / 8);
  assert.equal(reachOf(48, 8, Infinity), 6, "a frontier that stands is played up to");
});

test("what is exchanged on the screen or just ahead is shown at once, what the decoder has not reached by itself", () => {
  assert.equal(secondsToRefresh(PLAYING), 0);
  assert.equal(secondsToRefresh({ ...PLAYING, frame: 27 }), 0, "half of it is still to come");
  assert.equal(secondsToRefresh({ ...PLAYING, frame: 24 - READ_AHEAD_FRAMES - 1 }), null, "not decoded yet");
  assert.equal(secondsToRefresh({ ...PLAYING, frame: 30 }), null, "over in a quarter of a second");
  assert.equal(secondsToRefresh({ ...PLAYING, frame: 30, rate: 0.25 }), 0, "in slow motion that is a second");
  assert.equal(secondsToRefresh({ ...PLAYING, frame: 32 }), null, "it is over");
});

test("where nothing moves it is shown at once, even its last frame, right after another", () => {
  assert.equal(secondsToRefresh({ ...PLAYING, frame: 31, rate: 0, rested_s: 0 }), 0);
  assert.equal(secondsToRefresh({ ...PLAYING, frame: 32, rate: 0 }), null);
});

test("while it plays, seeks on the spot take no more than a fortieth of the time", () => {
  assert.equal(secondsToRefresh({ ...PLAYING, rested_s: 0.2, cost_s: 0.002 }), 0.3);
  assert.equal(secondsToRefresh({ ...PLAYING, rested_s: 1, cost_s: 0.1 }), 3);
});

test("the frontier in words", () => {
  const film = { fps: 8, frames: 480, prefixFrames: 336, enhancedFrames: 336, growing: true };
  assert.equal(sayFrontier(film), "enhanced up to 0:42 · 18 s behind");
  assert.equal(sayFrontier({ ...film, growing: false }), "enhanced up to 0:42 of 1:00");
  assert.equal(sayFrontier({ ...film, prefixFrames: 480, growing: false }), "all of it is enhanced");
  assert.equal(sayFrontier({ ...film, prefixFrames: 480 }), "enhanced up to 1:00 · nothing behind");
  assert.equal(sayFrontier({ ...film, prefixFrames: 0, enhancedFrames: 80 }), "10 s of it enhanced");
  assert.equal(sayFrontier({ ...film, prefixFrames: 0, enhancedFrames: 0 }), "not enhanced yet");
  assert.equal(sayFrontier({ ...film, frames: 0, prefixFrames: 0, enhancedFrames: 0 }), "not enhanced yet");
});

test("what one waits for where all that is sharp has been seen", () => {
  assert.match(sayCaughtUp({ index: 6, step: 3, steps: 8 }, "all", null), /enhancing chunk 7 · step 3 of 8/);
  assert.match(sayCaughtUp(null, "none", null), /not being enhanced/);
  assert.match(sayCaughtUp(null, "all", null), /waiting/);
  assert.match(sayCaughtUp(null, "all", "out of memory"), /failed/);
});

test("parts that can be asked for: each once, and none that is enhanced already", () => {
  const grid = { first_chunk_frames: 16, chunk_frames: 8, fps: 8 };
  const at = (index) => `#${index}`;
  const values = (...facts) => partsToEnhance(grid, ...facts, at).map(({ value, from, to }) => [value, from, to]);
  const none = () => false;
  assert.deepEqual(values(40, 5, null, none), [["film", 0, 40], ["rest", 5, 40], ["near", 5, 15]]);
  assert.deepEqual(values(40, 0, { from: 3, to: 4 }, none), [["film", 0, 40], ["near", 0, 10], ["loop", 3, 4]]);
  assert.deepEqual(values(8, 5, null, none), [["film", 0, 8], ["rest", 5, 8]]);
  assert.deepEqual(values(8, 5, null, (index) => index >= 5), [["film", 0, 8]]);
  assert.deepEqual(values(8, 5, null, () => true), []);
});
