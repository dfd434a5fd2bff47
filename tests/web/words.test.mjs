import assert from "node:assert/strict";
import { test } from "node:test";
import { bytes, duration, framesFor, moment, quoted, quotedFew, readHash, sayFirstChunk, sayIn, unknownWords } from "../../web/words.js";

test("durations and moments", () => {
  assert.deepEqual([0, 9.99, 62, 3605].map(duration), ["0:00", "0:09", "1:02", "1:00:05"]);
  assert.deepEqual([0, 0.1, 9.375, 59.96, 61].map(moment), ["0:00.0", "0:00.1", "0:09.3", "0:59.9", "1:01.0"]);
});

test("unknown words: the server's rule", () => {
  const vocabulary = { things: ["boat"], places: ["over the sea"], "small words": ["a"] };
  assert.deepEqual(unknownWords(vocabulary, "A Dragon, a boat over the sea; dragon!"), ["dragon"]);
  assert.deepEqual(unknownWords(vocabulary, ""), []);
  assert.deepEqual(unknownWords(null, "anything at all"), []);
});

test("quoting", () => {
  assert.deepEqual([[], ["a"], ["a", "b"], ["a", "b", "c"]].map(quoted), ["", "“a”", "“a” and “b”", "“a”, “b” and “c”"]);
  assert.equal(quotedFew(["a", "b", "c", "d", "e"]), "“a”, “b”, “c”, “d” and “e”");
  assert.equal(quotedFew(["a", "b", "c", "d", "e", "f"]), "“a”, “b”, “c”, “d” and 2 more");
});

test("lengths in frames", () => {
  assert.deepEqual([framesFor(20, 8), framesFor(null, 8)], [160, null]);
});

test("the fragment carries a token, a film, or both", () => {
  assert.deepEqual(readHash("#token=a.b~c-d_e"), { token: "a.b~c-d_e", video: null });
  assert.deepEqual(readHash("#/video/video_12-a"), { token: null, video: "video_12-a" });
  assert.deepEqual(readHash("#token=abc&/video/video_1"), { token: "abc", video: "video_1" });
  assert.deepEqual(readHash("#/video/video_1?token=abc"), { token: "abc", video: "video_1" });
  assert.deepEqual(readHash(""), { token: null, video: null });
});

test("bytes, with a space that does not break", () => {
  assert.deepEqual([0, 940, 12_345, 999_600, 1_440_000, 34e6, 2.5e9].map(bytes), ["0", "940", "12", "1.0", "1.4", "34", "2.5"].map((n, i) => `${n}\u00a0${["bytes", "bytes", "kB", "MB", "MB", "MB", "GB"][i]}`));
});

test("when the first picture will be there, once the pace is known", () => {
  const at = (step, now_ms) => sayFirstChunk({ step, steps: 50 }, { step: 2, at_ms: 1000 }, now_ms);
  assert.deepEqual([at(3, 1200), at(12, 3000), at(50, 11_000)], ["step 3 of 50", "step 12 of 50, first picture in about 8 s", "step 50 of 50"]);
  assert.equal(at(4, 21_000), "step 4 of 50, first picture in about 8 min");
});

test("how long until", () => {
  assert.deepEqual([0, 60, 600, 3600, 21_600, 86_400, 604_800].map(sayIn), ["at once", "in a minute", "in 10 minutes", "in an hour", "in 6 hours", "in a day", "in 7 days"]);
});
