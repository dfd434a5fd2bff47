// @ts-check
/** The form a film begins with: prompt, examples, length, preset, seed; and what the loaded model knows. */

import { ask, byId, inside, setText } from "./dom.js";
import { Reference } from "./reference.js";
import { framesFor, quotedFew, unknownWords } from "./words.js";

/** @typedef {import("./api.js").Model} Model */
/** @typedef {import("./api.js").CreateVideo} CreateVideo */

export class Composer {
  /** @type {Model|null} */ model = null;
  /** @type {Model[]} */ #models = [];
  /** @type {string|null} */ #trouble = null;
  #form = /** @type {HTMLFormElement} */ (byId("make"));
  #prompt = /** @type {HTMLInputElement} */ (byId("prompt"));
  #button = /** @type {HTMLButtonElement} */ (byId("make-button"));
  #choice = /** @type {HTMLSelectElement} */ (byId("model-choice"));
  #defaultPreset = "live";
  #preset = /** @type {HTMLSelectElement} */ (byId("preset"));
  #seed = /** @type {HTMLInputElement} */ (byId("seed"));
  /** @type {ReturnType<typeof setTimeout>|undefined} */ #pause;

  /** @param {(request: CreateVideo) => Promise<boolean>} make  whether it was made @param {(file: File) => void} screenplay  one was dropped */
  constructor(make, screenplay) {
    const allowed = () => this.model !== null && document.querySelector("dialog[open]") === null;
    this.reference = new Reference({ allowed, taken: () => this.focus(), screenplay });
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit(make);
    });
    this.#prompt.addEventListener("input", () => this.#checkSoon());
    this.#choice.addEventListener("change", () => this.#show(this.#choice.selectedIndex));
    byId("hint-words").addEventListener("click", () => this.showAbout());
    byId("model").addEventListener("click", () => this.showAbout());
  }

  /** @param {Model[]} models @param {string|undefined} loaded the one the server runs by default
   * @param {string|undefined} preset its default preset */
  setModels(models, loaded, preset) {
    this.#models = models;
    this.#choice.replaceChildren(...models.map((model) => new Option(model.title, model.id)));
    byId("model-field").hidden = models.length < 2;
    const place = Math.max(0, models.findIndex((model) => model.id === loaded));
    this.#choice.selectedIndex = place;
    this.#defaultPreset = preset ?? this.#defaultPreset;
    this.#show(place);
  }

  /** @param {boolean} ready @param {string|null} trouble why not, where waiting will not help */
  setReady(ready, trouble) {
    if (!this.model) return;
    const { title, version } = this.model;
    this.#trouble = ready ? null : trouble;
    inside(byId("model"), ".dot").dataset.is = ready ? "ready" : trouble ? "trouble" : "loading";
    setText(inside(byId("model"), "span"), `${title} · ${ready ? version : trouble ? "in trouble" : "loading"}`);
  }

  /** All that the server has. */
  get models() {
    return this.#models;
  }

  /** @param {string} id @returns {Model|null} */
  modelById(id) {
    return this.#models.find((model) => model.id === id) ?? null;
  }

  focus() {
    this.#prompt.focus();
    this.#prompt.select();
  }

  /** What a film was made from, to make another like it. @param {string} prompt */
  setPrompt(prompt) {
    this.#prompt.value = prompt;
    this.#check();
  }

  /** What the model is, and the words it knows. */
  showAbout() {
    if (this.model) showAbout(this.model, this.#trouble);
  }

  /** @param {number} place */
  #show(place) {
    const model = this.#models[place];
    const preset = this.#preset.value || this.#defaultPreset;
    this.model = model;
    for (const id of ["examples", "big-examples"]) byId(id).replaceChildren(...model.example_prompts.map((text) => this.#example(text)));
    this.#preset.replaceChildren(...Object.entries(model.presets).map(([name, values]) => presetOption(name, values)));
    this.#preset.value = preset in model.presets ? preset : (Object.keys(model.presets).at(-1) ?? "");
    inside(this.#form, ".field:has(#preset)").hidden = Object.keys(model.presets).length === 0;
    this.#limitLengths(model);
    this.#check();
  }

  /** @param {string} text */
  #example(text) {
    const chip = document.createElement("button");
    chip.type = "button";
    chip.className = "chip";
    chip.textContent = text;
    chip.addEventListener("click", () => {
      this.setPrompt(text);
      this.#button.focus();
    });
    return chip;
  }

  /** Offer no length that the model cannot make. @param {Model} model */
  #limitLengths({ max_frames, fps }) {
    for (const radio of this.#radios()) {
      const frames = framesFor(lengthOf(radio.value), fps);
      radio.disabled = max_frames !== null && (frames === null || frames > max_frames);
      /** @type {HTMLElement} */ (radio.parentElement).hidden = radio.disabled;
    }
    if (this.#radios().some((radio) => radio.checked && radio.disabled)) this.#radios()[0].checked = true;
  }

  /** @returns {HTMLInputElement[]} */
  #radios() {
    return [...byId("lengths").querySelectorAll("input")];
  }

  #checkSoon() {
    clearTimeout(this.#pause);
    this.#pause = setTimeout(() => this.#check(), 500);
  }

  /** Say which words the model does not know, while there is time to choose others. */
  #check() {
    clearTimeout(this.#pause);
    const words = sayUnknown(this.model, this.#prompt.value);
    byId("hint").hidden = !words;
    if (words) setText(inside(byId("hint"), "span"), words);
  }

  /** @param {(request: CreateVideo) => Promise<boolean>} make */
  async #submit(make) {
    const prompt = this.#prompt.value.trim();
    if (!prompt || !this.model) {
      this.#prompt.focus();
      return;
    }
    this.#check();
    this.#button.disabled = true;
    try {
      if (await make(this.#request(prompt, this.model))) this.reference.clear();
    } finally {
      this.#button.disabled = false;
    }
  }

  /** @param {string} prompt @param {Model} model @returns {CreateVideo} */
  #request(prompt, model) {
    const length = lengthOf(new FormData(this.#form).get("length"));
    /** @type {CreateVideo} */
    const request = { prompt, model: model.id, num_frames: framesFor(length, model.fps) };
    if (this.#preset.value) request.preset = this.#preset.value;
    if (this.#seed.value) request.seed = Number(this.#seed.value);
    if (this.reference.file) request.input_reference = this.reference.file;
    return request;
  }
}

/** @param {unknown} value of a length choice @returns {number|null} seconds; null = endless */
export function lengthOf(value) {
  return value === "" || value === null ? null : Number(value);
}

/** Which words of a prompt the model does not know; empty where it knows all. @param {Model|null} model @param {string} prompt */
export function sayUnknown(model, prompt) {
  const words = unknownWords(model?.vocabulary ?? null, prompt);
  return words.length > 0 ? unknownSentence(model, words) : "";
}

/** @param {Model|null} model @param {string[]} words */
function unknownSentence(model, words) {
  const title = model?.title ?? "This model";
  return `${title} does not know ${quotedFew(words)}; ${words.length === 1 ? "it" : "they"} will change nothing.`;
}

/** @param {string} name @param {Record<string, number>} values */
function presetOption(name, values) {
  const option = new Option(name, name);
  option.title = Object.entries(values).map(([key, value]) => `${key.replaceAll("_", " ")} ${value}`).join(", ");
  return option;
}

/** @param {Model} model @param {string|null} trouble */
function showAbout(model, trouble) {
  const dialog = /** @type {HTMLDialogElement} */ (byId("about"));
  setText(inside(dialog, "h2"), model.title);
  setText(inside(dialog, ".description"), model.description);
  inside(dialog, ".error").hidden = trouble === null;
  setText(inside(dialog, ".error"), trouble ?? "");
  const facts = [["Version", model.version], ["Licence", model.licence], ["Frames", `${model.fps} per second`]];
  inside(dialog, "dl").replaceChildren(...facts.flatMap(([term, text]) => [element("dt", term), element("dd", text)]));
  inside(dialog, ".words").replaceChildren(...Object.entries(model.vocabulary ?? {}).map(([group, words]) => wordGroup(group, words)));
  ask(dialog);
}

/** @param {string} group @param {string[]} words */
function wordGroup(group, words) {
  const line = element("div", "");
  line.append(element("b", `The ${group} it knows`), words.join(", "));
  return line;
}

/** @param {string} name @param {string} text */
function element(name, text) {
  const made = document.createElement(name);
  made.textContent = text;
  return made;
}
