// @ts-check
/** Deleted films that can still be had back, below the list of films: which, and for how long. */

import { byId, inside, setText } from "./dom.js";
import { duration } from "./words.js";

/** @typedef {import("./api.js").Deleted} Deleted */

/** "for good in 23 h" @param {number} forgotten_at @param {number} now  Unix seconds both */
export function sayGrace(forgotten_at, now) {
  const left_s = Math.max(0, forgotten_at - now);
  if (left_s < 90) return "gone for good any moment";
  return left_s < 5400 ? `gone for good in ${Math.round(left_s / 60)} min` : `gone for good in ${Math.round(left_s / 3600)} h`;
}

export class DeletedFilms {
  #root = byId("deleted");
  #toggle = byId("deleted-toggle");
  #list = inside(this.#root, ".rows");
  #asked = 0;

  /** @param {import("./api.js").Api} api @param {(id: string) => Promise<unknown>} haveBack */
  constructor(api, haveBack) {
    this.api = api;
    this.haveBack = haveBack;
    this.#toggle.addEventListener("click", () => {
      this.#list.hidden = !this.#list.hidden;
      this.#toggle.setAttribute("aria-expanded", String(!this.#list.hidden));
      this.refresh();
    });
  }

  /** Look again: something was deleted, or is back. */
  async refresh() {
    if (this.api.grant) return;
    this.#asked += 1;
    const mine = this.#asked;
    const deleted = await this.api.deleted().catch(() => null);  // an older list is better than none
    if (deleted && mine === this.#asked) this.#draw(deleted);
  }

  /** @param {Deleted[]} deleted */
  #draw(deleted) {
    this.#root.hidden = deleted.length === 0;
    setText(inside(this.#toggle, "span"), `Deleted films (${deleted.length})`);
    this.#list.replaceChildren(...(this.#list.hidden ? [] : deleted.map((one) => this.#item(one))));
  }

  /** @param {Deleted} deleted */
  #item({ video, forgotten_at }) {
    const template = /** @type {HTMLTemplateElement} */ (byId("deleted-item"));
    const item = /** @type {HTMLElement} */ (template.content.firstElementChild?.cloneNode(true));
    const title = video.title || video.prompt;
    setText(inside(item, ".title"), title);
    setText(inside(item, ".facts"), `${duration(video.frames / video.fps)} · ${sayGrace(forgotten_at, Date.now() / 1000)}`);
    const button = /** @type {HTMLButtonElement} */ (inside(item, "button"));
    button.setAttribute("aria-label", `Have it back: ${title}`);
    button.addEventListener("click", async () => {
      button.disabled = true;
      await this.haveBack(video.id);
      await this.refresh();
    });
    return item;
  }
}
