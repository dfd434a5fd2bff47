"""What the director says: a `Direction` for one chunk, `Cue`s that change it, the `Timeline` of a film."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypeAlias, get_args

from st2v_stream.errors import InvalidRequest

Preset = Literal["published", "default", "live"]
PRESETS: tuple[str, ...] = get_args(Preset)

DEFAULT_SEED = 33
MAX_SEED = 2**63 - 1
MAX_STEPS = 1000
MAX_GUIDANCE_SCALE = 100.0
MAX_TRANSITION_CHUNKS = 64

Prompts: TypeAlias = tuple[tuple[str, float], ...]
"""Prompts and their weights, ((text, weight), ...)."""

_OF_FIRST_CHUNK = ("guidance_scale", "num_inference_steps")
_WEIGHT_DIGITS = 6
"""Weights are rounded, so that they read well and mean the same wherever they were worked out."""


@dataclass(frozen=True, slots=True)
class Direction:
    """Everything a chunk is made with, besides the memory. Stored with every chunk, so replay needs nothing else.

    prompts: ((text, weight), ...), weights above 0; one prompt is ((text, 1.0),).
    guidance_scale: classifier-free guidance; 1.0 is a single pass. num_inference_steps: denoising steps per chunk.
    The first_chunk_ fields apply to chunk 0 instead, where they are given: it has no memory to lean on, the whole film
    leans on it, and it is made only once.
    """

    prompts: Prompts
    negative_prompt: str = ""
    guidance_scale: float = 1.0
    num_inference_steps: int = 6
    preset: Preset = "default"
    seed: int = DEFAULT_SEED
    first_chunk_guidance_scale: float | None = None
    first_chunk_num_inference_steps: int | None = None

    def __post_init__(self) -> None:
        _require(len(self.prompts) > 0, "prompts", "at least one prompt", self.prompts)
        for _, weight in self.prompts:
            _require(weight > 0, "prompts", "weights above 0", weight)
        for name in ("num_inference_steps", "first_chunk_num_inference_steps"):
            steps = getattr(self, name)
            _require(steps is None or 1 <= steps <= MAX_STEPS, name, f"a whole number from 1 to {MAX_STEPS}", steps)
        for name in ("guidance_scale", "first_chunk_guidance_scale"):
            scale = getattr(self, name)
            expected = f"a number from 0 to {MAX_GUIDANCE_SCALE:g}"
            _require(scale is None or 0 <= scale <= MAX_GUIDANCE_SCALE, name, expected, scale)
        _require(self.preset in PRESETS, "preset", f"one of {', '.join(PRESETS)}", self.preset)
        _require(0 <= self.seed <= MAX_SEED, "seed", f"a whole number from 0 to {MAX_SEED}", self.seed)

    @property
    def prompt(self) -> str:
        """The prompt with the largest weight: what a person reads as the prompt of this chunk."""
        return max(self.prompts, key=lambda item: item[1])[0]

    @property
    def of_first_chunk(self) -> Direction:
        """What chunk 0 is made with: the first_chunk_ fields in place of the general ones."""
        steps, scale = self.first_chunk_num_inference_steps, self.first_chunk_guidance_scale
        return replace(
            self,
            num_inference_steps=self.num_inference_steps if steps is None else steps,
            guidance_scale=self.guidance_scale if scale is None else scale,
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values, the inverse of `from_json`."""
        return asdict(self) | {"prompts": [list(item) for item in self.prompts]}

    @staticmethod
    def from_json(fields: Mapping[str, Any]) -> Direction:
        """A Direction from what `to_json` wrote."""
        prompts = tuple((str(text), float(weight)) for text, weight in fields["prompts"])
        return Direction(**{**fields, "prompts": prompts})


@dataclass(frozen=True, slots=True)
class Cue:
    """From chunk `index` on, these fields of the Direction are different.

    transition_chunks: a new prompt is mixed in over so many chunks, in equal steps, before it stands alone; everything
    else changes at once.
    """

    index: int
    changes: Mapping[str, Any]
    transition_chunks: int = 0

    def __post_init__(self) -> None:
        _require(self.index >= 0, "index", "a whole number from 0", self.index)
        expected = f"a whole number from 0 to {MAX_TRANSITION_CHUNKS}"
        _require(0 <= self.transition_chunks <= MAX_TRANSITION_CHUNKS, "transition_chunks", expected, self.transition_chunks)

    @property
    def prompt(self) -> str | None:
        """The prompt it brings, None where it changes something else."""
        prompts: Prompts | None = self.changes.get("prompts")
        return None if prompts is None else max(prompts, key=lambda item: item[1])[0]

    def applied(self, before: Direction, index: int) -> Direction:
        """What `before` becomes at chunk `index`, which is the cue's own or a later one."""
        changes, step = dict(self.changes), index - self.index + 1
        if self.index == 0:  # what is said of chunk 0 too is said instead of a preset's own values for chunk 0
            changes = {f"first_chunk_{name}": None for name in _OF_FIRST_CHUNK if name in changes} | changes
        if "prompts" in changes and step <= self.transition_chunks:
            changes["prompts"] = mixed_prompts(before.prompts, changes["prompts"], step / (self.transition_chunks + 1))
        return replace(before, **changes)

    def without(self, fields: Collection[str]) -> Cue:
        """The same cue without these changes."""
        changes = {name: value for name, value in self.changes.items() if name not in fields}
        return Cue(self.index, changes, self.transition_chunks if "prompts" in changes else 0)

    def to_json(self) -> dict[str, Any]:
        """Plain values, the inverse of `from_json`."""
        return {"index": self.index, "changes": dict(self.changes), "transition_chunks": self.transition_chunks}

    @staticmethod
    def from_json(fields: Mapping[str, Any]) -> Cue:
        """A Cue from what `to_json` wrote."""
        changes = dict(fields["changes"])
        if "prompts" in changes:
            changes["prompts"] = tuple((text, weight) for text, weight in changes["prompts"])
        return Cue(fields["index"], changes, fields.get("transition_chunks", 0))


@dataclass(frozen=True, slots=True)
class Timeline:
    """The directions of a film: a first one, and cues in any order (a later cue at the same chunk wins)."""

    first: Direction
    cues: tuple[Cue, ...] = ()

    def at(self, index: int) -> Direction:
        """The Direction of chunk `index`."""
        direction = self.first
        for cue in sorted(self.cues, key=lambda cue: cue.index):
            if cue.index <= index:
                direction = cue.applied(direction, index)
        return direction

    def and_then(self, cue: Cue) -> Timeline:
        """This timeline with one more cue; one at chunk 0 without a transition changes the first Direction itself."""
        if cue.index > 0 or cue.transition_chunks > 0:
            return Timeline(self.first, (*self.cues, cue))
        return Timeline(cue.applied(self.first, 0), self.cues)

    def turned(self, cue: Cue) -> Timeline:
        """This timeline with one more cue that holds to the end: from its chunk on earlier cues no longer touch its fields."""
        if not cue.changes:
            return self
        kept = (other if other.index < cue.index else other.without(cue.changes) for other in self.cues)
        return Timeline(self.first, tuple(other for other in kept if other.changes)).and_then(cue)

    def to_json(self) -> dict[str, Any]:
        """Plain values, the inverse of `from_json`."""
        return {"first": self.first.to_json(), "cues": [cue.to_json() for cue in self.cues]}

    @staticmethod
    def from_json(fields: Mapping[str, Any]) -> Timeline:
        """A Timeline from what `to_json` wrote."""
        return Timeline(Direction.from_json(fields["first"]), tuple(Cue.from_json(cue) for cue in fields["cues"]))


def mixed_prompts(before: Prompts, after: Prompts, share: float) -> Prompts:
    """Two weighted prompts as one: `after` has `share` (0 to 1) of the weight, `before` the rest; the sum is 1."""
    weights: dict[str, float] = {}
    for prompts, part in ((before, 1 - share), (after, share)):
        total = sum(weight for _, weight in prompts)
        for text, weight in prompts:
            weights[text] = weights.get(text, 0.0) + part * weight / total
    rounded = {text: round(weight, _WEIGHT_DIGITS) for text, weight in weights.items()}
    return tuple((text, weight) for text, weight in rounded.items() if weight > 0)


def _require(holds: bool, param: str, expected: str, received: object) -> None:
    if not holds:
        raise InvalidRequest(f"{param} is out of range", expected=expected, received=received, param=param)
