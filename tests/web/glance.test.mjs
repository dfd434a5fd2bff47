import assert from "node:assert/strict";
import { test } from "node:test";
import { frameInCells } from "../../web/filmstrip.js";
import { Glimpses, leftOf, nearestTo, sizeOf } from "../../web/glance.js";

/** Questions wait until the test answers them; `here` costs nothing to ask for. */
function sourceWith(here = []) {
  const source = { questions: [], arrivals: 0, here: new Set(here) };
  source.load = (index) => new Promise((yes, no) => source.questions.push({ index, yes, no }));
  source.isHere = (index) => source.here.has(index);
  source.arrived = () => (source.arrivals += 1);
  source.answer = async (how = "yes") => {
    const { index, yes, no } = source.questions.shift();
    if (how === "yes") yes(`picture ${index}`);
    else no(new Error("offline"));
    await new Promise(setImmediate);
  };
  return source;
}

const asked = ({ questions }) => questions.map(({ index }) => index);

test("a pointer that runs along the film asks for one picture at a time, and then for the newest wanted", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const source = sourceWith();
  const glimpses = new Glimpses(source);
  for (let index = 0; index < 50; index += 1) assert.equal(glimpses.want(index), null);
  assert.deepEqual(asked(source), [0]);
  await source.answer();
  assert.deepEqual([asked(source), source.arrivals], [[], 1]);
  t.mock.timers.tick(80);
  assert.deepEqual(asked(source), [49]);
  await source.answer();
  assert.deepEqual(glimpses.want(49), { picture: "picture 49", isRight: true });
  assert.deepEqual(glimpses.want(47), { picture: "picture 49", isRight: false });
  assert.equal(glimpses.want(30), null, "too far off to say anything");
});

test("what is here already is shown without a wait, also while another is asked for", async () => {
  const source = sourceWith([3]);
  const glimpses = new Glimpses(source);
  glimpses.want(20);
  glimpses.want(3);
  assert.deepEqual(asked(source), [20, 3]);
});

test("who has gone away asks for nothing more", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const source = sourceWith();
  const glimpses = new Glimpses(source);
  glimpses.want(1);
  glimpses.want(2);
  glimpses.want(null);
  await source.answer();
  t.mock.timers.tick(5000);
  assert.deepEqual(asked(source), []);
});

test("chunks made anew are asked for anew; a late answer of what they were is not shown", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const source = sourceWith([4, 5]);
  const glimpses = new Glimpses(source);
  glimpses.want(4);
  await source.answer();
  glimpses.want(5);
  glimpses.forgetWhere((index) => index >= 4);
  await source.answer();
  assert.equal(source.arrivals, 1);
  assert.equal(glimpses.want(5), null);
  assert.deepEqual(asked(source), [5]);
});

test("a server that cannot be reached is not asked again at once", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const source = sourceWith();
  const glimpses = new Glimpses(source);
  glimpses.want(7);
  await source.answer("no");
  for (let draws = 0; draws < 9; draws += 1) glimpses.want(7);
  t.mock.timers.tick(1999);
  assert.deepEqual(asked(source), []);
  t.mock.timers.tick(1);
  assert.deepEqual(asked(source), [7]);
});

test("the nearest picture stands in, of two equally near the one seen first", () => {
  assert.deepEqual([nearestTo(5, [1, 9, 6]), nearestTo(5, [4, 6]), nearestTo(50, [1]), nearestTo(5, [])], [6, 4, null, null]);
});

test("all of it stays within the film's own width, and it points at the pointer", () => {
  const between = { left: 12, right: 348 };
  assert.deepEqual(leftOf(180, 140, between), { left: 110, caret: 70 });
  assert.deepEqual(leftOf(12, 140, between), { left: 12, caret: 14 });
  assert.deepEqual(leftOf(340, 140, between), { left: 208, caret: 126 });
});

test("a picture keeps its shape and takes no more than there is room", () => {
  assert.deepEqual(sizeOf(1, { room: 600 }), { width: 132, height: 132 });
  assert.deepEqual(sizeOf(16 / 9, { room: 600 }), { width: 220, height: 124 });
  assert.deepEqual(sizeOf(4 / 3, { room: 132 }), { width: 80, height: 60 });
  assert.deepEqual(sizeOf(1, { room: 20 }), { width: 0, height: 0 });
});

test("each place in a row of cells is a frame, the first chunk being longer", () => {
  const grid = { first_chunk_frames: 16, chunk_frames: 8, fps: 8 };
  const at = (x) => frameInCells(grid, x, 84, 3);
  assert.deepEqual([-5, 0, 40.5, 80.9, 82, 84, 84 + 40.5, 2 * 84].map(at), [0, 0, 8, 15, 15, 16, 20, 24]);
});
