import assert from "node:assert/strict";
import { test } from "node:test";
import { actOf } from "../../web/keys.js";

const press = (key, more = {}) => actOf({ key, shiftKey: false, ctrlKey: false, metaKey: false, altKey: false, ...more });

test("comma and full stop step frames, with shift chunks, however the keyboard writes them", () => {
  assert.deepEqual([",", ".", "ArrowLeft", "ArrowRight"].map((key) => press(key)), ["frame-back", "frame-on", "frame-back", "frame-on"]);
  const shifted = ["<", ">", ",", ".", "ArrowLeft", "ArrowRight"].map((key) => press(key, { shiftKey: true }));
  assert.deepEqual(shifted, ["chunk-back", "chunk-on", "chunk-back", "chunk-on", "chunk-back", "chunk-on"]);
});

test("verbs by their letter, also in capitals; never with ctrl, so that the browser's own keys stay", () => {
  assert.deepEqual(["s", "S", "p", "b", "r"].map((key) => press(key)), ["stop", "stop", "cue", "branch", "redo"]);
  assert.equal(press("r", { ctrlKey: true }), null);
  assert.equal(press("F5"), null);
});
