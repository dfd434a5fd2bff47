// @ts-check
/** The page: routes, verbs and keys, put together from its parts. */

import { Api, ApiError } from "./api.js";
import { Composer, lengthOf } from "./composer.js";
import { ask, byId, inside, setText } from "./dom.js";
import { Filmstrip } from "./filmstrip.js";
import { Library } from "./library.js";
import { Player } from "./player.js";
import { Stage } from "./stage.js";
import { duration, framesFor, moment, readGrant, readHash, sayState } from "./words.js";

/** @typedef {import("./protocol.js").Video} Video */
/** @typedef {import("./player.js").Change} Change */
/** @typedef {import("./api.js").CreateVideo} CreateVideo */

const SYSTEM_POLL_MS = 2000;
const TOAST_MS = 7000;
const MEANT_STOP_MS = 800;

const api = new Api();
const player = new Player(byId("video"), api, changed);
const filmstrip = new Filmstrip(byId("strip"), byId("overview"), player);
const stage = new Stage(player, { goOn: () => act(goOn) });
const library = new Library(byId("films"), api, (video) => act(() => deleteFilm(video)));
const composer = new Composer((request) => act(() => makeFilm(request)));

const stopButton = /** @type {HTMLButtonElement} */ (byId("stop"));
const continueBy = /** @type {HTMLSelectElement} */ (byId("continue-by"));

/** The film on the stage. */
let current = "";
/** A film made on this page starts at its beginning, others where they are now. */
let madeHere = "";
/** The film's state as last told. */
let toldState = "";
/** When the film ended by itself: who clicks right then meant Stop, not Continue. */
let endedAt = -Infinity;
/** @type {ReturnType<typeof setTimeout>|undefined} */ let toastTimer;
/** @type {ReturnType<typeof setTimeout>|undefined} */ let systemTimer;

api.onUnauthorized = () => api.grant || askForToken();  // of a link that has ended the player says so
addEventListener("hashchange", route);
addEventListener("keydown", onKey);
byId("play").addEventListener("click", () => player.togglePlay());
byId("video").addEventListener("click", () => player.togglePlay());
stopButton.addEventListener("click", () => act(stopOrContinue));
byId("download").addEventListener("click", () => act(download));
byId("films-toggle").addEventListener("click", () => setDrawer(document.body.dataset.films !== "open"));
byId("ask-token").addEventListener("close", () => enterToken().catch(report));
byId("films").addEventListener("click", (event) => {
  if (event.target instanceof Element && event.target.closest("a")) setDrawer(false);
});
byId("prompt").addEventListener("focus", () => setDrawer(false));
takeToken();
start();

// ---------------------------------------------------------------- beginning

async function start() {
  if (api.grant) return route();
  try {
    await learnModels();
    route();
    await library.refresh();
  } catch (error) {
    if (error instanceof ApiError && error.status === 401) return;
    report(error);
    setTimeout(start, SYSTEM_POLL_MS);
  }
}

async function learnModels() {
  const [models, system] = await Promise.all([api.models(), api.system()]);
  if (models.length > 0) composer.setModels(models, system.model?.name, system.preset);
  watchModel(system);
}

/** Until the model is loaded, look again now and then. @param {Record<string, any>} system */
function watchModel(system) {
  composer.setReady(system.ready, troubleOf(system));
  clearTimeout(systemTimer);
  if (!system.ready) systemTimer = setTimeout(() => api.system().then(watchModel, () => watchModel(system)), SYSTEM_POLL_MS);
}

/** Why no film can be made now, if it is more than a matter of time. @param {Record<string, any>} system @returns {string|null} */
function troubleOf({ model, store_error }) {
  return model?.error ?? store_error ?? null;
}

/** The token arrives in the fragment, which no server log sees; it does not stay in the address bar. */
function takeToken() {
  const { token, video } = readHash(location.hash);
  takeGrant();
  if (!token) return;
  useToken(token);
  history.replaceState(null, "", video ? `#/video/${video}` : location.pathname);
}

/** Who comes by a shared link is a guest for as long as the page is open: one film to watch, and no verbs. */
function takeGrant() {
  const grant = readGrant(location.hash);
  if (!grant || grant === api.grant) return;
  api.grant = grant;
  document.body.dataset.guest = "yes";
  current = "";
}

/** The film on the stage was opened with the old token: `route` opens it again. @param {string} token */
function useToken(token) {
  api.setToken(token);
  current = "";
}

function askForToken() {
  const dialog = /** @type {HTMLDialogElement} */ (byId("ask-token"));
  inside(dialog, ".error").hidden = api.token === null;
  /** @type {HTMLInputElement} */ (byId("token")).value = "";
  if (!dialog.open) dialog.showModal();
}

async function enterToken() {
  const { value } = /** @type {HTMLInputElement} */ (byId("token"));
  if (!value) return askForToken();
  useToken(value.trim());
  await start();
}

// ---------------------------------------------------------------- routes

function route() {
  takeToken();
  const { video } = readHash(location.hash);
  if (video && video === current) return;
  current = video ?? "";
  library.setCurrent(current);
  document.title = "st2v·stream";
  if (video) {
    player.open(video, { atEdge: video !== madeHere });
  } else {
    player.close();
  }
  document.body.dataset.view = video ? "film" : "empty";
  changed("film");
}

/** @param {string} videoId */
function show(videoId) {
  location.hash = `#/video/${videoId}`;
}

// ---------------------------------------------------------------- verbs

/** Do something that may fail, and say so if it does. @param {() => Promise<void>} verb */
async function act(verb) {
  try {
    await verb();
  } catch (error) {
    report(error);
  }
}

/** @param {CreateVideo} request */
async function makeFilm(request) {
  const video = await api.create(request);
  madeHere = video.id;
  show(video.id);
  library.refresh();
}

async function stopOrContinue() {
  if (!player.video || stopButton.disabled || api.grant) return;
  if (!player.growing && performance.now() - endedAt < MEANT_STOP_MS) return;
  if (player.growing) {
    await api.stop(player.video.id);
  } else {
    await goOn();
  }
  library.refresh();
}

/** At the end of the film, play() would begin at the beginning; there the player goes on by itself when more arrives. */
async function goOn() {
  if (!player.video) return;
  player.following = true;
  await api.continue(player.video.id, framesToContinue(player.video));
  const { paused, ended } = player.element;
  if (paused && !ended) player.element.play().catch(() => {});
}

/** @param {Video} video */
function framesToContinue(video) {
  if (continueBy.value !== "rest") return framesFor(lengthOf(continueBy.value), video.fps);
  return framesPlannedStill(video);
}

/** @param {Video} video @returns {number|null} null = endless */
function framesPlannedStill(video) {
  return video.num_frames === null ? null : Math.max(0, video.num_frames - Math.max(video.frames, player.frames));
}

async function download() {
  if (!player.video) return;
  const link = document.createElement("a");
  link.href = await api.contentLink(player.video.id);
  link.download = "";
  link.click();
}

/** @param {Video} listed */
async function deleteFilm(listed) {
  const video = player.video?.id === listed.id ? player.video : listed;
  const dialog = /** @type {HTMLDialogElement} */ (byId("confirm"));
  const growing = video.state === "running" ? " It is still being made." : "";
  setText(inside(dialog, "p"), `“${video.title || video.prompt}”, ${duration(video.frames / video.fps)} long.${growing} This cannot be undone.`);
  if ((await ask(dialog)) !== "delete") return;
  await api.delete(video.id).catch(unlessGone);
  library.remove(video.id);
  if (video.id === current) location.hash = "#/";
}

/** Deleted elsewhere is as good as deleted here. @param {unknown} error */
function unlessGone(error) {
  if (!(error instanceof ApiError) || error.status !== 404) throw error;
}

/** @param {unknown} error */
function report(error) {
  if (error instanceof ApiError && error.status === 401) return;
  const toast = byId("toast");
  toast.hidden = false;
  setText(toast, error instanceof Error ? error.message : String(error));
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => (toast.hidden = true), TOAST_MS);
  if (!(error instanceof ApiError)) throw error;
}

/** @param {boolean} open the list of films, on small screens */
function setDrawer(open) {
  document.body.dataset.films = open ? "open" : "closed";
  byId("films-toggle").setAttribute("aria-expanded", String(open));
}

// ---------------------------------------------------------------- drawing

/** @param {Change} change */
function changed(change) {
  if (change === "progress") {
    filmstrip.drawProgress();
    stage.drawProgress();
    drawMaking();
  } else if (change === "playback") {
    drawPlayback();
  } else {
    filmstrip.draw();
    stage.draw();
    drawControls();
    drawPlayback();
    if (change === "film") tellState();
  }
}

/** Once per change: to the list, and to those who listen instead of looking. */
function tellState() {
  const { video } = player;
  const state = video ? `${video.id} ${video.state}` : "";
  if (state === toldState) return;
  toldState = state;
  setText(byId("said"), video ? sayState(video) : "");
  if (video) library.refresh();
}

function drawControls() {
  const { video, frames, growing } = player;
  byId("film").hidden = !video;
  if (!video) return;
  document.title = `${growing ? "● " : ""}${video.title || video.prompt} · st2v·stream`;
  setText(byId("planned-end"), video.num_frames === null && growing ? "endless" : duration(Math.max(frames, video.num_frames ?? 0) / video.fps));
  setText(byId("end"), duration(frames / video.fps));
  drawVerbs(video);
  drawMaking();
}

/** @param {Video} video */
function drawVerbs(video) {
  const canStop = player.growing;
  const word = video.state === "stopping" ? "Stopping…" : canStop ? "Stop" : "Continue";
  if (stopButton.textContent === "Stop" && word === "Continue") endedAt = performance.now();
  stopButton.disabled = video.state === "stopping" || player.connection === "closed";
  stopButton.title = canStop ? "Stop (S): all that is made is kept" : "Go on where it stopped (C)";
  setText(stopButton, word);
  byId("continue-field").hidden = canStop;
  drawContinueChoices(framesPlannedStill(video), video.fps);
  /** @type {HTMLButtonElement} */ (byId("download")).disabled = player.frames === 0;
}

/** @param {number|null} rest frames still planned @param {number} fps */
function drawContinueChoices(rest, fps) {
  const option = /** @type {HTMLOptionElement} */ (byId("continue-rest"));
  const offered = rest === null || rest > 0;
  setText(option, rest === null ? "endlessly, as before" : `the rest (${duration(rest / fps)})`);
  if (option.hidden !== !offered) continueBy.value = offered ? "rest" : "20";
  option.hidden = option.disabled = !offered;
}

function drawMaking() {
  const { progress, growing, chunks } = player;
  byId("key-making").hidden = !growing || player.connection !== "open";
  setText(inside(byId("key-making"), "span"), `making chunk ${Math.max(chunks, progress?.index ?? 0) + 1}`);
}

function drawPlayback() {
  const play = byId("play");
  play.dataset.is = player.playing ? "playing" : "paused";
  play.setAttribute("aria-label", player.playing ? "Pause" : "Play");
  setText(byId("now"), moment(Math.min(player.seconds, player.video ? player.frames / player.video.fps : 0)));
  filmstrip.drawPlayhead();
}

// ---------------------------------------------------------------- keys

/** @type {Record<string, () => void>} */
const KEYS = {
  " ": () => player.togglePlay(),
  s: () => player.growing && act(stopOrContinue),
  c: () => player.growing || act(stopOrContinue),
  l: () => player.growing && player.goLive(),
  f: () => stage.toggleFullscreen(),
  ArrowLeft: () => player.step(-1),
  ArrowRight: () => player.step(1),
  "shift+ArrowLeft": () => player.stepChunk(-1),
  "shift+ArrowRight": () => player.stepChunk(1),
  Home: () => player.seek(0),
  End: () => (player.growing ? player.goLive() : player.seek(player.frames - 1)),
};

/** @param {KeyboardEvent} event */
function onKey(event) {
  if (event.key === "Escape") setDrawer(false);
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  const target = /** @type {HTMLElement} */ (event.target);
  if (target.matches("input, select, textarea")) return;
  if (event.key === "/") {
    event.preventDefault();
    composer.focus();
    return;
  }
  const pressesButton = event.key === " " && target.closest("button, a");
  const verb = KEYS[(event.shiftKey && event.key.startsWith("Arrow") ? "shift+" : "") + (event.key.length === 1 ? event.key.toLowerCase() : event.key)];
  if (!verb || pressesButton || !player.video) return;
  event.preventDefault();
  verb();
}
