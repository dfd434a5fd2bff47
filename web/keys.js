// @ts-check
/** Which key means what: `,` and `.` step frames, with shift (then `<` and `>`) chunks, as the arrows do. Pure but for the listener. */

/** @typedef {"play"|"stop"|"continue"|"live"|"fullscreen"|"frame-back"|"frame-on"|"chunk-back"|"chunk-on"|"first"|"last"|"slow"|"loop"|"loop-from"|"loop-to"|"cue"|"branch"|"redo"|"beside"|"way"|"enhance"|"ask"|"keys"} Act */

/** @type {Record<string, Act>} */
const ACTS = {
  " ": "play",
  s: "stop",
  c: "continue",
  l: "live",
  f: "fullscreen",
  ",": "frame-back",
  ".": "frame-on",
  "<": "chunk-back",
  ">": "chunk-on",
  ArrowLeft: "frame-back",
  ArrowRight: "frame-on",
  "shift+ArrowLeft": "chunk-back",
  "shift+ArrowRight": "chunk-on",
  "shift+,": "chunk-back",
  "shift+.": "chunk-on",
  Home: "first",
  End: "last",
  m: "slow",
  o: "loop",
  i: "loop-from",
  u: "loop-to",
  p: "cue",
  b: "branch",
  r: "redo",
  y: "beside",
  v: "way",
  e: "enhance",
  "/": "ask",
  "?": "keys",
};

/** What a key press asks for, if anything. @param {Pick<KeyboardEvent, "key"|"shiftKey"|"ctrlKey"|"metaKey"|"altKey">} press @returns {Act|null} */
export function actOf({ key, shiftKey, ctrlKey, metaKey, altKey }) {
  if (ctrlKey || metaKey || altKey) return null;
  const name = key.length === 1 ? key.toLowerCase() : key;
  return (shiftKey ? ACTS[`shift+${name}`] : undefined) ?? ACTS[name] ?? null;
}

/** Listen, where no one writes and no dialog is open. @param {(act: Act) => boolean} act  whether it was meant here */
export function listen(act) {
  addEventListener("keydown", (event) => {
    const target = /** @type {HTMLElement} */ (event.target);
    if (document.querySelector("dialog[open]") || target.matches("input, select, textarea")) return;
    const meant = actOf(event);
    if (!meant || (meant === "play" && target.closest("button, a"))) return;
    if (act(meant)) event.preventDefault();
  });
}
