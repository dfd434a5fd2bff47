// @ts-check
/** The page: routes and verbs, put together from its parts. */

import { Api, ApiError } from "./api.js";
import { Compare } from "./compare.js";
import { Composer, lengthOf } from "./composer.js";
import { DeletedFilms } from "./deleted.js";
import { promptAt, Directions, sayCues } from "./directions.js";
import { ask, byId, inside, setText } from "./dom.js";
import { besideAddress, branchPoints } from "./family.js";
import { Enhancing } from "./enhancing.js";
import { Filmstrip } from "./filmstrip.js";
import { chunkOfFrame } from "./index.js";
import { listen } from "./keys.js";
import { Library } from "./library.js";
import { LowLatency } from "./lowlatency.js";
import { Notices } from "./notices.js";
import { sayRedone } from "./plan.js";
import { Player } from "./player.js";
import { RenameSheet } from "./rename.js";
import { ScreenplaySheet } from "./screenplay.js";
import { SharingSheet } from "./sharing.js";
import { Stage } from "./stage.js";
import { BranchTree } from "./tree.js";
import { VerbSheet } from "./verbs.js";
import { duration, framesFor, moment, readGrant, readHash, readMoment, readPair, sayIn, saySkipped, saySpeed, sayState, withoutToken } from "./words.js";

/** @typedef {import("./protocol.js").Video} Video */
/** @typedef {import("./player.js").Change} Change */
/** @typedef {import("./api.js").CreateVideo} CreateVideo */

const SYSTEM_POLL_MS = 2000;
const MEANT_STOP_MS = 800;

const SPEEDS = [1, 0.5, 0.25];

const api = new Api();
const notices = new Notices();
const player = new Player(byId("video"), api, changed);
const directions = new Directions(api, directed);
const filmstrip = new Filmstrip(byId("strip"), byId("overview"), player, marksAt, {
  open: (index) => verbs.planned.open(index),
  at: () => directions.cues.map(({ from_index }) => from_index),
});
const stage = new Stage(player, { goOn: () => act(goOn), caption: captionOf });
const rename = new RenameSheet(api, () => library.refresh());
const library = new Library(byId("films"), api, {
  rename: (video) => rename.open(video),
  delete: (video) => act(() => deleteFilm(video)),
  changed: () => {
    filmstrip.draw();
    drawMaking();
    tree.draw(library.videos, player.video);
  },
});
const screenplay = new ScreenplaySheet(api, { made: (video) => showAt(video.id, 0), fpsOf: (model) => composer.modelById(model)?.fps, bundle: (file) => act(() => takeIn(file)) });
const tree = new BranchTree();
const composer = new Composer((request) => act(() => makeFilm(request)), (file) => screenplay.open(file));
const deleted = new DeletedFilms(api, (id) => act(() => bringBack(id, false)));
const sharing = new SharingSheet(api, (words) => notices.note(words));
const lowLatency = new LowLatency(player, api, { trouble: (words) => notices.trouble(words), changed: () => changed("film") });
const enhancing = new Enhancing(player, api, { act, note: (words) => notices.note(words) });
const verbs = new VerbSheet({
  player,
  api,
  models: () => composer.models,
  promptAt: (index) => promptAt(player.video?.first_prompt ?? "", directions.cues, index),
  cues: () => directions.cues,
  note: (words, then) => notices.note(words, then),
  show: showAt,
  goOn: continueFilm,
});

const compare = new Compare(api, {
  films: () => library.videos,
  show: (pair, at_s) => (location.hash = `#/compare/${pair.join("/")}?t=${at_s.toFixed(1)}`),
  open: (videoId, at_s) => (location.hash = `#/video/${videoId}?t=${at_s.toFixed(1)}`),
});

const stopButton = /** @type {HTMLButtonElement} */ (byId("stop"));
const continueBy = /** @type {HTMLSelectElement} */ (byId("continue-by"));

/** The film on the stage. */
let current = "";
/** The two films side by side. */
let beside = "";
/** A film made on this page starts at its beginning, a branch before it leaves its parent; others start where they are now. */
let begun = { id: "", frame: 0 };
/** The film's state as last told. */
let toldState = "";
/** The connection was lost and is not back yet. */
let wasLost = false;
/** When the film ended by itself: who clicks right then meant Stop, not Continue. */
let endedAt = -Infinity;
/** @type {ReturnType<typeof setTimeout>|undefined} */ let systemTimer;
/** For so long the server keeps what was deleted. */
let graceS = 86_400;

api.onUnauthorized = () => api.grant || askForToken();  // of a link that has ended the player says so
addEventListener("hashchange", route);
listen(onKey);
addEventListener("keydown", (event) => event.key === "Escape" && setDrawer(false));
byId("play").addEventListener("click", () => player.togglePlay());
byId("video").addEventListener("click", () => player.togglePlay());
stopButton.addEventListener("click", () => act(stopOrContinue));
byId("download").addEventListener("click", () => act(download));
byId("share").addEventListener("click", () => player.video && sharing.open(player.video, player.seconds));
for (const verb of /** @type {const} */ (["cue", "branch", "redo"])) byId(verb).addEventListener("click", () => verbs.open(verb));
byId("step-back").addEventListener("click", (event) => (event.shiftKey ? player.stepChunk(-1) : player.step(-1)));
byId("step-on").addEventListener("click", (event) => (event.shiftKey ? player.stepChunk(1) : player.step(1)));
byId("speed").addEventListener("click", nextSpeed);
byId("loop").addEventListener("click", toggleLoop);
byId("keys-toggle").addEventListener("click", showKeys);
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
    await Promise.all([library.refresh(), deleted.refresh()]);
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
  graceS = system.grace_s;
  clearTimeout(systemTimer);
  if (!system.ready) systemTimer = setTimeout(() => api.system().then(watchModel, () => watchModel(system)), SYSTEM_POLL_MS);
}

/** Why no film can be made now, if it is more than a matter of time. @param {Record<string, any>} system @returns {string|null} */
function troubleOf({ model, store_error }) {
  return model?.error ?? store_error ?? null;
}

/** The token arrives in the fragment, which no server log sees; it does not stay in the address bar. */
function takeToken() {
  const { token } = readHash(location.hash);
  takeGrant();
  if (!token) return;
  useToken(token);
  history.replaceState(null, "", withoutToken(location.hash) || location.pathname);
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
  current = beside = "";
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
  const pair = api.grant ? null : readPair(location.hash);
  const at_s = readMoment(location.hash);
  if (video && video === current) return at_s !== null && player.video ? player.seek(at_s * player.video.fps) : undefined;
  current = video ?? "";
  library.setCurrent(current);
  document.title = "st2v·stream";
  if (!video) player.close();
  else if (at_s !== null) openAt(video, at_s);
  else openFilm(video);
  wasLost = false;
  lowLatency.end();
  directions.refresh(current);
  document.body.dataset.view = video ? "film" : pair ? "compare" : "empty";
  routePair(pair, at_s);
  changed("film");
}

/** @param {string} video */
function openFilm(video) {
  const isBegun = video === begun.id;
  player.open(video, { atEdge: !isBegun, frame: isBegun && begun.frame > 0 ? begun.frame : undefined });
}

/** A link to a moment of a film. @param {string} video @param {number} at_s */
async function openAt(video, at_s) {
  player.close();
  const film = await api.video(video).catch(() => null);
  if (video !== current) return;
  if (!film) return openFilm(video);  // the player says what is wrong
  player.open(video, { atEdge: false, frame: Math.floor(Math.max(0, Math.min(at_s * film.fps + 0.01, film.frames - 1))) });
}

/** @param {[string, string]|null} pair @param {number|null} at_s */
function routePair(pair, at_s) {
  const wanted = pair?.join(" ") ?? "";
  if (!pair) compare.close();
  else if (wanted !== beside) compare.open(pair, at_s);
  beside = wanted;
}

/** @param {string} videoId */
function show(videoId) {
  location.hash = `#/video/${videoId}`;
}

/** @param {string} videoId @param {number} frame to begin at */
function showAt(videoId, frame) {
  begun = { id: videoId, frame };
  show(videoId);
  library.refresh();
}

// ---------------------------------------------------------------- verbs

/** Do something that may fail, and say so if it does. @param {() => Promise<void>} verb */
async function act(verb) {
  try {
    await verb();
    return true;
  } catch (error) {
    report(error);
    return false;
  }
}

/** @param {CreateVideo} request */
async function makeFilm(request) {
  const video = await api.create(request);
  showAt(video.id, 0);
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
function goOn() {
  return player.video ? continueFilm(framesToContinue(player.video)) : Promise.resolve();
}

/** @param {number|null} numFrames more; null = endless */
async function continueFilm(numFrames) {
  if (!player.video) return;
  player.following = true;
  await api.continue(player.video.id, numFrames);
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

/** No question beforehand: until its grace is over it can be had back. @param {Video} listed */
async function deleteFilm(listed) {
  const video = player.video?.id === listed.id ? player.video : listed;
  const wasShown = video.id === current;
  await api.delete(video.id).catch(unlessGone);
  library.remove(video.id);
  deleted.refresh();
  if (wasShown) location.hash = "#/";
  const growing = video.state === "running" ? " It was still being made, and is stopped." : "";
  notices.note(`“${video.title || video.prompt}” is deleted.${growing} Its space is freed ${sayIn(graceS)}.`, {
    word: "Undo",
    act: () => act(() => bringBack(video.id, wasShown)),
  });
}

/** @param {string} videoId @param {boolean} andShow */
async function bringBack(videoId, andShow) {
  await api.undelete(videoId);
  await Promise.all([library.refresh(), deleted.refresh()]);
  notices.note("The film is back, as it was.", andShow ? null : { word: "Open it", act: () => show(videoId) });
  if (andShow) show(videoId);
}

/** A film saved whole, from this server or another. @param {File} file */
async function takeIn(file) {
  notices.note(`“${file.name}” is being taken in.`);
  const video = await api.importBundle(file);
  showAt(video.id, 0);
  notices.note(`“${video.title || video.prompt}” is here, all of it; it can be continued, branched and made anew.`);
}

/** Deleted elsewhere is as good as deleted here. @param {unknown} error */
function unlessGone(error) {
  if (!(error instanceof ApiError) || error.status !== 404) throw error;
}

/** @param {unknown} error */
function report(error) {
  if (error instanceof ApiError && error.status === 401) return;
  notices.trouble(error instanceof Error ? error.message : String(error));
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
    verbs.draw();
  } else if (change === "playback") {
    drawPlayback();
  } else if (change === "redone") {
    if (player.video && !verbs.hasRedone(player.video.id, player.redone.from_index)) notices.note(sayRedone(player.video, player.redone));
  } else if (change === "skipped") {
    notices.note(saySkipped(player.skipped));
  } else if (change === "directions") {
    directions.refresh(current);
  } else {
    lowLatency.draw();
    stage.isElsewhere = lowLatency.on;
    filmstrip.draw();
    stage.draw();
    drawControls();
    enhancing.draw();
    drawPlayback();
    verbs.draw();
    if (change === "film") tellState();
    if (change === "connection") tellConnection();
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

/** A lost connection says so on the stage; that it is back is said once. */
function tellConnection() {
  const isBack = wasLost && player.connection === "open";
  if (player.connection !== "connecting") wasLost = player.connection === "lost";
  if (isBack && player.frames > 0) notices.note(`Connected again, resumed at ${duration(player.seconds)}.`);
}

function drawControls() {
  const { video, frames, growing } = player;
  tree.draw(library.videos, video);
  byId("film").hidden = !video;
  if (!video) return;
  document.title = `${growing ? "● " : ""}${video.title || video.prompt} · st2v·stream`;
  setText(byId("heading"), video.title || video.prompt);
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
  const isHere = player.frames > 0 && player.connection !== "closed";
  for (const id of ["cue", "branch", "redo"]) /** @type {HTMLButtonElement} */ (byId(id)).disabled = !isHere;
  for (const id of ["download", "step-back", "step-on", "loop", "speed"]) /** @type {HTMLButtonElement} */ (byId(id)).disabled = player.frames === 0;
}

/** @param {number|null} rest frames still planned @param {number} fps */
function drawContinueChoices(rest, fps) {
  const option = /** @type {HTMLOptionElement} */ (byId("continue-rest"));
  const offered = rest === null || rest > 0;
  setText(option, rest === null ? "endlessly" : `the rest (${duration(rest / fps)})`);
  /** @type {HTMLOptionElement} */ (byId("continue-endlessly")).hidden = rest === null;
  if (option.hidden !== !offered) continueBy.value = offered ? "rest" : "20";
  option.hidden = option.disabled = !offered;
}

/** The film that this one is best compared with: the one it comes from, else its newest branch. */
function kinOf() {
  const { video } = player;
  if (!video || api.grant) return null;
  const parent = library.videos.find(({ id }) => id === video.parent_id);
  return parent ?? library.videos.find(({ parent_id }) => parent_id === video.id) ?? null;
}

function drawBeside() {
  const [kin, link] = [kinOf(), /** @type {HTMLAnchorElement} */ (byId("beside"))];
  link.hidden = !kin;
  if (kin && player.video) link.href = besideAddress(player.video, kin);
  const words = kin?.id === player.video?.parent_id ? "the film it comes from" : "its newest branch";
  link.setAttribute("aria-label", `Compare with ${words}`);
  link.title = `Side by side with ${words} (Y)`;
}

function drawMaking() {
  drawBeside();
  const { progress, growing, chunks } = player;
  byId("key-making").hidden = !growing || player.connection !== "open";
  setText(inside(byId("key-making"), "span"), `making chunk ${Math.max(chunks, progress?.index ?? 0) + 1}`);
  setText(inside(byId("key-making"), ".step"), progress && progress.index >= chunks ? `step ${progress.step} of ${progress.steps}` : "");
  byId("key-branch").hidden = !player.video || (branchPoints(library.videos, player.video.id).size === 0 && !player.video.fork_index);
}

function drawPlayback() {
  const play = byId("play");
  play.dataset.is = player.playing ? "playing" : "paused";
  play.setAttribute("aria-label", player.playing ? "Pause" : "Play");
  const { shown, said } = saySpeed(player.speed);
  setText(byId("speed"), shown);
  byId("speed").setAttribute("aria-label", said);
  byId("speed").dataset.on = String(player.speed < 1);
  byId("loop").setAttribute("aria-pressed", String(player.loop !== null));
  setText(byId("now"), moment(Math.min(player.seconds, player.video ? player.frames / player.video.fps : 0)));
  enhancing.drawWay();
  filmstrip.drawLoop();
  filmstrip.drawPlayhead();
  if (directions.cues.length > 0) stage.drawCaption();
  verbs.drawFrame();
}

// ---------------------------------------------------------------- what directs the film

/** Its cues are known, or others. */
function directed() {
  filmstrip.draw();
  stage.drawCaption();
  byId("key-cue").hidden = directions.cues.length === 0;
  verbs.draw();
}

/** @param {number} index @returns {import("./filmstrip.js").Marks} */
function marksAt(index) {
  const { video } = player;
  const branches = video ? (branchPoints(library.videos, video.id).get(index) ?? 0) : 0;
  return { cue: sayCues(directions.cues, index), branches, fork: Boolean(video?.fork_index) && video?.fork_index === index };
}

/** The prompt at the playhead where cues change it, else the film's title. @param {Video} video */
function captionOf(video) {
  if (directions.cues.length === 0) return video.title || video.prompt;
  return promptAt(video.first_prompt, directions.cues, chunkOfFrame(video, player.frame));
}

// ---------------------------------------------------------------- looking closely

function nextSpeed() {
  player.setSpeed(SPEEDS[(SPEEDS.indexOf(player.speed) + 1) % SPEEDS.length]);
}

function toggleLoop() {
  player.setLoop(player.loop ? null : { from: 0, to: null });
}

/** @param {"from"|"to"} side  of the loop, set at the playhead */
function setLoopSide(side) {
  const loop = player.loop ?? { from: 0, to: null };
  const { frame } = player;
  if (side === "from") player.setLoop({ from: frame, to: loop.to !== null && loop.to > frame ? loop.to : null });
  else player.setLoop({ from: loop.from <= frame ? loop.from : 0, to: frame + 1 });
}

function showKeys() {
  ask(/** @type {HTMLDialogElement} */ (byId("keys")));
}

// ---------------------------------------------------------------- keys

/** @type {Record<Exclude<import("./keys.js").Act, "ask"|"keys">, () => void>} */
const KEYS = {
  play: () => player.togglePlay(),
  stop: () => player.growing && act(stopOrContinue),
  continue: () => player.growing || act(stopOrContinue),
  live: () => (player.growing ? player.goLive() : player.setWay("live")),
  fullscreen: () => stage.toggleFullscreen(),
  "frame-back": () => player.step(-1),
  "frame-on": () => player.step(1),
  "chunk-back": () => player.stepChunk(-1),
  "chunk-on": () => player.stepChunk(1),
  first: () => player.seek(0),
  last: () => player.goLast(),
  slow: nextSpeed,
  loop: toggleLoop,
  "loop-from": () => setLoopSide("from"),
  "loop-to": () => setLoopSide("to"),
  cue: () => openVerb("cue"),
  branch: () => openVerb("branch"),
  redo: () => openVerb("redo"),
  way: () => enhancing.toggleWay(),
  enhance: () => enhancing.open(),
  beside: () => kinOf() && byId("beside").click(),
};

/** @param {"cue"|"branch"|"redo"} verb */
function openVerb(verb) {
  if (!api.grant && !(/** @type {HTMLButtonElement} */ (byId(verb)).disabled)) verbs.open(verb);
}

/** @param {import("./keys.js").Act} meant @returns {boolean} whether it is for us */
function onKey(meant) {
  if (meant === "ask") composer.focus();
  else if (meant === "keys") showKeys();
  else if (compare.isOpen) return compare.act(meant);
  else if (player.video) KEYS[meant]();
  return meant === "ask" || meant === "keys" || player.video !== null;
}
