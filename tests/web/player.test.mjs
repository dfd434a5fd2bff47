import assert from "node:assert/strict";
import { test } from "node:test";
import { Player } from "../../web/player.js";
import { FakeVideo, installBrowser } from "./fakes.mjs";

const FILM = { id: "film", state: "running", fps: 8, frames: 0, num_frames: 32, chunks: 0, first_chunk_frames: 16, chunk_frames: 8 };
const settled = () => new Promise((resolve) => setImmediate(resolve));

/** A player that has been welcomed and told the init segment; the source is not open yet. */
function playing(t, api = {}) {
  t.mock.timers.enable({ apis: ["setTimeout", "setInterval"] });
  const browser = installBrowser(t);
  const element = new FakeVideo();
  const player = new Player(element, { token: null, forgetThumbnails() {}, ...api }, () => {});
  player.open("film", { atEdge: false });
  const socket = browser.sockets[0];
  socket.say({ type: "welcome", cursor: 0, video: FILM });
  socket.say({ type: "init", id: 1, codec: "avc1.640015" });
  socket.give(1, { init: 1, bytes: [99] });
  t.after(() => player.close());
  return { ...browser, element, player, socket };
}

function giveChunks(socket, count) {
  for (let index = 0; index < count; index += 1) socket.give(2, { index, seq: index + 1, bytes: [index] });
}

test("segments that a reset takes back before the buffer is open are acknowledged", (t) => {
  const { socket } = playing(t);
  giveChunks(socket, 3);
  assert.deepEqual(socket.acks, []);
  socket.say({ type: "reset", seq: 4, from_index: 1 });
  assert.deepEqual(socket.acks, [2, 3]);
});

test("where the element fails, every segment in flight is acknowledged once, and fetched again into the new buffer", async (t) => {
  const addresses = [0, 1, 2].map((index) => ({ index, rendition: "preview", revision: 0, hash: `h${index}` }));
  const api = { segments: async () => addresses, segment: async (_, hash) => new Uint8Array([10 + Number(hash[1])]) };
  const { element, socket, sources } = playing(t, api);
  sources[0].open();
  giveChunks(socket, 3);
  sources[0].buffer.finish(); // the init segment is in, chunk 0 is running, two wait
  element.error = new Error("decode");
  element.dispatchEvent(new Event("error"));
  sources[0].buffer.finish();
  assert.deepEqual(socket.acks, [1, 2, 3]);
  await settled();
  sources[1].open(); // later than the fetches: they wait for it
  for (let turn = 0; turn < 4; turn += 1) sources[1].buffer.finish();
  assert.deepEqual(sources[1].buffer.appended, [99, 10, 11, 12]);
  assert.deepEqual(socket.acks, [1, 2, 3]);
});

test("a refetch that fails is not tried again with every tick", async (t) => {
  let asked = 0;
  const api = { segments: () => Promise.reject(new Error(`no ${(asked += 1)}`)) };
  const { element, socket, sources } = playing(t, api);
  sources[0].open();
  giveChunks(socket, 2);
  for (let turn = 0; turn < 3; turn += 1) sources[0].buffer.finish(); // appended, and yet not in `buffered`
  element.paused = false;
  for (let tick = 0; tick < 20; tick += 1) {
    t.mock.timers.tick(30);
    await settled();
  }
  assert.equal(asked, 1);
});

test("a seek to what the browser has let go of fetches it, also when that shows only while the seek waits", async (t) => {
  const addresses = [0, 1, 2].map((index) => ({ index, rendition: "preview", revision: 0, hash: `h${index}` }));
  const api = { segments: async () => addresses, segment: async (_, hash) => new Uint8Array([10 + Number(hash[1])]) };
  const { element, player, socket, sources } = playing(t, api);
  sources[0].open();
  giveChunks(socket, 3);
  for (let turn = 0; turn < 3; turn += 1) sources[0].buffer.finish();
  Object.assign(element, { ranges: [[2, 4]], seeking: true, currentTime: 3 });
  player.seek(0); // chunk 2 is being appended: what is not buffered may still be on its way
  await settled();
  assert.deepEqual(sources[0].buffer.appended, [99, 0, 1, 2]);
  sources[0].buffer.finish();
  t.mock.timers.tick(30);
  await settled();
  assert.deepEqual(sources[0].buffer.appended, [99, 0, 1, 2, 10]);
});

test("a seek asked for during one that cannot end takes its place", (t) => {
  const { element, player, socket, sources } = playing(t);
  sources[0].open();
  giveChunks(socket, 3);
  for (let turn = 0; turn < 4; turn += 1) sources[0].buffer.finish();
  Object.assign(element, { ranges: [[0, 4]], seeking: true, currentTime: 3 });
  player.seek(0);
  t.mock.timers.tick(30);
  assert.equal(element.currentTime, 3, "the seek under way has all it needs: its picture is shown first");
  element.currentTime = 9;
  t.mock.timers.tick(30);
  assert.equal(element.currentTime, 0.5 / 8);
});

test("a late viewer begins at the edge, unless he has chosen a place meanwhile", (t) => {
  for (const [choose, begins_s] of [[() => {}, 20.5 / 8], [(player) => player.seek(3), 3.5 / 8], [(player) => player.togglePlay(), 0]]) {
    const { element, player, sockets, sources } = playing(t);
    player.open("film", { atEdge: true });
    const socket = sockets[1];
    socket.say({ type: "welcome", cursor: 3, video: { ...FILM, frames: 32, chunks: 3, num_frames: 80 } });
    socket.say({ type: "init", id: 1, codec: "avc1.640015" });
    socket.give(1, { init: 1, bytes: [99] });
    sources[1].open();
    giveChunks(socket, 1);
    choose(player);
    for (const index of [1, 2]) socket.give(2, { index, seq: index + 1, bytes: [index] });
    for (let turn = 0; turn < 4; turn += 1) sources[1].buffer.finish();
    assert.equal(element.currentTime, begins_s);
    player.close();
    t.mock.timers.reset();
  }
});

test("a film that ends while its last chunk is on the way is ended from the tick", (t) => {
  const { element, socket, sources } = playing(t);
  sources[0].open();
  giveChunks(socket, 2);
  for (let turn = 0; turn < 3; turn += 1) sources[0].buffer.finish();
  socket.say({ type: "state", seq: 9, video: { ...FILM, state: "completed", frames: 24, chunks: 2 } });
  assert.equal(sources[0].readyState, "open", "the element does not show it as buffered yet");
  element.ranges = [[0, 3]];
  t.mock.timers.tick(30);
  assert.equal(sources[0].readyState, "ended");
});

test("a loop turns round at its end, before playback would have to wait for more", (t) => {
  const { element, player, socket, sources } = playing(t);
  sources[0].open();
  giveChunks(socket, 3);
  for (let turn = 0; turn < 4; turn += 1) sources[0].buffer.finish();
  Object.assign(element, { ranges: [[0, 4]], paused: false, currentTime: 3.4 });
  player.setLoop({ from: 8, to: null });
  t.mock.timers.tick(30);
  assert.equal(element.currentTime, 3.4, "half a second is left");
  element.currentTime = 3.6;
  t.mock.timers.tick(30);
  assert.equal(element.currentTime, 8.5 / 8);
  assert.equal(player.following, false);
  element.dispatchEvent(new Event("seeked"));
  player.setLoop({ from: 8, to: 12 });
  element.currentTime = 1.5;
  t.mock.timers.tick(30);
  assert.equal(element.currentTime, 8.5 / 8);
  element.dispatchEvent(new Event("seeked"));
  player.goLive();
  assert.equal(player.loop, null);
});

test("slow motion slows what the edge decides, and nobody who looks closely is hurried to the edge", (t) => {
  const { element, player, socket, sources } = playing(t);
  sources[0].open();
  giveChunks(socket, 3);
  for (let turn = 0; turn < 4; turn += 1) sources[0].buffer.finish();
  Object.assign(element, { ranges: [[0, 4]], paused: false });
  player.setSpeed(0.25);
  t.mock.timers.tick(30);
  assert.deepEqual([element.playbackRate, player.following], [0.25, false]);
  element.currentTime = 3.9;
  t.mock.timers.tick(30);
  assert.equal(element.playbackRate, 0, "the gate holds all the same");
});

test("a redo takes the viewer back to what is kept", (t) => {
  const { element, player, socket, sources } = playing(t, { segments: async () => [] });
  sources[0].open();
  giveChunks(socket, 4);
  for (let turn = 0; turn < 5; turn += 1) sources[0].buffer.finish();
  element.currentTime = 4.5;
  socket.say({ type: "reset", seq: 9, from_index: 2 });
  assert.equal(player.frame, 16, "the last chunk that is kept");
});

test("a film is opened at the frame asked for, as soon as it is there", (t) => {
  const { element, player, sources, sockets } = playing(t);
  player.open("film", { atEdge: false, frame: 20 });
  sockets[1].say({ type: "welcome", cursor: 0, video: FILM });
  sockets[1].say({ type: "init", id: 1, codec: "avc1.640015" });
  sockets[1].give(1, { init: 1, bytes: [99] });
  sources[1].open();
  giveChunks(sockets[1], 2);
  sources[1].buffer.finish();
  sources[1].buffer.finish();
  assert.equal(element.currentTime, 20.5 / 8);
});

test("a seek while it plays is not repeated because time has gone on meanwhile", (t) => {
  const { element, player, socket, sources } = playing(t, { segments: async () => [] });
  sources[0].open();
  giveChunks(socket, 3);
  for (let turn = 0; turn < 4; turn += 1) sources[0].buffer.finish();
  element.paused = false;
  player.seek(10);
  element.currentTime = 11.2 / 8;
  element.dispatchEvent(new Event("seeked"));
  assert.equal(element.currentTime, 11.2 / 8);
  element.paused = true;
  player.seek(10);
  element.currentTime = 9.9 / 8; // cut short by the browser
  element.dispatchEvent(new Event("seeked"));
  assert.equal(element.currentTime, 10.5 / 8);
});

test("a live viewer who was skipped goes on behind the gap; what was left out is fetched when one goes there", async (t) => {
  const asked = [];
  const addresses = [2, 3, 4].map((index) => ({ index, rendition: "preview", revision: 0, hash: `h${index}`, init: "i" }));
  const api = {
    segments: async () => addresses,
    segment: async (_, hash) => (asked.push(hash), new Uint8Array([10 + Number(hash[1])])),
    init: async () => new Uint8Array([99]),
  };
  const { element, player, socket, sources } = playing(t, api);
  const changes = [];
  player.onChange = (change) => changes.push(change);
  sources[0].open();
  giveChunks(socket, 2);
  for (let turn = 0; turn < 3; turn += 1) sources[0].buffer.finish();
  Object.assign(element, { ranges: [[0, 3]], paused: false, currentTime: 2.5 });
  t.mock.timers.tick(30);
  assert.deepEqual(socket.sent.at(-1), { type: "live", live: true });
  socket.say({ type: "skipped", seq: 6, from_index: 2, to_index: 5 });
  assert.ok(changes.includes("skipped"));
  assert.deepEqual(player.skipped, { from_s: 3, to_s: 6 });
  assert.deepEqual([player.chunks, player.frame], [5, 48], "the gap is known, and one goes on behind it");
  socket.give(2, { index: 5, seq: 7, bytes: [5] });
  sources[0].buffer.finish();
  assert.equal(element.currentTime, 48.5 / 8);
  assert.deepEqual(asked, []);
  element.ranges = [[0, 3], [6, 7]];
  element.dispatchEvent(new Event("seeked"));
  player.seek(24);
  for (let turn = 0; turn < 6; turn += 1) await settled();
  assert.deepEqual(asked.slice(0, 3), ["h2", "h3", "h4"]);
  t.mock.timers.tick(30);
  assert.deepEqual(socket.sent.at(-1), { type: "live", live: false }, "who rewinds is not skipped any more");
});

test("who plays far from the gap stays there", (t) => {
  const { element, player, socket, sources } = playing(t);
  sources[0].open();
  giveChunks(socket, 12);
  for (let turn = 0; turn < 13; turn += 1) sources[0].buffer.finish();
  Object.assign(element, { ranges: [[0, 13]], paused: false, currentTime: 1 });
  socket.say({ type: "skipped", seq: 20, from_index: 12, to_index: 20 });
  assert.deepEqual([player.frame, element.currentTime], [8, 1]);
});

/** A film of four chunks in the buffer, of which `t.enhance(index)` exchanges one. */
function exchanging(t, api = {}, video = {}) {
  const playingNow = playing(t, api);
  const { element, player, socket, sources } = playingNow;
  const seeks = [];
  let now = 0;
  Object.defineProperty(element, "currentTime", {
    get: () => now,
    set: (to) => {
      now = to;
      seeks.push(to);
    },
  });
  sources[0].open();
  giveChunks(socket, 4);
  for (let turn = 0; turn < 5; turn += 1) sources[0].buffer.finish();
  element.ranges = [[0, 5]];
  socket.say({ type: "state", seq: 20, video: { ...FILM, frames: 40, chunks: 4, num_frames: 80, enhancer: "small", ...video } });
  socket.say({ type: "init", id: 2, codec: "avc1.640015" });
  socket.give(1, { rendition: 1, init: 2, bytes: [98] });
  const enhance = (index, revision = 0) => {
    socket.give(2, { rendition: 1, index, revision, init: 2, seq: 30 + index, bytes: [50 + index] });
    sources[0].buffer.finish();
    if (sources[0].buffer.updating) sources[0].buffer.finish();
  };
  const tick = () => t.mock.timers.tick(30);
  const moveTo = (seconds) => (now = seconds);
  return { ...playingNow, player, seeks, enhance, tick, moveTo };
}

test("paused, the enhanced chunk under the playhead is shown by a seek on the spot, once; others need none", (t) => {
  const { enhance, element, moveTo, player, seeks, sources } = exchanging(t);
  element.paused = true;
  moveTo(2.3);
  enhance(0);
  assert.deepEqual(seeks, [], "behind the playhead");
  enhance(1);
  assert.deepEqual(seeks, [2.3]);
  assert.deepEqual(sources[0].buffer.appended.slice(-3), [98, 50, 51], "its init segment once, before the first");
  assert.ok(player.isRefreshing);
  element.dispatchEvent(new Event("seeked"));
  assert.ok(!player.isRefreshing);
  assert.equal(player.frame, 18, "the same frame");
  enhance(1, 1);
  assert.deepEqual(seeks, [2.3, 2.3], "a provisional end that is made again");
});

test("an exchange during another seek is shown after it", (t) => {
  const { enhance, element, moveTo, seeks, tick } = exchanging(t);
  moveTo(2.3);
  element.seeking = true;
  enhance(1);
  tick();
  assert.deepEqual(seeks, []);
  element.seeking = false;
  element.dispatchEvent(new Event("seeked"));
  tick();
  assert.deepEqual(seeks, [2.3]);
});

test("in sharp one waits before the frontier, is told so, and goes on when it moves, or with the preview if one likes", (t) => {
  const { enhance, element, moveTo, player, seeks, tick } = exchanging(t);
  element.paused = false;
  enhance(0);
  enhance(1);
  player.setWay("sharp");
  assert.ok(player.isSharp && !player.following);
  moveTo(0.5);
  tick();
  assert.deepEqual([element.playbackRate, player.isCaughtUp], [1, false]);
  moveTo(1.5);
  tick();
  assert.deepEqual([element.playbackRate, player.isCaughtUp], [0, true]);
  seeks.length = 0;
  enhance(2);
  tick();
  assert.deepEqual([element.playbackRate, player.isCaughtUp], [1, false]);
  moveTo(2.6);
  tick();
  assert.equal(element.playbackRate, 0);
  player.setCaughtUp("preview");
  tick();
  assert.deepEqual([element.playbackRate, player.isCaughtUp], [1, false]);
});

test("who turns to sharp where nothing is sharp is taken back behind the frontier, and to the edge by going live", (t) => {
  const { enhance, element, moveTo, player, seeks } = exchanging(t, { segments: async () => [] });
  element.paused = false;
  enhance(0);
  enhance(1);
  enhance(2);
  moveTo(4.7);
  seeks.length = 0;
  player.setWay("sharp");
  assert.deepEqual(seeks, [(32 - 10 - 8 + 0.5) / 8]);
  element.dispatchEvent(new Event("seeked"));
  player.goLive();
  assert.deepEqual([player.way, player.following, seeks.at(-1)], ["live", true, (40 - 12 + 0.5) / 8]);
});

test("a film that nothing makes sharp is watched live, whatever was chosen", (t) => {
  const { element, moveTo, player, tick } = exchanging(t, {}, { enhancer: null });
  player.setWay("sharp");
  element.paused = false;
  moveTo(1.5);
  tick();
  assert.deepEqual([player.isSharp, element.playbackRate], [false, 1]);
});

test("all that is enhanced plays to the very end", (t) => {
  const { enhance, element, moveTo, player, socket, tick } = exchanging(t);
  socket.say({ type: "state", seq: 21, video: { ...FILM, state: "completed", frames: 40, chunks: 4, num_frames: 40, enhancer: "small" } });
  player.setWay("sharp");
  for (const index of [0, 1, 2, 3]) enhance(index);
  element.paused = false;
  moveTo(4.9);
  tick();
  assert.deepEqual([element.playbackRate, player.isCaughtUp], [1, false]);
});

test("what was evicted comes back as the best there is, with the init segment it needs", async (t) => {
  const addresses = [0, 1, 2, 3].map((index) => ({ index, rendition: "enhanced", revision: 0, hash: `h${index}`, init: "big" }));
  const asked = [];
  const api = {
    segments: async () => addresses,
    segment: async (_, hash) => new Uint8Array([60 + Number(hash[1])]),
    init: async (_, hash) => (asked.push(hash), new Uint8Array([98])),
  };
  const { element, player, socket, sources } = playing(t, api);
  sources[0].open();
  giveChunks(socket, 4);
  for (let turn = 0; turn < 5; turn += 1) sources[0].buffer.finish();
  element.ranges = [[3, 5]]; // the browser let the beginning go
  player.seek(2);
  await settled();
  for (let turn = 0; turn < 4; turn += 1) sources[0].buffer.finish();
  await settled();
  assert.deepEqual(sources[0].buffer.appended.slice(-3), [98, 60, 61]);
  assert.equal(player.rendition(0), "enhanced");
  assert.ok(asked.every((hash) => hash === "big"));
});

test("how far the enhancer has come is not how far the preview has come", (t) => {
  const { enhance, player, socket } = exchanging(t);
  socket.say({ type: "progress", index: 4, step: 1, steps: 4, frames_per_second: 9 });
  socket.say({ type: "progress", rendition: "enhanced", index: 1, step: 3, steps: 8, frames_per_second: 2 });
  assert.deepEqual(player.progress, { index: 4, step: 1, steps: 4 });
  assert.deepEqual(player.enhancing, { index: 1, step: 3, steps: 8 });
  assert.equal(player.framesPerSecond, 9);
  enhance(0);
  assert.equal(player.enhancing?.index, 1);
  enhance(1);
  assert.equal(player.enhancing, null);
});
