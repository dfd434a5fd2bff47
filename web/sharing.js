// @ts-check
/** The sheet that makes links to one film for others, shows them to be copied, and takes them back. */

import { byId, inside, setText } from "./dom.js";
import { save, saveBundle } from "./screenplay.js";
import { moment } from "./words.js";

/** @typedef {import("./api.js").Link} Link */
/** @typedef {import("./protocol.js").Video} Video */

const COPIED_MS = 1500;

/** "until Tuesday 14:05". @param {number} expires_at seconds since 1970 @param {Intl.DateTimeFormat} [format] */
export function sayUntil(expires_at, format = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" })) {
  return `good until ${format.format(1000 * expires_at)}`;
}

export class SharingSheet {
  #sheet = /** @type {HTMLDialogElement} */ (byId("sharing"));
  #list = inside(this.#sheet, ".links");
  #fromHere = /** @type {HTMLInputElement} */ (inside(byId("share-moment"), "input"));
  /** @type {Video|null} */ #video = null;
  /** Where the film stands, in seconds. */ #at_s = 0;
  /** @type {Map<string, Link[]>} made on this page, by film: the server does not list them */ #made = new Map();

  get #videoId() {
    return this.#video?.id ?? "";
  }

  /** @param {import("./api.js").Api} api @param {(words: string) => void} note */
  constructor(api, note) {
    this.api = api;
    this.note = note;
    inside(this.#sheet, "form").addEventListener("submit", (event) => event.preventDefault());  // enter in an address makes no other link
    byId("make-link").addEventListener("click", () => this.#try(() => this.#make()));
    byId("revoke-all").addEventListener("click", () => this.#try(() => this.#revoke(null)));
    byId("sharing-close").addEventListener("click", () => this.#sheet.close());
    byId("save-screenplay").addEventListener("click", () => this.#try(async () => this.#video && save(this.api, this.#video)));
    byId("save-bundle").addEventListener("click", () => this.#try(async () => this.#video && saveBundle(this.api, this.#video)));
    this.#fromHere.addEventListener("change", () => this.#draw());
  }

  /** @param {Video} video @param {number} at_s */
  open(video, at_s) {
    this.#video = video;
    this.#at_s = Math.floor(at_s * 10) / 10;
    this.#fromHere.checked = false;
    setText(inside(byId("share-moment"), "b"), moment(this.#at_s));
    this.#say(null);
    this.#draw();
    if (!this.#sheet.open) this.#sheet.showModal();
  }

  async #make() {
    const videoId = this.#videoId;
    const seconds = Number(/** @type {HTMLSelectElement} */ (byId("expires")).value);
    const link = await this.api.createLink(videoId, seconds);
    this.#made.set(videoId, [link, ...(this.#made.get(videoId) ?? [])]);
    this.#draw();
    const [address] = this.#list.getElementsByTagName("input");
    address?.focus();
    address?.setSelectionRange(0, address.value.length, "backward");
  }

  /** @param {string|null} id of one link; null: all of the film, those made elsewhere too */
  async #revoke(id) {
    const videoId = this.#videoId;
    await this.api.revokeLink(videoId, id);
    this.#made.set(videoId, id === null ? [] : (this.#made.get(videoId) ?? []).filter((link) => link.id !== id));
    this.#draw();
    this.note(id === null ? "Every link to this film is taken back: whoever watches by one is shown out." : "The link is taken back: whoever watches by it is shown out.");
  }

  /** @param {() => Promise<unknown>} act */
  async #try(act) {
    this.#say(null);
    try {
      await act();
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

  #draw() {
    this.#list.replaceChildren(...(this.#made.get(this.#videoId) ?? []).map((link) => this.#item(link)));
  }

  /** @param {Link} link */
  #item(link) {
    const template = /** @type {HTMLTemplateElement} */ (byId("link-item"));
    const item = /** @type {HTMLElement} */ (template.content.firstElementChild?.cloneNode(true));
    setText(inside(item, ".until"), sayUntil(link.expires_at));
    const from = this.#fromHere.checked ? `?t=${this.#at_s}` : "";
    const addresses = [link.page_url + from, link.playlist_url].map((path) => new URL(path.slice(1), document.baseURI).href);
    [...item.getElementsByTagName("input")].forEach((field, i) => (field.value = addresses[i]));
    for (const button of item.querySelectorAll(".copy")) button.addEventListener("click", () => copyFrom(/** @type {HTMLElement} */ (button)));
    inside(item, ".revoke").addEventListener("click", () => this.#try(() => this.#revoke(link.id)));
    return item;
  }
}

/** Where a browser gives no clipboard (a page over plain HTTP), what is selected can still be copied. @param {HTMLElement} button */
async function copyFrom(button) {
  const field = /** @type {HTMLInputElement} */ (button.previousElementSibling);
  field.select();
  const copied = await (navigator.clipboard?.writeText(field.value) ?? Promise.reject(new Error("none"))).then(() => true, () => document.execCommand("copy"));
  setText(button, copied ? "Copied" : "Press Ctrl+C");
  setTimeout(() => setText(button, "Copy"), COPIED_MS);
}
