// @ts-check
/** The image or clip a new film begins from: chosen, dropped anywhere or pasted; shown small beside the prompt before it is sent. */

import { byId, inside, setText } from "./dom.js";
import { isBundle, isScreenplay } from "./screenplay.js";
import { bytes } from "./words.js";

/** As the server has it: what else it would refuse only after all of it was sent. */
const MAX_BYTES = { image: 20 * 2 ** 20, clip: 50 * 2 ** 20 };
const IMAGES = new Set(["image/png", "image/jpeg", "image/webp"]);
const CLIPS = new Set(["video/mp4", "video/quicktime", "video/webm"]);

/** Why a file cannot begin a film, in words; null where it can, as far as one sees from outside. @param {{name: string, type: string, size: number}} file */
export function whyRefused({ name, type, size }) {
  const kind = IMAGES.has(type) ? "image" : CLIPS.has(type) ? "clip" : null;
  if (kind === null) return `“${name}” cannot begin a film: it takes a PNG, JPEG or WebP image, an MP4, MOV or WebM clip, or a screenplay (JSON).`;
  if (size === 0) return `“${name}” is empty.`;
  if (size > MAX_BYTES[kind]) return `“${name}” is too large: ${bytes(size)}; ${kind === "image" ? "an image" : "a clip"} may have ${bytes(MAX_BYTES[kind])}.`;
  return null;
}

export class Reference {
  /** @type {File|null} */ file = null;
  #chip = byId("reference");
  #refused = byId("reference-refused");
  #input = /** @type {HTMLInputElement} */ (byId("reference-file"));
  #url = "";
  /** @type {ReturnType<typeof setTimeout>|undefined} */ #dragged;

  /**
   * @param {{allowed: () => boolean, taken: () => void, screenplay: (file: File) => void}} page  taken: there is a picture now; one thing
   *   is missing, the prompt. screenplay: it was one of those
   */
  constructor({ allowed, taken, screenplay }) {
    this.allowed = allowed;
    this.taken = taken;
    this.screenplay = screenplay;
    byId("reference-choose").addEventListener("click", () => this.#input.click());
    this.#input.addEventListener("change", () => this.#takeFirst(this.#input.files));
    byId("reference-remove").addEventListener("click", () => {
      this.clear();
      byId("reference-choose").focus();
    });
    for (const event of /** @type {const} */ (["dragenter", "dragover"])) addEventListener(event, (drag) => this.#dragOver(drag));
    addEventListener("drop", (drop) => this.#drop(drop));
    addEventListener("paste", (paste) => this.#takePasted(paste));
  }

  clear() {
    this.file = null;
    this.#input.value = "";
    this.#show(null);
    this.#refuse(null);
  }

  /** @param {string|null} why */
  #refuse(why) {
    this.#refused.hidden = why === null;
    setText(this.#refused, why ?? "");
  }

  /** @param {FileList|null|undefined} files */
  #takeFirst(files) {
    const file = files?.[0];
    if (!file) return;
    if (isScreenplay(file) || isBundle(file)) return this.screenplay(file);
    const why = whyRefused(file);
    this.#refuse(why);
    if (why) return;
    this.file = file;
    this.#show(file);
    this.taken();
  }

  /** @param {File|null} file */
  #show(file) {
    if (this.#url) URL.revokeObjectURL(this.#url);
    this.#url = file ? URL.createObjectURL(file) : "";
    const picture = /** @type {HTMLImageElement} */ (inside(this.#chip, "img"));
    const clip = /** @type {HTMLVideoElement} */ (inside(this.#chip, "video"));
    const isImage = file?.type.startsWith("image/") ?? true;
    picture.hidden = !isImage;
    clip.hidden = isImage;
    if (isImage && file) picture.src = this.#url;
    else picture.removeAttribute("src");
    if (isImage) clip.removeAttribute("src");
    else clip.src = this.#url;
    picture.onerror = clip.onerror = () => file === this.file && file && this.#unreadable(file);
    picture.alt = file ? `The image the film begins from: ${file.name}` : "";
    this.#chip.hidden = !file;
    setText(inside(this.#chip, ".name"), file ? (isImage ? "begins from this" : "goes on from this") : "");
    this.#chip.title = file?.name ?? "";
  }

  /** @param {File} file */
  #unreadable(file) {
    if (!file.type.startsWith("image/")) return;  // a clip this browser does not play may still be one the server reads
    this.clear();
    this.#refuse(`“${file.name}” cannot be read as an image.`);
  }

  /** @param {DragEvent} drag */
  #dragOver(drag) {
    if (!this.allowed() || !drag.dataTransfer?.types.includes("Files")) return;
    drag.preventDefault();
    byId("drop").hidden = false;
    clearTimeout(this.#dragged);  // dragover comes every 350 ms at least, and nothing says reliably that it has left
    this.#dragged = setTimeout(() => (byId("drop").hidden = true), 600);
  }

  /** @param {DragEvent} drop */
  #drop(drop) {
    if (!this.allowed() || !drop.dataTransfer?.types.includes("Files")) return;
    drop.preventDefault();
    byId("drop").hidden = true;
    this.#takeFirst(drop.dataTransfer.files);
  }

  /** @param {ClipboardEvent} paste */
  #takePasted(paste) {
    if (!this.allowed() || !paste.clipboardData?.files.length) return;
    paste.preventDefault();
    this.#takeFirst(paste.clipboardData.files);
  }
}
