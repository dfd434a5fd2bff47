import assert from "node:assert/strict";
import { test } from "node:test";
import { leaves, readPages, posterOf } from "../../web/library.js";

/** Two films a page. */
function serverWith(ids) {
  return {
    async videos(after, search) {
      const found = ids.filter((id) => id.includes(search));
      const rest = after ? found.slice(found.indexOf(after) + 1) : found;
      return { data: rest.slice(0, 2).map((id) => ({ id })), has_more: rest.length > 2 };
    },
  };
}

test("reads the pages asked for, as far as there are", async () => {
  const api = serverWith(["e", "d", "c", "b", "a"]);
  const read = async (pages) => {
    const { videos, has_more } = await readPages(api, pages);
    return [videos.map(({ id }) => id).join(""), has_more];
  };
  assert.deepEqual(await read(1), ["ed", true]);
  assert.deepEqual(await read(2), ["edcb", true]);
  assert.deepEqual(await read(9), ["edcba", false]);
});

test("a search is asked of every page", async () => {
  const { videos } = await readPages(serverWith(["ax", "b", "cx", "dx"]), 2, "x");
  assert.deepEqual(videos.map(({ id }) => id), ["ax", "cx", "dx"]);
});

test("the pictures that stand for a film are spread over all of it", () => {
  assert.deepEqual([leaves(3, 8), leaves(16, 4), leaves(0)], [[0, 1, 2], [0, 4, 8, 12], []]);
});

test("a branch is shown by its first own picture, as soon as there is one", () => {
  assert.deepEqual([[null, 9], [5, 9], [5, 5], [5, 0]].map(([fork_index, chunks]) => posterOf({ fork_index, chunks })), [0, 5, 4, 0]);
});
