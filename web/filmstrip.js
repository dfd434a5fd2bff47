// @ts-check
/**
 * The film as a strip: one cell per chunk. Only the cells in sight exist in the page, so an endless film costs no more than a short
 * one. The strip is one slider to the keyboard and to screen readers.
 */

import { byId, inside, setText } from "./dom.js";
import { Glance } from "./glance.js";
import { chunkOfFrame, framesOf, startFrame } from "./index.js";

/** @typedef {import("./player.js").Player} Player */
/** @typedef {"preview"|"enhanced"|"making"|"planned"} CellState */
/** @typedef {{surface: HTMLElement, x: number, frameAt: (x: number) => number}} Pointing  x: in the window */
/** @typedef {{cue: string, branches: number, fork: boolean}} Marks  cue: what changes here, "" for nothing; branches: films that leave here */

const MIN_CELL_PX = 44;
const MAX_CELL_PX = 84;
const GAP_PX = 3;
/** The strip's own padding, both sides together: room for the ring. */
const PADDING_PX = 8;
/** Planned cells drawn after the one being made when the film has no end. */
const ENDLESS_PLANNED = 3;
/** Where changes are planned farther on: as many as that. */
const ENDLESS_PLANNED_MOST = 60;

export class Filmstrip {
  #cellPx = MAX_CELL_PX;
  /** @type {Map<number, HTMLElement>} */ #cells = new Map();
  /** @type {WeakMap<HTMLElement, Promise<string>>} of each cell, as asked for last */ #pictures = new WeakMap();
  #videoId = "";
  #dragging = false;
  #resumeAfterDrag = false;
  /** @type {Pointing|null} where the pointer is */ #pointing = null;

  /**
   * @param {HTMLElement} root
   * @param {HTMLElement} overview the whole film as one thin line, where the strip is wider than the page
   * @param {Player} player
   * @param {(index: number) => Marks} marksAt
   * @param {{open: (index: number) => boolean, at: () => number[]}} cues  open: a mark was clicked; whether it can still be taken back.
   *   at: the chunks with which something else begins
   */
  constructor(root, overview, player, marksAt, cues) {
    this.cues = cues;
    this.marksAt = marksAt;
    this.root = root;
    this.overview = overview;
    this.player = player;
    this.track = inside(root, ".track");
    this.ring = inside(root, ".ring");
    this.needle = inside(root, ".needle");
    this.band = inside(root, ".band");
    this.glance = new Glance(byId("glance"), player);
    new ResizeObserver(() => this.draw()).observe(root);
    root.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    this.#scrub(root, (x) => this.#frameInStrip(x));
    this.#scrub(overview, (x) => this.#frameInOverview(x));
  }

  /** Draw everything anew: chunks came, the plan changed, the room changed. */
  draw() {
    const { video } = this.player;
    if (video?.id !== this.#videoId) this.#clear(video?.id ?? "");
    this.glance.forget();
    if (!video) return this.#point(null);
    this.#cellPx = this.#cellWidth();
    this.track.style.width = `${this.#count * this.#cellPx - GAP_PX}px`;
    this.overview.hidden = this.#count * this.#cellPx - GAP_PX <= this.#room + 0.5;
    inside(this.overview, "i").style.transform = `scaleX(${this.player.frames / this.#plannedFrames})`;
    inside(this.overview, "em").style.transform = `scaleX(${this.player.sharpFrames / this.#plannedFrames})`;
    this.#drawCues(video);
    this.#drawCells();
    this.drawLoop();
    this.drawPlayhead();
    this.#drawGlance();
  }

  /** Where the prompt changes, on the thin line of the whole film. @param {import("./protocol.js").Video} video */
  #drawCues(video) {
    const frames = this.overview.hidden ? [] : [...new Set(this.cues.at())].map((index) => startFrame(video, index)).filter((frame) => frame < this.#plannedFrames);
    const marks = this.overview.querySelectorAll("s");
    frames.slice(marks.length).forEach(() => inside(this.overview, "b").before(document.createElement("s")));
    for (const [place, mark] of [...this.overview.querySelectorAll("s")].entries()) {
      if (place >= frames.length) mark.remove();
      else mark.style.left = `${(100 * frames[place]) / this.#plannedFrames}%`;
    }
  }

  #scrolled() {
    this.#drawCells();
    this.#drawGlance();
  }

  /** Only how far the chunk being made has come. */
  drawProgress() {
    this.#drawEnhancing();
    const { progress } = this.player;
    const cell = progress && this.#cells.get(progress.index);
    if (!progress || !cell) return;
    if (cell.dataset.state === "planned") this.#drawCell(progress.index);
    setText(inside(cell, "small"), cell.dataset.state === "making" ? `${progress.step}/${progress.steps}` : "");
    if (cell.dataset.state === "making") inside(cell, "i").style.transform = `scaleX(${Math.min(1, progress.step / progress.steps)})`;
  }

  /** The preview's bar turns into the enhanced one from the left. */
  #drawEnhancing() {
    const { enhancing } = this.player;
    const cell = enhancing && this.#cells.get(enhancing.index);
    const isPreview = cell?.dataset.state === "preview";
    for (const other of this.track.querySelectorAll("[data-enhancing]")) {
      if (other !== cell || !isPreview) other.removeAttribute("data-enhancing");
    }
    if (!cell || !isPreview) return;
    cell.dataset.enhancing = "";
    inside(cell, "em").style.transform = `scaleX(${Math.min(1, enhancing.step / enhancing.steps)})`;
  }

  drawPlayhead() {
    const { video, frames } = this.player;
    this.ring.hidden = this.needle.hidden = inside(this.overview, "b").hidden = !video || frames === 0;
    if (!video || frames === 0) return;
    const chunk = chunkOfFrame(video, this.player.frame);
    const seconds = Math.min(this.player.seconds, frames / video.fps);
    const within = (seconds * video.fps - startFrame(video, chunk)) / framesOf(video, chunk);
    const left = chunk * this.#cellPx;
    this.ring.style.width = `${this.#cellPx - GAP_PX}px`;
    this.ring.style.transform = `translateX(${left}px)`;
    this.needle.style.transform = `translateX(${left + Math.min(1, Math.max(0, within)) * (this.#cellPx - GAP_PX)}px)`;
    inside(this.overview, "b").style.left = `${(100 * this.player.frame) / this.#plannedFrames}%`;
    if (!this.#dragging) this.#keepInSight(left);
    this.#describe(chunk, seconds);
  }

  get #count() {
    const { video, plannedChunks, growing } = this.player;
    if (video?.num_frames !== null || !growing) return plannedChunks;
    return plannedChunks + Math.max(ENDLESS_PLANNED, Math.min(ENDLESS_PLANNED_MOST, Math.max(-1, ...this.cues.at()) + 1 - plannedChunks));
  }

  get #room() {
    return this.root.clientWidth - PADDING_PX;
  }

  get #plannedFrames() {
    const { video, frames } = this.player;
    return Math.max(1, video ? startFrame(video, this.#count) : 1, frames);
  }

  #cellWidth() {
    const fitting = (this.#room + GAP_PX) / Math.max(1, this.#count);
    return Math.max(MIN_CELL_PX, Math.min(MAX_CELL_PX, fitting));
  }

  /** @param {string} videoId */
  #clear(videoId) {
    this.#videoId = videoId;
    for (const cell of this.#cells.values()) cell.remove();
    this.#cells.clear();
    this.root.scrollLeft = 0;
    this.ring.hidden = this.needle.hidden = true;
    this.root.setAttribute("aria-valuemax", "0");
    this.root.setAttribute("aria-valuenow", "0");
    this.root.removeAttribute("aria-valuetext");
  }

  #drawCells() {
    const first = Math.max(0, Math.floor(this.root.scrollLeft / this.#cellPx) - 2);
    const last = Math.min(this.#count - 1, Math.ceil((this.root.scrollLeft + this.root.clientWidth) / this.#cellPx) + 2);
    for (const [index, cell] of this.#cells) {
      if (index < first || index > last) {
        cell.remove();
        this.#cells.delete(index);
      }
    }
    for (let index = first; index <= last; index += 1) this.#drawCell(index);
    this.drawProgress();
  }

  /** @param {number} index */
  #drawCell(index) {
    const cell = this.#cells.get(index) ?? this.#newCell(index);
    cell.style.transform = `translateX(${index * this.#cellPx}px)`;
    cell.style.width = `${this.#cellPx - GAP_PX}px`;
    const state = this.#stateOf(index);
    if (cell.dataset.state !== state) {
      cell.dataset.state = state;
      inside(cell, "i").style.transform = "";
      setText(inside(cell, "small"), "");
    }
    this.#drawMarks(cell, index);
    if (state === "preview" || state === "enhanced") this.#showPicture(cell, index);
    else this.#dropPicture(cell);
    // made, and not here yet: it is being encoded and sent
    if (state === "making" && index < (this.player.progress?.index ?? 0)) inside(cell, "i").style.transform = "scaleX(1)";
  }

  /** @param {number} index */
  #newCell(index) {
    const cell = document.createElement("div");
    cell.className = "cell";
    cell.append(document.createElement("i"), document.createElement("em"), document.createElement("small"));
    this.track.append(cell);
    this.#cells.set(index, cell);
    return cell;
  }

  /** @param {HTMLElement} cell @param {number} index */
  #drawMarks(cell, index) {
    const { cue, branches, fork } = this.marksAt(index);
    cell.toggleAttribute("data-cue", cue !== "");
    cell.toggleAttribute("data-branches", branches > 0);
    cell.toggleAttribute("data-fork", fork);
  }

  /** The part that is played again and again. */
  drawLoop() {
    const { video, loop, frames } = this.player;
    this.band.hidden = !video || !loop || frames === 0;
    if (!video || !loop) return;
    const left = this.#xOf(video, loop.from);
    this.band.style.transform = `translateX(${left}px)`;
    this.band.style.width = `${Math.max(2, this.#xOf(video, Math.min(frames, loop.to ?? frames)) - left)}px`;
  }

  /** Where a frame begins in the track. @param {import("./protocol.js").Video} video @param {number} frame */
  #xOf(video, frame) {
    const chunk = chunkOfFrame(video, frame);
    const within = (frame - startFrame(video, chunk)) / framesOf(video, chunk);
    return chunk * this.#cellPx + within * (this.#cellPx - GAP_PX);
  }

  /** @param {number} index @returns {CellState} */
  #stateOf(index) {
    const rendition = this.player.rendition(index);
    if (rendition) return rendition;
    const { video, chunks, connection, progress } = this.player;
    if (video?.state !== "running" || connection !== "open") return "planned";
    return index >= chunks && index <= Math.max(chunks, progress?.index ?? 0) ? "making" : "planned";
  }

  /** @param {HTMLElement} cell @param {number} index */
  #showPicture(cell, index) {
    if (this.#pictures.has(cell)) return;
    const asked = this.player.api.thumbnail(this.#videoId, index);
    this.#pictures.set(cell, asked);
    const isWanted = () => this.#pictures.get(cell) === asked; // the chunk may have been made anew meanwhile
    asked.then(
      (url) => isWanted() && cell.prepend(pictureOf(url)),
      () => isWanted() && this.#pictures.delete(cell),
    );
  }

  /** @param {HTMLElement} cell */
  #dropPicture(cell) {
    cell.querySelector("img")?.remove();
    this.#pictures.delete(cell);
  }

  /** @param {number} left */
  #keepInSight(left) {
    const { scrollLeft, clientWidth, scrollWidth } = this.root;
    if (scrollWidth <= clientWidth) return;
    if (left < scrollLeft || left > scrollLeft + clientWidth - 2 * this.#cellPx) this.root.scrollLeft = left - clientWidth * 0.6;
  }

  /** @param {number} chunk @param {number} seconds */
  #describe(chunk, seconds) {
    const total = this.player.frames / (this.player.video?.fps ?? 1);
    this.root.setAttribute("aria-valuemax", String(Math.max(0, this.player.frames - 1)));
    const told = Number(this.root.getAttribute("aria-valuenow")), second = this.player.video?.fps ?? 1;
    if (this.player.playing && Math.abs(told - this.player.frame) < second) return; // a focused strip may be read out
    this.root.setAttribute("aria-valuenow", String(this.player.frame));
    this.root.setAttribute("aria-valuetext", `${seconds.toFixed(1)} of ${total.toFixed(1)} seconds, chunk ${chunk + 1} of ${this.player.chunks}${this.player.rendition(chunk) === "enhanced" ? ", enhanced" : ""}${spoken(sayMarks(this.marksAt(chunk)))}`);
  }

  // ---------------------------------------------------------------- drag to scrub

  /** @param {HTMLElement} surface @param {(x: number) => number} frameAt */
  #scrub(surface, frameAt) {
    surface.addEventListener("pointerdown", (event) => {
      if (event.button !== 0 || this.player.frames === 0) return;
      if (surface === this.root && this.cues.open(this.#cellAt(event.clientX))) return event.preventDefault();
      this.#dragging = true;
      this.#resumeAfterDrag = this.player.playing;
      surface.setPointerCapture(event.pointerId);
      this.player.element.pause();
      this.player.seek(frameAt(event.clientX));
      this.#point({ surface, x: event.clientX, frameAt });
    });
    surface.addEventListener("pointermove", (event) => {
      if (this.#dragging) this.player.seek(frameAt(event.clientX));
      if (this.#dragging || event.pointerType !== "touch") this.#point({ surface, x: event.clientX, frameAt });
    });
    surface.addEventListener("pointerleave", () => this.#dragging || this.#point(null));
    for (const end of ["pointerup", "pointercancel"]) {
      surface.addEventListener(end, (event) => {
        if (this.#dragging && this.#resumeAfterDrag) this.player.element.play().catch(() => {});
        this.#dragging = false;
        if (end === "pointercancel" || /** @type {PointerEvent} */ (event).pointerType === "touch") this.#point(null);
      });
    }
  }

  /** @param {Pointing|null} pointing */
  #point(pointing) {
    this.#pointing = pointing;
    this.#drawGlance();
  }

  /** What is under the pointer: also as the film grows, or the strip moves, under a pointer that rests. */
  #drawGlance() {
    const pointed = this.#pointing && !this.#pointing.surface.hidden && this.#pointedAt(this.#pointing);
    if (pointed) this.glance.show(pointed);
    else this.glance.hide();
  }

  /** @param {Pointing} pointing @returns {import("./glance.js").Pointed|null} */
  #pointedAt({ x, frameAt }) {
    const { video, frames } = this.player;
    if (!video || frames === 0) return null;
    const there = frameAt(x);
    if (!this.#dragging && there >= this.#plannedFrames) return null;
    const frame = Math.max(0, Math.min(there, (this.#dragging ? frames : this.#plannedFrames) - 1));
    const strip = this.root.getBoundingClientRect();
    const { left, right, top } = this.overview.hidden ? strip : this.overview.getBoundingClientRect();
    return { x, frame, says: this.#sayThere(chunkOfFrame(video, frame)), between: { left, right, top, bottom: strip.bottom } };
  }

  /** @param {number} chunk */
  #sayThere(chunk) {
    const state = this.#stateOf(chunk);
    const planned = this.player.connection === "open" ? "not made yet" : "not here yet";
    const unmade = state === "making" ? "being made" : state === "planned" ? planned : "";
    return [unmade, sayMarks(this.marksAt(chunk))].filter(Boolean).join(". ");
  }

  /** @param {number} x */
  #cellAt(x) {
    return Math.floor((x - this.track.getBoundingClientRect().left) / this.#cellPx);
  }

  /** Also of what is not made yet; the player goes no farther than there is film. @param {number} x */
  #frameInStrip(x) {
    const { video } = this.player;
    if (!video) return 0;
    return frameInCells(video, x - this.track.getBoundingClientRect().left, this.#cellPx, GAP_PX);
  }

  /** @param {number} x */
  #frameInOverview(x) {
    const { left, width } = this.overview.getBoundingClientRect();
    return Math.floor(((x - left) / width) * this.#plannedFrames);
  }
}

/** The frame under a place in a row of cells, one per chunk; a gap belongs to the cell before it. @param {import("./index.js").Grid} grid @param {number} x @param {number} cell_px with the gap @param {number} gap_px */
export function frameInCells(grid, x, cell_px, gap_px) {
  const chunk = Math.max(0, Math.floor(x / cell_px));
  const within = Math.max(0, Math.min(0.999, (x - chunk * cell_px) / (cell_px - gap_px)));
  return startFrame(grid, chunk) + Math.floor(within * framesOf(grid, chunk));
}

/** @param {Marks} marks */
function sayMarks({ cue, branches, fork }) {
  const said = [cue && `From here on: ${cue}`, fork && "From here on this branch is its own", branches > 0 && (branches === 1 ? "A branch begins here" : `${branches} branches begin here`)];
  return said.filter(Boolean).join(". ");
}

/** @param {string} words */
function spoken(words) {
  return words && `. ${words}`;
}

/** @param {string} url */
function pictureOf(url) {
  return Object.assign(new Image(), { src: url, alt: "", draggable: false });
}
