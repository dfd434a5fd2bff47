// @ts-check
/**
 * New prompt, branch, redo: one sheet that shows where the film is cut, says what will happen while one still chooses, does it when
 * told to, and stays open with the reason where the server refuses.
 */

import { ApiError } from "./api.js";
import { sayUnknown } from "./composer.js";
import { byId, inside, setText } from "./dom.js";
import { startFrame } from "./index.js";
import { PlannedSheet } from "./planned.js";
import { branchFrames, branchLengths, chunkFrom, firstOpenChunk, momentOf, nearestBorder, sayBranch, sayCue, sayFork, sayRedo } from "./plan.js";
import { framesFor } from "./words.js";

/** @typedef {import("./protocol.js").Video} Video */
/** @typedef {"cue"|"branch"|"redo"} Verb */
/** @typedef {{frame: number, playing: boolean, following: boolean}} Before  how the film was left */
/**
 * @typedef {object} Page  what the sheet needs of the page
 * @property {import("./player.js").Player} player
 * @property {import("./api.js").Api} api
 * @property {() => readonly import("./api.js").Model[]} models
 * @property {(index: number) => string} promptAt  the prompt that holds at a chunk
 * @property {() => readonly import("./directions.js").Cue[]} cues
 * @property {(words: string, then?: {word: string, act: () => void}|null) => void} note
 * @property {(videoId: string, frame: number) => void} show  open a film at a frame
 * @property {(numFrames: number|null) => Promise<void>} goOn
 */

/** Seconds after the soonest moment that are offered for a cue. */
const LATER_S = [5, 10, 30];

const WORDS = {
  cue: { title: "New prompt from here", act: "Change the prompt", prompt: "Prompt from then on" },
  branch: { title: "Branch from here", act: "Make the branch", prompt: "Prompt from there on" },
  redo: { title: "Redo from here", act: "Make it anew", prompt: "" },
};

export class VerbSheet {
  #sheet = /** @type {HTMLDialogElement} */ (byId("verb"));
  #prompt = /** @type {HTMLInputElement} */ (byId("verb-prompt"));
  #seed = /** @type {HTMLInputElement} */ (byId("verb-seed"));
  #when = /** @type {HTMLSelectElement} */ (byId("verb-when"));
  #transition = /** @type {HTMLSelectElement} */ (byId("verb-transition"));
  #length = /** @type {HTMLSelectElement} */ (byId("verb-length"));
  #model = /** @type {HTMLSelectElement} */ (byId("verb-model"));
  #goOn = /** @type {HTMLSelectElement} */ (byId("verb-go-on"));
  #button = /** @type {HTMLButtonElement} */ (byId("verb-do"));
  /** @type {Verb} */ #verb = "cue";
  /** Of branch and redo: the first chunk that will be new. */ #fork = 0;
  #videoId = "";
  /** @type {Before|null} */ #before = null;
  /** The redo that was asked for here: who did it is told more than who watches. */ #redone = "";

  /** @param {Page} page */
  constructor(page) {
    this.page = page;
    inside(this.#sheet, "form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#do();
    });
    byId("verb-cancel").addEventListener("click", () => this.#sheet.close());
    this.#sheet.addEventListener("close", () => this.#leave());
    byId("fork-earlier").addEventListener("click", () => this.#moveFork(-1));
    byId("fork-later").addEventListener("click", () => this.#moveFork(1));
    for (const field of [this.#prompt, this.#seed, this.#when, this.#goOn, this.#model]) field.addEventListener("input", () => this.draw());
    inside(byId("verb-instead"), "button").addEventListener("click", () => this.#branchInstead());
    this.#model.addEventListener("input", () => this.#say(null));
    inside(byId("verb-new-film"), "button").addEventListener("click", () => this.#do({ or_new_film: true }));
    this.planned = new PlannedSheet(page);
    inside(byId("verb-planned"), "button").addEventListener("click", () => {
      this.#sheet.close();
      this.planned.open(null);
    });
  }

  /** @param {Verb} verb */
  open(verb) {
    const { player } = this.page;
    const { video } = player;
    if (!video || this.#sheet.open) return;
    this.#videoId = video.id;
    this.#before = { frame: player.frame, playing: player.playing, following: player.following };
    this.#prompt.value = verb === "cue" ? this.page.promptAt(Math.max(0, player.chunks - 1)) : "";
    this.#seed.value = "";
    this.#transition.value = "0";
    this.#goOn.value = "20";
    this.#begin(verb);
    this.#sheet.showModal();
    if (verb !== "redo") this.#prompt.select();
  }

  /** Whether it was done here, just now; asked once. @param {string} videoId @param {number} from_index */
  hasRedone(videoId, from_index) {
    const isOwn = this.#redone === `${videoId} ${from_index}`;
    if (isOwn) this.#redone = "";
    return isOwn;
  }

  /** Again, with what is known now: the film grows on while one thinks. */
  draw() {
    const { video } = this.page.player;
    this.planned.draw();
    if (!this.#sheet.open) return;
    if (!video || video.id !== this.#videoId) return this.#sheet.close();
    if (this.#verb === "cue") this.#drawCue(video);
    else this.#drawFork(video);
    this.#drawPlanned();
    byId("verb-transition-field").hidden = this.#verb === "redo" || (this.#verb === "branch" && !this.#prompt.value.trim());
    this.#drawUnknown(video);
    this.#button.disabled = this.#button.dataset.busy === "yes" || !this.#isSaid;
  }

  /** The picture in the sheet: whenever another one is on the stage. */
  drawFrame() {
    const { element, frame } = this.page.player;
    if (!this.#sheet.open || this.#verb === "cue" || element.seeking || element.readyState < 2 || frame !== this.#keptFrame) return;
    const canvas = /** @type {HTMLCanvasElement} */ (byId("fork-frame"));
    canvas.height = Math.round((canvas.width * element.videoHeight) / Math.max(1, element.videoWidth));
    canvas.getContext("2d")?.drawImage(element, 0, 0, canvas.width, canvas.height);
  }

  // ---------------------------------------------------------------- what is chosen

  /** A cue that says nothing would change nothing; a branch may go on as it was. */
  get #isSaid() {
    return this.#verb !== "cue" || this.#prompt.value.trim() !== "";
  }

  get #soonest() {
    const { video, chunks, progress, growing } = this.page.player;
    return firstOpenChunk(Math.max(chunks, video?.chunks ?? 0), progress, growing);
  }

  /** First chunk of the cue. @param {Video} video */
  #cueIndex(video) {
    const later = Number(this.#when.value || 0);
    return later === 0 ? this.#soonest : chunkFrom(video, startFrame(video, this.#soonest) / video.fps + later);
  }

  get #lastFork() {
    const { chunks } = this.page.player;
    return this.#verb === "redo" ? Math.max(0, chunks - 1) : chunks;
  }

  get #keptFrame() {
    const { video } = this.page.player;
    return video ? Math.max(0, startFrame(video, this.#fork) - 1) : 0;
  }

  /** @param {Verb} verb */
  #begin(verb) {
    this.#verb = verb;
    this.#say(null);
    const words = WORDS[verb];
    setText(byId("verb-title"), words.title);
    setText(inside(byId("verb-prompt-field"), "span"), words.prompt);
    setText(this.#button, words.act);
    const { player } = this.page;
    byId("fork").hidden = verb === "cue";
    byId("verb-prompt-field").hidden = verb === "redo";
    byId("verb-when-field").hidden = verb !== "cue";
    this.#prompt.placeholder = "";
    byId("verb-length-field").hidden = verb !== "branch";
    byId("verb-seed-field").hidden = verb === "cue";
    byId("verb-model-field").hidden = verb !== "branch" || this.page.models().length < 2;
    this.#model.replaceChildren(...this.page.models().map(({ id, title }) => new Option(title, id)));
    this.#model.value = player.video?.model ?? "";
    byId("verb-go-on-field").hidden = verb !== "cue" || player.growing;
    this.#seed.placeholder = verb === "redo" ? "another one" : "as it is";
    this.#when.replaceChildren();
    this.#length.replaceChildren();
    if (player.video && verb !== "cue") {
      const frame = this.#before?.frame ?? player.frame;
      this.#setFork(verb === "redo" ? Math.min(nearestBorder(player.video, frame, player.chunks), this.#lastFork) : nearestBorder(player.video, frame, this.#lastFork));
    }
    // of a film that grows, when it takes effect changes with every chunk: not to be read out each time
    byId("verb-what").setAttribute("aria-live", verb === "cue" && player.growing ? "off" : "polite");
    queueMicrotask(() => this.draw());
  }

  /** @param {number} chunks */
  #moveFork(chunks) {
    this.#setFork(Math.max(0, Math.min(this.#lastFork, this.#fork + chunks)));
  }

  /** The film itself goes to the last frame that is kept: nobody has to guess. @param {number} index */
  #setFork(index) {
    this.#fork = index;
    this.page.player.element.pause();
    this.page.player.seek(this.#keptFrame);
    this.draw();
    this.drawFrame();
  }

  #branchInstead() {
    this.#begin("branch");
    this.#prompt.focus();
  }

  // ---------------------------------------------------------------- what it says

  /** @param {Video} video */
  #drawCue(video) {
    const soonest = this.#soonest;
    const options = [0, ...LATER_S].map((later) => {
      const index = later === 0 ? soonest : chunkFrom(video, startFrame(video, soonest) / video.fps + later);
      return { value: String(later), text: `${momentOf(video, index)}, ${later === 0 ? "the soonest" : `${later} s later`}` };
    });
    fill(this.#when, options);
    const { growing, frame, chunks } = this.page.player;
    const goesOn = !growing && this.#goOn.value !== "not";
    byId("verb-go-on-field").hidden = growing;
    setText(byId("verb-what"), sayCue(video, this.#cueIndex(video), growing, goesOn));
    const here = nearestBorder(video, this.#before?.frame ?? frame, chunks);
    byId("verb-instead").hidden = here >= soonest - 1 || here === 0;
    setText(inside(byId("verb-instead"), "button"), `From where I am looking instead (${momentOf(video, here)}), as a branch`);
  }

  #drawPlanned() {
    const { length } = this.planned.cues;
    byId("verb-planned").hidden = this.#verb !== "cue" || length === 0;
    setText(inside(byId("verb-planned"), "button"), length === 1 ? "One change is planned already" : `${length} changes are planned already`);
  }

  /** @param {Video} video */
  #drawFork(video) {
    const { chunks } = this.page.player;
    setText(byId("fork-words"), sayFork(video, this.#fork));
    byId("fork-frame").dataset.kept = this.#fork > 0 ? "yes" : "no";
    /** @type {HTMLButtonElement} */ (byId("fork-earlier")).disabled = this.#fork === 0;
    /** @type {HTMLButtonElement} */ (byId("fork-later")).disabled = this.#fork >= this.#lastFork;
    byId("verb-instead").hidden = true;
    this.#prompt.placeholder = `as it is: ${this.page.promptAt(this.#fork)}`;
    if (this.#verb === "branch") fill(this.#length, branchLengths(video, this.#fork));
    // of a long film not all may have arrived here
    setText(byId("verb-what"), this.#verb === "branch" ? sayBranch(video, this.#fork) : sayRedo(video, this.#fork, Math.max(chunks, video.chunks)));
  }

  /** @param {Video} video */
  #drawUnknown(video) {
    const words = this.#verb === "redo" ? "" : sayUnknown(this.#modelOf(video), this.#prompt.value);
    byId("verb-hint").hidden = !words;
    setText(byId("verb-hint"), words);
  }

  /** The model that will make what is new; null where the server has it no more. @param {Video} video */
  #modelOf(video) {
    const id = this.#verb === "branch" && this.#model.value ? this.#model.value : video.model;
    return this.page.models().find((model) => model.id === id) ?? null;
  }

  /** @param {string|null} error @param {boolean} offersNewFilm */
  #say(error, offersNewFilm = false) {
    const line = inside(this.#sheet, ".error");
    line.hidden = error === null;
    setText(line, error ?? "");
    byId("verb-new-film").hidden = !offersNewFilm;
  }

  /** @param {Video} video @param {unknown} error */
  #sayRefusal(video, error) {
    const isOtherKind = error instanceof ApiError && error.code === "model_does_not_fit";
    const otherKind = `${this.#modelOf(video)?.title} cannot go on from here: its films are of another kind.`;
    this.#say(isOtherKind ? otherKind : error instanceof Error ? error.message : String(error), isOtherKind);
  }

  // ---------------------------------------------------------------- doing it

  /** @param {{or_new_film?: boolean}} how */
  async #do(how = {}) {
    const { video } = this.page.player;
    if (!video || this.#button.disabled) return;
    this.#say(null);
    this.#button.dataset.busy = "yes";
    this.#button.disabled = true;
    try {
      const { cue, branch, redo } = { cue: () => this.#cue(video), branch: () => this.#branch(video, how), redo: () => this.#redo(video) };
      await { cue, branch, redo }[this.#verb]();
      this.#before = null;  // the film is where it should be
      this.#sheet.close();
    } catch (error) {
      this.#sayRefusal(video, error);
    } finally {
      delete this.#button.dataset.busy;
      this.draw();
    }
  }

  /** @param {Video} video */
  async #cue(video) {
    const prompt = this.#prompt.value.trim();
    const goesOn = !this.page.player.growing && this.#goOn.value !== "not";
    const cue = await this.page.api.addCue(video.id, { from_index: this.#cueIndex(video), prompt, transition_chunks: Number(this.#transition.value) });
    if (goesOn) await this.page.goOn(framesFor(this.#goOn.value === "" ? null : Number(this.#goOn.value), video.fps));
    const from = `“${prompt}” from ${momentOf(video, cue.from_index)} on (chunk ${cue.from_index + 1}).`;
    this.page.note([from, ...cue.warnings.filter((warning) => !goesOn || !warning.startsWith("the film ends"))].join(" "));
  }

  /** @param {Video} video @param {{or_new_film?: boolean}} how */
  async #branch(video, how) {
    const prompt = this.#prompt.value.trim();
    const index = this.#fork;
    const num_frames = branchFrames(video, index, this.#length.value);
    const made = await this.page.api.branch(video.id, {
      from_index: index,
      ...(prompt && { prompt, transition_chunks: Number(this.#transition.value) }),
      ...(this.#seed.value && { seed: this.#seedValue() }),
      ...(num_frames !== undefined && { num_frames }),
      ...(this.#model.value && this.#model.value !== video.model && { model: this.#model.value, ...how }),
    });
    if (!made.parent_id) return this.#showNewFilm(video, made.id);
    this.page.show(made.id, Math.max(0, startFrame(video, index) - video.chunk_frames));
    this.page.note(`This is the branch; up to ${momentOf(video, index)} it is the film it comes from.`, { word: "Back to that film", act: () => this.page.show(video.id, this.#keptFrame) });
  }

  /** @param {Video} video @param {string} madeId */
  #showNewFilm(video, madeId) {
    this.page.show(madeId, 0);
    this.page.note("This is a new film; it begins from that frame.", { word: "Back to that film", act: () => this.page.show(video.id, this.#keptFrame) });
  }

  /** @param {Video} video */
  async #redo(video) {
    this.#redone = `${video.id} ${this.#fork}`;
    const { from_index, kept } = await this.page.api.redo(video.id, { from_index: this.#fork, ...(this.#seed.value && { seed: this.#seedValue() }) });
    this.page.note(`Being made anew from ${momentOf(video, from_index)} on. The film as it was is kept.`, {
      word: "Open it",
      act: () => this.page.show(kept.id, startFrame(video, from_index)),
    });
    const { element } = this.page.player;
    element.play().catch(() => {});
  }

  #seedValue() {
    const seed = Number(this.#seed.value);
    if (!Number.isInteger(seed) || seed < 0) throw new Error(`A seed is a whole number, such as 33; “${this.#seed.value}” is none.`);
    return seed;
  }

  /** Cancelled: the film goes on as it was. */
  #leave() {
    const before = this.#before;
    this.#before = null;
    const { player } = this.page;
    if (!before || player.video?.id !== this.#videoId) return;
    if (this.#verb !== "cue") {
      if (before.following && player.growing) player.goLive();
      else player.seek(before.frame);
      if (before.playing) player.element.play().catch(() => {});
    }
  }
}

/** Options whose words change while one looks at them keep the choice. @param {HTMLSelectElement} select @param {{value: string, text: string}[]} options */
function fill(select, options) {
  const isSame = select.options.length === options.length && options.every(({ value }, i) => select.options[i].value === value);
  if (!isSame) {
    const chosen = select.options.length > 0 ? select.value : null;
    select.replaceChildren(...options.map(({ value, text }) => new Option(text, value)));
    select.value = options.some(({ value }) => value === chosen) ? String(chosen) : options[0].value;
  }
  options.forEach(({ text }, i) => setText(select.options[i], text));
}
