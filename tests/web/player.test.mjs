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
