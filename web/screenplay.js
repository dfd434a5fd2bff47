// @ts-check
/** A film written down: saved as a small file, and read again to make a film of it, after a look at what it says. */

import { byId, inside, setText } from "./dom.js";
import { bytes, duration, moment } from "./words.js";

/** @typedef {import("./protocol.js").Video} Video */
/** @typedef {{from_s?: number|null, prompt?: string|null, transition_chunks?: number}} WrittenCue */
/** @typedef {{title?: string, model?: string, preset?: string, seed?: number, num_frames?: number|null, prompt?: string, cues?: WrittenCue[]}} Written */

/** As the server has it. */
const MAX_BYTES = 256 * 2 ** 10;

/** Whether a file is meant as a screenplay. @param {{name: string, type: string}} file */
export function isScreenplay({ name, type }) {
  return type === "application/json" || name.toLowerCase().endsWith(".json");
}

/** Whether a file is meant as a film saved whole. @param {{name: string}} file */
export function isBundle({ name }) {
  return name.toLowerCase().endsWith(".st2v");
}

/** What a screenplay's file says. @param {{name: string, size: number}} file @param {string} text @returns {Written} throws an Error in words */
export function readScreenplay({ name, size }, text) {
  if (size > MAX_BYTES) throw new Error(`“${name}” is too large: ${bytes(size)}; a screenplay may have ${bytes(MAX_BYTES)}.`);
  let written;
  try {
    written = JSON.parse(text);
  } catch {
    throw new Error(`“${name}” cannot be read: it is not JSON.`);
  }
  if (typeof written?.screenplay !== "number") throw new Error(`“${name}” is no screenplay: it has no "screenplay": 1.`);
  return written;
}

/** What it will be, line by line: when, and what then. @param {Written} written @returns {{at: string, what: string}[]} */
export function scenes({ prompt, cues }) {
  const later = (Array.isArray(cues) ? cues : []).filter((cue) => typeof cue?.prompt === "string");
  const said = later.map(({ from_s, prompt: next, transition_chunks }) => ({
    at: typeof from_s === "number" ? moment(from_s).replace(/\.0$/, "") : "?",
    what: `${next}${transition_chunks ? `, over ${transition_chunks} chunks` : ""}`,
  }));
  return [{ at: "0:00", what: String(prompt ?? "") }, ...said];
}

/** "quick · live · seed 7 · 0:30" @param {Written} written @param {number|undefined} fps of its model, where that is known */
export function sayHow({ model, preset, seed, num_frames }, fps) {
  const length = num_frames === null ? "endless" : num_frames === undefined ? "" : fps ? duration(num_frames / fps) : `${num_frames} frames`;
  return [model, preset, seed === undefined ? "" : `seed ${seed}`, length].filter(Boolean).join(" · ");
}

/** A name for its file. @param {Video} video */
export function fileName({ title, prompt }) {
  const words = (title || prompt).toLowerCase().replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-+|-+$/g, "");
  return `${words.slice(0, 60) || "film"}.screenplay.json`;
}

/** @param {import("./api.js").Api} api @param {Video} video */
export async function save(api, video) {
  const text = JSON.stringify(await api.screenplay(video.id), null, 2);
  download(new Blob([`${text}\n`], { type: "application/json" }), fileName(video));
}

/** All of it in one file. @param {import("./api.js").Api} api @param {Video} video */
export async function saveBundle(api, video) {
  download(await api.bundle(video.id), fileName(video).replace(/screenplay\.json$/, "st2v"));
}

/** @param {Blob} content @param {string} name */
function download(content, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(content);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

export class ScreenplaySheet {
  #sheet = /** @type {HTMLDialogElement} */ (byId("screenplay"));
  #button = /** @type {HTMLButtonElement} */ (byId("screenplay-make"));
  /** @type {Written|null} */ #written = null;

  /** @param {import("./api.js").Api} api @param {{made: (video: Video) => void, fpsOf: (model: string) => number|undefined, bundle: (file: File) => void}} page bundle: it was one of those */
  constructor(api, page) {
    this.api = api;
    this.page = page;
    const input = /** @type {HTMLInputElement} */ (byId("screenplay-file"));
    byId("screenplay-choose").addEventListener("click", () => input.click());
    input.addEventListener("change", () => {
      const file = input.files?.[0];
      if (file) this.open(file);
      input.value = "";
    });
    inside(this.#sheet, "form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#make();
    });
    byId("screenplay-cancel").addEventListener("click", () => this.#sheet.close());
  }

  /** Look at what a file says. @param {File} file */
  async open(file) {
    if (isBundle(file)) return this.page.bundle(file);
    this.#written = null;
    this.#say(null);
    try {
      this.#written = readScreenplay(file, await file.slice(0, MAX_BYTES + 1).text());
    } catch (error) {
      this.#say(error instanceof Error ? error.message : String(error));
    }
    this.#draw(file.name);
    if (!this.#sheet.open) this.#sheet.showModal();
  }

  /** @param {string} name */
  #draw(name) {
    const written = this.#written;
    setText(byId("screenplay-title"), written?.title || name);
    setText(inside(this.#sheet, ".how"), written ? sayHow(written, this.page.fpsOf(written.model ?? "")) : "");
    const lines = written ? scenes(written).flatMap(({ at, what }) => [element("dt", at), element("dd", what)]) : [];
    inside(this.#sheet, "dl").replaceChildren(...lines);
    this.#button.disabled = written === null;
  }

  async #make() {
    if (!this.#written || this.#button.disabled) return;
    this.#say(null);
    this.#button.disabled = true;
    try {
      const video = await this.api.createFromScreenplay(this.#written);
      this.#sheet.close();
      this.page.made(video);
    } catch (error) {
      this.#say(error instanceof Error ? error.message : String(error));
    } finally {
      this.#button.disabled = false;
    }
  }

  /** @param {string|null} error */
  #say(error) {
    const line = inside(this.#sheet, ".error");
    line.hidden = error === null;
    setText(line, error ?? "");
  }
}

/** @param {string} name @param {string} text */
function element(name, text) {
  return Object.assign(document.createElement(name), { textContent: text });
}
