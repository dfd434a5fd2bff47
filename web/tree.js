// @ts-check
/** The branches of the film on the stage, drawn over time: where each leaves the film it comes from, and how far it goes. */

import { besideAddress, inFamilies } from "./family.js";
import { byId, inside, setText } from "./dom.js";
import { startFrame } from "./index.js";
import { stateOf } from "./library.js";
import { momentOf } from "./plan.js";

/** @typedef {import("./protocol.js").Video} Video */
/** @typedef {import("./family.js").Member} Member */
/** @typedef {{path: string, planned: string, fork: {x: number, y: number}|null}} Lane  paths of an SVG; fork: where it leaves its parent */

const ROW_PX = 44;
/** Where a film's line runs in its row, below its name. */
const LINE_PX = 34;

/** The films of one family, as far as they are listed: each with what it comes from; empty where a film is alone. @param {readonly Video[]} videos @param {string} id */
export function familyOf(videos, id) {
  const listed = new Map(videos.map((video) => [video.id, video]));
  const rootOf = (/** @type {Video} */ video) => {
    let root = video;
    for (let parent; (parent = listed.get(root.parent_id ?? "")); ) root = parent;
    return root.id;
  };
  const video = listed.get(id);
  if (!video) return [];
  const kin = videos.filter((other) => rootOf(other) === rootOf(video));
  return kin.length > 1 ? inFamilies(kin) : [];
}

/** A line for each film; time runs to the right. @param {readonly Member[]} members @param {number} width @returns {Lane[]} */
export function lanes(members, width) {
  const ends = members.map(({ video }) => Math.max(video.frames, video.num_frames ?? 0) / video.fps);
  const x = (/** @type {number} */ seconds) => Math.round((width * seconds) / Math.max(1, ...ends));
  const rows = new Map(members.map(({ video }, row) => [video.id, row]));
  return members.map(({ video, parent }, row) => {
    const y = row * ROW_PX + LINE_PX;
    const planned = (video.num_frames ?? 0) / video.fps;
    const made = `H${x(video.frames / video.fps)}`;
    const rest = planned * video.fps > video.frames ? `M${x(video.frames / video.fps)} ${y}H${x(planned)}` : "";
    if (!parent) return { path: `M0 ${y}${made}`, planned: rest, fork: null };
    const fork = { x: x(startFrame(video, video.fork_index ?? 0) / video.fps), y: (rows.get(parent.id) ?? 0) * ROW_PX + LINE_PX };
    const path = `M${fork.x} ${fork.y}C${fork.x + 6} ${fork.y} ${fork.x - 4} ${y} ${fork.x + 12} ${y}`;
    return { path: x(video.frames / video.fps) > fork.x + 12 ? path + made : path, planned: rest, fork };
  });
}

export class BranchTree {
  #root = byId("tree");
  #list = inside(this.#root, ".rows");
  #drawn = "";

  /** @param {readonly Video[]} videos listed @param {Video|null} current */
  draw(videos, current) {
    const members = current ? familyOf(videos, current.id) : [];
    this.#root.hidden = members.length === 0;
    const facts = JSON.stringify([current?.id, this.#list.clientWidth, members.map(({ video }) => [video.id, video.title, video.frames, video.num_frames, video.state])]);
    if (!current || facts === this.#drawn) return;
    this.#drawn = facts;
    const focused = document.activeElement?.getAttribute("href");
    this.#list.replaceChildren(...members.map((member) => this.#row(member, current)));
    if (focused) /** @type {HTMLElement|null} */ (this.#list.querySelector(`[href="${focused}"]`))?.focus();
    this.#drawLines(members, current);
  }

  /** @param {Member} member @param {Video} current */
  #row({ video, parent }, current) {
    const row = Object.assign(document.createElement("div"), { className: "row", role: "listitem" });
    const isCurrent = video.id === current.id;
    const link = Object.assign(document.createElement("a"), { href: `#/video/${video.id}`, textContent: nameIn(video, parent) });
    link.title = `${video.title || video.prompt} · ${stateOf(video)}`;
    if (isCurrent) link.setAttribute("aria-current", "page");
    row.append(link);
    if (!isCurrent) row.append(this.#beside(video, current));
    return row;
  }

  /** @param {Video} video @param {Video} current */
  #beside(video, current) {
    const link = Object.assign(document.createElement("a"), { href: besideAddress(video, current), className: "with", textContent: "compare" });
    link.setAttribute("aria-label", `compare with ${video.title || video.prompt}, side by side`);
    return link;
  }

  /** @param {readonly Member[]} members @param {Video} current */
  #drawLines(members, current) {
    const svg = inside(this.#root, "svg");
    const drawn = lanes(members, Math.max(1, this.#list.clientWidth - 12));
    svg.setAttribute("height", String(members.length * ROW_PX));
    const parts = drawn.flatMap(({ path, planned }, row) => [shape("path", { d: planned, class: "planned" }), shape("path", { d: path, class: members[row].video.id === current.id ? "current" : "" })]);
    const forks = drawn.flatMap(({ fork }) => (fork ? [shape("circle", { cx: String(fork.x), cy: String(fork.y), r: "4.5" })] : []));
    svg.replaceChildren(...parts, ...forks);
    setText(inside(this.#root, "h2"), "Branches of this film");
  }
}

/** Of two films with one name the branch is told by where it leaves the other. @param {Video} video @param {Video|null} parent */
export function nameIn(video, parent) {
  const name = video.title || video.prompt;
  return parent && name === (parent.title || parent.prompt) ? `the same, ${video.fork_index ? `from ${momentOf(video, video.fork_index)}` : "afresh"}` : name;
}

/** @param {string} name @param {Record<string, string>} attributes */
function shape(name, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}
