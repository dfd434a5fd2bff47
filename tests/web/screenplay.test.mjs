import assert from "node:assert/strict";
import { test } from "node:test";
import { sayGrace } from "../../web/deleted.js";
import { fileName, isScreenplay, readScreenplay, sayHow, scenes } from "../../web/screenplay.js";

const file = { name: "sea.json", size: 100 };
const written = {
  screenplay: 1,
  title: "At sea",
  model: "storybook",
  preset: "live",
  seed: 7,
  num_frames: 240,
  prompt: "a boat",
  cues: [{ from_s: 10, prompt: "a ball", transition_chunks: 3 }, { from_s: 12.5, seed: 5, prompt: null }],
};

test("a screenplay is read, and what is none is refused in words", () => {
  assert.deepEqual(readScreenplay(file, JSON.stringify(written)), written);
  assert.throws(() => readScreenplay({ ...file, size: 300_000 }, "{}"), /too large: 300.kB; a screenplay may have 262.kB/);
  assert.throws(() => readScreenplay(file, "{"), /“sea.json” cannot be read: it is not JSON/);
  for (const text of ["{}", "[]", "null", '"a"']) assert.throws(() => readScreenplay(file, text), /is no screenplay/);
  assert.deepEqual([{ name: "a.JSON", type: "" }, { name: "a", type: "application/json" }, { name: "a.png", type: "image/png" }].map(isScreenplay), [true, true, false]);
});

test("what a screenplay will be, line by line", () => {
  assert.deepEqual(scenes(written), [{ at: "0:00", what: "a boat" }, { at: "0:10", what: "a ball, over 3 chunks" }]);
  assert.deepEqual(scenes({ prompt: "a", cues: "nonsense" }), [{ at: "0:00", what: "a" }], "the server says what is wrong with it");
  assert.equal(sayHow(written, 8), "storybook · live · seed 7 · 0:30");
  assert.equal(sayHow({ num_frames: null }, undefined), "endless");
});

test("its file has the film's name", () => {
  assert.equal(fileName({ title: "A red boat, at sea!", prompt: "" }), "a-red-boat-at-sea.screenplay.json");
  assert.equal(fileName({ title: "", prompt: "…" }), "film.screenplay.json");
});

test("how long a deleted film can still be had back", () => {
  assert.deepEqual([86_400, 3000, 60, -5].map((left) => sayGrace(1000 + left, 1000)), [
    "gone for good in 24 h",
    "gone for good in 50 min",
    "gone for good any moment",
    "gone for good any moment",
  ]);
});
