import assert from "node:assert/strict";
import { test } from "node:test";
import { readPages } from "../../web/library.js";

/** Two films a page. */
function serverWith(ids) {
  return {
    async videos(after) {
      const rest = after ? ids.slice(ids.indexOf(after) + 1) : ids;
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
