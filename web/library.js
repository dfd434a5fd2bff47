// @ts-check
/** The list of films: newest first, kept up to date, in place. */

import { byId, inside, setText } from "./dom.js";
import { duration } from "./words.js";

/** @typedef {import("./protocol.js").Video} Video */
/** @typedef {import("./api.js").Api} Api */

const POLL_MS = 4000;

export class Library {
  /** @type {Map<string, HTMLElement>} */ #items = new Map();
  /** @type {Video[]} */ #older = [];
  #current = "";

  /** @param {HTMLElement} root @param {Api} api @param {(video: Video) => void} onDelete */
  constructor(root, api, onDelete) {
    this.api = api;
    this.onDelete = onDelete;
    this.list = inside(root, "ul");
    this.empty = inside(root, ".none");
    this.more = inside(root, ".more");
    this.more.addEventListener("click", () => this.#loadOlder().catch(() => {}));
    setInterval(() => document.hidden || this.refresh(), POLL_MS);
  }

  /** @param {string} videoId the film on the stage */
  setCurrent(videoId) {
    this.#current = videoId;
    for (const [id, item] of this.#items) this.#markCurrent(id, item);
  }

  async refresh() {
    try {
      const { data, has_more } = await this.api.videos();
      const listed = new Set(data.map((video) => video.id));
      this.#older = this.#older.filter((video) => !listed.has(video.id));
      this.#show([...data, ...this.#older]);
      if (this.#older.length === 0) this.more.hidden = !has_more;
    } catch {
      // the page says elsewhere that the server cannot be reached; the list keeps what it has
    }
  }

  /** @param {string} videoId */
  remove(videoId) {
    this.#older = this.#older.filter((video) => video.id !== videoId);
    this.#items.get(videoId)?.remove();
    this.#items.delete(videoId);
    this.empty.hidden = this.#items.size > 0;
  }

  async #loadOlder() {
    const last = [...this.#items.keys()].at(-1) ?? null;
    const { data, has_more } = await this.api.videos(last);
    this.#older.push(...data);
    for (const video of data) this.#showOne(video);
    this.more.hidden = !has_more;
  }

  /** @param {Video[]} videos */
  #show(videos) {
    const kept = new Set(videos.map((video) => video.id));
    for (const id of [...this.#items.keys()]) if (!kept.has(id)) this.remove(id);
    /** @type {Map<string, HTMLElement>} */
    const ordered = new Map();
    videos.forEach((video, place) => {
      const item = this.#showOne(video);
      ordered.set(video.id, item);
      if (this.list.children[place] !== item) this.list.insertBefore(item, this.list.children[place] ?? null);
    });
    this.#items = ordered;
    this.empty.hidden = videos.length > 0;
  }

  /** @param {Video} video */
  #showOne(video) {
    const item = this.#items.get(video.id) ?? this.#newItem(video);
    setText(inside(item, ".title"), video.title || video.prompt);
    setText(inside(item, ".facts"), factsOf(video));
    item.dataset.state = video.state;
    inside(item, "button").setAttribute("aria-label", `Delete ${video.title || video.prompt}`);
    if (video.chunks > 0) this.#showPicture(item, video.id);
    return item;
  }

  /** @param {Video} video */
  #newItem(video) {
    const template = /** @type {HTMLTemplateElement} */ (byId("film-item"));
    const item = /** @type {HTMLElement} */ (template.content.firstElementChild?.cloneNode(true));
    /** @type {HTMLAnchorElement} */ (inside(item, "a")).href = `#/video/${video.id}`;
    inside(item, "button").addEventListener("click", () => this.onDelete(video));
    this.#markCurrent(video.id, item);
    this.#items.set(video.id, item);
    this.list.append(item);
    return item;
  }

  /** @param {string} id @param {HTMLElement} item */
  #markCurrent(id, item) {
    const link = inside(item, "a");
    if (id === this.#current) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }

  /** @param {HTMLElement} item @param {string} videoId */
  #showPicture(item, videoId) {
    const picture = /** @type {HTMLImageElement} */ (inside(item, "img"));
    if (picture.dataset.asked) return;
    picture.dataset.asked = "yes";
    this.api.thumbnail(videoId, 0).then(
      (url) => {
        picture.src = url;
        picture.hidden = false;
      },
      () => delete picture.dataset.asked,
    );
  }
}

/** @param {Video} video */
function factsOf(video) {
  const length = duration(video.frames / video.fps);
  switch (video.state) {
    case "queued":
      return "waiting for its turn";
    case "loading":
      return "the model is loading";
    case "running":
    case "stopping":
      return `growing · ${length}`;
    case "paused":
      return `paused at ${length}`;
    case "failed":
      return `failed at ${length}`;
    case "stopped":
      return `stopped at ${length}`;
    default:
      return video.ended_by === "stopped" ? `stopped at ${length}` : length;
  }
}
