import assert from "node:assert/strict";
import { test } from "node:test";
import { besideAddress } from "../../web/family.js";
import { advance, familyFork, hasEnded, lines, nudge, partAt, sayCommon } from "../../web/pair.js";
import { duration, readHash, readMoment, readPair, withoutToken } from "../../web/words.js";

const first = { id: "first", parent_id: null, fork_index: null };
const branch = { id: "branch", parent_id: "first", fork_index: 6 };
const twig = { id: "twig", parent_id: "branch", fork_index: 9 };
const other = { id: "other", parent_id: "first", fork_index: 4 };
const made = (...hashes) => hashes.map((frames_sha256, index) => ({ index, frames_sha256 }));
const side = (end_s, more = false, ready = true) => ({ end_s, more, ready, frame_s: 0.125 });

test("a family says where two of its films part", () => {
  assert.equal(familyFork([first], [branch, first]), 6);
  assert.equal(familyFork([twig, branch, first], [first]), 6, "a branch of a branch has left the first film where its parent did");
  assert.equal(familyFork([twig, branch, first], [branch, first]), 9);
  assert.equal(familyFork([other, first], [twig, branch, first]), 4);
  assert.equal(familyFork([branch], [other]), 4, "brothers, also when the film they come from is deleted");
  assert.equal(familyFork([first], [{ id: "stranger" }]), null);
});

test("the frames tell of a redo, and of films of two families", () => {
  assert.equal(partAt(6, made("a", "b", "x"), made("a", "b", "c")), 2);
  assert.equal(partAt(2, made("a", "b", "c"), made("a", "b", "c")), 2, "a branch that changes nothing yet is still a branch");
  assert.equal(partAt(null, made("a", "x"), made("b", "x")), 0);
  const grid = { first_chunk_frames: 16, chunk_frames: 8, fps: 8 };
  assert.deepEqual([0, 5].map((fork) => sayCommon(grid, fork, duration)), ["nothing in common: both begin at 0:00", "the same up to 0:06"]);
});

test("the clock goes no farther than the film that grows, and leaves a film that has ended behind", () => {
  assert.deepEqual(advance(1, 0.1, [side(10), side(5, true)]), { position_s: 1.1, waitsFor: null, ended: false });
  assert.deepEqual(advance(4.45, 0.1, [side(10), side(5, true)]), { position_s: 4.5, waitsFor: 1, ended: false });
  assert.equal(advance(6, 0.1, [side(10), side(5)]).position_s, 6.1);
  assert.deepEqual(advance(9.95, 0.1, [side(10), side(5)]), { position_s: 10, waitsFor: null, ended: true });
  assert.deepEqual(advance(7, 0.1, [side(10), side(5, true)]), { position_s: 7, waitsFor: 1, ended: false }, "it never goes back");
});

test("the clock waits for a film that is not ready, unless it has ended", () => {
  assert.deepEqual(advance(2, 0.1, [side(10, false, false), side(10)]), { position_s: 2, waitsFor: 0, ended: false });
  assert.equal(advance(6, 0.1, [side(10), side(5, false, false)]).waitsFor, null);
  assert.deepEqual([hasEnded(side(5), 4.9), hasEnded(side(5), 4.95), hasEnded(side(5, true), 9)], [false, true, false]);
});

test("small differences are made up for, large ones jumped over, none never", () => {
  assert.deepEqual([0.01, 0.1, -0.1, 0.5, 2].map(nudge), [
    { rate: 1, seek: false },
    { rate: 1.1, seek: false },
    { rate: 0.9, seek: false },
    { rate: 1.3, seek: false },
    { rate: 1, seek: true },
  ]);
});

test("one line, then two", () => {
  const { common, own, forkX } = lines({ width: 100, height: 40, fork_s: 5, ends_s: [10, 8], whole_s: 10 });
  assert.deepEqual([common, forkX], ["M0 20H50", 50]);
  assert.ok(own[0].startsWith("M50 20C") && own[0].endsWith("H100") && own[1].endsWith("H80"));
  assert.equal(lines({ width: 100, height: 40, fork_s: 5, ends_s: [4, 10], whole_s: 10 }).own[0], "", "a film shorter than what they share");
});

test("addresses: a pair, a moment, and no token", () => {
  assert.deepEqual(readPair("#/compare/video_1/video_2?t=3"), ["video_1", "video_2"]);
  assert.deepEqual([readPair("#/compare/video_1/video_1"), readPair("#/video/video_1")], [null, null]);
  assert.deepEqual(["#/video/v?t=31.5", "#grant=v1.a&/video/v?t=4", "#/video/v?t=x", "#/video/v?t=4h"].map(readMoment), [31.5, 4, null, null]);
  assert.deepEqual(readHash("#/compare/video_1/video_2"), { token: null, video: null });
  assert.deepEqual(
    ["#token=abc&/video/v?t=3", "#/video/v?token=abc", "#/video/v?t=3&token=abc", "#token=abc", "#/compare/a/b"].map(withoutToken),
    ["#/video/v?t=3", "#/video/v", "#/video/v?t=3", "", "#/compare/a/b"],
  );
});

test("the film that others come from is on the left", () => {
  assert.equal(besideAddress(branch, first), "#/compare/first/branch");
  assert.equal(besideAddress(first, branch), "#/compare/first/branch");
});
