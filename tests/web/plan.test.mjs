import assert from "node:assert/strict";
import { test } from "node:test";
import {
  branchFrames,
  branchLengths,
  chunkFrom,
  firstOpenChunk,
  nearestBorder,
  place,
  plannedFrom,
  sayBranch,
  sayCue,
  sayFork,
  sayPlanned,
  sayRedo,
  sayRedone,
  sayWithout,
} from "../../web/plan.js";

/** Chunk 0 lasts two seconds, every later one a second. */
const FILM = { fps: 8, first_chunk_frames: 16, chunk_frames: 8, num_frames: 160 };

test("the first chunk that a cue may change is not begun", () => {
  assert.equal(firstOpenChunk(4, { index: 4 }, true), 5);
  assert.equal(firstOpenChunk(4, { index: 5 }, true), 6, "chunk 4 is being sent, chunk 5 made");
  assert.equal(firstOpenChunk(4, null, true), 4);
  assert.equal(firstOpenChunk(4, { index: 4 }, false), 4);
});

test("a moment's chunk is the first that begins then or later, as on the server", () => {
  assert.deepEqual([0, 0.01, 2, 2.01, 3, 30].map((s) => chunkFrom(FILM, s)), [0, 1, 1, 2, 2, 29]);
});

test("the border nearest to the playhead", () => {
  assert.deepEqual([0, 7, 8, 9, 16, 19, 20, 21, 24].map((f) => nearestBorder(FILM, f, 9)), [0, 0, 0, 1, 1, 1, 1, 2, 2]);
  assert.equal(nearestBorder(FILM, 150, 4), 4);
});

test("places are said by time, and by chunks counted from 1", () => {
  assert.equal(place(FILM, 16), "0:17, chunk 17");
  assert.equal(place({ ...FILM, fps: 10 }, 1), "0:01.6, chunk 2");
});

test("what a cue will do is said for a film that grows, ends before, stands still, goes on", () => {
  assert.match(sayCue(FILM, 5, true, false), /^From 0:06, chunk 6, the film follows the new prompt.*stays as it is\.$/);
  assert.match(sayCue(FILM, 30, true, false), /ends before that, at 0:20/);
  assert.match(sayCue(FILM, 5, false, false), /counts when it goes on/);
  assert.doesNotMatch(sayCue(FILM, 5, false, true), /goes on/);
  assert.doesNotMatch(sayCue({ ...FILM, num_frames: null }, 300, true, false), /ends/);
});

test("what branch and redo will do", () => {
  assert.match(sayBranch(FILM, 4), /up to 0:05 it is this one, from chunk 5 on its own/);
  assert.match(sayBranch(FILM, 0), /all of it made afresh/);
  assert.match(sayRedo(FILM, 4, 11), /^Chunks 5 to 11 are made anew .* from 0:05 on; .* kept as a film of its own\.$/);
  assert.match(sayRedo(FILM, 10, 11), /^Chunk 11 is made anew/);
  assert.deepEqual([0, 4].map((index) => sayFork(FILM, index)), ["nothing is kept", "kept up to here, 0:05"]);
});

test("a branch is never offered a length it has already", () => {
  assert.deepEqual(branchLengths(FILM, 4).map(({ text }) => text), ["as planned (0:20)", "0:25 in all", "1:05 in all", "2:05 in all", "endless"]);
  assert.equal(branchLengths(FILM, 19)[0].value, "20", "the parent ends there");
  assert.deepEqual(["plan", "20", ""].map((choice) => branchFrames(FILM, 4, choice)), [undefined, 200, null]);
});

test("planned changes: what they will change, and what holds without them", () => {
  const nothing = { negative_prompt: null, guidance_scale: null, num_inference_steps: null, seed: null, transition_chunks: 0 };
  const cues = [
    { ...nothing, seq: 9, from_index: 8, prompt: "blue", transition_chunks: 2 },
    { ...nothing, seq: 4, from_index: 2, prompt: "red" },
    { ...nothing, seq: 5, from_index: 6, prompt: null, seed: 7 },
  ];
  const film = { ...FILM, first_prompt: "green" };
  assert.deepEqual(plannedFrom(cues, 3).map(({ seq }) => seq), [5, 9], "by their place; what is begun is planned no more");
  assert.deepEqual([cues[0], cues[2]].map((cue) => sayPlanned(film, cue)), ["From 0:09, chunk 9: “blue”, over 2 chunks.", "From 0:07, chunk 7: seed 7."]);
  assert.deepEqual([cues[0], cues[1]].map((cue) => sayWithout(film, cue, cues)), [
    "Without it the film goes on there with “red”.",
    "Without it the film goes on there with “green”.",
  ]);
});

test("who watches a redo is told the range", () => {
  assert.equal(sayRedone(FILM, { from_index: 2, chunks: 5 }), "0:03 to 0:06 is being made anew; what is before stays as it is.");
  assert.equal(sayRedone(FILM, { from_index: 0, chunks: 5 }), "0:00 to 0:06 is being made anew.");
});
