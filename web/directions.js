// @ts-check
/** The cues of the film on the stage: where they are, and which prompt holds at a chunk. */

/**
 * A cue as the server lists it.
 * @typedef {object} Cue
 * @property {number} seq  its name
 * @property {number} from_index
 * @property {number} from_s
 * @property {string|null} prompt
 * @property {string|null} negative_prompt
 * @property {number|null} guidance_scale
 * @property {number|null} num_inference_steps
 * @property {number|null} seed
 * @property {number} transition_chunks
 */

/** The prompt at a chunk; at one chunk the later cue wins. @param {string} first @param {readonly Cue[]} cues @param {number} index */
export function promptAt(first, cues, index) {
  let [prompt, from] = [first, -1];
  for (const cue of cues) if (cue.prompt !== null && cue.from_index <= index && cue.from_index >= from) [prompt, from] = [cue.prompt, cue.from_index];
  return prompt;
}

/** What changes at a chunk, as one says it; empty where nothing does. @param {readonly Cue[]} cues @param {number} index */
export function sayCues(cues, index) {
  return cues.filter((cue) => cue.from_index === index).map(sayCue).join("; ");
}

/** @param {Cue} cue */
function sayCue({ prompt, negative_prompt, guidance_scale, num_inference_steps, seed }) {
  const changes = [
    prompt !== null && `“${prompt}”`,
    negative_prompt !== null && `without “${negative_prompt}”`,
    guidance_scale !== null && `guidance ${guidance_scale}`,
    num_inference_steps !== null && `${num_inference_steps} steps`,
    seed !== null && `seed ${seed}`,
  ];
  return changes.filter(Boolean).join(", ");
}

export class Directions {
  /** @type {readonly Cue[]} */ cues = [];
  #videoId = "";
  /** Answers may overtake each other. */ #asked = 0;

  /** @param {import("./api.js").Api} api @param {() => void} onChange */
  constructor(api, onChange) {
    this.api = api;
    this.onChange = onChange;
  }

  /** Look again: another film, or its cues changed. @param {string} videoId */
  async refresh(videoId) {
    if (videoId !== this.#videoId) this.#take(videoId, []);
    this.#asked += 1;
    const mine = this.#asked;
    if (!videoId) return;
    const cues = await this.api.cues(videoId).catch(() => null);  // the film may be gone: the page says so elsewhere
    if (cues && mine === this.#asked) this.#take(videoId, cues);
  }

  /** @param {string} videoId @param {readonly Cue[]} cues */
  #take(videoId, cues) {
    this.#videoId = videoId;
    this.cues = cues;
    this.onChange();
  }
}
