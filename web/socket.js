// @ts-check
/** Watching one film: a WebSocket that comes back by itself and goes on from the cursor, so that nothing is missed or sent twice. */

import { ack, backoffSeconds, finalReason, hello, readBinary, readControl, sayLive, SUBPROTOCOL } from "./protocol.js";

/** @typedef {import("./protocol.js").Control} Control */
/** @typedef {import("./protocol.js").InitSegment} InitSegment */
/** @typedef {import("./protocol.js").MediaSegment} MediaSegment */
/** @typedef {"connecting"|"open"|"lost"|"closed"} Connection */
/**
 * @typedef {object} Listeners
 * @property {(message: Control) => void} control
 * @property {(message: InitSegment) => void} init
 * @property {(message: MediaSegment, handled: () => void) => void} segment  handled: its bytes are in the player, or not wanted;
 *   the server may send another
 * @property {(connection: Connection, reason: string|null) => void} connection
 */

/** A server that accepts but never says welcome is as good as gone. */
const WELCOME_TIMEOUT_MS = 8000;
/** A server that says welcome and falls over at once must not be asked four times a second. */
const HEALTHY_MS = 5000;

export class WatchSocket {
  /** Everything up to this log entry has been received. */
  cursor = 0;

  /** @type {WebSocket|null} */ #socket = null;
  /** @type {ReturnType<typeof setTimeout>|undefined} */ #timer;
  #attempt = 0;
  #closed = false;
  #live = false;

  /** @param {string} videoId @param {string|null} token @param {Listeners} listeners @param {string} base */
  constructor(videoId, token, listeners, base = document.baseURI) {
    this.base = base;
    this.videoId = videoId;
    this.token = token;
    this.listeners = listeners;
    this.#connect();
    addEventListener("online", this.retry);
  }

  /** Try again now (the network is back, or a person asked). */
  retry = () => {
    if (this.#closed || this.#socket) return;
    this.#attempt = 0;
    clearTimeout(this.#timer);
    this.#connect();
  };

  /** Whether the viewer stays at the live edge: only then may the server leave something out. @param {boolean} live */
  setLive(live) {
    if (live === this.#live) return;
    this.#live = live;
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(sayLive(live));
  }

  close() {
    this.#closed = true;
    clearTimeout(this.#timer);
    removeEventListener("online", this.retry);
    this.#socket?.close(1000);
    this.#socket = null;
  }

  #connect() {
    const url = new URL(`v1/videos/${encodeURIComponent(this.videoId)}/watch`, this.base);
    url.protocol = url.protocol.replace("http", "ws");
    url.hash = "";
    const socket = new WebSocket(url, this.token ? [SUBPROTOCOL, `bearer.${this.token}`] : [SUBPROTOCOL]);
    socket.binaryType = "arraybuffer";
    socket.onopen = () => socket.send(hello(this.cursor, this.#live));
    socket.onmessage = (event) => this.#receive(socket, event.data);
    socket.onclose = (event) => this.#lost(socket, event.code, event.reason);
    this.#socket = socket;
    this.#timer = setTimeout(() => this.#lost(socket, 1006, ""), WELCOME_TIMEOUT_MS);
  }

  /** @param {WebSocket} socket @param {string|ArrayBuffer} received */
  #receive(socket, received) {
    if (socket !== this.#socket) return;
    if (typeof received !== "string") {
      this.#receiveBinary(socket, received);
      return;
    }
    const message = readControl(received);
    if (message.type === "welcome") this.#welcomed();
    this.listeners.control(message);
    if ("seq" in message) this.cursor = Math.max(this.cursor, message.seq);
  }

  /** A segment is acknowledged on the connection it came over, or never. @param {WebSocket} socket @param {ArrayBuffer} received */
  #receiveBinary(socket, received) {
    const message = readBinary(received);
    if (message.kind === "init") {
      this.listeners.init(message);
      return;
    }
    this.listeners.segment(message, () => {
      if (socket.readyState === WebSocket.OPEN) socket.send(ack(message.seq));
    });
    this.cursor = Math.max(this.cursor, message.seq);
  }

  #welcomed() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => (this.#attempt = 0), HEALTHY_MS);
    this.listeners.connection("open", null);
  }

  /** @param {WebSocket} socket @param {number} code @param {string} reason */
  #lost(socket, code, reason) {
    if (socket !== this.#socket) return;
    this.#socket = null;
    clearTimeout(this.#timer);
    socket.onclose = null;
    socket.close();
    const final = finalReason(code);
    if (final) {
      this.close();
      this.listeners.connection("closed", reason || final);
      return;
    }
    this.listeners.connection("lost", null);
    this.#timer = setTimeout(() => this.#connect(), 1000 * backoffSeconds(this.#attempt));
    this.#attempt += 1;
  }
}
