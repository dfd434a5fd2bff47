import assert from "node:assert/strict";
import { test } from "node:test";
import { Directions, promptAt, sayCues } from "../../web/directions.js";

const NOTHING = { prompt: null, negative_prompt: null, guidance_scale: null, num_inference_steps: null, seed: null, transition_chunks: 0 };
const cue = (from_index, changes) => ({ ...NOTHING, from_index, from_s: from_index + 1, ...changes });
const CUES = [cue(9, { prompt: "night" }), cue(4, { prompt: "noon" }), cue(4, { prompt: "dawn" }), cue(12, { seed: 5, guidance_scale: 7 })];

test("the prompt at a chunk: the latest place wins, there the later cue", () => {
  assert.deepEqual([0, 3, 4, 8, 9, 20].map((index) => promptAt("start", CUES, index)), ["start", "start", "dawn", "dawn", "night", "night"]);
});

test("what changes at a chunk is said", () => {
  assert.deepEqual([3, 4, 12].map((index) => sayCues(CUES, index)), ["", "“noon”; “dawn”", "guidance 7, seed 5"]);
});

test("answers about another film, or overtaken ones, are not taken", async () => {
  const waiting = [];
  const api = { grant: null, cues: (id) => new Promise((resolve) => waiting.push([id, resolve])) };
  const directions = new Directions(api, () => {});
  const asked = [directions.refresh("a"), directions.refresh("a"), directions.refresh("b")];
  for (const [id, answer] of waiting.reverse()) answer([cue(1, { prompt: id })]);
  await Promise.all(asked);
  assert.deepEqual(directions.cues.map(({ prompt }) => prompt), ["b"]);
});

test("guests are told too: the server says to whom it says what", async () => {
  const cues = [{ from_index: 3, prompt: "another" }];
  const directions = new Directions({ grant: "g", cues: async () => cues }, () => {});
  await directions.refresh("a");
  assert.deepEqual(directions.cues, cues);
});
