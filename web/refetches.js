// @ts-check
/** Chunks fetched a second time: which are on their way, and which failed too recently to be tried again. */

/** What has failed is left alone for this long; the player asks some thirty times a second. */
const HOLD_BACK_MS = 2000;

/** @typedef {{state: "running"|"done"|"failed", at: number}} Attempt */

export class Refetches {
  /** @type {Map<number, Attempt>} the last attempt for each chunk */
  #attempts = new Map();

  /** @param {() => number} now  milliseconds */
  constructor(now = () => performance.now()) {
    this.now = now;
  }

  /** @param {number} index */
  mayBegin(index) {
    const attempt = this.#attempts.get(index);
    return !attempt || attempt.state === "done" || (attempt.state === "failed" && !this.#isFresh(attempt));
  }

  /** On its way, or settled only just now. @param {number} index */
  isRecent(index) {
    const attempt = this.#attempts.get(index);
    return attempt !== undefined && (attempt.state === "running" || this.#isFresh(attempt));
  }

  /** @param {number} index */
  begin(index) {
    this.#note(index, "running");
  }

  /** @param {number} index */
  done(index) {
    this.#note(index, "done");
  }

  /** @param {number} index */
  failed(index) {
    this.#note(index, "failed");
  }

  /** What has failed may be tried again at once (its cause is gone). */
  forgive() {
    for (const [index, { state }] of this.#attempts) if (state === "failed") this.#attempts.delete(index);
  }

  /** @param {Attempt} attempt */
  #isFresh(attempt) {
    return this.now() - attempt.at < HOLD_BACK_MS;
  }

  /** @param {number} index @param {Attempt["state"]} state */
  #note(index, state) {
    this.#attempts.set(index, { state, at: this.now() });
  }
}
