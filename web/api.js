// @ts-check
/** The REST side of the server, with the owner token in the Authorization header (never in a URL). */

/** @typedef {import("./protocol.js").Video} Video */
/**
 * What is known of a model.
 * @typedef {object} Model
 * @property {string} id
 * @property {string} title
 * @property {string} version
 * @property {string} licence
 * @property {string} description
 * @property {string[]} example_prompts
 * @property {Record<string, string[]>|null} vocabulary  words by group; null = any text
 * @property {Record<string, Record<string, number>>} presets
 * @property {number} fps
 * @property {number|null} max_frames
 */
/**
 * @typedef {{prompt: string, model?: string, num_frames: number|null, preset?: string, seed?: number, input_reference?: File}} CreateVideo
 *   input_reference: the image or clip it begins from
 */
/** @typedef {import("./directions.js").Cue} Cue */
/** @typedef {{from_index?: number, prompt?: string, seed?: number, transition_chunks?: number}} AddCue */
/** @typedef {{from_index: number, from_s: number, warnings: string[]}} AddedCue  the first chunk it changes, and when that begins */
/**
 * @typedef {{from_index: number, prompt?: string, seed?: number, num_frames?: number|null, transition_chunks?: number, model?: string, or_new_film?: boolean}} BranchVideo
 *   or_new_film: where the model cannot go on from there, it begins a film of its own from the last frame before
 */
/** @typedef {{from_index: number, video: Video, kept: Video}} Redone  kept: the film as it was */
/** @typedef {{video: Video, deleted_at: number, forgotten_at: number}} Deleted  Unix seconds */
/** @typedef {{id: string, page_url: string, playlist_url: string, expires_at: number}} Link  addresses are paths on this server */
/** @typedef {{index: number, rendition: import("./protocol.js").Rendition, revision: number, hash: string, init: string}} SegmentAddress */

export class ApiError extends Error {
  /** @param {number} status 0 = the server was not reached @param {string} message @param {string|null} code  a word for programs */
  constructor(status, message, code = null) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

const TOKEN_KEY = "st2v.token";

export class Api {
  /** @type {Map<string, Promise<string>>} blob: URLs of thumbnails, oldest first */
  #thumbnails = new Map();

  /** Called when the server wants a token, or another one. @type {() => void} */
  onUnauthorized = () => {};

  /** @type {string|null} */
  token = sessionStorage.getItem(TOKEN_KEY);

  /** Of a shared link: then one film can be watched, nothing else. @type {string|null} */
  grant = null;

  /** Addresses are relative to this. */
  get base() {
    return new URL(this.grant ? `g/${this.grant}/` : "", document.baseURI).href;
  }

  /** @param {string} token */
  setToken(token) {
    this.token = token;
    sessionStorage.setItem(TOKEN_KEY, token);
  }

  /** @returns {Promise<Model[]>} */
  async models() {
    return (await this.#json("GET", "v1/models")).data;
  }

  /** @returns {Promise<Record<string, any>>} */
  system() {
    return this.#json("GET", "v1/system");
  }

  /** @param {string|null} after @param {string} search words of the title, a prompt or the id @returns {Promise<{data: Video[], has_more: boolean}>} */
  videos(after = null, search = "") {
    const query = new URLSearchParams({ limit: "30", order: "desc", ...(after && { after }), ...(search && { search }) });
    return this.#json("GET", `v1/videos?${query}`);
  }

  /** @param {string} id @returns {Promise<Video>} */
  video(id) {
    return this.#json("GET", videoPath(id));
  }

  /** @param {CreateVideo} request @returns {Promise<Video>} */
  create(request) {
    return this.#json("POST", "v1/videos", request.input_reference ? formOf(request) : request);
  }

  /** @param {string} id @returns {Promise<Video>} */
  stop(id) {
    return this.#json("POST", `${videoPath(id)}/stop`, {});
  }

  /** @param {string} id @param {number|null} numFrames more frames; null = endless @returns {Promise<Video>} */
  continue(id, numFrames) {
    return this.#json("POST", `${videoPath(id)}/continue`, { num_frames: numFrames });
  }

  /** @param {string} id @param {string} title @returns {Promise<Video>} */
  rename(id, title) {
    return this.#json("PATCH", videoPath(id), { title });
  }

  /** What is enhanced without being asked for. @param {string} id @param {import("./sharpness.js").Policy} enhance @returns {Promise<Video>} */
  setEnhance(id, enhance) {
    return this.#json("PATCH", videoPath(id), { enhance });
  }

  /** Chunks made sharp now, whatever the policy: [from_index, to_index). @param {string} id @param {{from_index?: number, to_index?: number}} part */
  enhance(id, part) {
    return this.#json("POST", `${videoPath(id)}/enhance`, part);
  }

  /** @param {string} id */
  delete(id) {
    return this.#json("DELETE", videoPath(id));
  }

  /** Have a deleted film back; what was being made is stopped then. @param {string} id @returns {Promise<Video>} */
  undelete(id) {
    return this.#json("POST", `${videoPath(id)}/undelete`, {});
  }

  /** Films that can be had back, the newest deletion first. @returns {Promise<Deleted[]>} */
  async deleted() {
    return (await this.#json("GET", "v1/videos/deleted")).data;
  }

  /** A film written down. @param {string} id @returns {Promise<object>} */
  screenplay(id) {
    return this.#json("GET", `${videoPath(id)}/screenplay`);
  }

  /** @param {object} screenplay @returns {Promise<Video>} */
  createFromScreenplay(screenplay) {
    return this.#json("POST", "v1/videos/screenplays", screenplay);
  }

  /** @param {string} id @returns {Promise<Cue[]>} */
  async cues(id) {
    return (await this.#json("GET", `${videoPath(id)}/cues`)).data;
  }

  /** @param {string} id @param {AddCue} cue @returns {Promise<AddedCue>} */
  addCue(id, cue) {
    return this.#json("POST", `${videoPath(id)}/cues`, cue);
  }

  /** Undo a cue whose chunk is not begun. @param {string} id @param {number} seq its name @returns {Promise<{from_index: number}>} */
  takeBackCue(id, seq) {
    return this.#json("DELETE", `${videoPath(id)}/cues/${seq}`);
  }

  /** All of a film in one file, to carry it to another server. @param {string} id */
  async bundle(id) {
    return (await this.#fetch("GET", `${videoPath(id)}/bundle`)).blob();
  }

  /** @param {File} file what `bundle` gave elsewhere @returns {Promise<Video>} */
  importBundle(file) {
    return this.#json("POST", "v1/videos/bundles", file);
  }

  /** @param {string} id @param {BranchVideo} branch @returns {Promise<Video>} */
  branch(id, branch) {
    return this.#json("POST", `${videoPath(id)}/branch`, branch);
  }

  /** @param {string} id @param {{from_index: number, seed?: number}} redo @returns {Promise<Redone>} */
  redo(id, redo) {
    return this.#json("POST", `${videoPath(id)}/redo`, redo);
  }

  /** @param {string} id @param {number} expires_in_s @returns {Promise<Link>} */
  createLink(id, expires_in_s) {
    return this.#json("POST", `${videoPath(id)}/links`, { expires_in_s });
  }

  /** @param {string} id @param {string|null} link its id; null: all that were made */
  revokeLink(id, link) {
    return this.#json("DELETE", `${videoPath(id)}/links${link === null ? "" : `/${encodeURIComponent(link)}`}`);
  }

  /** Where a film is watched by WebRTC. @param {string} id */
  whepUrl(id) {
    return new URL(`${videoPath(id)}/whep`, this.base).href;
  }

  /** fetch, with what proves who asks; an answer of any status is an answer. @param {string} url @param {RequestInit} init */
  fetchWithAuth = (url, init) => fetch(url, { ...init, headers: { ...init.headers, ...this.#authorization } });

  /** A link that works without the token, for a download. @param {string} id @returns {Promise<string>} */
  async contentLink(id) {
    if (this.grant) return new URL(`${videoPath(id)}/content`, this.base).href;
    return (await this.#json("POST", `${videoPath(id)}/links`, { expires_in_s: 3600 })).content_url;
  }

  /** The film's HLS playlist, for a <video> that cannot show the token. @param {string} id @returns {Promise<string>} */
  async playlistLink(id) {
    if (this.grant) return new URL(`${videoPath(id)}/index.m3u8`, this.base).href;
    return new URL((await this.createLink(id, 24 * 3600)).playlist_url, this.base).href;
  }

  /** @param {string} id @returns {Promise<SegmentAddress[]>} */
  async segments(id) {
    return (await this.#json("GET", `${videoPath(id)}/chunks`)).data;
  }

  /** Which frames each chunk of a film has, by their hash. @param {string} id @returns {Promise<import("./pair.js").Made[]>} */
  async chunksMade(id) {
    return (await this.#json("GET", `${videoPath(id)}/manifest`)).chunks;
  }

  /** @param {string} id @param {string} hash */
  async segment(id, hash) {
    const response = await this.#fetch("GET", `${videoPath(id)}/segments/${hash}.m4s`);
    return new Uint8Array(await response.arrayBuffer());
  }

  /** @param {string} id @param {string} hash */
  async init(id, hash) {
    const response = await this.#fetch("GET", `${videoPath(id)}/init/${hash}.mp4`);
    return new Uint8Array(await response.arrayBuffer());
  }

  /** A blob: URL of the first frame of a chunk; the last 400 are kept. @param {string} id @param {number} index */
  thumbnail(id, index) {
    const path = `${videoPath(id)}/thumbnails/${index}.jpg`;
    const known = this.#thumbnails.get(path);
    if (known) return known;
    const url = this.#fetch("GET", path).then(async (response) => URL.createObjectURL(await response.blob()));
    this.#thumbnails.set(path, url);
    url.catch(() => this.#thumbnails.delete(path));
    if (this.#thumbnails.size > 400) this.#forgetOldest();
    return url;
  }

  /** Whether showing it costs no request. @param {string} id @param {number} index */
  hasThumbnail(id, index) {
    return this.#thumbnails.has(`${videoPath(id)}/thumbnails/${index}.jpg`);
  }

  /** Thumbnails of chunks that are no longer what they were. @param {string} id @param {number} fromIndex */
  forgetThumbnails(id, fromIndex) {
    const prefix = `${videoPath(id)}/thumbnails/`;
    for (const path of this.#thumbnails.keys()) {
      if (path.startsWith(prefix) && parseInt(path.slice(prefix.length)) >= fromIndex) this.#forget(path);
    }
  }

  #forgetOldest() {
    const oldest = this.#thumbnails.keys().next().value;
    if (oldest) this.#forget(oldest);
  }

  /** @param {string} path */
  #forget(path) {
    this.#thumbnails.get(path)?.then(URL.revokeObjectURL, () => {});
    this.#thumbnails.delete(path);
  }

  /** @param {string} method @param {string} path @param {object} [body] @returns {Promise<any>} */
  async #json(method, path, body) {
    const response = await this.#fetch(method, path, body);
    return response.status === 204 ? null : response.json();
  }

  /** @returns {Record<string, string>} */
  get #authorization() {
    return this.token && !this.grant ? { Authorization: `Bearer ${this.token}` } : {};
  }

  /** @param {string} method @param {string} path @param {object} [body] */
  async #fetch(method, path, body) {
    const headers = isRaw(body) ? this.#authorization : { ...this.#authorization, "Content-Type": "application/json" };
    let response;
    try {
      response = await fetch(new URL(path, this.base), { method, headers: body ? headers : this.#authorization, body: encoded(body) });
    } catch {
      throw new ApiError(0, "The server cannot be reached.");
    }
    if (response.status === 401) this.onUnauthorized();
    if (!response.ok) throw await errorOf(response);
    return response;
  }
}

/** @param {string} id */
function videoPath(id) {
  return `v1/videos/${encodeURIComponent(id)}`;
}

/** The sentence in the server's error, in OpenAI's error shape. @param {Response} response */
async function errorOf(response) {
  const body = await response.json().catch(() => null);
  const { message, param, code } = body?.error ?? {};
  const place = /[.[]/.test(param ?? "") ? `${param}: ` : "";  // within a list one must know which: cues[3].from_s
  const words = message ? place + message : `The server answered ${response.status} ${response.statusText}.`;
  return new ApiError(response.status, words, code ?? null);
}

/** What is sent as it is. @param {object|undefined} body @returns {body is FormData|Blob} */
function isRaw(body) {
  return body instanceof FormData || body instanceof Blob;
}

/** @param {object|undefined} body */
function encoded(body) {
  return body === undefined || isRaw(body) ? body : JSON.stringify(body);
}

/** A request with a file in it, as a form; there null is a word. @param {CreateVideo} request */
function formOf(request) {
  const form = new FormData();
  for (const [name, value] of Object.entries(request)) if (value !== undefined) form.append(name, value instanceof File ? value : String(value));
  return form;
}
