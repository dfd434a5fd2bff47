// @ts-check
/**
 * Phones without Media Source Extensions (iPhones before iOS 17.1) play the film's HLS playlist by themselves. The socket still says
 * what happens; its segments are only counted.
 */

/** A playlist that cannot be had now is asked for again after so long. */
const AGAIN_MS = 2000;
const HLS = "application/vnd.apple.mpegurl";

/** Whether this is the only way. @param {HTMLVideoElement} element @param {typeof globalThis} scope */
export function needsNativeHls(element, scope = globalThis) {
  const hasSource = "MediaSource" in scope || "ManagedMediaSource" in scope;
  return !hasSource && element.canPlayType(HLS) !== "";
}

export class NativeHls {
  /** @type {ReturnType<typeof setTimeout>|undefined} */ #timer;
  #begun = false;
  #closed = false;
  /** @type {number|null} where to go on after an error */ #place = null;

  /** @param {HTMLVideoElement} element @param {() => Promise<string>} address  of the playlist, with what allows to read it in its path */
  constructor(element, address) {
    this.element = element;
    this.address = address;
    element.addEventListener("error", this.#failed);
    element.addEventListener("loadedmetadata", this.#loaded);
  }

  /** There is a picture: an empty playlist would be an error. */
  begin() {
    if (this.#begun) return;
    this.#begun = true;
    this.#load();
  }

  close() {
    this.#closed = true;
    clearTimeout(this.#timer);
    this.element.removeEventListener("error", this.#failed);
    this.element.removeEventListener("loadedmetadata", this.#loaded);
  }

  async #load() {
    const address = await this.address().catch(() => null);
    if (this.#closed) return;
    if (!address) return this.#later();
    this.element.src = address;
    this.element.play().catch(() => {}); // where a tap is wanted first, the page's own button gives it
  }

  #later() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#load(), AGAIN_MS);
  }

  /** The link may have expired, or the server was away. */
  #failed = () => {
    if (!this.#begun) return;
    this.#place ??= this.element.currentTime;
    this.#later();
  };

  #loaded = () => {
    if (this.#place === null) return;
    this.element.currentTime = this.#place;
    this.#place = null;
  };
}
