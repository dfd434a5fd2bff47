// @ts-check
/** Two lines at the foot of the page: what went wrong, and what was done, with something to do about it. */

import { byId, inside, setText } from "./dom.js";

const TROUBLE_MS = 7000;
const NOTE_MS = 12_000;

/** A line that leaves by itself, but not while one looks at it. */
class Passing {
  /** @type {ReturnType<typeof setTimeout>|undefined} */ #timer;

  /** @param {HTMLElement} line @param {number} forMs */
  constructor(line, forMs) {
    this.line = line;
    this.forMs = forMs;
    for (const event of ["pointerenter", "focusin"]) line.addEventListener(event, () => clearTimeout(this.#timer));
    for (const event of ["pointerleave", "focusout"]) line.addEventListener(event, () => line.hidden || this.show());
  }

  show() {
    this.line.hidden = false;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.hide(), this.forMs);
  }

  hide() {
    clearTimeout(this.#timer);
    this.line.hidden = true;
  }
}

export class Notices {
  #trouble = new Passing(byId("toast"), TROUBLE_MS);
  #note = new Passing(byId("note"), NOTE_MS);
  /** @type {() => void} */ #undo = () => {};

  constructor() {
    inside(byId("note"), ".link").addEventListener("click", () => {
      this.#note.hide();
      this.#undo();
    });
    inside(byId("note"), ".icon").addEventListener("click", () => this.#note.hide());
  }

  /** Something went wrong. @param {string} words */
  trouble(words) {
    setText(byId("toast"), words);
    this.#trouble.show();
  }

  /** Something was done. @param {string} words @param {{word: string, act: () => void}|null} then */
  note(words, then = null) {
    setText(inside(byId("note"), "span"), words);
    const button = inside(byId("note"), ".link");
    button.hidden = !then;
    setText(button, then?.word ?? "");
    this.#undo = then?.act ?? (() => {});
    this.#note.show();
  }
}
