import assert from "node:assert/strict";
import { test } from "node:test";
import { openHold, steer } from "../../web/edge.js";

const FACTS = { ahead: 1, behind: 1, fps: 8, chunk_s: 1, more: true, growing: true, following: true, pace: 1 };

/** Play against arrivals: chunks of one second at the given times; gives frames played, waits, and the least that was ever ahead. */
function simulate(arrivals, { pace = 1, seconds = 30, step = 0.03 } = {}) {
  let [position, hold, waits, leastAhead] = [0, openHold(), 0, Infinity];
  for (let now = arrivals[0]; now < seconds; now += step) {
    const end = arrivals.filter((time) => time <= now).length + 1;
    const facts = { ...FACTS, ahead: end - position, behind: end - position, pace };
    const decision = steer(facts, hold);
    if (decision.hold.gated && !hold.gated) waits += 1;
    hold = decision.hold;
    position += decision.rate * step;
    leastAhead = Math.min(leastAhead, end - position);
  }
  return { position, waits, leastAhead };
}

test("holds below 2.5 frames, lets go above 3", () => {
  let { rate, hold } = steer({ ...FACTS, ahead: 2.6 / 8 }, openHold());
  assert.equal(rate, 1);
  ({ rate, hold } = steer({ ...FACTS, ahead: 2.4 / 8 }, hold));
  assert.equal(rate, 0);
  ({ rate, hold } = steer({ ...FACTS, ahead: 2.9 / 8 }, hold));
  assert.equal(rate, 0, "between the two it stays as it is");
  ({ rate, hold } = steer({ ...FACTS, ahead: 3.1 / 8 }, hold));
  assert.equal(rate, 1);
});

test("at the end of the film the gate is open, so that the last frames are shown", () => {
  const gated = { gated: true, catching: false, wait_s: 2 };
  assert.deepEqual(steer({ ...FACTS, more: false, ahead: 0.05 }, gated), { rate: 1, jump: false, hold: openHold() });
});

test("catches up only a follower who has fallen behind, and lets go at the target", () => {
  const far = { ...FACTS, ahead: 4, behind: 4 };
  const { rate, hold } = steer(far, openHold());
  assert.ok(rate >= 1.05 && rate <= 1.15);
  assert.ok(steer({ ...far, behind: 2 }, hold).rate > 1, "goes on until the target");
  assert.equal(steer({ ...far, behind: 2 }, openHold()).rate, 1, "but does not begin there");
  assert.equal(steer({ ...far, behind: 1.4 }, hold).rate, 1);
  assert.equal(steer({ ...far, following: false }, openHold()).rate, 1);
  assert.equal(steer({ ...far, growing: false }, openHold()).rate, 1);
  assert.equal(steer({ ...far, pace: 2 }, openHold()).rate, 1, "an edge that runs away is not chased");
});

test("jumps when more than ten seconds behind an edge that can be reached", () => {
  assert.equal(steer({ ...FACTS, ahead: 20, behind: 20 }, openHold()).jump, true);
  assert.equal(steer({ ...FACTS, ahead: 20, behind: 20, pace: 3 }, openHold()).jump, false);
  assert.equal(steer({ ...FACTS, ahead: 20, behind: 20, following: false }, openHold()).jump, false);
});

test("never runs dry with irregular arrivals", () => {
  const gaps = [0.4, 1.9, 0.3, 0.2, 2.4, 1, 1, 0.1, 0.1, 3, 0.9, 1.1];
  const arrivals = gaps.map((_, place) => gaps.slice(0, place + 1).reduce((a, b) => a + b));
  const { leastAhead, position } = simulate(arrivals);
  assert.ok(leastAhead > 0.25, `least ahead ${leastAhead}`);
  assert.ok(position > arrivals.length, "and shows nearly all there is");
});

test("a maker at half the speed gives few long waits instead of many short ones", () => {
  const arrivals = Array.from({ length: 15 }, (_, place) => 2 * place);
  const { waits, leastAhead } = simulate(arrivals, { pace: 0.5 });
  assert.ok(waits <= 8, `${waits} waits for 15 chunks`);
  assert.ok(leastAhead > 0.25);
});
