// @ts-check
/** Two films side by side: how much of them is the same, and how one clock leads both. Pure. */

import { startFrame } from "./index.js";

/** @typedef {{id: string, parent_id?: string|null, fork_index?: number|null}} Kin */
/** @typedef {{index: number, frames_sha256: string}} Made  one chunk, as the manifest of its film has it */
/**
 * One of the two films as the clock sees it.
 * @typedef {object} Side
 * @property {number} end_s     seconds of film that exist
 * @property {boolean} more     it grows
 * @property {boolean} ready    it can show what is asked for (not seeking, nothing on its way)
 * @property {number} frame_s   how long one frame lasts
 */

/** A film that grows is followed up to so many frames before its end: there its player would wait. */
const MARGIN_FRAMES = 4;
/** Farther apart than this, a film is put where it belongs; nearer, it goes a little faster or slower. */
const SEEK_APART_S = 0.6;
/** Nearer than this nobody sees it: a sixth of a frame at 8 per second. */
const TOGETHER_S = 0.02;
const STRONGEST_NUDGE = 0.3;

/** Chunks that a film shares with itself (all) and with each of its ancestors. @param {readonly Kin[]} lineage the film, its parent, and so on @returns {Map<string, number>} */
function sharedWith(lineage) {
  const shared = new Map();
  let least = Infinity;
  for (const { id, parent_id, fork_index } of lineage) {
    shared.set(id, least);
    least = Math.min(least, fork_index ?? 0);
    if (parent_id && !shared.has(parent_id)) shared.set(parent_id, least);  // known to have been, also where it is deleted
  }
  return shared;
}

/** First chunk that two films of one family have each for themselves; null: they are not of one family. @param {readonly Kin[]} a @param {readonly Kin[]} b  lineages */
export function familyFork(a, b) {
  const [sharedA, sharedB] = [sharedWith(a), sharedWith(b)];
  for (const [id, shared] of sharedA) if (sharedB.has(id)) return Math.min(shared, sharedB.get(id) ?? 0);
  return null;
}

/** How many chunks from the beginning on have the same frames. @param {readonly Made[]} a @param {readonly Made[]} b */
export function sameChunks(a, b) {
  let same = 0;
  while (same < Math.min(a.length, b.length) && a[same].frames_sha256 === b[same].frames_sha256) same += 1;
  return same;
}

/**
 * First chunk at which two films part. The family says where they parted; after a redo of the older film it is earlier, which only
 * the frames tell. Films of two families part where their frames do.
 * @param {number|null} fork of the family @param {readonly Made[]} a @param {readonly Made[]} b
 */
export function partAt(fork, a, b) {
  return Math.min(fork ?? Infinity, sameChunks(a, b));
}

/** "the same up to 0:06" @param {import("./index.js").Grid} grid @param {number} fork  first chunk that differs @param {(seconds: number) => string} say */
export function sayCommon(grid, fork, say) {
  return fork === 0 ? "nothing in common: both begin at 0:00" : `the same up to ${say(startFrame(grid, fork) / grid.fps)}`;
}

// ---------------------------------------------------------------- one clock

/**
 * Where both films should be after `elapsed_s` of playing: no farther than every film that grows allows; a film that has ended is left
 * behind on its last frame. `waitsFor`: the side that holds the clock up.
 * @param {number} position_s @param {number} elapsed_s  of film @param {readonly Side[]} sides
 * @returns {{position_s: number, waitsFor: number|null, ended: boolean}}
 */
export function advance(position_s, elapsed_s, sides) {
  const unready = sides.findIndex((side) => !side.ready && !hasEnded(side, position_s));
  if (unready >= 0) return { position_s, waitsFor: unready, ended: false };
  const limits = sides.map((side) => (side.more ? side.end_s - MARGIN_FRAMES * side.frame_s : Infinity));
  const limit = Math.min(...limits);
  const end_s = Math.max(0, ...sides.map((side) => side.end_s));
  const next = Math.max(position_s, Math.min(position_s + elapsed_s, limit, end_s));
  const isHeld = position_s + elapsed_s > limit;
  return { position_s: next, waitsFor: isHeld ? limits.indexOf(limit) : null, ended: !isHeld && !sides.some(({ more }) => more) && next >= end_s };
}

/** On its last frame for good. @param {Side} side @param {number} position_s */
export function hasEnded({ end_s, more, frame_s }, position_s) {
  return !more && position_s > end_s - frame_s / 2;
}

/** What brings a film back to the clock. @param {number} late_s  how far it is behind; negative: ahead @returns {{rate: number, seek: boolean}} */
export function nudge(late_s) {
  if (Math.abs(late_s) > SEEK_APART_S) return { rate: 1, seek: true };
  if (Math.abs(late_s) < TOGETHER_S) return { rate: 1, seek: false };
  return { rate: 1 + Math.max(-STRONGEST_NUDGE, Math.min(STRONGEST_NUDGE, late_s)), seek: false };
}

// ---------------------------------------------------------------- drawn

/**
 * The two films as lines: one line as far as they are the same, then two.
 * @param {{width: number, height: number, fork_s: number, ends_s: readonly [number, number], whole_s: number}} room
 * @returns {{common: string, own: [string, string], forkX: number}} paths of an SVG
 */
export function lines({ width, height, fork_s, ends_s, whole_s }) {
  const x = (/** @type {number} */ seconds) => Math.round((width * seconds) / Math.max(whole_s, 1e-6));
  const [middle, reach] = [height / 2, height * 0.24];
  const forkX = x(Math.min(fork_s, whole_s));
  const own = (/** @type {number} */ end_s, /** @type {number} */ y) => {
    if (x(end_s) <= forkX) return "";
    const bend = Math.min(16, x(end_s) - forkX);
    return `M${forkX} ${middle}C${forkX + bend / 2} ${middle} ${forkX + bend / 2} ${y} ${forkX + bend} ${y}H${x(end_s)}`;
  };
  return {
    common: forkX > 0 ? `M0 ${middle}H${Math.min(forkX, x(Math.max(...ends_s)))}` : "",
    own: [own(ends_s[0], middle - reach), own(ends_s[1], middle + reach)],
    forkX,
  };
}
