// @ts-check
/** How the page says numbers and words. Pure. */

/** How fast a film plays: what a button shows, and what it says. @param {number} speed  1, 0.5 or 0.25 */
export function saySpeed(speed) {
  const shown = { 1: "1×", 0.5: "½×", 0.25: "¼×" }[speed] ?? `${speed}×`;
  return { shown, said: speed === 1 ? `${shown} speed` : `${shown} speed, slow motion` };
}

/** 0:09, 1:02, 1:00:05. @param {number} seconds */
export function duration(seconds) {
  const whole = Math.max(0, Math.floor(seconds + 1e-6));
  const s = String(whole % 60).padStart(2, "0");
  const m = Math.floor(whole / 60) % 60;
  const h = Math.floor(whole / 3600);
  return h > 0 ? `${h}:${String(m).padStart(2, "0")}:${s}` : `${m}:${s}`;
}

/** 0:09.4: a moment in a film. @param {number} seconds */
export function moment(seconds) {
  const tenths = Math.max(0, Math.floor(seconds * 10 + 1e-6));
  return `${duration(Math.floor(tenths / 10))}.${tenths % 10}`;
}

/**
 * Words of a prompt that a model with a fixed vocabulary does not know, in order, each once. The server decides by the same rule;
 * this only says it earlier, while one types.
 * @param {Record<string, string[]>|null} vocabulary @param {string} prompt
 */
export function unknownWords(vocabulary, prompt) {
  if (!vocabulary) return [];
  const known = new Set(Object.values(vocabulary).flat().flatMap((phrase) => phrase.toLowerCase().split(/\s+/)));
  const words = prompt.toLowerCase().replace(/[^\p{L}\p{N}'-]+/gu, " ").split(" ").filter(Boolean);
  return [...new Set(words)].filter((word) => !known.has(word));
}

/** “dragon” and “castle”. @param {string[]} words */
export function quoted(words) {
  const marked = words.map((word) => `“${word}”`);
  return marked.length < 2 ? marked.join("") : `${marked.slice(0, -1).join(", ")} and ${marked.at(-1)}`;
}

const MOST_QUOTED = 5;

/** “a”, “b”, “c”, “d” and 12 more. @param {string[]} words */
export function quotedFew(words) {
  if (words.length <= MOST_QUOTED) return quoted(words);
  return `${words.slice(0, MOST_QUOTED - 1).map((word) => `“${word}”`).join(", ")} and ${words.length - MOST_QUOTED + 1} more`;
}

/** A film's state as one says it. @param {import("./protocol.js").Video} video */
export function sayState({ state, frames, fps, ended_by, error }) {
  const length = duration(frames / fps);
  if (state === "failed") return `The film could not go on at ${length}${error ? `: ${typeof error === "string" ? error : error.message}` : ""}`;
  if (state === "stopped" || ended_by === "stopped") return `The film is stopped at ${length}`;
  if (state === "completed") return `The film is whole, ${length} long`;
  if (state === "queued") return "The film waits for its turn";
  if (state === "loading") return "The model is loading";
  return state === "running" ? "The film is growing" : `The film is ${state}`;
}

/** What a live viewer on a slow line did not get. @param {{from_s: number, to_s: number}} skipped */
export function saySkipped({ from_s, to_s }) {
  return `The connection is too slow for the live picture: ${duration(from_s)} to ${duration(to_s)} was left out. Rewind to see it.`;
}

/** "in a day", "in 6 hours". @param {number} seconds */
export function sayIn(seconds) {
  const [unit, size] = seconds < 3600 ? ["minute", 60] : seconds < 86_400 ? ["hour", 3600] : ["day", 86_400];
  const count = Math.round(seconds / size);
  if (count === 0) return "at once";
  return count === 1 ? `in ${unit === "hour" ? "an" : "a"} ${unit}` : `in ${count} ${unit}s`;
}

/** Frames that make so many seconds; null stays endless. @param {number|null} seconds @param {number} fps */
export function framesFor(seconds, fps) {
  return seconds === null ? null : Math.round(seconds * fps);
}

/** `#token=…` and `#/video/<id>`, in one fragment or apart. @param {string} hash @returns {{token: string|null, video: string|null}} */
export function readHash(hash) {
  const token = /(?:^#|[&?])token=([^&]+)/.exec(hash);
  const video = /\/video\/([\w-]+)/.exec(hash);
  return { token: token ? decodeURIComponent(token[1]) : null, video: video ? video[1] : null };
}

/** The two films that are looked at side by side, from `#/compare/<id>/<id>`. @param {string} hash @returns {[string, string]|null} */
export function readPair(hash) {
  const pair = /\/compare\/([\w-]+)\/([\w-]+)/.exec(hash);
  return pair && pair[1] !== pair[2] ? [pair[1], pair[2]] : null;
}

/** The moment of the film that an address means, in seconds: `#/video/<id>?t=31.5`. @param {string} hash @returns {number|null} */
export function readMoment(hash) {
  const at = /[?&]t=(\d{1,7}(?:\.\d{1,3})?)(?=$|[&?])/.exec(hash);
  return at ? Number(at[1]) : null;
}

/** The address without the token, which no history should keep. @param {string} hash */
export function withoutToken(hash) {
  const kept = hash.replace(/^#/, "").replace(/(^|[&?])token=[^&?]*/, "").replace(/^[&?]/, "");
  return kept ? `#${kept}` : "";
}

/** What a shared link allows to watch, from the page's address. @param {string} hash @returns {string|null} */
export function readGrant(hash) {
  return /(?:^#|[&?])grant=([\w.-]+)/.exec(hash)?.[1] ?? null;
}

/** How the first chunk comes along: when its picture will be there, once two steps have shown the pace. @param {{step: number, steps: number}} progress @param {{step: number, at_ms: number}} first @param {number} now_ms */
export function sayFirstChunk({ step, steps }, first, now_ms) {
  const said = `step ${step} of ${steps}`;
  const done = step - first.step;
  if (done < 2 || step >= steps) return said;
  const left_s = ((now_ms - first.at_ms) / done / 1000) * (steps - step);
  return `${said}, first picture in about ${roughly(left_s)}`;
}

/** @param {number} seconds */
function roughly(seconds) {
  return seconds < 90 ? `${Math.max(1, Math.round(seconds))} s` : `${Math.round(seconds / 60)} min`;
}

/** 940 bytes, 12 kB, 1.4 MB. @param {number} count */
export function bytes(count) {
  const [unit, scale] = count < 1000 ? ["bytes", 1] : count < 999_500 ? ["kB", 1e3] : count < 999_500_000 ? ["MB", 1e6] : ["GB", 1e9];
  const value = count / scale;
  return `${scale > 1e3 && value < 10 ? value.toFixed(1) : Math.round(value)}\u00a0${unit}`;
}
