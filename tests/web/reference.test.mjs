import assert from "node:assert/strict";
import { test } from "node:test";
import { whyRefused } from "../../web/reference.js";

const file = (name, type, size) => whyRefused({ name, type, size });

test("images and clips the server reads are taken, up to its own limits", () => {
  assert.equal(file("a.png", "image/png", 20 * 2 ** 20), null);
  assert.equal(file("a.mov", "video/quicktime", 50 * 2 ** 20), null);
});

test("a refusal says what was expected and what came", () => {
  assert.match(file("a.gif", "image/gif", 10), /“a.gif” cannot begin a film.*PNG, JPEG or WebP.*MP4, MOV or WebM/);
  assert.match(file("a.png", "image/png", 30_000_000), /too large: 30.MB; an image may have 21.MB/);
  assert.match(file("a.mp4", "video/mp4", 0), /is empty/);
});
