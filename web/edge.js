// @ts-check
/**
 * How fast to play near the live edge: one pure decision, taken some thirty times a second by the player.
 *
 * When Media Source Extensions run dry, Chromium loses one or two frames after each stall. So we never let them: the rate goes to 0
 * while less than 2.5 frames are ahead and back to 1 above 3 frames; with that, 0 of 64 frames were lost (reference: transport,
 * "edge control"). pause()/play() in its place lost up to 10 of 64.
 */

const GATE_FRAMES = 2.5;
const RELEASE_FRAMES = 3;
/** Chunks to stay behind the newest frame. */
export const TARGET_CHUNKS = 1.5;
const MAX_WAIT_S = 3;
const JUMP_S = 10;
/** Slower than this, playback must stop now and then; faster than this, catching up would be a race. */
const KEEPS_UP = 0.95;
const OUTRUNS = 1.15;

/**
 * @typedef {object} Facts
 * @property {number} ahead     seconds in the buffer beyond the playhead
 * @property {number} behind    seconds from the playhead to the newest frame
 * @property {number} fps
 * @property {number} chunk_s   seconds of film per chunk
 * @property {boolean} more     film will follow after what is buffered (to be made, or to be fetched)
 * @property {boolean} growing  the film is being made
 * @property {boolean} following the viewer wants to stay at the edge
 * @property {number|null} pace seconds of film made per second; null before it is measured
 */
/** @typedef {{gated: boolean, catching: boolean, wait_s: number}} Hold  what the last decision leaves for the next */
/** @typedef {{rate: number, jump: boolean, hold: Hold}} Decision */

/** @returns {Hold} */
export function openHold() {
  return { gated: false, catching: false, wait_s: 0 };
}

/** @param {Facts} facts @param {Hold} hold @returns {Decision} */
export function steer(facts, hold) {
  if (!facts.more) return { rate: 1, jump: false, hold: openHold() };
  const gated = hold.gated ? facts.ahead < Math.max(hold.wait_s, RELEASE_FRAMES / facts.fps) : facts.ahead < GATE_FRAMES / facts.fps;
  const wait_s = gated && !hold.gated ? nextWait(facts, hold) : hold.wait_s;
  if (gated) return { rate: 0, jump: false, hold: { gated, catching: false, wait_s } };
  const excess = facts.behind - TARGET_CHUNKS * facts.chunk_s;
  const catching = mayCatchUp(facts) && excess > (hold.catching ? 0 : facts.chunk_s);
  const rate = catching ? 1.05 + 0.1 * Math.min(1, Math.max(0, excess - facts.chunk_s) / 4) : 1;
  return { rate, jump: mayCatchUp(facts) && facts.behind > JUMP_S + TARGET_CHUNKS * facts.chunk_s, hold: { gated, catching, wait_s } };
}

/**
 * Where the maker cannot keep up, waiting a little longer each time gives fewer and longer pauses instead of a stutter.
 * @param {Facts} facts @param {Hold} hold
 */
function nextWait(facts, hold) {
  if (facts.pace === null || facts.pace >= KEEPS_UP) return 0;
  return Math.min(MAX_WAIT_S, hold.wait_s + facts.chunk_s);
}

/** Only a viewer who follows, and only where the edge does not run away faster than one could follow. @param {Facts} facts */
function mayCatchUp(facts) {
  return facts.growing && facts.following && facts.pace !== null && facts.pace <= OUTRUNS;
}
