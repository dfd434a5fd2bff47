// @ts-check
/**
 * Watching a film by WebRTC (WHEP): an offer is posted, the answer starts the pictures, a DELETE ends them.
 *
 * Live pictures come without a buffer, so there is no seeking; whoever wants that, or has no H.264 by WebRTC (Firefox on some
 * systems), watches over the WebSocket. That is also the way while no connection comes about: a firewall says nothing, it only
 * takes time.
 */

/** @typedef {(url: string, init: RequestInit) => Promise<Response>} FetchWithAuth  fetch, with what proves who asks */
/**
 * @typedef {object} Options
 * @property {(reason: string) => void} [onEnded]  the server has ended it, or the connection is lost; not after `close()`
 * @property {number} [within_ms]                  how long connecting may take
 */
/** @typedef {{close: () => void, peer: RTCPeerConnection}} Connection */

/** Candidates that are not found by then are not worth waiting for. */
const GATHER_MS = 1000;

export class WhepError extends Error {
  /**
   * @param {number} status          0 = no connection came about
   * @param {string} message
   * @param {string|null} playlist   409: the film has ended, and is here for HLS players
   */
  constructor(status, message, playlist = null) {
    super(message);
    this.status = status;
    this.playlist = playlist;
  }
}

/**
 * Show the film in `video` as it comes; resolves when it is connected.
 * @param {HTMLVideoElement} video
 * @param {string} url  of the film's /whep, absolute, with ?rendition=enhanced&t= if wanted
 * @param {FetchWithAuth} fetchWithAuth
 * @param {Options} [options]
 * @returns {Promise<Connection>}
 */
export async function connect(video, url, fetchWithAuth, { onEnded = () => {}, within_ms = 5000 } = {}) {
  const peer = new RTCPeerConnection({ iceServers: await iceServers(url, fetchWithAuth) });
  /** @type {string|null} */
  let location = null;
  let isOpen = true;
  // the DELETE goes first: the goodbye that a closed connection sends is faster, and then the Location is gone
  const leave = async () => {
    const left = location;
    location = null;
    if (left) await fetchWithAuth(left, { method: "DELETE", keepalive: true }).catch(() => {});
    peer.close();
  };
  const close = () => {
    if (!isOpen) return;
    isOpen = false;
    removeEventListener("pagehide", close);
    video.srcObject = null;
    leave();
  };
  addEventListener("pagehide", close);
  try {
    peer.ontrack = ({ track, receiver }) => show(video, track, receiver);
    peer.addTransceiver("video", { direction: "recvonly" });
    await peer.setLocalDescription();
    await gathered(peer);
    const answer = await post(url, peer.localDescription?.sdp ?? "", fetchWithAuth);
    location = answer.location;
    if (!isOpen) throw new WhepError(0, "The page is being left.");
    await peer.setRemoteDescription({ type: "answer", sdp: answer.sdp });
    await connected(peer, within_ms);
  } catch (error) {
    close();
    leave(); // the page may have been left before the Location was known
    throw error;
  }
  const ended = () => {
    const reason = whyEnded(peer);
    if (!isOpen || !reason) return;
    if (peer.connectionState !== "failed") location = null; // the server has ended it: there is nothing to delete
    close();
    onEnded(reason);
  };
  peer.onconnectionstatechange = ended;
  for (const { transport } of peer.getReceivers()) transport?.addEventListener("statechange", ended);
  ended();
  return { close, peer };
}

/** A goodbye shows in the encryption at once, in the connection only seconds later. @param {RTCPeerConnection} peer */
function whyEnded(peer) {
  if (peer.connectionState === "failed") return "The connection is lost.";
  const isOver = peer.getReceivers().some(({ transport }) => transport?.state === "closed");
  return isOver || peer.connectionState === "closed" ? "The film has ended, or may not be watched any more." : null;
}

/** The STUN and TURN servers in Link headers, as WHEP has it. @param {string} header @returns {RTCIceServer[]} */
export function readIceServers(header) {
  const links = header.match(/<[^>]*>(?:\s*;\s*[\w-]+="(?:[^"\\]|\\.)*")*/g) ?? [];
  return links.flatMap((link) => {
    const said = Object.fromEntries([...link.matchAll(/([\w-]+)="((?:[^"\\]|\\.)*)"/g)].map(([, name, text]) => [name, unquote(text)]));
    const urls = link.slice(1, link.indexOf(">"));
    return said.rel === "ice-server" ? [said.username ? { urls, username: said.username, credential: said.credential } : { urls }] : [];
  });
}

/** @param {string} text */
function unquote(text) {
  return text.replace(/\\(.)/g, "$1");
}

/** @param {string} url @param {FetchWithAuth} fetchWithAuth */
async function iceServers(url, fetchWithAuth) {
  const response = await fetchWithAuth(url, { method: "OPTIONS" });
  if (!response.ok) throw await refusal(response, url);
  return readIceServers(response.headers.get("Link") ?? "");
}

/** @param {string} url @param {string} offer @param {FetchWithAuth} fetchWithAuth */
async function post(url, offer, fetchWithAuth) {
  const response = await fetchWithAuth(url, { method: "POST", headers: { "Content-Type": "application/sdp" }, body: offer });
  if (response.status !== 201) throw await refusal(response, url);
  return { sdp: await response.text(), location: new URL(response.headers.get("Location") ?? "", url).href };
}

/** @param {Response} response @param {string} url */
async function refusal(response, url) {
  const body = await response.json().catch(() => null);
  const [, playlist] = /<([^>]*)>; rel="alternate"/.exec(response.headers.get("Link") ?? "") ?? [];
  const message = body?.error?.message ?? `The server answered ${response.status} ${response.statusText}.`;
  return new WhepError(response.status, message, playlist ? new URL(playlist, url).href : null);
}

/** @param {HTMLVideoElement} video @param {MediaStreamTrack} track @param {RTCRtpReceiver} receiver */
function show(video, track, receiver) {
  if ("jitterBufferTarget" in receiver) receiver.jitterBufferTarget = 0; // the server paces; more would only be late
  video.srcObject = new MediaStream([track]);
  video.play().catch(() => {}); // where a browser wants a click first, the page's own button gives it
}

/** @param {RTCPeerConnection} peer @returns {Promise<void>} */
function gathered(peer) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, GATHER_MS);
    const look = () => {
      if (peer.iceGatheringState !== "complete") return;
      clearTimeout(timer);
      resolve();
    };
    peer.onicegatheringstatechange = look;
    look();
  });
}

/** @param {RTCPeerConnection} peer @param {number} within_ms @returns {Promise<void>} */
function connected(peer, within_ms) {
  return new Promise((resolve, reject) => {
    const late = setTimeout(() => reject(new WhepError(0, "No connection by WebRTC came about.")), within_ms);
    const look = () => {
      if (!["connected", "failed", "closed"].includes(peer.connectionState)) return;
      clearTimeout(late);
      if (peer.connectionState === "connected") resolve();
      else reject(new WhepError(0, "No connection by WebRTC came about."));
    };
    peer.onconnectionstatechange = look;
    look();
  });
}
