// @ts-check
/**
 * The row that says how far the film is sharp: the two ways to watch, the frontier, what is enhanced without being asked for, and a
 * sheet that asks for a part of the film now. Where the server makes nothing sharp it is not there.
 */

import { byId, inside, setText } from "./dom.js";
import { chunkOfFrame } from "./index.js";
import { momentOf } from "./plan.js";
import { partsToEnhance, sayFrontier } from "./sharpness.js";

/** @typedef {import("./protocol.js").Video} Video */
/** @typedef {import("./sharpness.js").Part} Part */
/** @typedef {import("./sharpness.js").Policy} Policy */

const WAY_KEY = "st2v.way";

export class Enhancing {
  #row = byId("sharpness");
  #caughtUp = /** @type {HTMLSelectElement} */ (byId("caught-up"));
  #policy = /** @type {HTMLSelectElement} */ (byId("policy"));
  #button = /** @type {HTMLButtonElement} */ (byId("enhance"));
  #sheet = /** @type {HTMLDialogElement} */ (byId("enhance-sheet"));
  /** @type {Part[]} */ #parts = [];
  /** The policy is on its way to the server: what it was does not come back in between. */ #isTelling = false;

  /**
   * @param {import("./player.js").Player} player @param {import("./api.js").Api} api
   * @param {{act: (verb: () => Promise<void>) => Promise<boolean>, note: (words: string) => void}} page
   */
  constructor(player, api, page) {
    this.player = player;
    this.api = api;
    this.page = page;
    player.way = localStorage.getItem(WAY_KEY) === "sharp" ? "sharp" : "live";
    byId("way-live").addEventListener("click", () => this.#choose("live"));
    byId("way-sharp").addEventListener("click", () => this.#choose("sharp"));
    this.#caughtUp.addEventListener("change", () => player.setCaughtUp(this.#caughtUp.value === "wait" ? "wait" : "preview"));
    this.#policy.addEventListener("change", () => page.act(() => this.#tell()));
    this.#button.addEventListener("click", () => this.open());
    byId("enhance-cancel").addEventListener("click", () => this.#sheet.close());
    inside(this.#sheet, "form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#ask();
    });
  }

  /** The film, its chunks or the place in it changed. */
  draw() {
    const { video, canBeSharp } = this.player;
    this.#row.hidden = !canBeSharp;
    if (!video || !canBeSharp) return;
    this.drawWay();
    this.#drawFrontier(video);
    this.#drawPolicy(video);
    this.#button.disabled = this.#isWhole;
    byId("key-enhanced").hidden = !((video.enhanced_frames ?? 0) > 0 || this.player.sharpChunks > 0);
  }

  /** The other way to watch. */
  toggleWay() {
    if (this.player.canBeSharp) this.#choose(this.player.way === "live" ? "sharp" : "live");
  }

  /** What part of the film is to be enhanced now? */
  open() {
    const { video } = this.player;
    if (!video?.enhancer || this.#button.disabled || this.api.grant || this.#sheet.open) return;
    this.#parts = this.#partsOf(video);
    const options = this.#parts.map(({ value, text }) => new Option(text, value));
    const chosen = byId("enhance-part");
    chosen.replaceChildren(...options);
    this.#say(null);
    this.#sheet.showModal();
  }

  // ---------------------------------------------------------------- drawing

  get #isWhole() {
    return this.player.chunks > 0 && this.player.sharpChunks >= this.player.chunks;
  }

  /** Which of the two ways it is, however it was chosen. */
  drawWay() {
    const { way, caughtUp } = this.player;
    byId("way-live").setAttribute("aria-pressed", String(way === "live"));
    byId("way-sharp").setAttribute("aria-pressed", String(way === "sharp"));
    byId("caught-up-field").hidden = way !== "sharp" || (this.#isWhole && !this.player.growing);
    if (this.#caughtUp.value !== caughtUp) this.#caughtUp.value = caughtUp;
  }

  /** @param {Video} video */
  #drawFrontier(video) {
    const { frames, sharpFrames, growing } = this.player;
    const trouble = video.enhance_error ?? "";
    const said = sayFrontier({ fps: video.fps, frames, prefixFrames: sharpFrames, enhancedFrames: video.enhanced_frames ?? 0, growing });
    setText(byId("frontier"), trouble ? `${said} · enhancing failed` : said);
    byId("frontier").title = trouble;
    byId("frontier").toggleAttribute("data-trouble", trouble !== "");
  }

  /** @param {Video} video */
  #drawPolicy(video) {
    byId("policy-field").hidden = this.#button.hidden = !video.enhancer;
    const { enhance } = video;
    if (enhance && !this.#isTelling && this.#policy.value !== enhance) this.#policy.value = enhance;
  }

  // ---------------------------------------------------------------- doing

  /** @param {import("./sharpness.js").Way} way */
  #choose(way) {
    localStorage.setItem(WAY_KEY, way);
    this.player.setWay(way);
    this.draw();
  }

  async #tell() {
    const { video } = this.player;
    if (!video) return;
    this.#isTelling = true;
    try {
      await this.api.setEnhance(video.id, /** @type {Policy} */ (this.#policy.value));
    } finally {
      this.#isTelling = false;
      this.draw();
    }
  }

  /** @param {Video} video */
  #partsOf(video) {
    const { chunks, frame, loop, frames } = this.player;
    const looped = loop && { from: chunkOfFrame(video, loop.from), to: chunkOfFrame(video, Math.min(frames, loop.to ?? frames) - 1) + 1 };
    const isSharp = (/** @type {number} */ index) => this.player.rendition(index) === "enhanced";
    return partsToEnhance(video, chunks, chunkOfFrame(video, frame), looped, isSharp, (index) => momentOf(video, index));
  }

  async #ask() {
    const { video } = this.player;
    const { value } = /** @type {HTMLSelectElement} */ (byId("enhance-part"));
    const part = this.#parts.find((known) => known.value === value);
    if (!video || !part) return this.#sheet.close();
    try {
      await this.api.enhance(video.id, { from_index: part.from, to_index: part.to });
      this.#sheet.close();
      this.page.note(`Being enhanced: ${part.text}. You can go on watching; the pictures turn sharp where you see them.`);
    } catch (error) {
      this.#say(error instanceof Error ? error.message : String(error));
    }
  }

  /** @param {string|null} trouble */
  #say(trouble) {
    const line = inside(this.#sheet, ".error");
    line.hidden = trouble === null;
    setText(line, trouble ?? "");
  }
}
