// @ts-check
/** The sheet that gives a film another title. */

import { byId, inside, setText } from "./dom.js";

/** @typedef {import("./protocol.js").Video} Video */

export class RenameSheet {
  #sheet = /** @type {HTMLDialogElement} */ (byId("rename"));
  #title = /** @type {HTMLInputElement} */ (byId("title"));
  #videoId = "";

  /** @param {import("./api.js").Api} api @param {() => void} renamed */
  constructor(api, renamed) {
    this.api = api;
    this.renamed = renamed;
    inside(this.#sheet, "form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#do();
    });
    inside(this.#sheet, ".verb").addEventListener("click", () => this.#sheet.close());
  }

  /** @param {Video} video */
  open(video) {
    this.#videoId = video.id;
    this.#title.value = video.title || video.prompt;
    this.#say(null);
    this.#sheet.showModal();
    this.#title.select();
  }

  async #do() {
    const title = this.#title.value.trim();
    if (!title) return this.#say("A title is one word or more.");
    try {
      await this.api.rename(this.#videoId, title);
      this.#sheet.close();
      this.renamed();
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
