import assert from "node:assert/strict";
import { test } from "node:test";
import { NativeHls } from "../../web/nativehls.js";
import { Player } from "../../web/player.js";
import { FakeVideo, installBrowser } from "./fakes.mjs";

const FILM = { id: "film", state: "running", fps: 8, frames: 0, num_frames: 32, chunks: 0, first_chunk_frames: 16, chunk_frames: 8 };
const settled = () => new Promise((resolve) => setImmediate(resolve));

/** An iPhone's <video>, which plays playlists. */
class AppleVideo extends FakeVideo {
  canPlayType(type) {
    return type === "application/vnd.apple.mpegurl" ? "maybe" : "";
  }
  removeAttribute(name) {
    if (name === "src") this.src = "";
  }
}

/** A page opened on a phone that has one of these and no other way. */
function phone(t, sourceName) {
  t.mock.timers.enable({ apis: ["setTimeout", "setInterval"] });
  const browser = installBrowser(t);
  const { MediaSource } = globalThis;
  delete globalThis.MediaSource;
  if (sourceName) globalThis[sourceName] = MediaSource;
  const element = new AppleVideo();
  const asked = [];
  const api = { token: "t", forgetThumbnails() {}, playlistLink: async (id) => (asked.push(id), `http://here/g/v1/${id}/index.m3u8`) };
  const player = new Player(element, api, () => {});
  player.open("film", { atEdge: true });
  const socket = browser.sockets[0];
  socket.say({ type: "welcome", cursor: 0, video: FILM });
  socket.say({ type: "init", id: 1, codec: "avc1.42C00B" });
  socket.give(1, { init: 1, bytes: [99] });
  t.after(() => {
    player.close();
    if (sourceName) delete globalThis[sourceName];
  });
  return { ...browser, asked, element, player, socket };
}

test("without Media Source Extensions the playlist is played under a grant, from the first chunk on", async (t) => {
  const { asked, element, player, socket } = phone(t, null);
  await settled();
  assert.deepEqual([element.src, asked], ["", []], "an empty playlist would be an error");
  for (const index of [0, 1]) socket.give(2, { index, seq: index + 1, bytes: [index] });
  await settled();
  assert.deepEqual([element.src, asked], ["http://here/g/v1/film/index.m3u8", ["film"]]);
  assert.deepEqual(socket.acks, [1, 2], "the server goes on telling");
  assert.deepEqual([player.chunks, player.frames], [2, 24]);
  t.mock.timers.tick(300);
  assert.equal(element.playbackRate, 1, "the browser keeps its own buffer: nothing is held back");
  assert.equal(socket.sent.some(({ type }) => type === "live"), false);
  player.seek(8);
  assert.equal(element.currentTime, 8.5 / 8);
  player.setSpeed(0.5);
  element.dispatchEvent(new Event("seeked"));
  t.mock.timers.tick(30);
  assert.equal(element.playbackRate, 0.5);
  player.close();
  assert.equal(element.src, "");
});

test("a playlist that fails is asked for again, and playing goes on at the same place", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const element = new AppleVideo();
  const answers = ["http://here/1.m3u8", null, "http://here/2.m3u8"];
  const native = new NativeHls(element, async () => answers.shift() ?? Promise.reject(new Error("away")));
  native.begin();
  native.begin();
  await settled();
  assert.equal(element.src, "http://here/1.m3u8");
  element.currentTime = 7;
  element.dispatchEvent(new Event("error"));
  t.mock.timers.tick(2000);
  await settled();
  assert.equal(element.src, "http://here/1.m3u8", "the server is away");
  t.mock.timers.tick(2000);
  await settled();
  assert.equal(element.src, "http://here/2.m3u8");
  element.currentTime = 0;
  element.dispatchEvent(new Event("loadedmetadata"));
  assert.equal(element.currentTime, 7);
  native.close();
  element.dispatchEvent(new Event("error"));
  t.mock.timers.tick(9000);
  await settled();
  assert.equal(answers.length, 0);
  assert.equal(element.src, "http://here/2.m3u8");
});

test("a managed media source is used where it is the only one, and remote playback is off before it is attached", async (t) => {
  const { asked, element, socket, sources } = phone(t, "ManagedMediaSource");
  assert.equal(element.disableRemotePlayback, true, "else iOS never opens it");
  assert.equal(element.src, "blob:film");
  sources[0].open();
  socket.give(2, { index: 0, seq: 1, bytes: [7] });
  sources[0].buffer.finish();
  sources[0].buffer.finish();
  assert.deepEqual(sources[0].buffer.appended, [99, 7]);
  assert.deepEqual([socket.acks, asked], [[1], []]);
});
