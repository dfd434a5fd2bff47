import assert from "node:assert/strict";
import { test } from "node:test";
import { branchPoints, inFamilies } from "../../web/family.js";

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
