import assert from "node:assert/strict";
import { test } from "node:test";
import { connect, readIceServers, WhepError } from "../../web/whep.js";

const URL_ = "http://here/g/grant/v1/videos/film/whep?rendition=preview";
const tick = () => new Promise((resolve) => setImmediate(resolve));

/** A browser with WebRTC whose connections do what the test says. */
function installWebRtc(t, { gathers = true, connects = true } = {}) {
  const peers = [];
  const listeners = new Map();
  class FakePeer {
    iceGatheringState = gathers ? "complete" : "gathering";
    connectionState = "new";
    transceivers = [];
    transport = Object.assign(new EventTarget(), { state: "connected" });
    isClosed = false;
    constructor(configuration) {
      this.configuration = configuration;
      peers.push(this);
    }
    addTransceiver(kind, init) {
      this.transceivers.push([kind, init.direction]);
    }
    async setLocalDescription() {
      this.localDescription = { type: "offer", sdp: "the offer" };
    }
    async setRemoteDescription(answer) {
      this.answer = answer;
      this.ontrack({ track: "the track", receiver: (this.receiver = { jitterBufferTarget: null }) });
      if (connects) this.become("connected");
    }
    getReceivers() {
      return [{ transport: this.transport }];
    }
    become(state) {
      this.connectionState = state;
      this.onconnectionstatechange?.();
    }
    hearGoodbye() {
      this.transport.state = "closed";
      this.transport.dispatchEvent(new Event("statechange"));
    }
    close() {
      this.isClosed = true;
    }
  }
  class FakeStream {
    constructor(tracks) {
      this.tracks = tracks;
    }
  }
  const browser = {
    RTCPeerConnection: FakePeer,
    MediaStream: FakeStream,
    addEventListener: (name, listener) => listeners.set(name, listener),
    removeEventListener: (name, listener) => listeners.get(name) === listener && listeners.delete(name),
  };
  const before = Object.fromEntries(Object.keys(browser).map((name) => [name, globalThis[name]]));
  Object.assign(globalThis, browser);
  t.after(() => Object.assign(globalThis, before));
  return { peers, listeners };
}

/** A server that answers as told, and remembers what it was asked. */
function server(answers = {}) {
  const asked = [];
  const fetchWithAuth = async (url, init) => {
    asked.push([init.method, url, init.body ?? null, init.keepalive ?? false]);
    const standard = {
      OPTIONS: () => new Response(null, { status: 204 }),
      POST: () => new Response("the answer", { status: 201, headers: { Location: "/g/grant/v1/videos/film/whep/secret" } }),
      DELETE: () => new Response(),
    };
    return (answers[init.method] ?? standard[init.method])();
  };
  return { asked, fetchWithAuth };
}

const video = () => ({ srcObject: null, plays: 0, async play() { this.plays += 1; } });
const refused = (status, error, headers = {}) => () => new Response(JSON.stringify({ error }), { status, headers });

test("an offer is posted, the answer shown, and a DELETE to its Location ends it, once", async (t) => {
  const { peers, listeners } = installWebRtc(t);
  const { asked, fetchWithAuth } = server();
  const element = video();
  const connection = await connect(element, URL_, fetchWithAuth);
  assert.deepEqual(peers[0].transceivers, [["video", "recvonly"]]);
  assert.deepEqual(peers[0].configuration, { iceServers: [] });
  assert.deepEqual(peers[0].answer, { type: "answer", sdp: "the answer" });
  assert.deepEqual([element.srcObject.tracks, element.plays, peers[0].receiver.jitterBufferTarget], [["the track"], 1, 0]);
  connection.close();
  connection.close();
  assert.equal(peers[0].isClosed, false, "the DELETE goes first");
  await tick();
  assert.deepEqual(asked, [
    ["OPTIONS", URL_, null, false],
    ["POST", URL_, "the offer", false],
    ["DELETE", "http://here/g/grant/v1/videos/film/whep/secret", null, true],
  ]);
  assert.deepEqual([element.srcObject, peers[0].isClosed, listeners.size], [null, true, 0]);
});

test("leaving the page says goodbye, too", async (t) => {
  const { listeners } = installWebRtc(t);
  const { asked, fetchWithAuth } = server();
  await connect(video(), URL_, fetchWithAuth);
  listeners.get("pagehide")();
  assert.deepEqual(asked.at(-1).filter((_, place) => place !== 1), ["DELETE", null, true]);
});

test("the owner of the page hears that the film has ended or the connection is lost, but not its own close", async (t) => {
  const over = "The film has ended, or may not be watched any more.";
  const ways = [
    [(peer) => peer.hearGoodbye(), over],
    [(peer) => peer.become("closed"), over],
    [(peer) => peer.become("failed"), "The connection is lost."],
  ];
  for (const [happens, reason] of ways) {
    const { peers } = installWebRtc(t);
    const { asked, fetchWithAuth } = server();
    const reasons = [];
    await connect(video(), URL_, fetchWithAuth, { onEnded: (why) => reasons.push(why) });
    peers[0].become("disconnected");
    assert.deepEqual(reasons, [], "a short trouble is none");
    happens(peers[0]);
    happens(peers[0]);
    assert.deepEqual(reasons, [reason]);
    await tick();
    assert.equal(peers[0].isClosed, true);
    assert.equal(asked.at(-1)[0], reason === over ? "POST" : "DELETE", "what the server has ended is not there to be deleted");
  }
  const { peers } = installWebRtc(t);
  const connection = await connect(video(), URL_, server().fetchWithAuth, { onEnded: () => assert.fail() });
  connection.close();
  peers[0].become("closed");
});

test("a film that has ended says where it is", async (t) => {
  const { peers } = installWebRtc(t);
  const link = '</g/grant/v1/videos/film/index.m3u8>; rel="alternate"; type="application/vnd.apple.mpegurl"';
  const { asked, fetchWithAuth } = server({ POST: refused(409, { message: "it has ended" }, { Link: link }) });
  await assert.rejects(connect(video(), URL_, fetchWithAuth), (error) => {
    assert.ok(error instanceof WhepError);
    assert.deepEqual([error.status, error.message], [409, "it has ended"]);
    assert.equal(error.playlist, "http://here/g/grant/v1/videos/film/index.m3u8");
    return true;
  });
  assert.equal(peers[0].isClosed, true);
  assert.equal(asked.at(-1)[0], "POST", "nothing to delete");
});

test("without a common codec, or without WebRTC on the server, the reason is the server's", async (t) => {
  const { peers } = installWebRtc(t);
  const codec = server({ POST: refused(415, { message: "no H.264" }) });
  await assert.rejects(connect(video(), URL_, codec.fetchWithAuth), { status: 415, message: "no H.264", playlist: null });
  const missing = server({ OPTIONS: refused(501, { message: "not installed" }) });
  await assert.rejects(connect(video(), URL_, missing.fetchWithAuth), { status: 501, message: "not installed" });
  assert.equal(peers.length, 1, "no connection was made for nothing");
});

test("a connection that does not come about is given up and deleted", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const { peers } = installWebRtc(t, { gathers: false, connects: false });
  const { asked, fetchWithAuth } = server();
  const connecting = connect(video(), URL_, fetchWithAuth, { within_ms: 3000 });
  connecting.catch(() => {});
  for (let i = 0; i < 10; i += 1) await tick();
  assert.equal(asked.length, 1, "waits for candidates");
  t.mock.timers.tick(1000);
  for (let i = 0; i < 10; i += 1) await tick();
  assert.equal(asked.at(-1)[0], "POST");
  t.mock.timers.tick(3000);
  await assert.rejects(connecting, { status: 0 });
  await tick();
  assert.equal(asked.at(-1)[0], "DELETE");
  assert.equal(peers[0].isClosed, true);
});

test("a page that is left while the offer is under way leaves nothing open", async (t) => {
  const { listeners } = installWebRtc(t);
  const { asked, fetchWithAuth } = server({
    POST: () => {
      listeners.get("pagehide")();
      return new Response("the answer", { status: 201, headers: { Location: "whep/secret" } });
    },
  });
  await assert.rejects(connect(video(), URL_, fetchWithAuth), { status: 0 });
  assert.deepEqual(asked.map(([method]) => method), ["OPTIONS", "POST", "DELETE"]);
});

test("ICE servers are read from Link headers", () => {
  const header =
    '<stun:stun.example:3478>; rel="ice-server", <turn:turn.example:3478?transport=udp>; rel="ice-server"; username="a\\"b,c"; ' +
    'credential="d;e\\\\"; credential-type="password", </elsewhere>; rel="alternate"';
  assert.deepEqual(readIceServers(header), [
    { urls: "stun:stun.example:3478" },
    { urls: "turn:turn.example:3478?transport=udp", username: 'a"b,c', credential: "d;e\\" },
  ]);
  assert.deepEqual(readIceServers(""), []);
});
