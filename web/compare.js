// @ts-check
/** Two films side by side, led by one clock: one play, one scrub, one step for both. What is decided is decided in pair.js. */

import { promptAt } from "./directions.js";
import { byId, inside, setText } from "./dom.js";
import { chunkOfFrame, startFrame } from "./index.js";
import { stateOf } from "./library.js";
import { advance, familyFork, hasEnded, lines, nudge, partAt, sayCommon } from "./pair.js";
import { momentOf } from "./plan.js";
import { Player } from "./player.js";
import { duration, moment, saySpeed } from "./words.js";

/** @typedef {import("./protocol.js").Video} Video */
/** @typedef {import("./api.js").Api} Api */
/** @typedef {import("./directions.js").Cue} Cue */
/** @typedef {import("./pair.js").Made} Made */
/** @typedef {readonly [string, string]} Pair  ids, the left film first */

const TICK_MS = 30;
const SPEEDS = [1, 0.5, 0.25];
/** So much of what both have in common is shown before they part. */
const LEAD_IN_S = 2;
/** A family deeper than this is cut off: the frames still tell where two films part. */
const MAX_LINEAGE = 32;
const WHICH = ["left", "right"];

/** One film, its picture and the words around it. */
class Seat {
  /** @type {readonly Cue[]} */ cues = [];

  /** @param {HTMLElement} figure @param {Api} api @param {string} id @param {() => void} changed */
  constructor(figure, api, id, changed) {
    this.figure = figure;
    this.api = api;
    this.id = id;
    this.changed = changed;
    this.player = new Player(/** @type {HTMLVideoElement} */ (inside(figure, "video")), api, (change) => {
      if (change === "directions") this.#readCues();
      changed();
    });
  }

  /** @param {number} frame */
  open(frame) {
    this.player.open(this.id, { atEdge: false, frame });
    this.#readCues();
  }

  close() {
    this.player.close();
  }

  get end_s() {
    const { frames, video } = this.player;
    return frames / (video?.fps ?? 1);
  }

  /** @returns {import("./pair.js").Side} */
  get facts() {
    const { player } = this;
    const { growing, video, connection, frames, element, starved } = player;
    const isGone = connection === "closed";
    const ready = isGone || (frames > 0 && !element.seeking && element.readyState >= 2 && !starved);
    const more = !isGone && (growing || frames === 0 || frames < (video?.frames ?? 1));
    return { end_s: this.end_s, more, ready, frame_s: 1 / (video?.fps ?? 8) };
  }

  /** Show the frame of this moment and stand still. @param {number} position_s */
  show(position_s) {
    const { player } = this;
    player.element.pause();
    player.seek(Math.floor(position_s * (player.video?.fps ?? 1) + 0.01));
    player.following = false;
  }

  /** Be where the clock is. @param {number} position_s @param {number} speed @param {boolean} isHeld  the other film is waited for */
  follow(position_s, speed, isHeld) {
    const { player } = this;
    const { element, frames, frame } = player;
    if (frames === 0 || player.connection === "closed") return;
    player.following = false;  // the clock says where to be, not the live edge
    if (hasEnded(this.facts, position_s)) {
      if (!element.seeking && frame < frames - 1) player.seek(frames - 1);
      return element.pause();
    }
    if (element.seeking) return;
    if (element.paused) element.play().catch(() => {});
    const { rate, seek } = nudge(position_s - player.seconds);
    if (seek) player.seek(Math.floor(position_s * (player.video?.fps ?? 1) + 0.01));
    else player.speed = speed * Math.max(0, rate - (isHeld ? 1 : 0));
  }

  /** The words around it. @param {boolean} isAwaited */
  draw(isAwaited) {
    const { video, frames, connection, closedReason, frame } = this.player;
    setText(inside(this.figure, ".badge"), video ? stateOf({ ...video, frames: Math.max(frames, video.frames) }) : "");
    inside(this.figure, ".badge").hidden = !video;
    if (video) inside(this.figure, ".screen").style.setProperty("--shape", String(video.width / video.height));
    setText(inside(this.figure, ".prompt"), video ? promptAt(video.first_prompt, this.cues, chunkOfFrame(video, frame)) : "");
    const says = inside(this.figure, ".says");
    const words = connection === "closed" ? (closedReason ?? "") : connection === "lost" ? "Connection lost. Trying again." : frames === 0 ? "Waiting for its first picture" : isAwaited ? this.#awaited() : "";
    says.hidden = words === "";
    setText(says, words);
  }

  #awaited() {
    const { progress, growing } = this.player;
    return growing && progress ? `both wait for chunk ${progress.index + 1} · step ${progress.step} of ${progress.steps}` : "both wait for this one";
  }

  async #readCues() {
    this.cues = await this.api.cues(this.id).catch(() => this.cues);
    this.changed();
  }
}

export class Compare {
  #root = byId("compare");
  #rail = byId("rail");
  /** @type {Seat[]} none while it is closed */ #seats = [];
  /** First chunk that differs. */ #fork = 0;
  #position_s = 0;
  #playing = false;
  #speed = 1;
  #lastTick = 0;
  /** @type {number|null} */ #waitsFor = null;
  /** @type {ReturnType<typeof setInterval>|undefined} */ #timer;
  /** Answers may come after another pair was asked for. */ #asked = 0;
  #wasPlaying = false;

  /** @param {Api} api @param {{films: () => Video[], show: (pair: Pair, at_s: number) => void, open: (id: string, at_s: number) => void}} page */
  constructor(api, page) {
    this.api = api;
    this.page = page;
    byId("compare-play").addEventListener("click", () => this.#togglePlay());
    byId("compare-back").addEventListener("click", () => this.#step(-1));
    byId("compare-on").addEventListener("click", () => this.#step(1));
    byId("compare-speed").addEventListener("click", () => this.#nextSpeed());
    byId("compare-fork").addEventListener("click", () => this.#seekTo(Math.max(0, this.#fork_s)));
    new ResizeObserver(() => this.#drawRail()).observe(this.#rail);
    this.#scrub();
  }

  get isOpen() {
    return document.body.dataset.view === "compare";
  }

  /** @param {Pair} pair @param {number|null} at_s  null: a little before they part */
  async open(pair, at_s) {
    this.close();
    const mine = this.#asked;
    this.#say("Opening both films…");
    try {
      const [fork, films] = await this.#learn(pair);
      if (mine !== this.#asked) return;
      this.#fork = fork;
      this.#say(null);
      this.#begin(pair, films, at_s);
    } catch (error) {
      if (mine === this.#asked) this.#say(error instanceof Error ? error.message : String(error));
    }
  }

  close() {
    this.#asked += 1;
    clearInterval(this.#timer);
    for (const seat of this.#seats) seat.close();
    this.#seats = [];
    this.#waitsFor = null;
    this.#speed = 1;
    inside(this.#root, ".pair").replaceChildren();
  }

  /** A key. @param {import("./keys.js").Act} meant @returns {boolean} whether it means something here */
  act(meant) {
    const acts = /** @type {Partial<Record<import("./keys.js").Act, () => void>>} */ ({
      play: () => this.#togglePlay(),
      "frame-back": () => this.#step(-1),
      "frame-on": () => this.#step(1),
      "chunk-back": () => this.#stepChunk(-1),
      "chunk-on": () => this.#stepChunk(1),
      first: () => this.#seekTo(0),
      last: () => this.#seekTo(Infinity),
      slow: () => this.#nextSpeed(),
    });
    const act = this.#seats.length === 2 ? acts[meant] : undefined;
    act?.();
    return act !== undefined;
  }

  // ---------------------------------------------------------------- what the two have in common

  /** @param {Pair} pair @returns {Promise<[number, Video[]]>} */
  async #learn(pair) {
    const lineages = await Promise.all(pair.map((id) => this.#lineage(id)));
    const made = await Promise.all(pair.map((id) => this.api.chunksMade(id)));
    return [partAt(familyFork(lineages[0], lineages[1]), made[0], made[1]), lineages.map(([video]) => video)];
  }

  /** The film, its parent, and so on, as far as they still exist. @param {string} id */
  async #lineage(id) {
    const lineage = [await this.api.video(id)];
    for (let next = lineage[0].parent_id; next && lineage.length < MAX_LINEAGE; next = lineage.at(-1)?.parent_id) {
      const parent = await this.api.video(next).catch(() => null);
      if (!parent) break;
      lineage.push(parent);
    }
    return lineage;
  }

  /** @param {Pair} pair @param {Video[]} films @param {number|null} at_s */
  #begin(pair, films, at_s) {
    const start_s = startFrame(films[0], this.#fork) / films[0].fps;
    this.#position_s = at_s ?? Math.max(0, start_s - LEAD_IN_S);
    this.#seats = pair.map((id, i) => new Seat(this.#figure(i, pair), this.api, id, () => this.#draw()));
    inside(this.#root, ".pair").replaceChildren(...this.#seats.map(({ figure }) => figure));
    this.#seats.forEach((seat, i) => seat.open(Math.floor(Math.min(this.#position_s * films[i].fps, Math.max(0, films[i].frames - 1)))));
    this.#playing = true;
    this.#lastTick = performance.now();
    this.#timer = setInterval(() => this.#tick(), TICK_MS);
    setText(byId("heading"), "Two films side by side");
    document.title = `${titleOf(films[0])} ⇆ ${titleOf(films[1])} · st2v·stream`;
    setText(byId("said"), `Side by side: ${titleOf(films[0])}, and ${titleOf(films[1])}; ${this.#common(films[0])}.`);
    this.#draw();
  }

  /** @param {number} place @param {Pair} pair */
  #figure(place, pair) {
    const template = /** @type {HTMLTemplateElement} */ (byId("seat"));
    const figure = /** @type {HTMLElement} */ (template.content.firstElementChild?.cloneNode(true));
    figure.dataset.which = WHICH[place];
    figure.setAttribute("aria-label", `Film on the ${WHICH[place]}`);
    const choice = /** @type {HTMLSelectElement} */ (inside(figure, "select"));
    choice.setAttribute("aria-label", `Film on the ${WHICH[place]}`);
    this.#fillChoice(choice, pair[place], pair[1 - place]);
    choice.addEventListener("focus", () => this.#fillChoice(choice, choice.value, pair[1 - place]));
    choice.addEventListener("change", () => this.page.show(place === 0 ? [choice.value, pair[1]] : [pair[0], choice.value], this.#position_s));
    inside(figure, ".open").addEventListener("click", () => this.page.open(pair[place], this.#position_s));
    return figure;
  }

  /** Every film listed but the other one. @param {HTMLSelectElement} choice @param {string} chosen @param {string} other */
  #fillChoice(choice, chosen, other) {
    const films = this.page.films().filter(({ id }) => id !== other);
    const options = films.map((film) => new Option(`${titleOf(film)}${film.fork_index ? ` (branch from ${momentOf(film, film.fork_index)})` : ""}`, film.id));
    if (!films.some(({ id }) => id === chosen)) options.unshift(new Option("this film", chosen));
    choice.replaceChildren(...options);
    choice.value = chosen;
  }

  // ---------------------------------------------------------------- one clock for both

  get #end_s() {
    return Math.max(0, ...this.#seats.map(({ end_s }) => end_s));
  }

  get #fps() {
    return this.#seats[0]?.player.video?.fps ?? 8;
  }

  get #fork_s() {
    const video = this.#seats[0]?.player.video;
    return video ? startFrame(video, this.#fork) / video.fps : 0;
  }

  #tick() {
    const now = performance.now();
    const elapsed_s = Math.min(0.25, (now - this.#lastTick) / 1000);
    this.#lastTick = now;
    if (!this.#playing) return;
    const { position_s, waitsFor, ended } = advance(this.#position_s, elapsed_s * this.#speed, this.#seats.map(({ facts }) => facts));
    this.#position_s = position_s;
    this.#waitsFor = waitsFor;
    for (const seat of this.#seats) seat.follow(position_s, this.#speed, waitsFor !== null);
    if (ended) this.#playing = false;
    this.#draw();
  }

  #togglePlay() {
    if (this.#seats.length === 0) return;
    this.#playing = !this.#playing;
    if (!this.#playing) return this.#seekTo(this.#position_s);
    if (this.#position_s >= this.#end_s - 0.5 / this.#fps && !this.#seats.some(({ facts }) => facts.more)) this.#seekTo(0);
    this.#draw();
  }

  /** Both at the same moment; playing goes on if it was. @param {number} seconds */
  #seekTo(seconds) {
    const last_s = Math.max(0, this.#end_s - 1 / this.#fps);
    const frame = Math.round(Math.max(0, Math.min(seconds, last_s)) * this.#fps - 0.49);
    this.#position_s = Math.max(0, frame) / this.#fps;
    for (const seat of this.#seats) seat.show(this.#position_s);
    this.#draw();
  }

  /** @param {number} frames */
  #step(frames) {
    this.#playing = false;
    this.#seekTo(this.#position_s + (frames + 0.5) / this.#fps);
  }

  /** @param {number} chunks */
  #stepChunk(chunks) {
    const video = this.#seats[0]?.player.video;
    if (!video) return;
    const frame = Math.floor(this.#position_s * video.fps + 0.01);
    const here = chunkOfFrame(video, frame);
    const backToStart = chunks < 0 && frame > startFrame(video, here);
    this.#seekTo((startFrame(video, Math.max(0, here + (backToStart ? chunks + 1 : chunks))) + 0.5) / video.fps);
  }

  #nextSpeed() {
    this.#speed = SPEEDS[(SPEEDS.indexOf(this.#speed) + 1) % SPEEDS.length];
    this.#draw();
  }

  #scrub() {
    let isDragging = false;
    const to = (/** @type {PointerEvent} */ event) => {
      const { left, width } = this.#rail.getBoundingClientRect();
      this.#seekTo(((event.clientX - left) / Math.max(1, width)) * this.#whole_s);
    };
    this.#rail.addEventListener("pointerdown", (event) => {
      if (event.button !== 0 || this.#seats.length === 0) return;
      isDragging = true;
      this.#wasPlaying = this.#playing;
      this.#playing = false;
      this.#rail.setPointerCapture(event.pointerId);
      to(event);
    });
    this.#rail.addEventListener("pointermove", (event) => isDragging && to(event));
    for (const end of ["pointerup", "pointercancel"]) {
      this.#rail.addEventListener(end, () => {
        if (isDragging) this.#playing = this.#wasPlaying;
        isDragging = false;
      });
    }
  }

  // ---------------------------------------------------------------- drawing

  /** Of the longer film, as planned. */
  get #whole_s() {
    const planned = this.#seats.map(({ player: { video }, end_s }) => Math.max(end_s, (video?.num_frames ?? 0) / (video?.fps ?? 1)));
    return Math.max(1, ...planned);
  }

  /** @param {string|null} words */
  #say(words) {
    byId("compare-says").hidden = words === null;
    setText(byId("compare-says"), words ?? "");
  }

  /** @param {Video} video */
  #common(video) {
    return sayCommon(video, this.#fork, (seconds) => (Number.isInteger(seconds) ? duration(seconds) : moment(seconds)));
  }

  #draw() {
    if (this.#seats.length === 0) return;
    this.#seats.forEach((seat, place) => seat.draw(this.#playing && this.#waitsFor === place));
    const play = byId("compare-play");
    play.dataset.is = this.#playing ? "playing" : "paused";
    play.setAttribute("aria-label", this.#playing ? "Pause both" : "Play both");
    setText(byId("compare-now"), moment(this.#position_s));
    setText(byId("compare-end"), duration(this.#end_s));
    const { shown, said } = saySpeed(this.#speed);
    setText(byId("compare-speed"), shown);
    byId("compare-speed").setAttribute("aria-label", said);
    byId("compare-speed").dataset.on = String(this.#speed < 1);
    const { video } = this.#seats[0].player;
    if (video) setText(byId("compare-common"), this.#common(video));
    setText(byId("compare-whole"), duration(this.#whole_s));
    byId("compare-fork").hidden = this.#fork === 0;
    this.#drawRail();
  }

  #drawRail() {
    if (this.#seats.length === 0) return;
    const { clientWidth: width, clientHeight: height } = this.#rail;
    const room = { width, height, fork_s: this.#fork_s, whole_s: this.#whole_s };
    const planned = lines({ ...room, ends_s: this.#ends((seat) => (seat.player.video?.num_frames ?? 0) / this.#fps) });
    const here = lines({ ...room, ends_s: this.#ends((seat) => seat.end_s) });
    const paths = [planned.own[0], planned.own[1], here.common, here.own[0], here.own[1]];
    [...this.#rail.querySelectorAll("path")].forEach((path, i) => path.getAttribute("d") !== paths[i] && path.setAttribute("d", paths[i]));
    const fork = inside(this.#rail, ".parting");
    fork.hidden = this.#fork === 0 || this.#fork_s >= this.#whole_s;
    fork.style.transform = `translateX(${here.forkX}px)`;
    inside(this.#rail, ".needle").style.transform = `translateX(${(width * this.#position_s) / this.#whole_s}px)`;
    this.#describe();
  }

  /** To those who listen: once a second while it plays, else they would hear nothing but figures. */
  #describe() {
    const told_s = Number(this.#rail.getAttribute("aria-valuenow"));
    this.#rail.setAttribute("aria-valuemax", this.#end_s.toFixed(1));
    if (this.#playing && Math.abs(told_s - this.#position_s) < 1) return;
    this.#rail.setAttribute("aria-valuenow", this.#position_s.toFixed(1));
    this.#rail.setAttribute("aria-valuetext", `${this.#position_s.toFixed(1)} of ${this.#end_s.toFixed(1)} seconds, ${this.#position_s < this.#fork_s ? "still the same film" : "each on its own"}`);
  }

  /** @param {(seat: Seat) => number} of @returns {[number, number]} */
  #ends(of) {
    return [of(this.#seats[0]), of(this.#seats[1])];
  }
}

/** @param {Video} video */
function titleOf(video) {
  return video.title || video.prompt;
}
