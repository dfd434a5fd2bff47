// @ts-check
/** The list of films: newest first, kept up to date, in place. */

import { byId, inside, setText } from "./dom.js";
import { besideAddress, inFamilies } from "./family.js";
import { momentOf } from "./plan.js";
import { bytes, duration } from "./words.js";

/** @typedef {import("./protocol.js").Video} Video */
/** @typedef {import("./api.js").Api} Api */

const POLL_MS = 4000;
const SEARCH_AFTER_MS = 250;
/** A film on which the pointer rests is leafed through: so many pictures, each so long. */
const LEAVES = 8;
const LEAF_MS = 380;
/** Deeper branches are listed no further in: there is no room. */
const MAX_DEPTH = 3;

/** @typedef {import("./family.js").Member} Member */
/** @typedef {{rename: (video: Video) => void, delete: (video: Video) => void, changed: () => void}} Verbs  changed: the list is another one */

export class Library {
  /** @type {Map<string, HTMLElement>} */ #items = new Map();
  /** @type {Map<string, Video>} as last told */ #videos = new Map();
  /** Pages shown: all of them are read again each time, so that what was deleted elsewhere leaves the list. */
  #pages = 1;
  /** Answers may overtake each other: how many were asked for, and which of them is shown. */
  #asked = 0;
  #shown = 0;
  #current = "";

  #search = "";
  /** @type {ReturnType<typeof setTimeout>|undefined} */ #typing;
  /** @type {ReturnType<typeof setInterval>|undefined} */ #leafing;
  /** Pictures are asked for once their film is in sight: the film on the stage needs the line more. */
  #sight = new IntersectionObserver((seen) => this.#cameInSight(seen));
  /** @type {WeakSet<Element>} */ #seen = new WeakSet();

  /** @param {HTMLElement} root @param {Api} api @param {Verbs} verbs */
  constructor(root, api, verbs) {
    this.root = root;
    this.api = api;
    this.verbs = verbs;
    this.list = inside(root, "ul");
    this.empty = inside(root, ".nothing");
    this.unfound = inside(root, ".unfound");
    const search = /** @type {HTMLInputElement} */ (byId("search"));
    search.addEventListener("input", () => {
      clearTimeout(this.#typing);
      this.#typing = setTimeout(() => this.#searchFor(search.value.trim()), SEARCH_AFTER_MS);
    });
    this.more = inside(root, ".more");
    this.more.addEventListener("click", () => this.#loadOlder());
    setInterval(() => document.hidden || this.refresh(), POLL_MS);
  }

  /** The films listed. */
  get videos() {
    return [...this.#videos.values()];
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
      const { videos, has_more } = await readPages(this.api, this.#pages, this.#search);
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
    const item = this.#items.get(videoId);
    if (item) this.#sight.unobserve(item);
    item?.remove();
    this.#items.delete(videoId);
    this.#sayEmpty();
    this.verbs.changed();
  }

  #sayEmpty() {
    this.empty.hidden = this.#items.size > 0 || this.#search !== "";
    this.unfound.hidden = this.#items.size > 0 || this.#search === "";
    inside(this.root, ".search").hidden = !this.empty.hidden;
  }

  /** @param {string} words */
  #searchFor(words) {
    if (words === this.#search) return;
    this.#search = words;
    this.#pages = 1;
    this.#shown = this.#asked;  // an answer on its way is to another question
    this.refresh();
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
    inFamilies(videos).forEach((member, place) => {
      const { video } = member;
      const item = this.#showOne(member);
      ordered.set(video.id, item);
      if (this.list.children[place] !== item) this.list.insertBefore(item, this.list.children[place] ?? null);
    });
    this.#items = ordered;
    this.#sayEmpty();
    this.verbs.changed();
  }

  /** @param {Member} member */
  #showOne({ video, depth, parent }) {
    this.#videos.set(video.id, video);
    const item = this.#items.get(video.id) ?? this.#newItem(video);
    setText(inside(item, ".title"), video.title || video.prompt);
    setText(inside(item, ".facts"), factsOf(video));
    item.dataset.depth = String(Math.min(depth, MAX_DEPTH));
    const from = inside(item, ".from");
    from.hidden = !video.parent_id;
    setText(from, sayParent(video, parent));
    const beside = /** @type {HTMLAnchorElement} */ (inside(item, ".beside"));
    beside.hidden = !parent;
    if (parent) {
      beside.href = besideAddress(video, parent);
      beside.setAttribute("aria-label", `compare side by side with ${parent.title || parent.prompt}`);
    }
    item.dataset.state = video.state;
    for (const [name, act] of [["rename", "Rename"], ["delete", "Delete"]]) {
      inside(item, `.${name}`).setAttribute("aria-label", `${act} ${video.title || video.prompt}`);
      inside(item, `.${name}`).title = act;
    }
    if (video.chunks > 0 && this.#seen.has(item)) this.#showPicture(item, video);
    return item;
  }

  /** @param {Video} video */
  #newItem(video) {
    const template = /** @type {HTMLTemplateElement} */ (byId("film-item"));
    const item = /** @type {HTMLElement} */ (template.content.firstElementChild?.cloneNode(true));
    /** @type {HTMLAnchorElement} */ (inside(item, "a")).href = `#/video/${video.id}`;
    const known = () => this.#videos.get(video.id) ?? video;
    inside(item, ".rename").addEventListener("click", () => this.verbs.rename(known()));
    inside(item, ".delete").addEventListener("click", () => this.verbs.delete(known()));
    for (const event of ["pointerenter", "focusin"]) item.addEventListener(event, () => this.#leafThrough(item, known()));
    for (const event of ["pointerleave", "focusout"]) item.addEventListener(event, () => this.#stopLeafing(item, known()));
    this.#markCurrent(video.id, item);
    this.#items.set(video.id, item);
    this.list.append(item);
    this.#sight.observe(item);
    return item;
  }

  /** @param {string} id @param {HTMLElement} item */
  #markCurrent(id, item) {
    const link = inside(item, "a");
    if (id === this.#current) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }

  /** @param {IntersectionObserverEntry[]} entries */
  #cameInSight(entries) {
    for (const { target } of entries.filter(({ isIntersecting }) => isIntersecting)) {
      this.#sight.unobserve(target);
      this.#seen.add(target);
      const [id] = [...this.#items].find(([, item]) => item === target) ?? [""];
      const video = this.#videos.get(id);
      if (video && video.chunks > 0) this.#showPicture(/** @type {HTMLElement} */ (target), video);
    }
  }

  /** @param {HTMLElement} item @param {Video} video */
  #showPicture(item, video) {
    const picture = /** @type {HTMLImageElement} */ (inside(item, "img"));
    const index = posterOf(video);
    if (picture.dataset.asked === String(index)) return;
    picture.dataset.asked = String(index);
    this.api.thumbnail(video.id, index).then(
      (url) => {
        picture.src = url;
        picture.hidden = false;
      },
      () => delete picture.dataset.asked,
    );
  }

  /** What happens in a film, while the pointer rests on it. @param {HTMLElement} item @param {Video} video */
  #leafThrough(item, video) {
    clearInterval(this.#leafing);
    if (video.chunks < 2 || matchMedia("(prefers-reduced-motion: reduce)").matches) return;
    const indexes = leaves(video.chunks);
    const urls = indexes.map(() => "");
    let turn = 0;
    this.#leafing = setInterval(async () => {
      turn = (turn + 1) % indexes.length;
      const leaf = turn;
      urls[leaf] ||= await this.api.thumbnail(video.id, indexes[leaf]).catch(() => "");
      if (urls[leaf] && leaf === turn && item.dataset.leafing === "yes") inside(item, "img").setAttribute("src", urls[leaf]);
    }, LEAF_MS);
    item.dataset.leafing = "yes";
  }

  /** @param {HTMLElement} item @param {Video} video */
  #stopLeafing(item, video) {
    if (item.dataset.leafing !== "yes" || item.matches(":hover, :has(:focus-visible)")) return;
    clearInterval(this.#leafing);
    delete item.dataset.leafing;
    this.api.thumbnail(video.id, posterOf(video)).then((url) => inside(item, "img").setAttribute("src", url), () => {});
  }
}

/** The chunk whose first frame stands for a film: of a branch its first own, as all before looks like the film it comes from. @param {Video} video */
export function posterOf({ fork_index, chunks }) {
  return Math.max(0, Math.min(fork_index ?? 0, chunks - 1));
}

/** Chunks whose first frames tell what happens in a film, evenly spread. @param {number} chunks @param {number} count */
export function leaves(chunks, count = LEAVES) {
  if (chunks <= count) return [...Array(chunks).keys()];
  return [...Array(count).keys()].map((leaf) => Math.floor((leaf * chunks) / count));
}

/** @param {Video} video @param {Video|null} parent */
function sayParent(video, parent) {
  const from = video.fork_index ? `branch from ${momentOf(video, video.fork_index)}` : "afresh";
  return parent ? from : `${from} of a film that is not listed`;
}

/** The newest films, as many pages as asked for and there are. @param {Pick<Api, "videos">} api @param {number} pages @param {string} search */
export async function readPages(api, pages, search = "") {
  /** @type {Video[]} */ const videos = [];
  let has_more = true;
  for (let page = 0; page < pages && has_more; page += 1) {
    const read = await api.videos(videos.at(-1)?.id, search);
    videos.push(...read.data);
    has_more = read.has_more;
  }
  return { videos, has_more };
}

/** @param {Video} video */
function factsOf(video) {
  const size = video.size_bytes ? ` · ${bytes(video.size_bytes)}` : "";
  return stateOf(video) + size;
}

/** "growing · 0:31" @param {Video} video */
export function stateOf(video) {
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
