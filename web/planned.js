// @ts-check
/** The sheet of planned changes: cues whose first chunk is not begun. Each says what it will change, and can be taken back. */

import { byId, inside, setText } from "./dom.js";
import { firstOpenChunk, momentOf, plannedFrom, sayPlanned, sayWithout } from "./plan.js";

/** @typedef {import("./directions.js").Cue} Cue */
/** @typedef {import("./protocol.js").Video} Video */
/**
 * @typedef {object} Page  what the sheet needs of the page
 * @property {import("./player.js").Player} player
 * @property {import("./api.js").Api} api
 * @property {() => readonly Cue[]} cues  of the film on the stage
 * @property {(words: string) => void} note
 */

export class PlannedSheet {
  #sheet = /** @type {HTMLDialogElement} */ (byId("planned"));
  #list = inside(this.#sheet, "ul");
  /** @type {Map<number, HTMLElement>} by the cue's name */ #items = new Map();
  #videoId = "";

  /** @param {Page} page */
  constructor(page) {
    this.page = page;
    byId("planned-close").addEventListener("click", () => this.#sheet.close());
    inside(this.#sheet, "form").addEventListener("submit", (event) => event.preventDefault());
  }

  /** Those that can still be taken back. */
  get cues() {
    const { video, chunks, progress, growing } = this.page.player;
    return plannedFrom(this.page.cues(), firstOpenChunk(Math.max(chunks, video?.chunks ?? 0), progress, growing));
  }

  /** Show them, if the one at this chunk is among them. @param {number|null} index null: any @returns {boolean} whether it is open now */
  open(index) {
    const { player, api } = this.page;
    const at = this.cues.find((cue) => index === null || cue.from_index === index);
    if (!player.video || api.grant || !at) return false;
    this.#videoId = player.video.id;
    this.#say(null);
    if (!this.#sheet.open) this.#sheet.showModal();
    this.draw();
    inside(/** @type {HTMLElement} */ (this.#items.get(at.seq)), "button").focus();
    return true;
  }

  /** Again, with what is known now: the film grows on, and what it has reached is planned no more. */
  draw() {
    const { video } = this.page.player;
    if (!this.#sheet.open) return;
    const { cues } = this;
    if (!video || video.id !== this.#videoId || cues.length === 0) return this.#sheet.close();
    for (const [seq, item] of this.#items) if (!cues.some((cue) => cue.seq === seq)) this.#remove(seq, item);
    for (const cue of cues) this.#drawOne(video, cue);
  }

  /** @param {number} seq @param {HTMLElement} item */
  #remove(seq, item) {
    item.remove();
    this.#items.delete(seq);
  }

  /** @param {Video} video @param {Cue} cue */
  #drawOne(video, cue) {
    const item = this.#items.get(cue.seq) ?? this.#newItem(cue.seq);
    setText(inside(item, ".what"), sayPlanned(video, cue));
    setText(inside(item, ".then"), sayWithout(video, cue, this.page.cues()));
    if (this.#list.lastElementChild !== item) this.#list.append(item);
  }

  /** @param {number} seq */
  #newItem(seq) {
    const template = /** @type {HTMLTemplateElement} */ (byId("planned-item"));
    const item = /** @type {HTMLElement} */ (template.content.firstElementChild?.cloneNode(true));
    inside(item, "button").addEventListener("click", () => this.#takeBack(seq));
    this.#items.set(seq, item);
    return item;
  }

  /** @param {number} seq */
  async #takeBack(seq) {
    const { player, api, note } = this.page;
    const { video } = player;
    const cue = this.page.cues().find((known) => known.seq === seq);
    if (!video || !cue) return;
    this.#say(null);
    try {
      const { from_index } = await api.takeBackCue(video.id, seq);
      note(`Taken back: nothing changes at ${momentOf(video, from_index)}.`);
    } catch (error) {
      this.#say(error instanceof Error ? error.message : String(error));
    }
  }

  /** @param {string|null} error */
  #say(error) {
    const line = inside(this.#sheet, ".error");
    line.hidden = error === null;
    setText(line, error ?? "");
  }
}
