// @ts-check
/**
 * Watching a film that turns sharp behind its newest frame: how far one may play where only enhanced film is to be seen, when a chunk
 * that was exchanged needs the decoder to be told, and how one says it. Pure: the player does what is decided here.
 */

import { duration } from "./words.js";

/**
 * live: at the edge, whatever rendition is there; sharp: behind the frontier of what is enhanced.
 * @typedef {"live"|"sharp"} Way
 */
/** What happens in sharp where the playhead catches up: it waits, or goes on with the preview. @typedef {"wait"|"preview"} CaughtUp */
/** @typedef {"all"|"watched"|"idle"|"none"} Policy  what the server enhances by itself */

/**
 * Frames that the browser decodes ahead of the picture: what is exchanged among them is seen only after a seek. Chromium held 6 to 7 of
 * them where it was measured (2 cores), others hold up to a second (reference: transport, "In-place replacement").
 */
export const READ_AHEAD_FRAMES = 10;
/** For less than this of a chunk nobody is disturbed. */
const WORTH_S = 0.4;
/**
 * Between two seeks on the spot while it plays: at least this, and so long that they take one part in forty of the time. One takes
 * Chromium 2 to 35 ms on a busy machine, of the 125 ms that a frame stands; of 28 in a row none lost a frame.
 */
const REST_S = 0.5;
const REST_PER_COST = 40;

/** A frontier that has not been heard of for so long stands still. */
const STANDS_AFTER_S = 20;

/**
 * Seconds up to which one may play, of frames that are all enhanced up to `end` (not itself). While the frontier moves, so far that what
 * is decoded ahead is enhanced too; where it stands, all of it.
 * @param {number} end @param {number} fps @param {number} quiet_s  since the enhancer was heard of
 */
export function reachOf(end, fps, quiet_s) {
  return (end - (quiet_s < STANDS_AFTER_S ? READ_AHEAD_FRAMES : 0)) / fps;
}

/**
 * @typedef {object} Exchange  another making of a chunk lies in the buffer now
 * @property {number} from      its first frame
 * @property {number} to        the first frame after it
 * @property {number} frame     on screen
 * @property {number} fps
 * @property {number} rate      frames go by at this multiple of fps; 0 while nothing moves
 * @property {number} rested_s  since the last seek on the spot
 * @property {number} cost_s    that the last one took
 */

/**
 * In how many seconds to seek on the spot, so that what was decoded before is thrown away and the new picture is seen; null: the
 * decoder comes to it by itself, or it is over. Where nothing moves, at once: nobody sees the seek, and without it nobody would see
 * the exchange.
 * @param {Exchange} exchange @returns {number|null}
 */
export function secondsToRefresh({ from, to, frame, fps, rate, rested_s, cost_s }) {
  if (to <= frame || from > frame + READ_AHEAD_FRAMES) return null;
  if (rate === 0) return 0;
  if ((to - frame) / fps / rate < WORTH_S) return null;
  return Math.max(0, Math.max(REST_S, REST_PER_COST * cost_s) - rested_s);
}

/**
 * How far the film is enhanced, as one says it: "enhanced up to 0:42 · 18 s behind".
 * @param {{fps: number, frames: number, prefixFrames: number, enhancedFrames: number, growing: boolean}} film
 *   prefixFrames: enhanced from the beginning without a gap; enhancedFrames: anywhere
 */
export function sayFrontier({ fps, frames, prefixFrames, enhancedFrames, growing }) {
  if (frames > 0 && prefixFrames >= frames) return growing ? `enhanced up to ${duration(prefixFrames / fps)} · nothing behind` : "all of it is enhanced";
  const elsewhere = Math.max(0, enhancedFrames - prefixFrames) / fps;
  if (prefixFrames === 0) return elsewhere > 0 ? `${Math.round(elsewhere)} s of it enhanced` : "not enhanced yet";
  const rest = growing ? ` · ${Math.round((frames - prefixFrames) / fps)} s behind` : ` of ${duration(frames / fps)}`;
  return `enhanced up to ${duration(prefixFrames / fps)}${rest}`;
}

/**
 * What one waits for where all that is sharp has been seen.
 * @param {{index: number, step: number, steps: number}|null} enhancing @param {Policy|undefined} policy @param {string|null} trouble
 */
export function sayCaughtUp(enhancing, policy, trouble) {
  if (trouble) return "caught up, enhancing has failed";
  if (enhancing) return `caught up, enhancing chunk ${enhancing.index + 1} · step ${enhancing.step} of ${enhancing.steps}`;
  return policy === "none" ? "caught up, the rest is not being enhanced" : "caught up, waiting for the next enhanced chunk";
}

/**
 * Parts of a film that can be asked for, as chunks [from, to).
 * @typedef {{value: string, text: string, from: number, to: number}} Part
 */

/**
 * What may be enhanced on demand, largest first; parts that are enhanced already are left out.
 * @param {import("./index.js").Grid} grid @param {number} chunks that exist @param {number} here  chunk under the playhead
 * @param {{from: number, to: number}|null} loop  chunks @param {(index: number) => boolean} isSharp
 * @param {(index: number) => string} at  when a chunk begins
 * @returns {Part[]}
 */
export function partsToEnhance(grid, chunks, here, loop, isSharp, at) {
  const near = Math.min(chunks, here + Math.max(1, Math.ceil((10 * grid.fps) / grid.chunk_frames)));
  /** @type {Part[]} */
  const parts = [
    { value: "film", text: `the whole film, up to ${at(chunks)}`, from: 0, to: chunks },
    { value: "rest", text: `from here on, ${at(here)} to ${at(chunks)}`, from: here, to: chunks },
    { value: "near", text: `a bit from here, ${at(here)} to ${at(near)}`, from: here, to: near },
  ];
  if (loop) parts.push({ value: "loop", text: `the loop, ${at(loop.from)} to ${at(loop.to)}`, ...loop });
  const isNew = (/** @type {Part} */ part, /** @type {number} */ place) =>
    parts.findIndex(({ from, to }) => from === part.from && to === part.to) === place;
  return parts.filter((part, place) => isNew(part, place) && someIn(part, isSharp));
}

/** Whether anything in it is not enhanced yet. @param {Part} part @param {(index: number) => boolean} isSharp */
function someIn({ from, to }, isSharp) {
  for (let index = from; index < to; index += 1) if (!isSharp(index)) return true;
  return false;
}
