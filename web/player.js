// @ts-check
/**
 * One film on one <video>: the socket's segments go through the index and the appender into Media Source Extensions, the edge
 * policy steers the rate. Everything the page shows of playback is read from here; `onChange` says what changed.
 */

import { Appender } from "./appender.js";
import { openHold, steer, TARGET_CHUNKS } from "./edge.js";
import { chunkOfFrame, chunksFor, SegmentIndex, startFrame } from "./index.js";
import { NativeHls, needsNativeHls } from "./nativehls.js";
import { Refetches } from "./refetches.js";
import { READ_AHEAD_FRAMES, reachOf, secondsToRefresh } from "./sharpness.js";
import { WatchSocket } from "./socket.js";

/** @typedef {import("./protocol.js").Video} Video */
/** @typedef {import("./protocol.js").Control} Control */
/** @typedef {import("./protocol.js").InitSegment} InitSegment */
/** @typedef {import("./protocol.js").MediaSegment} MediaSegment */
/** @typedef {import("./socket.js").Connection} Connection */
/** @typedef {{index: number, step: number, steps: number}} Progress */
/** @typedef {import("./sharpness.js").Way} Way */
/** @typedef {import("./sharpness.js").CaughtUp} CaughtUp */
/**
 * @typedef {{index: number, init: number, bytes: Uint8Array, exchanges: boolean, handled: () => void}} Arrival  init: place in #inits;
 *   exchanges: another making of this chunk is in the buffer; handled: called once
 */
/** @typedef {"film"|"progress"|"chunks"|"playback"|"connection"|"directions"|"skipped"|"redone"} Change */
/** @typedef {{from: number, to: number|null}} Loop  frames; to: the first one not shown again, null = what exists */

/** What stays in the source buffer. Chromium's quota is 155 MB; phones have less. */
const BUDGET_BYTES = 96 * 2 ** 20;
/** A buffer opened for this takes every smaller H.264 stream, without changeType. */
const WIDEST_CODEC = 'video/mp4; codecs="avc1.64001F"';
const TICK_MS = 30;
/** Who plays nearer to a gap than this was at the live edge: eight chunks may have been on their way (docs/protocol.md). */
const NEAR_CHUNKS = 10;
/** A loop over a growing film turns round before playback would have to wait. */
const LOOP_MARGIN_FRAMES = 3.5;
const GROWING = new Set(["queued", "loading", "running", "paused", "stopping"]);

export class Player {
  /** @type {Video|null} */ video = null;
  /** @type {Progress|null} of the preview */ progress = null;
  /** @type {Progress|null} of the enhancer */ enhancing = null;
  /** @type {number|null} frames made per second, as measured by the server */ framesPerSecond = null;
  /** @type {Connection} */ connection = "connecting";
  /** @type {string|null} why the connection is closed for good */ closedReason = null;
  /** What the server left out last, as this viewer is live and its line is slow. */ skipped = { from_s: 0, to_s: 0 };
  /** Where the film is made anew, and how many chunks there were. */ redone = { from_index: 0, chunks: 0 };
  /** The viewer wants to stay at the live edge. */ following = true;
  /** Playback waits for film that is not here yet, or not sharp. */ starved = false;
  /** It is here, and not sharp. */ isCaughtUp = false;
  /** Slow motion: 1, 0.5 or 0.25 of the film's speed. */ speed = 1;
  /** @type {Loop|null} */ loop = null;
  /** How one watches; stays from film to film. @type {Way} */ way = "live";
  /** @type {CaughtUp} */ caughtUp = "wait";
  /** Times playback had to wait, and times the element itself ran dry (which the gate is there to prevent). */
  stalls = { gated: 0, dry: 0 };

  /** @type {WatchSocket|null} */ #socket = null;
  /** @type {SegmentIndex|null} */ #index = null;
  /** @type {Appender|null} */ #appender = null;
  /** @type {NativeHls|null} instead of the appender, where there are no Media Source Extensions */ #native = null;
  /** @type {MediaSource|null} */ #source = null;
  /** @type {Uint8Array[]} */ #inits = [];
  /** @type {Map<number, number>} the socket's init id -> place in #inits */ #initIds = new Map();
  /** @type {{codec: string}[]} */ #codecs = [];
  /** @type {Arrival[]} until the source buffer is open */ #waiting = [];
  /** Of the film that is open: a late answer must not meddle with the next film's. */ #refetches = new Refetches();
  #hold = openHold();
  /** @type {ReturnType<typeof setInterval>|undefined} */ #timer;
  /** @type {number|null} frame asked for while another seek runs, or before there is anything to seek in */ #wanted = null;
  /** Not any more once the viewer has chosen a place. */ #startAtEdge = false;
  #playWhenMore = false;
  #lastRebuild = -Infinity;
  #heardOfEnhancer = -Infinity;
  /** The last seek on the spot. */ #onTheSpot = { isRunning: false, at: -Infinity, cost_s: 0 };
  /** @type {{at: number, to: number}|null} the next one: when (performance.now), and the frame from which on it is not needed */ #refresh = null;
  /** @type {number|null} what the enhancer makes per second, as measured by the server */ #enhancedPerSecond = null;

  /** @param {HTMLVideoElement} element @param {import("./api.js").Api} api @param {(change: Change) => void} onChange */
  constructor(element, api, onChange) {
    this.element = element;
    this.api = api;
    this.onChange = onChange;
    element.addEventListener("seeked", () => this.#seeked());
    element.addEventListener("ended", () => this.#ended());
    element.addEventListener("loadedmetadata", () => this.#applySeek());
    element.addEventListener("waiting", () => this.#dry());
    element.addEventListener("error", () => this.#rebuild());
    this.#followFrames();
    for (const event of ["play", "pause", "timeupdate", "seeking"]) element.addEventListener(event, () => onChange("playback"));
  }

  /** Say so whenever another frame is on the screen: eight times a second, not sixty. */
  #followFrames() {
    const shown = () => {
      this.onChange("playback");
      this.element.requestVideoFrameCallback?.(shown);
    };
    this.element.requestVideoFrameCallback?.(shown);
  }

  // ---------------------------------------------------------------- open and close

  /**
   * @param {string} videoId
   * @param {{atEdge: boolean, frame?: number}} options atEdge: a film that is growing starts where it is now; frame: start there instead
   */
  open(videoId, { atEdge, frame }) {
    this.close();
    this.#wanted = frame ?? null;
    this.#startAtEdge = atEdge;
    this.following = true;
    if (needsNativeHls(this.element)) this.#native = new NativeHls(this.element, () => this.api.playlistLink(videoId));
    else this.#attach();
    this.#socket = new WatchSocket(videoId, this.api.grant ? null : this.api.token, {
      control: (message) => this.#control(message),
      init: (message) => this.#learnInit(message),
      segment: (message, handled) => this.#take(message, handled),
      connection: (connection, reason) => this.#connectionChanged(connection, reason),
    }, this.api.base);
    this.#timer = setInterval(() => this.#tick(), TICK_MS);
    this.element.play().catch(() => {});
  }

  close() {
    clearInterval(this.#timer);
    this.#socket?.close();
    this.#socket = null;
    this.#detach();
    this.#index = null;
    this.#inits = [];
    this.#initIds.clear();
    this.#codecs = [];
    this.#leave(() => true);
    this.#refetches = new Refetches();
    this.#hold = openHold();
    this.#lastRebuild = -Infinity;
    Object.assign(this, { video: null, progress: null, framesPerSecond: null, connection: "connecting", closedReason: null });
    this.#enhancedPerSecond = null;
    this.#refresh = null;
    Object.assign(this, { enhancing: null, starved: false, isCaughtUp: false, stalls: { gated: 0, dry: 0 }, speed: 1, loop: null });
    this.#wanted = null;
    this.#playWhenMore = false;
  }

  /** Try to reach the server now instead of after the backoff. */
  retry() {
    this.#socket?.retry();
  }

  // ---------------------------------------------------------------- what the page shows

  get growing() {
    return this.video !== null && GROWING.has(this.video.state);
  }

  /** Frames that can be shown: known without a gap. */
  get frames() {
    return this.#index?.frames ?? 0;
  }

  get chunks() {
    return this.#index?.contiguous ?? 0;
  }

  /** Chunks the film will have: as planned, also where it was stopped before; for an endless one what exists, and the one being made. */
  get plannedChunks() {
    if (!this.video) return 0;
    const made = Math.max(this.chunks, this.video.chunks);
    if (this.video.num_frames === null) return this.growing ? made + 1 : made;
    return Math.max(made, chunksFor(this.video, this.video.num_frames));
  }

  get bufferedBytes() {
    return this.#index?.residentBytes ?? 0;
  }

  /** @param {number} index */
  rendition(index) {
    return this.#index?.get(index)?.rendition ?? null;
  }

  /** Chunks that are enhanced without a gap, from the film's beginning. */
  get sharpChunks() {
    return this.#index?.sharpPrefix ?? 0;
  }

  /** Frames that are enhanced without a gap, from the film's beginning. */
  get sharpFrames() {
    return this.video ? startFrame(this.video, this.sharpChunks) : 0;
  }

  /** There are two ways to watch: something of it is enhanced, or can be. */
  get canBeSharp() {
    return Boolean(this.video?.enhancer) || (this.video?.enhanced_frames ?? 0) > 0 || this.sharpChunks > 0;
  }

  /** One watches behind the frontier. */
  get isSharp() {
    return this.way === "sharp" && this.canBeSharp && !this.#native;
  }

  /** A seek on the spot is under way: the place stays the same. */
  get isRefreshing() {
    return this.#onTheSpot.isRunning;
  }

  /** The frame on screen, or the one being sought. */
  get frame() {
    if (this.#wanted !== null) return this.#wanted;
    if (!this.video || this.frames === 0) return 0;
    return Math.min(this.frames - 1, Math.floor(this.element.currentTime * this.video.fps + 0.01));
  }

  get seconds() {
    if (!this.video) return 0;
    return this.#wanted === null ? this.element.currentTime : this.#wanted / this.video.fps;
  }

  /** Seconds between the playhead and the newest frame. */
  get behind() {
    return this.video ? Math.max(0, this.frames / this.video.fps - this.seconds) : 0;
  }

  /** Seconds of film made per second, null before it is measured. */
  get pace() {
    return this.video && this.framesPerSecond !== null ? this.framesPerSecond / this.video.fps : null;
  }

  /** A person would call it playing: also while it waits for film. */
  get playing() {
    return !this.element.paused && !this.element.ended;
  }

  // ---------------------------------------------------------------- verbs

  togglePlay() {
    this.#startAtEdge = false;
    if (this.playing) this.element.pause();
    else this.element.play().catch(() => {});
    this.onChange("playback");
  }

  /** Show a frame; playing goes on if it was. @param {number} frame */
  seek(frame) {
    if (!this.video || this.frames === 0) return;
    const target = Math.max(0, Math.min(this.frames - 1, Math.round(frame)));
    this.#startAtEdge = false;
    this.following = this.growing && !this.isSharp && this.frames - target <= this.#edgeFrames() + this.video.chunk_frames;
    this.#playWhenMore = false;
    this.#goTo(target);
  }

  /** Step by single frames; stops playing, as one who steps wants to look. @param {number} frames */
  step(frames) {
    this.element.pause();
    this.seek(this.frame + frames);
  }

  /** @param {number} chunks */
  stepChunk(chunks) {
    if (!this.video) return;
    const here = chunkOfFrame(this.video, this.frame);
    const backToStart = chunks < 0 && this.frame > startFrame(this.video, here);
    this.seek(startFrame(this.video, here + (backToStart ? chunks + 1 : chunks)));
  }

  /** @param {number} speed  slower than 1 one stops following the live edge */
  setSpeed(speed) {
    this.speed = speed;
    if (speed < 1) this.following = false;
    this.onChange("playback");
  }

  /** @param {Loop|null} loop */
  setLoop(loop) {
    this.loop = loop;
    if (loop) {
      this.#startAtEdge = false;
      this.following = false;
      if (this.#isPastLoop()) this.#goTo(loop.from);
    }
    this.onChange("playback");
  }

  /** To the newest there is; who watched behind the frontier does so no longer. */
  goLive() {
    if (!this.video) return;
    this.way = "live";
    this.following = true;
    Object.assign(this, { speed: 1, loop: null });
    this.#goTo(Math.max(0, this.frames - this.#edgeFrames()));
    this.element.play().catch(() => {});
  }

  /** The last frame that is to be seen this way. */
  goLast() {
    if (this.isSharp && this.sharpFrames < this.frames) this.#goToFrontier();
    else if (this.growing) this.goLive();
    else this.seek(this.frames - 1);
  }

  /** @param {Way} way  sharp: from the playhead on, or back to where there is something sharp */
  setWay(way) {
    if (way === this.way) return;
    this.way = way;
    if (way === "live" && this.growing) return this.goLive();
    this.following = this.following && way === "live";
    if (this.isSharp && this.frame >= this.#sharpFrom(this.frame)) this.#goToFrontier();
    this.onChange("playback");
  }

  /** @param {CaughtUp} caughtUp */
  setCaughtUp(caughtUp) {
    this.caughtUp = caughtUp;
    this.onChange("playback");
  }

  /** The first frame at or after `frame` that is not enhanced. @param {number} frame */
  #sharpFrom(frame) {
    if (!this.video || !this.#index) return 0;
    return startFrame(this.video, this.#index.sharpEnd(chunkOfFrame(this.video, frame)));
  }

  /** As near to the frontier as one can play on for a while. */
  #goToFrontier() {
    if (!this.video) return;
    this.following = false;
    this.#playWhenMore = false;
    this.#goTo(Math.max(0, this.sharpFrames - READ_AHEAD_FRAMES - this.video.chunk_frames));
  }

  #edgeFrames() {
    return this.video ? Math.round(TARGET_CHUNKS * this.video.chunk_frames) : 0;
  }

  /** @param {number} frame */
  #goTo(frame) {
    this.#wanted = frame;
    this.#fetchMissing(frame);
    if (!this.element.seeking) this.#applySeek();
    this.onChange("playback");
  }

  #applySeek() {
    if (this.#wanted === null || !this.video || this.element.readyState === 0) return;
    this.#refresh = null; // this seek decodes anew
    this.#onTheSpot.isRunning = false;
    this.element.currentTime = (this.#wanted + 0.5) / this.video.fps;
  }

  /** A seek beyond what is buffered is cut short by the browser, and then waits for ever in the wrong place. @param {number} frame */
  #isSeekingThere(frame) {
    const { seeking, currentTime } = this.element;
    return seeking && Math.floor(currentTime * (this.video?.fps ?? 1) + 0.01) === frame;
  }

  #seeked() {
    if (this.#onTheSpot.isRunning) Object.assign(this.#onTheSpot, { isRunning: false, cost_s: (performance.now() - this.#onTheSpot.at) / 1000 });
    if (this.#wanted !== null && this.video) {
      const past = Math.floor(this.element.currentTime * this.video.fps + 0.01) - this.#wanted;
      // while it plays, time has gone on before this is told; seeking again would go on for ever
      const reached = past === 0 || (this.playing && past > 0 && past < this.video.fps);
      if (reached) this.#wanted = null;
      else this.#applySeek();
    }
    this.onChange("playback");
  }

  // ---------------------------------------------------------------- what the socket says

  /** @param {Control} message */
  #control(message) {
    if (message.type === "welcome") this.#welcome(message.video);
    else if (message.type === "state") this.#setVideo(message.video);
    else if (message.type === "init") this.#codecs[message.id] = { codec: message.codec };
    else if (message.type === "reset") this.#reset(message.from_index);
    else if (message.type === "cue") this.onChange("directions");
    else if (message.type === "skipped") this.#skip(message.from_index, message.to_index);
    else if (message.type === "progress") this.#setProgress(message);
  }

  /** @param {Video} video */
  #welcome(video) {
    this.#initIds.clear();
    this.#index ??= new SegmentIndex(video);
    this.#setVideo(video);
  }

  /** @param {Video} video */
  #setVideo(video) {
    this.video = video;
    if (!this.growing) this.progress = null;
    this.onChange("film");
    this.#finishIfWhole();
  }

  /** @param {Progress & {rendition?: import("./protocol.js").Rendition, frames_per_second: number|null}} message */
  #setProgress({ rendition, index, step, steps, frames_per_second }) {
    if (rendition === "enhanced") {
      this.enhancing = { index, step, steps };
      this.#heardOfEnhancer = performance.now();
      this.#enhancedPerSecond = frames_per_second ?? this.#enhancedPerSecond;
    } else {
      this.progress = { index, step, steps };
      this.framesPerSecond = frames_per_second ?? this.framesPerSecond;
    }
    this.onChange("progress");
  }

  /** @param {Connection} connection @param {string|null} reason */
  #connectionChanged(connection, reason) {
    this.connection = connection;
    this.closedReason = reason;
    if (connection !== "open") this.progress = this.enhancing = null;
    this.onChange("connection");
  }

  /** @param {number} fromIndex */
  #reset(fromIndex) {
    if (!this.#index || !this.video) return;
    this.redone = { from_index: fromIndex, chunks: Math.max(this.chunks, this.video.chunks) };
    this.#leave((segment) => segment.index >= fromIndex);
    this.#index.reset(fromIndex);
    this.#appender?.remove([{ start: this.#index.startSeconds(fromIndex), end: Infinity }]);
    this.api.forgetThumbnails(this.video.id, fromIndex);
    this.loop = null;
    this.enhancing = null;
    if (this.seconds * this.video.fps >= this.frames) this.#goTo(Math.max(0, this.frames - this.video.chunk_frames));
    this.onChange("chunks");
    this.onChange("directions");
    if (fromIndex < this.redone.chunks) this.onChange("redone");
  }

  /**
   * The server goes on at `toIndex`, and so does who plays next to it. What was left out is known, and fetched when one goes there.
   * @param {number} fromIndex @param {number} toIndex
   */
  #skip(fromIndex, toIndex) {
    const { video } = this;
    if (!this.#index || !video) return;
    const isNews = !this.#index.get(toIndex - 1); // else what was left out is only a sharper making
    for (let index = fromIndex; index < toIndex; index += 1) {
      if (!this.#index.get(index)) this.#index.put({ index, rendition: "preview", revision: -1, init: -1, size_bytes: 0, resident: false });
    }
    if (!isNews) return;
    this.skipped = { from_s: this.#index.startSeconds(fromIndex), to_s: this.#index.startSeconds(toIndex) };
    const isNear = chunkOfFrame(video, this.frame) + NEAR_CHUNKS >= fromIndex;
    if (this.following && this.playing && isNear) this.#goTo(startFrame(video, toIndex));
    this.onChange("chunks");
    this.onChange("skipped");
  }

  /** Init ids belong to one connection; equal bytes are one init. @param {InitSegment} message */
  #learnInit({ init, bytes }) {
    this.#initIds.set(init, this.#placeOfInit(bytes));
    this.#openBuffer(this.#codecs[init]?.codec);
  }

  /** @param {Uint8Array} bytes */
  #placeOfInit(bytes) {
    const place = this.#inits.findIndex((known) => sameBytes(known, bytes));
    return place < 0 ? this.#inits.push(bytes) - 1 : place;
  }

  /** @param {MediaSegment} segment @param {() => void} handled */
  #take(segment, handled) {
    const init = this.#initIds.get(segment.init);
    if (!this.#index || init === undefined) throw new Error(`segment ${segment.index} came before its init segment ${segment.init}`);
    const { index, rendition, revision, bytes } = segment;
    const exchanges = this.#index.get(index)?.resident ?? false;
    const isNews = this.#index.put({ index, rendition, revision, init, size_bytes: bytes.length, resident: true });
    if (rendition === "enhanced") this.#noteSharp(index);
    if (isNews && !this.#native) this.#append({ index, init, bytes, exchanges, handled });
    else handled();
    this.#native?.begin();
    this.#widenSeekable();
    this.onChange("chunks");
  }

  /** @param {number} index */
  #noteSharp(index) {
    this.#heardOfEnhancer = performance.now();
    if (this.enhancing && this.enhancing.index <= index) this.enhancing = null;
  }

  /** Segments that will never be appended are dealt with too: the server waits for the word. @param {(segment: Arrival) => boolean} isLeft */
  #leave(isLeft) {
    const left = this.#waiting.filter(isLeft);
    this.#waiting = this.#waiting.filter((segment) => !left.includes(segment));
    for (const segment of left) segment.handled();
  }

  // ---------------------------------------------------------------- the source buffer

  #attach() {
    const Source = globalThis.MediaSource ?? /** @type {any} */ (globalThis).ManagedMediaSource;
    if (!Source) throw new Error("This browser has no Media Source Extensions.");
    const source = new Source();
    this.element.disableRemotePlayback = !globalThis.MediaSource;
    this.element.src = URL.createObjectURL(source);
    source.addEventListener("sourceopen", () => this.#openBuffer(this.#codecs.find((known) => known)?.codec));
    this.#source = source;
  }

  #detach() {
    this.#appender?.close();
    this.#appender = null;
    this.#native?.close();
    this.#native = null;
    this.#source = null;
    if (this.element.src) URL.revokeObjectURL(this.element.src);
    this.element.removeAttribute("src");
    this.element.load();
  }

  /** Opens once both the source and a codec are there. @param {string|undefined} codec */
  #openBuffer(codec) {
    if (!this.#source || this.#source.readyState !== "open" || this.#appender || !codec) return;
    const exact = `video/mp4; codecs="${codec}"`;
    const { isTypeSupported } = /** @type {typeof MediaSource} */ (this.#source.constructor);
    const type = codec.startsWith("avc1") && isTypeSupported(WIDEST_CODEC) ? WIDEST_CODEC : exact;
    this.#appender = new Appender(this.#source.addSourceBuffer(type), {
      initBytes: (init) => this.#inits[init] ?? null,
      makeRoom: () => this.#makeRoom(this.bufferedBytes / 2),
    });
    for (const segment of this.#waiting.splice(0)) this.#append(segment);
  }

  /** @param {Arrival} arrival */
  #append(arrival) {
    if (!this.#appender) {
      this.#waiting.push(arrival);
      return;
    }
    const { init, bytes } = arrival;
    this.#appender.append({ init, bytes, done: () => this.#settled(arrival, true), failed: () => this.#settled(arrival, false) });
  }

  /** @param {Arrival} arrival @param {boolean} resident */
  #settled({ index, exchanges, handled }, resident) {
    this.#index?.mark(index, resident);
    handled();
    if (!resident) return this.#refetches.failed(index);
    this.#appended();
    if (exchanges) this.#exchanged(index);
  }

  /** What was decoded of the chunk before is thrown away, where else it would be seen for too long. @param {number} index */
  #exchanged(index) {
    const { video, element } = this;
    if (!video) return;
    const [from, to] = [startFrame(video, index), startFrame(video, index + 1)];
    const rate = this.playing ? element.playbackRate : 0;
    const rested_s = (performance.now() - this.#onTheSpot.at) / 1000;
    const wait_s = secondsToRefresh({ from, to, frame: this.frame, fps: video.fps, rate, rested_s, cost_s: this.#onTheSpot.cost_s });
    if (wait_s === null) return;
    const at = performance.now() + 1000 * wait_s;
    this.#refresh = { at: Math.min(at, this.#refresh?.at ?? Infinity), to: Math.max(to, this.#refresh?.to ?? 0) };
    this.#refreshIfDue();
  }

  /** Seek on the spot; not while another seek runs, which may have decoded what is no longer there. */
  #refreshIfDue() {
    const { element, video } = this;
    if (!this.#refresh || !video || element.seeking || element.readyState === 0 || performance.now() < this.#refresh.at) return;
    const isSeen = this.frame < this.#refresh.to;
    this.#refresh = null;
    if (!isSeen) return;
    Object.assign(this.#onTheSpot, { isRunning: true, at: performance.now() });
    element.currentTime = element.ended ? (this.frame + 0.5) / video.fps : element.currentTime;
  }

  #appended() {
    if (this.bufferedBytes > BUDGET_BYTES) this.#appender?.remove(this.#makeRoom(BUDGET_BYTES * 0.8));
    if (this.#startAtEdge && this.video) this.#startAtTheEdge(this.video);
    if (this.#wanted !== null && !this.#isSeekingThere(this.#wanted)) this.#applySeek();
    if (this.#playWhenMore && this.growing) {
      this.#playWhenMore = false;
      this.element.play().catch(() => {});
    }
    this.#finishIfWhole();
  }

  /** A late viewer of a growing film has the past, and starts where it is now. @param {Video} video */
  #startAtTheEdge(video) {
    if (this.growing && this.chunks < video.chunks) return;
    this.#startAtEdge = false;
    if (this.isSharp) this.#goToFrontier();
    else if (this.growing && this.chunks > 2) this.goLive();
  }

  /** Take chunks out so that `budget` bytes stay. @param {number} budget */
  #makeRoom(budget) {
    const index = this.#index;
    if (!index || !this.video) return [];
    return index.evictions(chunkOfFrame(this.video, this.frame), budget).map((chunk) => {
      index.mark(chunk, false);
      return { start: index.startSeconds(chunk), end: index.startSeconds(chunk + 1) };
    });
  }

  /** The film has ended and all of it is here: let the element know, so that it plays to the very end. */
  #finishIfWhole() {
    if (this.growing || !this.video || !this.#appender?.idle || this.#source?.readyState !== "open") return;
    if (this.frames > 0 && this.frames >= this.video.frames && !this.#moreAhead()) this.#source.endOfStream();
  }

  /** Film beyond what is buffered: to be made, on its way, or evicted. */
  #moreAhead() {
    if (!this.video || !this.#index) return true;
    return this.growing || this.frames < this.video.frames || this.#bufferedEnd() < this.frames / this.video.fps - 0.01;
  }

  /** While a film has no end, one may seek only in what is buffered, unless told otherwise. */
  #widenSeekable() {
    if (!this.video || this.#source?.readyState !== "open") return;
    this.#source.setLiveSeekableRange?.(0, this.frames / this.video.fps);
  }

  /** @param {number} seconds */
  #isBuffered(seconds) {
    const { buffered } = this.element;
    for (let i = 0; i < buffered.length; i += 1) if (buffered.start(i) <= seconds && seconds < buffered.end(i)) return true;
    return false;
  }

  #bufferedEnd() {
    const { buffered, currentTime } = this.element;
    for (let i = 0; i < buffered.length; i += 1) {
      if (buffered.start(i) <= currentTime + 0.02 && currentTime < buffered.end(i)) return buffered.end(i);
    }
    return currentTime;
  }

  // ---------------------------------------------------------------- seeking back into what was evicted

  /** @param {number} frame */
  #fetchMissing(frame) {
    if (!this.video || !this.#index) return;
    const playing = chunkOfFrame(this.video, frame);
    this.#noteLost(this.#index, playing);
    const indexes = this.#index.missing(playing).filter((index) => this.#refetches.mayBegin(index));
    if (indexes.length > 0) this.#refetch(this.video.id, indexes);
  }

  /**
   * What the browser has evicted by itself; a chunk just fetched that is still not there is not fetched at once again.
   * @param {SegmentIndex} index @param {number} playing
   */
  #noteLost(index, playing) {
    if (!this.#appender?.idle) return;
    const lost = index.lost(playing, (seconds) => this.#isBuffered(seconds));
    for (const chunk of lost) if (!this.#refetches.isRecent(chunk)) index.mark(chunk, false);
  }

  /** @param {string} id @param {number[]} indexes */
  async #refetch(id, indexes) {
    const refetches = this.#refetches;
    for (const index of indexes) refetches.begin(index);
    const addresses = await this.api.segments(id).catch(() => []);
    for (const index of indexes) {
      if (refetches !== this.#refetches) return;
      const settled = await this.#refetchOne(id, index, addresses).catch(() => false);
      if (settled) refetches.done(index);
      else refetches.failed(index);
    }
  }

  /**
   * The best there is, which may be better than what was evicted. False where it must be tried again: entries are of one film, so
   * another entry, or none, means that this one is not wanted any more.
   * @param {string} id @param {number} index @param {import("./api.js").SegmentAddress[]} addresses
   */
  async #refetchOne(id, index, addresses) {
    const entry = this.#index?.get(index);
    if (!entry) return true;
    const address = addresses.find((a) => a.index === index);
    if (!address) return false;
    const isSame = address.rendition === entry.rendition && address.revision === entry.revision;
    const [bytes, init] = await Promise.all([this.api.segment(id, address.hash), isSame ? entry.init : this.#fetchInit(id, address)]);
    if (this.#index?.get(index) !== entry) return true;
    const { rendition, revision } = address;
    if (!this.#index.put({ index, rendition, revision, init, size_bytes: bytes.length, resident: true })) return false;
    this.#append({ index, init, bytes, exchanges: false, handled: () => {} });
    this.onChange("chunks");
    return true;
  }

  /** Of a rendition that came over the socket for no chunk yet. @param {string} id @param {import("./api.js").SegmentAddress} address */
  async #fetchInit(id, address) {
    return this.#placeOfInit(await this.api.init(id, address.init));
  }

  /** The element has failed: start over with a new source at the same place; a second time within 10 s, leave it be. */
  #rebuild() {
    if (this.#native || !this.element.error || !this.video || performance.now() - this.#lastRebuild < 10_000) return;
    this.#lastRebuild = performance.now();
    const frame = this.frame;
    this.#detach();
    this.#index?.evictAll();
    this.#refetches.forgive();
    this.#attach();
    this.#goTo(frame);
    this.element.play().catch(() => {});
  }

  // ---------------------------------------------------------------- the edge

  #tick() {
    const { video, element } = this;
    if (!video) return;
    this.#finishIfWhole();
    const following = this.following && !this.isSharp;
    this.#socket?.setLive(following && this.growing && !this.#native);
    if (element.readyState === 0) return;
    if (element.seeking) return this.#tickSeeking(video);
    if (this.#native) return this.#tickNative();
    this.#refreshIfDue();
    const reach = this.#reach();
    const buffered = this.#bufferedEnd() - element.currentTime;
    const ahead = Math.min(buffered, reach - element.currentTime);
    const { rate, jump, hold } = steer(
      {
        ahead,
        behind: this.behind,
        fps: video.fps,
        chunk_s: video.chunk_frames / video.fps,
        more: reach < Infinity || this.#moreAhead(),
        growing: this.growing,
        following,
        pace: reach < Infinity ? this.#enhancedPace : this.pace,
      },
      this.#hold,
    );
    if (hold.gated && !this.#hold.gated && this.playing) this.stalls.gated += 1;
    this.#hold = hold;
    if (element.playbackRate !== rate * this.speed) element.playbackRate = rate * this.speed;
    if (this.loop && this.playing && this.#isPastLoop()) this.#goTo(this.loop.from);
    if (jump && this.playing) this.goLive();
    if (buffered < 1) this.#fetchMissing(this.frame + Math.ceil(buffered * video.fps));
    this.#setStarved(hold.gated && this.playing, reach < element.currentTime + buffered);
  }

  /** What a seek needs may have been evicted since, or its fetch may have failed; and a seek to where nothing is never ends. @param {Video} video */
  #tickSeeking(video) {
    if (this.#native) return;
    this.#fetchMissing(this.frame);
    const isStuck = this.#wanted !== null && !this.#isSeekingThere(this.#wanted) && !this.#isBuffered(this.element.currentTime);
    if (isStuck && this.#isBuffered(((this.#wanted ?? 0) + 0.5) / video.fps)) this.#applySeek();
  }

  /** The browser itself sees to the buffer. */
  #tickNative() {
    if (this.element.playbackRate !== this.speed) this.element.playbackRate = this.speed;
    if (this.loop && this.playing && this.#isPastLoop()) this.#goTo(this.loop.from);
  }

  /** Seconds up to which one may play: all that is there, or what is sharp from here on. */
  #reach() {
    if (!this.video || !this.isSharp || this.caughtUp === "preview") return Infinity;
    const end = this.#sharpFrom(this.frame);
    return end >= this.frames && !this.growing ? Infinity : reachOf(end, this.video.fps, (performance.now() - this.#heardOfEnhancer) / 1000);
  }

  /** Seconds of film enhanced per second, null before it is measured. */
  get #enhancedPace() {
    return this.video && this.#enhancedPerSecond !== null ? this.#enhancedPerSecond / this.video.fps : null;
  }

  /** @param {boolean} starved @param {boolean} forSharp */
  #setStarved(starved, forSharp) {
    const isCaughtUp = starved && forSharp;
    if (starved === this.starved && isCaughtUp === this.isCaughtUp) return;
    Object.assign(this, { starved, isCaughtUp });
    this.onChange("playback");
  }

  /** At the loop's end; of a loop over all there is a little before it, where waiting for more would begin. */
  #isPastLoop() {
    if (!this.loop || !this.video) return false;
    const end = Math.min(this.loop.to ?? Infinity, this.frames - (this.#moreAhead() ? LOOP_MARGIN_FRAMES : 0));
    const at = this.seconds * this.video.fps;
    if (end - this.loop.from < 1) return false;
    return at >= end - 0.3 || at < this.loop.from - 0.5;
  }

  #ended() {
    this.#playWhenMore = this.loop === null;
    if (!this.loop) return;
    this.#goTo(this.loop.from);
    this.element.play().catch(() => {});
  }

  #dry() {
    if (!this.element.seeking && this.element.readyState > 0 && this.frames > 0) this.stalls.dry += 1;
  }

}

/** @param {Uint8Array} a @param {Uint8Array} b */
function sameBytes(a, b) {
  return a.length === b.length && a.every((byte, i) => byte === b[i]);
}
