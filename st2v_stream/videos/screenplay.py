"""A film written down: small JSON from which the same film, or one like it, is made again.

It says what a request for a new video says, with the film's values in place of a preset's, and every cue by its time, so that
it holds for a model of another speed as well. `POST /v1/videos/screenplays` reads it.
"""

from __future__ import annotations

from typing import Literal, TypedDict

from st2v_stream.chunk import StreamSpec
from st2v_stream.direction import Cue, Timeline
from st2v_stream.errors import InvalidRequest
from st2v_stream.types import VideoView

MAX_SCREENPLAY_BYTES = 256 * 2**10
MAX_DEPTH = 4


class ScreenplayCueJson(TypedDict):
    """What changes from a moment on; null: as before."""

    from_s: float
    prompt: str | None
    negative_prompt: str | None
    guidance_scale: float | None
    num_inference_steps: int | None
    seed: int | None
    transition_chunks: int


class ScreenplayJson(TypedDict):
    """A film written down; `screenplay` is the version of this layout."""

    screenplay: Literal[1]
    title: str
    model: str
    preset: str
    seed: int
    num_frames: int | None
    prompt: str
    negative_prompt: str
    guidance_scale: float
    num_inference_steps: int
    first_chunk_guidance_scale: float | None
    first_chunk_num_inference_steps: int | None
    cues: list[ScreenplayCueJson]


def screenplay_of(view: VideoView, timeline: Timeline) -> ScreenplayJson:
    """The screenplay of a film as it is now: of what exists if it has ended, else of what is planned."""
    first = timeline.first
    return {
        "screenplay": 1,
        "title": view.title,
        "model": view.model,
        "preset": first.preset,
        "seed": first.seed,
        "num_frames": view.frames if view.ended_by is not None and view.frames else view.num_frames,
        "prompt": first.prompt,
        "negative_prompt": first.negative_prompt,
        "guidance_scale": first.guidance_scale,
        "num_inference_steps": first.num_inference_steps,
        "first_chunk_guidance_scale": first.first_chunk_guidance_scale,
        "first_chunk_num_inference_steps": first.first_chunk_num_inference_steps,
        "cues": [cue_json(cue, view.spec) for cue in timeline.cues],
    }


def cue_json(cue: Cue, spec: StreamSpec) -> ScreenplayCueJson:
    """A cue by its time."""
    return {
        "from_s": spec.start_of(cue.index) / spec.fps,
        "prompt": cue.prompt,
        "negative_prompt": cue.changes.get("negative_prompt"),
        "guidance_scale": cue.changes.get("guidance_scale"),
        "num_inference_steps": cue.changes.get("num_inference_steps"),
        "seed": cue.changes.get("seed"),
        "transition_chunks": cue.transition_chunks,
    }


def check_depth(value: object, max_depth: int = MAX_DEPTH) -> None:
    """Raise `InvalidRequest` for lists and objects within one another more than `max_depth` deep."""
    level, depth = [value], 0
    while level := [inner for outer in level for inner in _inside(outer)]:
        depth += 1
        if depth > max_depth:
            expected = f"lists and objects at most {max_depth} deep"
            raise InvalidRequest("the screenplay is nested too deep", expected=expected, received="deeper", param="cues")


def _inside(value: object) -> list[object]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []
