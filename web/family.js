// @ts-check
/** Films and their branches: in which order they are listed, and where branches leave the film on the stage. Pure. */

/** @typedef {import("./protocol.js").Video} Video */
/** @typedef {{video: Video, depth: number, parent: Video|null}} Member  depth: 0 where its parent is not listed */

/** Every film once: branches below their parent, each group in the order given. @param {readonly Video[]} videos @returns {Member[]} */
export function inFamilies(videos) {
  const byId = new Map(videos.map((video) => [video.id, video]));
  /** @type {Map<string, Video[]>} */
  const branches = new Map();
  for (const video of videos) {
    if (video.parent_id && byId.has(video.parent_id)) branches.set(video.parent_id, [...(branches.get(video.parent_id) ?? []), video]);
  }
  /** @type {Member[]} */ const members = [];
  const add = (/** @type {Video} */ video, /** @type {number} */ depth, /** @type {Video|null} */ parent) => {
    members.push({ video, depth, parent });
    for (const branch of branches.get(video.id) ?? []) add(branch, depth + 1, video);
  };
  for (const video of videos) if (!video.parent_id || !byId.has(video.parent_id)) add(video, 0, null);
  return members;
}

/** Where two films of a family are looked at side by side: the older one on the left. @param {Video} a @param {Video} b */
export function besideAddress(a, b) {
  const [left, right] = a.parent_id === b.id ? [b, a] : [a, b];
  return `#/compare/${left.id}/${right.id}`;
}

/** Chunks where branches of a film begin: how many at each. @param {Iterable<Video>} videos @param {string} parentId */
export function branchPoints(videos, parentId) {
  /** @type {Map<number, number>} */ const points = new Map();
  for (const { parent_id, fork_index } of videos) {
    if (parent_id === parentId && typeof fork_index === "number") points.set(fork_index, (points.get(fork_index) ?? 0) + 1);
  }
  return points;
}
