import assert from "node:assert/strict";
import { test } from "node:test";
import { ack, backoffSeconds, finalReason, hello, readBinary, readControl } from "../../web/protocol.js";

function binary({ version = 1, kind = 2, rendition = 0, index = 7, revision = 2, init = 3, seq = 41, payload = [9, 8] } = {}) {
  const bytes = new Uint8Array(20 + payload.length);
  const view = new DataView(bytes.buffer);
  [version, kind, rendition, 0].forEach((value, place) => view.setUint8(place, value));
  [index, revision, init, seq].forEach((value, place) => view.setUint32(4 + 4 * place, value));
  bytes.set(payload, 20);
  return bytes.buffer;
}

test("a segment's header is read as the server packs it", () => {
  const segment = readBinary(binary({ rendition: 1 }));
  assert.deepEqual(segment, { kind: "segment", rendition: "enhanced", index: 7, revision: 2, init: 3, seq: 41, bytes: segment.bytes });
  assert.deepEqual([...segment.bytes], [9, 8]);
});

test("an init segment names its id", () => {
  const init = readBinary(binary({ kind: 1, init: 5 }));
  assert.equal(init.kind, "init");
  assert.equal(init.init, 5);
});

test("what is not of this protocol is refused with what was expected", () => {
  assert.throws(() => readBinary(new ArrayBuffer(19)), /expected a 20 byte header, received 19/);
  assert.throws(() => readBinary(binary({ version: 2 })), /expected header version 1, received 2/);
  assert.throws(() => readBinary(binary({ kind: 3 })), /unknown kind 3/);
  assert.throws(() => readBinary(binary({ rendition: 9 })), /rendition 9/);
  assert.throws(() => readControl("{}"), /needs a "type"/);
});

test("hello and ack", () => {
  assert.deepEqual(JSON.parse(hello(12)), { type: "hello", cursor: 12, renditions: ["preview", "enhanced"] });
  assert.deepEqual(JSON.parse(ack(13)), { type: "ack", seq: 13 });
});

test("only codes that say so end the reconnecting", () => {
  for (const code of [4001, 4003, 4004, 4009, 4400]) assert.equal(typeof finalReason(code), "string");
  for (const code of [1000, 1001, 1006, 1011, 1012, 1013, 4008]) assert.equal(finalReason(code), null);
});

test("the backoff doubles from 0.25 s to 5 s, its upper half at random", () => {
  assert.deepEqual([0, 1, 2, 3, 4, 5, 9].map((attempt) => backoffSeconds(attempt, 1)), [0.25, 0.5, 1, 2, 4, 5, 5]);
  assert.deepEqual([0, 9].map((attempt) => backoffSeconds(attempt, 0)), [0.125, 2.5]);
});
