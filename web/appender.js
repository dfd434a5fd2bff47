// @ts-check
/**
 * The one queue in front of a SourceBuffer: one operation at a time, the next on `updateend`. The init segment goes in whenever it
 * differs from the last one appended (media of another size without its init kills the element). When the quota is reached, room
 * is made by bytes and the same append is tried again.
 */

/** @typedef {{start: number, end: number}} Range  seconds */
/**
 * @typedef {object} Append
 * @property {number} init
 * @property {Uint8Array} bytes
 * @property {() => void} [done]   called once it is in the buffer
 * @property {() => void} [failed] called where it will never be; of every segment exactly one of the two is called
 */
/** @typedef {{item: Append|null, done: () => void}} Operation  item: the segment that is decided by it */

export class Appender {
  /** @type {SourceBuffer} */ #buffer;
  /** @type {(init: number) => Uint8Array|null} */ #initBytes;
  /** @type {() => Range[]} */ #makeRoom;
  /** @type {(Append|{remove: Range})[]} */ #queue = [];
  /** @type {Operation|null} */ #running = null;
  #lastInit = -1;
  #closed = false;

  /**
   * @param {SourceBuffer} buffer
   * @param {{initBytes: (init: number) => Uint8Array|null, makeRoom: () => Range[]}} needs  makeRoom: ranges to remove when the
   * quota is reached, none when nothing can go
   */
  constructor(buffer, { initBytes, makeRoom }) {
    this.#buffer = buffer;
    this.#initBytes = initBytes;
    this.#makeRoom = makeRoom;
    buffer.addEventListener("updateend", () => this.#finished());
  }

  /** Nothing runs and nothing waits. */
  get idle() {
    return this.#running === null && this.#queue.length === 0;
  }

  /** @param {Append} segment */
  append(segment) {
    if (this.#closed) return segment.failed?.();
    this.#queue.push(segment);
    this.#next();
  }

  /** @param {Range[]} ranges  taken out before anything else is put in */
  remove(ranges) {
    this.#queue.unshift(...ranges.map((remove) => ({ remove })));
    this.#next();
  }

  /** What runs and what waits has failed, as nobody will look at this buffer again. */
  close() {
    this.#closed = true;
    const given = [this.#running?.item, ...this.#queue];
    this.#running = null;
    this.#queue = [];
    for (const item of given) if (item && "bytes" in item) item.failed?.();
  }

  #finished() {
    const operation = this.#running;
    this.#running = null;
    operation?.done();
    this.#next();
  }

  #next() {
    if (this.#closed || this.#running || this.#buffer.updating) return;
    const item = this.#queue.shift();
    if (!item) return;
    if ("remove" in item) this.#remove(item.remove);
    else this.#append(item);
  }

  /** Before there is a duration, and beyond it, the buffer refuses: there is nothing to remove. @param {Range} range */
  #remove(range) {
    this.#running = { item: null, done: () => {} };
    try {
      this.#buffer.remove(range.start, range.end);
    } catch {
      this.#running = null;
      this.#next();
    }
  }

  /** @param {Append} item */
  #append(item) {
    const init = item.init === this.#lastInit ? null : this.#initBytes(item.init);
    if (item.init !== this.#lastInit && !init) return this.#drop(item);
    if (init) {
      this.#queue.unshift(item);
      this.#put(init, item, { item: null, done: () => (this.#lastInit = item.init) });
    } else {
      this.#put(item.bytes, item, { item, done: () => item.done?.() });
    }
  }

  /** @param {Uint8Array} bytes @param {Append} item @param {Operation} operation */
  #put(bytes, item, operation) {
    this.#running = operation;
    try {
      this.#buffer.appendBuffer(/** @type {Uint8Array<ArrayBuffer>} */ (bytes));
    } catch (error) {
      this.#running = null;
      if (!(error instanceof DOMException) || error.name !== "QuotaExceededError") return this.#drop(item);
      const room = this.#makeRoom();
      if (room.length === 0) return this.#drop(item);
      if (this.#queue[0] !== item) this.#queue.unshift(item);
      this.remove(room);
    }
  }

  /** @param {Append} item */
  #drop(item) {
    if (this.#queue[0] === item) this.#queue.shift();
    item.failed?.();
    this.#next();
  }
}
