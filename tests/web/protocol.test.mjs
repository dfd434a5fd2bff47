/** Messages are those of the Python tests: tests/delivery/golden_messages.json. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { ack, backoffSeconds, finalReason, hello, readBinary, readControl, sayLive } from "../../web/protocol.js";

const read = (path) => readFileSync(new URL(path, import.meta.url), "utf8");
const GOLDEN = JSON.parse(read("../delivery/golden_messages.json"));

/** Fields per type of message, as the page's types say. @returns {Map<string, {name: string, optional: boolean}[]>} */
function typedFields() {
  const union = read("../../web/protocol.js").match(/@typedef \{(\{type: "welcome"[\s\S]*?)\} Control/)?.[1] ?? "";
  const members = union.split(/^ \*   \| /m).map((member) => member.match(/\{type: "(\w+)"(.*)\}/));
  return new Map(members.map(([, type, fields]) => [type, [...fields.matchAll(/(\w+)(\?)?: /g)].map(([, name, mark]) => ({ name, optional: mark === "?" }))]));
}

test("what a server says is read, and has the fields that the page's types promise", () => {
  const fields = typedFields();
  const seen = new Set();
  for (const text of GOLDEN.from_server) {
    const message = readControl(text);
    assert.deepEqual(message, JSON.parse(text));
    for (const { name, optional } of fields.get(message.type) ?? []) assert.ok(optional || name in message, `${message.type}.${name}`);
    seen.add(message.type);
  }
  assert.deepEqual([...fields.keys()].sort(), [...seen].sort());
});

test("what no server says is refused", () => {
  for (const text of GOLDEN.not_from_a_server) assert.throws(() => readControl(text), text);
  assert.throws(() => readControl("{}"), /needs a "type"/);
});

test("binary messages are read as the server packs them, and refused where it refuses them", () => {
  for (const message of GOLDEN.binary) {
    const { buffer } = Uint8Array.from(Buffer.from(message.hex, "hex"));
    if (message.refused) {
      assert.throws(() => readBinary(buffer), /expected a 20 byte header|expected header version 1|unknown kind/, message.hex);
      continue;
    }
    const { bytes, ...header } = readBinary(buffer);
    for (const [name, value] of Object.entries(header)) assert.equal(value, message.read[name], `${message.hex} ${name}`);
    assert.equal(Buffer.from(bytes).toString("hex"), message.read.payload);
  }
});

test("what the page says is understood", () => {
  const understood = GOLDEN.to_server.filter((message) => message.read);
  for (const text of [hello(0, false), hello(7, true), ack(9), sayLive(true), sayLive(false)]) {
    const golden = understood.find((message) => message.text === text);
    assert.ok(golden, `${text} is none of golden_messages.json`);
    assert.deepEqual(golden.read, JSON.parse(text));
  }
});

test("only codes that say so end the reconnecting", () => {
  for (const code of [4001, 4003, 4004, 4009, 4400]) assert.equal(typeof finalReason(code), "string");
  for (const code of [1000, 1001, 1006, 1011, 1012, 1013, 4008]) assert.equal(finalReason(code), null);
});

test("the backoff doubles from 0.25 s to 5 s, its upper half at random", () => {
  assert.deepEqual([0, 1, 2, 3, 4, 5, 9].map((attempt) => backoffSeconds(attempt, 1)), [0.25, 0.5, 1, 2, 4, 5, 5]);
  assert.deepEqual([0, 9].map((attempt) => backoffSeconds(attempt, 0)), [0.125, 2.5]);
});
