// @ts-check
/**
 * A glance at another moment of the film, where the pointer is over the strip: a small picture, and when that is. The pictures are the
 * thumbnails of the chunks. Those in the strip are here already; others are asked for one at a time and not too often, so that a
 * pointer that runs along a long film asks for a few of them, and the nearest one known stands in, dimmed.
 */

import { inside, setText } from "./dom.js";
import { chunkOfFrame } from "./index.js";
import { moment } from "./words.js";

/** @typedef {import("./player.js").Player} Player */
/**
 * @typedef {{x: number, frame: number, says: string, between: {left: number, right: number, top: number, bottom: number}}} Pointed  x:
 *   the pointer; says: what is to be known of this moment, "" for nothing; between: the room of the strip, which is never covered. All in
 *   pixels of the window.
 */

const BETWEEN_MS = 80;
const AFTER_FAILURE_MS = 2000;
const MOST_KEPT = 80;
/** Farther off a picture says nothing about a moment. */
const NEAR_CHUNKS = 10;

const PICTURE_PX = { width: 220, height: 132 };
/** Room for the words below it, the frame around, and a gap to the strip. */
const AROUND_PX = 72;
const GAP_PX = 10;
const CARET_INSET_PX = 14;

export class Glance {
  #videoId = "";
  /** @type {Pointed|null} */ #pointed = null;

  /** @param {HTMLElement} root @param {Player} player */
  constructor(root, player) {
    this.root = root;
    this.player = player;
    this.picture = inside(root, ".picture");
    /** @type {Glimpses<HTMLImageElement>} */
    this.glimpses = new Glimpses({
      load: async (index) => pictureOf(await player.api.thumbnail(this.#videoId, index)),
      isHere: (index) => player.api.hasThumbnail(this.#videoId, index),
      arrived: () => this.#pointed && this.show(this.#pointed),
    });
  }

  /** @param {Pointed} pointed */
  show(pointed) {
    const { video } = this.player;
    this.forget();
    if (!video || this.player.frames === 0) return this.hide();
    this.#pointed = pointed;
    setText(inside(this.root, "b"), moment(pointed.frame / video.fps));
    setText(inside(this.root, "span"), pointed.says);
    this.#showPicture(chunkOfFrame(video, pointed.frame));
    const { width, height } = sizeOf(video.width / video.height, roomOf(pointed.between));
    this.picture.style.width = `${width}px`;
    this.picture.style.height = `${height}px`;
    this.root.hidden = false;
    this.#place(pointed);
  }

  hide() {
    this.#pointed = null;
    this.root.hidden = true;
    this.glimpses.want(null);
  }

  /** What is no longer part of the film, or is of another one. */
  forget() {
    const { video } = this.player;
    if (video?.id === this.#videoId) return this.glimpses.forgetWhere((index) => this.player.rendition(index) === null);
    this.#videoId = video?.id ?? "";
    this.glimpses.forgetWhere(() => true);
  }

  /** @param {number} index */
  #showPicture(index) {
    const isMade = this.player.rendition(index) !== null;
    const glimpse = this.glimpses.want(isMade ? index : null);
    this.picture.hidden = !isMade;
    this.picture.toggleAttribute("data-near", glimpse !== null && !glimpse.isRight);
    if (!glimpse) this.picture.replaceChildren();
    else if (this.picture.firstChild !== glimpse.picture) this.picture.replaceChildren(glimpse.picture);
    this.root.dataset.chunk = glimpse?.isRight ? String(index) : "";
  }

  /** @param {Pointed} pointed */
  #place({ x, between }) {
    const { isAbove } = roomOf(between);
    const { left, caret } = leftOf(x, this.root.offsetWidth, between);
    this.root.toggleAttribute("data-below", !isAbove);
    this.root.style.left = `${left}px`;
    this.root.style.top = isAbove ? "" : `${between.bottom + GAP_PX}px`;
    this.root.style.bottom = isAbove ? `${innerHeight - between.top + GAP_PX}px` : "";
    this.root.style.setProperty("--caret", `${caret}px`);
  }
}

/** Pictures of chunks, as they are wanted one after the other. @template Picture */
export class Glimpses {
  /** @type {Map<number, Picture>} by chunk, wanted longest ago first */ #kept = new Map();
  /** @type {Map<number, object>} by chunk: the question that counts */ #asked = new Map();
  /** @type {number|null} */ #wanted = null;
  #rests = false;

  /**
   * @param {{load: (index: number) => Promise<Picture>, isHere: (index: number) => boolean, arrived: () => void}} source
   *   isHere: it costs no request
   */
  constructor(source) {
    this.source = source;
  }

  /** The picture of a chunk, or the nearest there is for the time being. @param {number|null} index @returns {{picture: Picture, isRight: boolean}|null} */
  want(index) {
    this.#wanted = index;
    if (index === null) return null;
    this.#ask();
    const nearest = nearestTo(index, this.#kept.keys());
    const picture = nearest === null ? undefined : this.#kept.get(nearest);
    if (nearest === null || picture === undefined) return null;
    this.#keep(nearest, picture);
    return { picture, isRight: nearest === index };
  }

  /** @param {(index: number) => boolean} isGone */
  forgetWhere(isGone) {
    for (const known of [this.#kept, this.#asked]) {
      for (const index of [...known.keys()].filter(isGone)) known.delete(index);
    }
  }

  #ask() {
    const index = this.#wanted;
    if (index === null || this.#kept.has(index) || this.#asked.has(index)) return;
    const isFree = this.source.isHere(index);
    if (!isFree && this.#rests) return;
    if (!isFree) this.#rests = true;
    this.#load(index, isFree);
  }

  /** @param {number} index @param {boolean} isFree */
  async #load(index, isFree) {
    const question = {};
    this.#asked.set(index, question);
    const picture = await this.source.load(index).catch(() => null);
    const counts = this.#asked.get(index) === question;
    if (counts && picture !== null) this.#keep(index, picture);
    if (!isFree || picture === null) this.#rest(picture === null ? AFTER_FAILURE_MS : BETWEEN_MS);
    if (!counts) return;
    this.#asked.delete(index);
    if (picture !== null) this.source.arrived();
  }

  /** @param {number} ms before the next request */
  #rest(ms) {
    this.#rests = true;
    setTimeout(() => {
      this.#rests = false;
      this.#ask();
    }, ms);
  }

  /** @param {number} index @param {Picture} picture */
  #keep(index, picture) {
    this.#kept.delete(index);
    this.#kept.set(index, picture);
    for (const oldest of this.#kept.keys()) {
      if (this.#kept.size <= MOST_KEPT) break;
      this.#kept.delete(oldest);
    }
  }
}

/** @param {number} index @param {Iterable<number>} known @returns {number|null} */
export function nearestTo(index, known) {
  let best = null;
  let least = NEAR_CHUNKS + 1;
  for (const other of known) {
    if (Math.abs(other - index) < least) [best, least] = [other, Math.abs(other - index)];
  }
  return best;
}

/** Above the strip, unless there is no room and more of it below. @param {{top: number, bottom: number}} between */
function roomOf(between, page_px = innerHeight) {
  const [above, below] = [between.top, page_px - between.bottom];
  const isAbove = above >= PICTURE_PX.height + AROUND_PX || above >= below;
  return { isAbove, room: isAbove ? above : below };
}

/** A picture of this shape as large as there is room. @param {number} shape width / height @param {{room: number}} room */
export function sizeOf(shape, { room }) {
  const height = Math.max(0, Math.min(PICTURE_PX.height, room - AROUND_PX, PICTURE_PX.width / shape));
  return { width: Math.round(height * shape), height: Math.round(height) };
}

/** Its middle where the pointer is, all of it between left and right; caret: where it points, from its own left. @param {number} x @param {number} width @param {{left: number, right: number}} between */
export function leftOf(x, width, { left, right }) {
  const at = Math.round(Math.max(left, Math.min(right - width, x - width / 2)));
  return { left: at, caret: Math.max(CARET_INSET_PX, Math.min(width - CARET_INSET_PX, x - at)) };
}

/** Once it can be drawn without a wait: it outlives its address. @param {string} url */
async function pictureOf(url) {
  const picture = Object.assign(new Image(), { src: url, alt: "", draggable: false });
  await picture.decode();
  return picture;
}
