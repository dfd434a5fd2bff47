import assert from "node:assert/strict";
import { test } from "node:test";
import { Appender } from "../../web/appender.js";

/** A SourceBuffer that notes what is done to it; `quota` bytes fit. */
class FakeBuffer extends EventTarget {
  updating = false;
  refusesRemoval = false;
  done = [];
  held = 0;

  constructor(quota = Infinity) {
    super();
    this.quota = quota;
  }

  appendBuffer(bytes) {
    assert.equal(this.updating, false);
    if (this.held + bytes.length > this.quota) throw new DOMException("full", "QuotaExceededError");
    this.held += bytes.length;
    this.#work(`append ${String.fromCharCode(bytes[0])}`);
  }

  remove(start, end) {
    if (this.refusesRemoval) throw new TypeError("duration is NaN");
    this.held -= 10;
    this.#work(`remove ${start}-${end}`);
  }

  #work(what) {
    this.updating = true;
    this.done.push(what);
    queueMicrotask(() => {
      this.updating = false;
      this.dispatchEvent(new Event("updateend"));
    });
  }
}

const bytes = (name, length = 10) => new Uint8Array(length).fill(name.charCodeAt(0));
const settled = () => new Promise((resolve) => setTimeout(resolve));

function appenderOn(buffer, makeRoom = () => []) {
  return new Appender(buffer, { initBytes: (init) => [bytes("X", 1), bytes("Y", 1)][init] ?? null, makeRoom });
}

test("one at a time, in order, the init segment only when it changes", async () => {
  const buffer = new FakeBuffer();
  const appender = appenderOn(buffer);
  const handled = [];
  for (const [name, init] of [["a", 0], ["b", 0], ["c", 1], ["d", 1], ["e", 0]]) {
    appender.append({ init, bytes: bytes(name), done: () => handled.push(name) });
  }
  await settled();
  assert.deepEqual(buffer.done.map((what) => what.slice(7)).join(""), "XabYcdXe");
  assert.deepEqual(handled.join(""), "abcde");
  assert.equal(appender.idle, true);
});

test("a full buffer is given room and the same append is tried again", async () => {
  const buffer = new FakeBuffer(25);
  const appender = appenderOn(buffer, () => [{ start: 0, end: 2 }]);
  const handled = [];
  for (const name of "abc") appender.append({ init: 0, bytes: bytes(name), done: () => handled.push(name) });
  await settled();
  assert.deepEqual(buffer.done, ["append X", "append a", "append b", "remove 0-2", "append c"]);
  assert.deepEqual(handled.join(""), "abc");
});

test("where nothing can go, the append fails and the next one has its turn", async () => {
  const buffer = new FakeBuffer(15);
  const appender = appenderOn(buffer);
  const said = [];
  appender.append({ init: 0, bytes: bytes("a"), done: () => said.push("a in") });
  appender.append({ init: 0, bytes: bytes("b"), failed: () => said.push("b failed") });
  appender.append({ init: 0, bytes: bytes("c", 2), done: () => said.push("c in") });
  await settled();
  assert.deepEqual(said, ["a in", "b failed", "c in"]);
});

test("a removal goes before what waits", async () => {
  const buffer = new FakeBuffer();
  const appender = appenderOn(buffer);
  appender.append({ init: 0, bytes: bytes("a") });
  appender.append({ init: 0, bytes: bytes("b") });
  appender.remove([{ start: 4, end: Infinity }]);
  await settled();
  assert.deepEqual(buffer.done, ["append X", "remove 4-Infinity", "append a", "append b"]);
});

test("media without its init segment is never appended", async () => {
  const buffer = new FakeBuffer();
  let failed = false;
  appenderOn(buffer).append({ init: 7, bytes: bytes("a"), failed: () => (failed = true) });
  await settled();
  assert.deepEqual([buffer.done, failed], [[], true]);
});

test("a removal that the buffer refuses holds up nothing", async () => {
  const buffer = new FakeBuffer();
  buffer.refusesRemoval = true;
  const appender = appenderOn(buffer);
  appender.remove([{ start: 0, end: 1 }, { start: 4, end: Infinity }]);
  appender.append({ init: 0, bytes: bytes("a") });
  await settled();
  assert.deepEqual([buffer.done, appender.idle], [["append X", "append a"], true]);
});

test("closing decides every segment exactly once: the running one, the waiting ones, and the late one", async () => {
  for (const runningFor of [0, 1]) {
    const appender = appenderOn(new FakeBuffer());
    const said = [];
    const give = (name) => appender.append({ init: 0, bytes: bytes(name), done: () => said.push(`${name} in`), failed: () => said.push(`${name} failed`) });
    for (const name of "abc") give(name);
    for (let turn = 0; turn < runningFor; turn += 1) await Promise.resolve();
    appender.close();
    give("d");
    await settled();
    assert.deepEqual(said, ["a failed", "b failed", "c failed", "d failed"], `closed after ${runningFor} turns`);
  }
});
