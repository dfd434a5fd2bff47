// @ts-check
/**
 * What the page knows of a film's chunks: where each lies in time, which version of it is in the source buffer, how big it is.
 * Pure: the appender does what is decided here.
 */

/** @typedef {import("./protocol.js").Rendition} Rendition */
/**
 * @typedef {object} Entry
 * @property {number} index
 * @property {Rendition} rendition
 * @property {number} revision
 * @property {number} init
 * @property {number} size_bytes
 * @property {boolean} resident  its bytes are in the source buffer (or on their way into it)
 */

/** @typedef {{first_chunk_frames: number, chunk_frames: number, fps: number}} Grid */

/** @param {Grid} grid @param {number} index first frame of chunk `index` */
export function startFrame(grid, index) {
  return index <= 0 ? 0 : grid.first_chunk_frames + (index - 1) * grid.chunk_frames;
}

/** @param {Grid} grid @param {number} index */
export function framesOf(grid, index) {
  return index === 0 ? grid.first_chunk_frames : grid.chunk_frames;
}

/** The chunk that holds a frame. @param {Grid} grid @param {number} frame */
export function chunkOfFrame(grid, frame) {
  if (frame < grid.first_chunk_frames) return 0;
  return 1 + Math.floor((frame - grid.first_chunk_frames) / grid.chunk_frames);
}

/** How many whole chunks hold at least this many frames. @param {Grid} grid @param {number} frames */
export function chunksFor(grid, frames) {
  return 1 + Math.ceil(Math.max(0, frames - grid.first_chunk_frames) / grid.chunk_frames);
}

const RANK = { preview: 0, enhanced: 1 };

export class SegmentIndex {
  /** @type {Map<number, Entry>} */
  #entries = new Map();
  #contiguous = 0;
  #sharpPrefix = 0;
  #residentBytes = 0;

  /** @param {Grid} grid */
  constructor(grid) {
    this.grid = grid;
  }

  get size() {
    return this.#entries.size;
  }

  /** The same object as long as it is the same segment. @param {number} index @returns {Readonly<Entry>|null} */
  get(index) {
    return this.#entries.get(index) ?? null;
  }

  /**
   * Take note of a segment; false when what we have is as good or better, so that it need not be appended. What was evicted is still
   * known: it is replaced by its like, never by something worse.
   * @param {Entry} entry
   */
  put(entry) {
    const known = this.#entries.get(entry.index);
    if (known && (known.resident ? !isBetter(entry, known) : isBetter(known, entry))) return false;
    this.mark(entry.index, false);
    this.#entries.set(entry.index, { ...entry, resident: false });
    this.mark(entry.index, entry.resident);
    while (this.#entries.has(this.#contiguous)) this.#contiguous += 1;
    while (this.#isSharp(this.#sharpPrefix)) this.#sharpPrefix += 1;
    return true;
  }

  /** Chunks from `index` on are no longer part of the film. @param {number} fromIndex */
  reset(fromIndex) {
    for (const index of [...this.#entries.keys()].filter((known) => known >= fromIndex)) {
      this.mark(index, false);
      this.#entries.delete(index);
    }
    this.#contiguous = Math.min(this.#contiguous, fromIndex);
    this.#sharpPrefix = Math.min(this.#sharpPrefix, fromIndex);
  }

  /** Chunks that are enhanced without a gap, counted from the film's beginning. */
  get sharpPrefix() {
    return this.#sharpPrefix;
  }

  /** The first chunk at or after `index` that is not enhanced, looking at most `count` chunks ahead. @param {number} index */
  sharpEnd(index, count = 32) {
    let end = Math.max(index, this.#sharpPrefix);
    while (end < index + count && this.#isSharp(end)) end += 1;
    return end;
  }

  /** @param {number} index */
  #isSharp(index) {
    return this.#entries.get(index)?.rendition === "enhanced";
  }

  /** Chunks known without a gap, counted from the film's beginning. */
  get contiguous() {
    return this.#contiguous;
  }

  /** Frames known without a gap. */
  get frames() {
    return startFrame(this.grid, this.contiguous);
  }

  /** Seconds at which chunk `index` begins. @param {number} index */
  startSeconds(index) {
    return startFrame(this.grid, index) / this.grid.fps;
  }

  get residentBytes() {
    return this.#residentBytes;
  }

  /**
   * Chunks to let go of so that at most `budgetBytes` stay: first what lies farthest behind the playhead, then what lies farthest
   * ahead of it; never the chunk under the playhead nor the two after it.
   * @param {number} playing chunk under the playhead @param {number} budgetBytes @returns {number[]}
   */
  evictions(playing, budgetBytes) {
    const resident = [...this.#entries.values()].filter((entry) => entry.resident);
    const behind = resident.filter((e) => e.index < playing - 1).sort((a, b) => a.index - b.index);
    const ahead = resident.filter((e) => e.index > playing + 2).sort((a, b) => b.index - a.index);
    let excess = this.residentBytes - budgetBytes;
    const out = [];
    for (const entry of [...behind, ...ahead]) {
      if (excess <= 0) break;
      out.push(entry.index);
      excess -= entry.size_bytes;
    }
    return out;
  }

  /** @param {number} index @param {boolean} resident */
  mark(index, resident) {
    const entry = this.#entries.get(index);
    if (!entry || entry.resident === resident) return;
    entry.resident = resident;
    this.#residentBytes += resident ? entry.size_bytes : -entry.size_bytes;
  }

  /** Nothing is in the source buffer any more (it was rebuilt). */
  evictAll() {
    for (const index of this.#entries.keys()) this.mark(index, false);
  }

  /**
   * The browser may evict by itself: chunks at and after the playhead believed to be in the source buffer whose middle is not.
   * @param {number} playing @param {(seconds: number) => boolean} isBuffered @param {number} count @returns {number[]}
   */
  lost(playing, isBuffered, count = 4) {
    const out = [];
    for (let index = playing; index < playing + count; index += 1) {
      const middle = (this.startSeconds(index) + this.startSeconds(index + 1)) / 2;
      if (this.#entries.get(index)?.resident && !isBuffered(middle)) out.push(index);
    }
    return out;
  }

  /** Known chunks at and after the playhead that must be fetched again. @param {number} playing @param {number} count @returns {number[]} */
  missing(playing, count = 4) {
    const out = [];
    for (let index = playing; index < playing + count; index += 1) {
      const entry = this.#entries.get(index);
      if (entry && !entry.resident) out.push(index);
    }
    return out;
  }
}

/** @param {Entry} a @param {Entry} b */
function isBetter(a, b) {
  return RANK[a.rendition] !== RANK[b.rendition] ? RANK[a.rendition] > RANK[b.rendition] : a.revision > b.revision;
}
