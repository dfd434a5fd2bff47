// @ts-check
/**
 * What a verb at the playhead will do, and how one says it before it is done. Pure: the dialogs show what is decided here.
 *
 * The rule of docs/directing.md: a chunk that is there, or being made, is never changed by a cue. A branch shares the chunks before its
 * first own one; a redo makes chunks anew and keeps the film as it was as a film of its own.
 */

import { promptAt, sayCues } from "./directions.js";
import { chunkOfFrame, startFrame } from "./index.js";
import { duration, moment } from "./words.js";

/** @typedef {import("./index.js").Grid} Grid */
/** @typedef {import("./protocol.js").Video} Video */
/** @typedef {{index: number}|null} Progress */

/** The first chunk that is not begun, as far as this page knows. @param {number} chunks that exist @param {Progress} progress @param {boolean} growing */
export function firstOpenChunk(chunks, progress, growing) {
  return growing && progress ? Math.max(chunks, progress.index + 1) : chunks;
}

/** The first chunk that begins at `seconds` or later. @param {Grid} grid @param {number} seconds */
export function chunkFrom(grid, seconds) {
  const frame = Math.ceil(seconds * grid.fps - 1e-6);
  if (frame <= 0) return 0;
  const chunk = chunkOfFrame(grid, frame);
  return startFrame(grid, chunk) === frame ? chunk : chunk + 1;
}

/** The chunk border nearest to a frame; of two equally near the earlier. @param {Grid} grid @param {number} frame @param {number} last */
export function nearestBorder(grid, frame, last) {
  const before = chunkOfFrame(grid, frame);
  const isNearer = startFrame(grid, before + 1) - frame < frame - startFrame(grid, before);
  return Math.max(0, Math.min(last, isNearer ? before + 1 : before));
}

/** "0:17, chunk 17": chunks are counted from 1 where people read. @param {Grid} grid @param {number} index */
export function place(grid, index) {
  return `${momentOf(grid, index)}, chunk ${index + 1}`;
}

/** When chunk `index` begins: whole seconds without a fraction. @param {Grid} grid @param {number} index */
export function momentOf(grid, index) {
  const seconds = startFrame(grid, index) / grid.fps;
  return Number.isInteger(seconds) ? duration(seconds) : moment(seconds);
}

/** @param {Video} video @param {number} index @param {boolean} growing @param {boolean} goesOn  continued right after */
export function sayCue(video, index, growing, goesOn) {
  const from = `From ${place(video, index)}, the film follows the new prompt: the first chunk that is not begun by then. Everything before stays as it is.`;
  const planned = video.num_frames ?? Infinity;
  if (growing && startFrame(video, index) >= planned) {
    return `${from} As planned the film ends before that, at ${duration(planned / video.fps)}; it counts when the film goes on.`;
  }
  return growing || goesOn ? from : `${from} The film does not grow now; it counts when it goes on.`;
}

/** A change that is planned. @param {Video} video @param {import("./directions.js").Cue} cue */
export function sayPlanned(video, cue) {
  const over = cue.prompt !== null && cue.transition_chunks > 0 ? `, over ${cue.transition_chunks} chunks` : "";
  return `From ${place(video, cue.from_index)}: ${sayCues([cue], cue.from_index)}${over}.`;
}

/** What holds there once it is taken back. @param {Video} video @param {import("./directions.js").Cue} cue @param {readonly import("./directions.js").Cue[]} cues all of the film */
export function sayWithout(video, cue, cues) {
  const prompt = promptAt(video.first_prompt, cues.filter((other) => other !== cue), cue.from_index);
  return `Without it the film goes on there with “${prompt}”.`;
}

/** Those whose first chunk is not begun. @param {readonly import("./directions.js").Cue[]} cues @param {number} open first chunk that is not begun */
export function plannedFrom(cues, open) {
  return cues.filter((cue) => cue.from_index >= open).sort((one, other) => one.from_index - other.from_index);
}

/** @param {Video} video @param {number} index  first chunk of its own */
export function sayBranch(video, index) {
  if (index === 0) return "A new film begins with all of it made afresh. This film stays as it is.";
  return `A new film: up to ${momentOf(video, index)} it is this one, from chunk ${index + 1} on its own. This film stays as it is, and grows on if it was growing.`;
}

/** @param {Video} video @param {number} index @param {number} chunks that exist */
export function sayRedo(video, index, chunks) {
  const which = chunks - index > 1 ? `Chunks ${index + 1} to ${chunks} are` : `Chunk ${chunks} is`;
  return `${which} made anew with another seed, from ${momentOf(video, index)} on; whoever watches sees it. The film as it is now is kept as a film of its own.`;
}

/** To somebody who watches while others redo. @param {Video} video @param {{from_index: number, chunks: number}} redone chunks: that there were */
export function sayRedone(video, { from_index, chunks }) {
  return `${momentOf(video, from_index)} to ${momentOf(video, chunks)} is being made anew${from_index > 0 ? "; what is before stays as it is" : ""}.`;
}

/** What the picture in the dialog is. @param {Video} video @param {number} index first chunk that is new */
export function sayFork(video, index) {
  return index === 0 ? "nothing is kept" : `kept up to here, ${momentOf(video, index)}`;
}

/**
 * How long a branch may be: frames of the whole film by what one chooses. "plan": as its parent was planned, where that is longer
 * than what they share.
 * @param {Video} video @param {number} index @returns {{value: string, text: string}[]}
 */
export function branchLengths(video, index) {
  const shared = startFrame(video, index);
  const planned = video.num_frames === null ? "endless" : duration(video.num_frames / video.fps);
  const plan = video.num_frames === null || video.num_frames > shared ? [{ value: "plan", text: `as planned (${planned})` }] : [];
  const more = [20, 60, 120].map((seconds) => ({ value: String(seconds), text: `${duration(shared / video.fps + seconds)} in all` }));
  return [...plan, ...more, { value: "", text: "endless" }];
}

/** What is chosen there as the request has it: undefined leaves the plan. @param {Video} video @param {number} index @param {string} choice */
export function branchFrames(video, index, choice) {
  if (choice === "plan") return undefined;
  return choice === "" ? null : startFrame(video, index) + Math.round(Number(choice) * video.fps);
}
