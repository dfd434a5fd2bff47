import assert from "node:assert/strict";
import { test } from "node:test";
import { branchPoints, inFamilies } from "../../web/family.js";
import { familyOf, lanes, nameIn } from "../../web/tree.js";

const film = (id, parent_id = null, fork_index = null) => ({ id, parent_id, fork_index });

test("branches stand below their parent, films whose parent is not listed by themselves", () => {
  const listed = inFamilies([film("grandchild", "child", 3), film("b"), film("child", "a", 2), film("orphan", "gone", 1), film("a")]);
  assert.deepEqual(listed.map(({ video, depth, parent }) => `${video.id} ${depth} ${parent?.id ?? "-"}`), [
    "b 0 -",
    "orphan 0 -",
    "a 0 -",
    "child 1 a",
    "grandchild 2 child",
  ]);
});

test("where branches leave a film", () => {
  const films = [film("a"), film("b", "a", 4), film("c", "a", 4), film("d", "b", 1), film("e", "a", 0)];
  assert.deepEqual([...branchPoints(films, "a")], [[4, 2], [0, 1]]);
});

test("a family drawn over time: one line per film, each leaving the one it comes from", () => {
  const film = (id, frames, of = {}) => ({ id, frames, num_frames: frames, fps: 8, first_chunk_frames: 16, chunk_frames: 8, ...of });
  const films = [film("other", 80), film("branch", 120, { parent_id: "first", fork_index: 5, num_frames: 160 }), film("first", 80), film("alone", 8)];
  const family = familyOf(films, "branch");
  assert.deepEqual(family.map(({ video }) => video.id), ["first", "branch"]);
  assert.deepEqual(familyOf(films, "first"), family);
  assert.deepEqual([familyOf(films, "alone"), familyOf(films, "unknown")], [[], []]);
  const [first, branch] = lanes(family, 200);
  assert.deepEqual(first, { path: "M0 34H100", planned: "", fork: null });
  assert.deepEqual(branch.fork, { x: 60, y: 34 }, "at six of twenty seconds");
  assert.ok(branch.path.startsWith("M60 34C") && branch.path.endsWith("H150"));
  assert.equal(branch.planned, "M150 78H200");
});

test("a branch with its parent's name is told by where it leaves it", () => {
  const grid = { first_chunk_frames: 16, chunk_frames: 8, fps: 8 };
  const parent = { ...grid, title: "", prompt: "a boat", fork_index: null };
  const names = [parent, { ...parent, fork_index: 4 }, { ...parent, fork_index: 0 }, { ...parent, title: "At sea", fork_index: 4 }].map((video) => nameIn(video, parent));
  assert.deepEqual(names, ["the same, afresh", "the same, from 0:05", "the same, afresh", "At sea"]);
  assert.equal(nameIn(parent, null), "a boat");
});
