// @ts-check
/** What lies over the film: the live badge, the figures, and in words what is going on when there is nothing to see. */

import { ask, byId, inside, setText } from "./dom.js";
import { sayCaughtUp } from "./sharpness.js";
import { duration, sayFirstChunk } from "./words.js";

/** @typedef {import("./player.js").Player} Player */
/** @typedef {import("./protocol.js").Video} Video */

/** Nearer than this to the newest frame is live: the first chunk holds 2 s, and waiting for the next takes one more. */
const LIVE_S = 4;
const FIGURES_MS = 250;
const SAY_WAITING_AFTER_MS = 700;
/** As the server closes the connection (docs/protocol.md, 4004). */
const NO_SUCH_FILM = "no such video";

export class Stage {
  #badge = /** @type {HTMLButtonElement} */ (byId("badge"));
  #figures = byId("figures");
  #message = byId("message");
  #lost = byId("lost");
  #waiting = byId("waiting");
  #starvedSince = 0;
  /** @type {{step: number, at_ms: number}|null} of the first chunk */ #firstStep = null;

  /** Another way to watch shows the film at the moment. */ isElsewhere = false;

  /** @param {Player} player @param {{goOn: () => void, caption: (video: Video) => string}} page */
  constructor(player, { goOn, caption }) {
    this.player = player;
    this.caption = caption;
    this.#badge.addEventListener("click", () => player.goLive());
    inside(this.#message, "button").addEventListener("click", () => (player.video ? goOn() : (location.hash = "#/")));
    byId("notes").addEventListener("click", () => this.#showNotes());
    byId("retry").addEventListener("click", () => player.retry());
    byId("play-on").addEventListener("click", () => player.setCaughtUp("preview"));
    byId("fullscreen").addEventListener("click", () => this.toggleFullscreen());
    setInterval(() => this.drawFigures(), FIGURES_MS);
    this.#keepBackdrop();
  }

  toggleFullscreen() {
    if (document.fullscreenElement) document.exitFullscreen();
    else byId("stage").requestFullscreen?.().catch(() => {});
  }

  /** Draw all: the film's state or the connection changed. */
  draw() {
    const { video } = this.player;
    this.#drawMessage(video);
    this.#drawConnection();
    const hasPicture = video !== null && this.player.frames > 0;
    byId("fullscreen").hidden = !hasPicture;
    byId("caption").hidden = !hasPicture;
    if (!hasPicture) this.#clearBackdrop();
    this.drawCaption();
    const notes = video?.warnings ?? [];
    byId("notes").hidden = notes.length === 0;
    setText(inside(byId("notes"), "span"), (notes[0] ?? "").split(". ")[0]);
    this.drawFigures();
  }

  /** What is seen here: the prompt where cues change it, else the title. */
  drawCaption() {
    const { video } = this.player;
    if (video) setText(byId("caption"), this.caption(video));
  }

  /** The figures that move: four times a second, in digits of one width. */
  drawFigures() {
    const { video, framesPerSecond, pace, frames, connection } = this.player;
    this.#drawWaiting();
    this.#badge.hidden = !video || frames === 0;
    this.#figures.hidden = video?.state !== "running" || connection !== "open" || framesPerSecond === null || pace === null || frames === 0;
    if (!video) return;
    this.#drawBadge(video);
    if (framesPerSecond !== null && pace !== null) setText(inside(this.#figures, "span"), `${framesPerSecond.toFixed(1)} fps · ${pace.toFixed(pace < 0.95 ? 2 : 1)}×`);
  }

  /** What the server has to say about this film, in full. */
  #showNotes() {
    const dialog = /** @type {HTMLDialogElement} */ (byId("notes-dialog"));
    const lines = (this.player.video?.warnings ?? []).map((text) => Object.assign(document.createElement("p"), { textContent: text }));
    inside(dialog, ".lines").replaceChildren(...lines);
    ask(dialog);
  }

  /** @param {Video} video */
  #drawBadge(video) {
    const { is, word, where } = this.#situation(video);
    this.#badge.dataset.is = is;
    this.#badge.disabled = is !== "growing" && is !== "sharp";
    this.#badge.title = this.#badge.disabled ? "" : "Go to the newest frame (L)";
    setText(inside(this.#badge, "b"), word);
    setText(inside(this.#badge, "span"), where);
    inside(this.#badge, "small").hidden = this.isElsewhere || is === "offline" || is === "ended";
  }

  /** @param {Video} video @returns {{is: "live"|"growing"|"sharp"|"offline"|"ended", word: string, where: string}} */
  #situation(video) {
    const { behind, growing, connection } = this.player;
    if (!growing) return { is: "ended", word: endedWord(video), where: endedWhere(video) };
    if (connection !== "open") return { is: "offline", word: "Offline", where: `${behind.toFixed(1)} s left` };
    if (this.isElsewhere) return { is: "live", word: "Live", where: "as it is made" };
    if (this.player.isSharp) return { is: "sharp", word: "Sharp", where: `${behind.toFixed(1)} s behind` };
    const live = behind < LIVE_S;
    return { is: live ? "live" : "growing", word: live ? "Live" : "Growing", where: `${behind.toFixed(1)} s behind` };
  }

  /** Name a wait only once it can be felt. */
  #drawWaiting() {
    const { starved, connection, video, frames } = this.player;
    this.#starvedSince = starved ? this.#starvedSince || performance.now() : 0;
    const felt = starved && performance.now() - this.#starvedSince > SAY_WAITING_AFTER_MS;
    const paused = video?.state === "paused" && frames > 0;
    this.#waiting.hidden = connection !== "open" || !(paused || felt);
    if (this.#waiting.hidden) return;
    setText(inside(this.#waiting, "span"), paused ? `paused: ${pausedSentence(video)}` : this.#whatIsAwaited());
    inside(this.#waiting, "button").hidden = paused || !this.player.isCaughtUp;
  }

  #whatIsAwaited() {
    const { progress, growing, isCaughtUp, enhancing, video } = this.player;
    if (isCaughtUp) return sayCaughtUp(enhancing, video?.enhance, video?.enhance_error ?? null);
    if (!progress || !growing) return "waiting for the next chunk";
    return `waiting for chunk ${progress.index + 1} · step ${progress.step} of ${progress.steps}`;
  }

  #drawConnection() {
    const { connection, closedReason, frames } = this.player;
    this.#lost.hidden = connection === "open" || connection === "connecting" || (closedReason === NO_SUCH_FILM && frames === 0);
    byId("retry").hidden = connection === "closed";
    const has = frames > 0 ? " What is here goes on playing." : "";
    setText(inside(this.#lost, "span"), connection === "closed" ? (closedReason ?? "") : `Connection lost.${has} Trying again.`);
  }

  /** @param {Video|null} video */
  #drawMessage(video) {
    const words = video ? messageFor(video, this.player.frames) : this.#nothingHere();
    this.#message.hidden = !words;
    if (!words) return;
    this.#message.dataset.over = this.player.frames > 0 ? "film" : "nothing";
    setText(inside(this.#message, ".what"), words.what);
    setText(inside(this.#message, ".why"), words.why ?? "");
    const button = inside(this.#message, "button");
    button.hidden = !words.verb;
    setText(button, words.verb ?? "");
    this.drawProgress();
  }

  /** Never a dead end: an address without a film leads back to where films are. */
  #nothingHere() {
    const { connection, closedReason, api } = this.player;
    if (connection !== "closed") return null;
    const why = closedReason === NO_SUCH_FILM ? "It was deleted, or its address is not whole." : "";
    return { what: "This film cannot be shown", why, verb: api.grant ? "" : "To the start page" };
  }

  /** How far the very first chunk has come: there is nothing else to look at. */
  drawProgress() {
    const { progress, frames, video } = this.player;
    const meter = inside(this.#message, ".meter");
    meter.hidden = frames > 0 || video?.state !== "running";
    if (meter.hidden || !progress) {
      this.#firstStep = null;
      return;
    }
    this.#firstStep ??= { step: progress.step, at_ms: performance.now() };
    inside(meter, "i").style.transform = `scaleX(${Math.min(1, progress.step / progress.steps)})`;
    setText(inside(this.#message, ".why"), sayFirstChunk(progress, this.#firstStep, performance.now()));
  }

  /** It would be of another film. */
  #clearBackdrop() {
    const canvas = /** @type {HTMLCanvasElement} */ (byId("backdrop"));
    canvas.getContext("2d")?.clearRect(0, 0, canvas.width, canvas.height);
  }

  /** A few big pixels of the film, stretched smoothly behind it: cheap, and the stage is never an empty black box. */
  #keepBackdrop() {
    const canvas = /** @type {HTMLCanvasElement} */ (byId("backdrop"));
    const few = new OffscreenCanvas(4, 4);
    const [large, small] = [canvas.getContext("2d"), few.getContext("2d")];
    const { element } = this.player;
    const calm = matchMedia("(prefers-reduced-motion: reduce)");
    let drawn = "";
    if (large) large.imageSmoothingQuality = "high";
    const draw = () => {
      if (!calm.matches || drawn !== element.src) {
        small?.drawImage(element, 0, 0, few.width, few.height);
        large?.drawImage(few, 0, 0, canvas.width, canvas.height);
      }
      drawn = element.src;
      element.requestVideoFrameCallback(draw);
    };
    element.requestVideoFrameCallback?.(draw);
  }
}

/** @param {Video} video */
function endedWord(video) {
  if (video.state === "failed") return "Failed";
  return video.ended_by === "stopped" || video.state === "stopped" ? "Stopped" : "Whole";
}

/** @param {Video} video */
function endedWhere(video) {
  const length = duration(video.frames / video.fps);
  return endedWord(video) === "Whole" ? length : `at ${length}`;
}

/** What to say over the film, if anything. @param {Video} video @param {number} frames @returns {{what: string, why?: string, verb?: string}|null} */
function messageFor(video, frames) {
  if (video.state === "failed") return { what: "This film could not go on", why: errorOf(video), verb: "Try to go on" };
  if (frames > 0) return null;
  if (video.state === "paused") return { what: "Paused", why: pausedSentence(video) };
  if (video.state === "queued") return { what: "Waiting for its turn", why: "Other films are being made; this one begins by itself." };
  if (video.state === "loading") return { what: "The model is loading", why: "The film begins as soon as it is there." };
  if (video.state === "running") return { what: "Making the first frames", why: "" };
  if (video.state === "stopping") return { what: "Stopping" };
  return video.frames > 0 ? { what: "Loading the film" } : { what: "Stopped before the first frame", verb: "Begin again" };
}

/** @param {Video} video */
function pausedSentence({ paused_reason }) {
  return `${paused_reason ? `${paused_reason}; it` : "It"} goes on by itself`;
}

/** @param {Video} video */
function errorOf({ error }) {
  return (typeof error === "string" ? error : error?.message) ?? "";
}
