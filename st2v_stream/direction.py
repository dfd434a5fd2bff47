"""What the director says: a `Direction` for one chunk, `Cue`s that change it, the `Timeline` of a film."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

from st2v_stream.errors import InvalidRequest

Preset = Literal["published", "default", "live"]
PRESETS: tuple[str, ...] = get_args(Preset)

DEFAULT_SEED = 33
MAX_SEED = 2**63 - 1
MAX_STEPS = 1000
MAX_GUIDANCE_SCALE = 100.0


@dataclass(frozen=True, slots=True)
class Direction:
    """Everything a chunk is made with, besides the memory. Stored with every chunk, so replay needs nothing else.

    prompts: ((text, weight), ...), weights above 0; one prompt is ((text, 1.0),).
    guidance_scale: classifier-free guidance; 1.0 is a single pass. num_inference_steps: denoising steps per chunk.
    The first_chunk_ fields apply to chunk 0 instead, where they are given: it has no memory to lean on, the whole film
    leans on it, and it is made only once.
    """

    prompts: tuple[tuple[str, float], ...]
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
    """From chunk `index` on, these fields of the Direction are different."""

    index: int
    changes: Mapping[str, Any]


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
                direction = replace(direction, **cue.changes)
        return direction

    def to_json(self) -> dict[str, Any]:
        """Plain values, the inverse of `from_json`."""
        cues = [{"index": cue.index, "changes": dict(cue.changes)} for cue in self.cues]
        return {"first": self.first.to_json(), "cues": cues}

    @staticmethod
    def from_json(fields: Mapping[str, Any]) -> Timeline:
        """A Timeline from what `to_json` wrote."""
        cues = tuple(Cue(cue["index"], _tuple_prompts(cue["changes"])) for cue in fields["cues"])
        return Timeline(Direction.from_json(fields["first"]), cues)


def _tuple_prompts(changes: Mapping[str, Any]) -> dict[str, Any]:
    prompts = changes.get("prompts")
    return dict(changes) if prompts is None else {**changes, "prompts": tuple((text, weight) for text, weight in prompts)}


def _require(holds: bool, param: str, expected: str, received: object) -> None:
    if not holds:
        raise InvalidRequest(f"{param} is out of range", expected=expected, received=received, param=param)
