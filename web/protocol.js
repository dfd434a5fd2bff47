// @ts-check
/**
 * The words the page and the server exchange over `/v1/videos/{id}/watch`: build them, read them, nothing else.
 * Pure: no socket, no clock, no DOM (see docs/protocol.md).
 */

export const SUBPROTOCOL = "st2v.v1";
export const RENDITIONS = /** @type {const} */ (["preview", "enhanced"]);

const HEADER_BYTES = 20;
const VERSION = 1;

/** @typedef {typeof RENDITIONS[number]} Rendition */
/** @typedef {"queued"|"loading"|"running"|"paused"|"stopping"|"stopped"|"completed"|"failed"} State */

/**
 * A video as the server describes it.
 * @typedef {object} Video
 * @property {string} id
 * @property {State} state
 * @property {string} prompt        of the first chunk that is its own: of a branch, what it goes its own way with
 * @property {string} first_prompt  of chunk 0
 * @property {string} title
 * @property {string} model
 * @property {string} preset
 * @property {number} seed
 * @property {number} fps
 * @property {number} frames
 * @property {number|null} num_frames  planned; null = endless
 * @property {number} chunks
 * @property {number} first_chunk_frames
 * @property {number} chunk_frames
 * @property {number} width
 * @property {number} height
 * @property {string[]} [warnings]
 * @property {"length"|"stopped"|"error"|null} [ended_by]
 * @property {string|null} [paused_reason]
 * @property {string|null} [parent_id]
 * @property {number|null} [fork_index]  first chunk that is its own, of a branch
 * @property {number} [size_bytes]
 * @property {string|{message?: string}|null} [error]
 * @property {number} [cursor]
 * @property {"all"|"watched"|"idle"|"none"} [enhance]  what is enhanced without being asked for
 * @property {string|null} [enhancer]  null: this server makes nothing sharp
 * @property {number} [enhanced_frames]  anywhere in the film
 * @property {number} [enhanced_prefix_frames]  from its beginning without a gap
 * @property {string|null} [enhance_error]
 */

/** @typedef {{kind: "init", rendition: Rendition, init: number, bytes: Uint8Array}} InitSegment */
/**
 * @typedef {object} MediaSegment
 * @property {"segment"} kind
 * @property {Rendition} rendition
 * @property {number} index     which chunk
 * @property {number} revision
 * @property {number} init      id of the init segment it needs
 * @property {number} seq       the cursor once it is handled
 * @property {Uint8Array} bytes
 */
/**
 * @typedef {{type: "welcome", cursor: number, video: Video}
 *   | {type: "init", id: number, codec: string, rendition: Rendition, width: number, height: number}
 *   | {type: "state", seq: number, video: Video}
 *   | {type: "progress", rendition?: Rendition, index: number, step: number, steps: number, frames_per_second: number|null}
 *   | {type: "reset", seq: number, from_index: number}
 *   | {type: "cue", seq: number, index: number, prompt: string|null, taken_back: number|null}
 *   | {type: "skipped", seq: number, from_index: number, to_index: number}
 *   | {type: "ended", seq: number, ended_by: string}
 *   | {type: "error", code: string, message: string}} Control
 */

/** @param {number} cursor @param {boolean} live  may be skipped ahead to the live edge */
export function hello(cursor, live) {
  return JSON.stringify({ type: "hello", cursor, renditions: RENDITIONS, live });
}

/** At the live edge from now on, or looking at the past. @param {boolean} live */
export function sayLive(live) {
  return JSON.stringify({ type: "live", live });
}

/** @param {number} seq */
export function ack(seq) {
  return JSON.stringify({ type: "ack", seq });
}

/** @param {string} text @returns {Control} */
export function readControl(text) {
  const message = JSON.parse(text);
  if (typeof message?.type !== "string") throw new Error(`a control message needs a "type", received ${text.slice(0, 80)}`);
  return message;
}

/** @param {ArrayBuffer} buffer @returns {InitSegment | MediaSegment} */
export function readBinary(buffer) {
  if (buffer.byteLength < HEADER_BYTES) throw new Error(`expected a ${HEADER_BYTES} byte header, received ${buffer.byteLength} bytes`);
  const view = new DataView(buffer);
  if (view.getUint8(0) !== VERSION) throw new Error(`expected header version ${VERSION}, received ${view.getUint8(0)}`);
  const kind = view.getUint8(1);
  const rendition = RENDITIONS[view.getUint8(2)];
  const bytes = new Uint8Array(buffer, HEADER_BYTES);
  const init = view.getUint32(12);
  if (!rendition || kind < 1 || kind > 2) throw new Error(`unknown kind ${kind} or rendition ${view.getUint8(2)}`);
  if (kind === 1) return { kind: "init", rendition, init, bytes };
  return { kind: "segment", rendition, index: view.getUint32(4), revision: view.getUint32(8), init, seq: view.getUint32(16), bytes };
}

// ---------------------------------------------------------------- reconnecting

/** Close codes after which coming back changes nothing: deleted, not allowed, unknown, other version, bad request. */
const FINAL_CODES = new Map([
  [4001, "This film was deleted."],
  [4003, "This page may not watch this film."],
  [4004, "There is no such film here."],
  [4009, "The server speaks another version; reload the page."],
  [4400, "The server did not understand this page; reload it."],
]);

/** Why the server will not have us back, or null where trying again makes sense. @param {number} code */
export function finalReason(code) {
  return FINAL_CODES.get(code) ?? null;
}

/** Seconds before attempt number `attempt` (from 0): 0.25 doubling to 5, the upper half at random. @param {number} attempt @param {number} chance */
export function backoffSeconds(attempt, chance = Math.random()) {
  const ceiling = Math.min(5, 0.25 * 2 ** attempt);
  return ceiling * (0.5 + 0.5 * chance);
}
