// @ts-check
/** The list of films: newest first, kept up to date, in place. */

import { byId, inside, setText } from "./dom.js";
import { duration } from "./words.js";

/** @typedef {import("./protocol.js").Video} Video */
/** @typedef {import("./api.js").Api} Api */

const POLL_MS = 4000;

export class Library {
  /** @type {Map<string, HTMLElement>} */ #items = new Map();
  /** @type {Map<string, Video>} as last told */ #videos = new Map();
  /** Pages shown: all of them are read again each time, so that what was deleted elsewhere leaves the list. */
  #pages = 1;
  /** Answers may overtake each other: how many were asked for, and which of them is shown. */
  #asked = 0;
  #shown = 0;
  #current = "";

  /** @param {HTMLElement} root @param {Api} api @param {(video: Video) => void} onDelete */
  constructor(root, api, onDelete) {
    this.api = api;
    this.onDelete = onDelete;
    this.list = inside(root, "ul");
    this.empty = inside(root, ".none");
    this.more = inside(root, ".more");
    this.more.addEventListener("click", () => this.#loadOlder());
    setInterval(() => document.hidden || this.refresh(), POLL_MS);
  }

  /** @param {string} videoId the film on the stage */
  setCurrent(videoId) {
    this.#current = videoId;
    for (const [id, item] of this.#items) this.#markCurrent(id, item);
  }

  async refresh() {
    if (this.api.grant) return;  // guests see one film
    this.#asked += 1;
    const mine = this.#asked;
    try {
      const { videos, has_more } = await readPages(this.api, this.#pages);
      if (mine < this.#shown) return;
      this.#shown = mine;
      this.#show(videos);
      this.more.hidden = !has_more;
    } catch {
      // the page says elsewhere that the server cannot be reached; the list keeps what it has
    }
  }

  /** @param {string} videoId */
  remove(videoId) {
    this.#videos.delete(videoId);
    this.#items.get(videoId)?.remove();
    this.#items.delete(videoId);
    this.empty.hidden = this.#items.size > 0;
  }

  #loadOlder() {
    this.#pages += 1;
    return this.refresh();
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
    this.#videos.set(video.id, video);
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
    inside(item, "button").addEventListener("click", () => this.onDelete(this.#videos.get(video.id) ?? video));
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

/** The newest films, as many pages as asked for and there are. @param {Pick<Api, "videos">} api @param {number} pages */
export async function readPages(api, pages) {
  /** @type {Video[]} */ const videos = [];
  let has_more = true;
  for (let page = 0; page < pages && has_more; page += 1) {
    const read = await api.videos(videos.at(-1)?.id);
    videos.push(...read.data);
    has_more = read.has_more;
  }
  return { videos, has_more };
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
