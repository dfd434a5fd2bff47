// @ts-check
/**
 * Watching a growing film by WebRTC instead: a few frames behind the newest, without a past. A choice, shown only where server and
 * browser can; whatever one does with the film itself (rewind, step, pause) leads back to it.
 */

import { byId } from "./dom.js";
import { connect, WhepError } from "./whep.js";

/** @typedef {import("./whep.js").Connection} Connection */

export class LowLatency {
  #button = /** @type {HTMLButtonElement} */ (byId("low-latency"));
  #video = /** @type {HTMLVideoElement} */ (byId("live-video"));
  /** @type {Connection|null} */ #connection = null;
  /** @type {"off"|"connecting"|"on"} */ #state = "off";
  /** Whether the server has WebRTC: asked once, when it first matters. @type {Promise<boolean>|null} */ #asked = null;
  #offered = false;

  /**
   * @param {import("./player.js").Player} player @param {import("./api.js").Api} api
   * @param {{trouble: (words: string) => void, changed: () => void}} page
   */
  constructor(player, api, page) {
    this.player = player;
    this.api = api;
    this.page = page;
    this.#button.addEventListener("click", () => (this.#state === "off" ? this.#begin() : this.#goBack()));
    this.#video.addEventListener("click", () => this.#goBack());
    for (const event of ["seeking", "play"]) player.element.addEventListener(event, () => player.isRefreshing || this.end());
  }

  get on() {
    return this.#state === "on";
  }

  /** The film or its state changed. */
  draw() {
    const { growing, video, frames, connection } = this.player;
    const may = growing && video?.state !== "paused" && frames > 0 && connection === "open";
    if (may && !this.#offered) this.#askOnce(video?.id ?? "");
    if (!growing && this.#state !== "off") this.end();
    this.#button.hidden = !this.#offered || !(may || this.on);
    this.#button.setAttribute("aria-pressed", String(this.on));
    this.#button.dataset.is = this.#state;
  }

  /** Back to the film; what it shows then is for the caller to say. */
  end() {
    if (this.#state === "off") return;
    this.#state = "off";
    this.#connection?.close();
    this.#connection = null;
    this.#video.hidden = true;
    delete document.body.dataset.live;
    this.draw();
    this.page.changed();
  }

  #goBack() {
    this.end();
    this.player.goLive();
  }

  /** @param {string} videoId */
  #askOnce(videoId) {
    if (!("RTCPeerConnection" in globalThis)) return;
    this.#asked ??= this.api.fetchWithAuth(this.api.whepUrl(videoId), { method: "OPTIONS" }).then(({ ok }) => ok, () => false);
    this.#asked.then((offered) => {
      if (offered === this.#offered) return;
      this.#offered = offered;
      this.draw();
    });
  }

  async #begin() {
    const { video } = this.player;
    if (!video) return;
    this.#state = "connecting";
    this.draw();
    try {
      const connection = await connect(this.#video, this.api.whepUrl(video.id), this.api.fetchWithAuth, { onEnded: () => this.on && this.#goBack() });
      if (this.#state !== "connecting" || this.player.video?.id !== video.id) return connection.close();
      this.#connection = connection;
      this.#show();
    } catch (error) {
      this.end();
      const why = error instanceof WhepError ? error.message : String(error);
      this.page.trouble(`Low latency is not to be had: ${why} The film plays on as before.`);
    }
  }

  #show() {
    this.player.element.pause();
    this.#state = "on";
    this.#video.hidden = false;
    document.body.dataset.live = "webrtc";
    this.draw();
    this.page.changed();
  }
}
