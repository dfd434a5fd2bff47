"""What a cue has to be, and from which chunk on it takes effect."""

from __future__ import annotations

import math
from typing import Any

from st2v_stream.chunk import StreamSpec
from st2v_stream.config import Config
from st2v_stream.direction import Cue, Timeline
from st2v_stream.errors import InvalidRequest
from st2v_stream.types import AddCue, Changes, CreateVideo, ModelCard
from st2v_stream.videos.requests import check_text, direction_of

MAX_CUES = 500
"""Cues of one film."""


def timeline_of(request: CreateVideo, card: ModelCard, config: Config) -> Timeline:
    """The directions of a new film; a cue at its beginning changes the first of them. Raises `InvalidRequest`."""
    timeline = Timeline(direction_of(request, card, config))
    for asked in request.cues:
        if wanted_index(asked, card.spec) is None:
            expected = "from_s or from_index with every cue of a new film"
            raise InvalidRequest("a cue does not say from where on", expected=expected, received="neither", param="cues")
        timeline = timeline.and_then(cue_of(asked, card.spec, timeline, config))
    return timeline


def cue_of(request: AddCue, spec: StreamSpec, timeline: Timeline, config: Config, soonest: int = 0) -> Cue:
    """The cue that a request asks for; not before chunk `soonest`. Raises `InvalidRequest`."""
    if len(timeline.cues) >= MAX_CUES:
        raise InvalidRequest("the film has too many cues", expected=f"at most {MAX_CUES}", received=len(timeline.cues) + 1)
    changes = changes_of(request.changes, config)
    if not changes:
        expected = "one or more of prompt, negative_prompt, guidance_scale, num_inference_steps, seed"
        raise InvalidRequest("the cue changes nothing", expected=expected, received="none of them", param="cue")
    wanted = wanted_index(request, spec)
    cue = Cue(soonest if wanted is None else max(wanted, soonest), changes, request.transition_chunks)
    cue.applied(timeline.first, cue.index)  # a Direction that cannot be says so
    return cue


def changes_of(changes: Changes, config: Config) -> dict[str, Any]:
    """The changes as a `Cue` has them, without those that are not asked for. Raises `InvalidRequest`."""
    said = {
        "negative_prompt": changes.negative_prompt,
        "guidance_scale": changes.guidance_scale,
        "num_inference_steps": changes.num_inference_steps,
        "seed": changes.seed,
    }
    asked: dict[str, Any] = {name: value for name, value in said.items() if value is not None}
    if changes.negative_prompt is not None:
        check_text("negative_prompt", changes.negative_prompt, config, may_be_empty=True)
    if changes.prompt is not None:
        check_text("prompt", changes.prompt, config)
        asked["prompts"] = ((changes.prompt.strip(), 1.0),)
    return asked


def wanted_index(request: AddCue, spec: StreamSpec) -> int | None:
    """The chunk a cue is asked for, None for as soon as can be. Raises `InvalidRequest`."""
    if request.from_s is None:
        return request.from_index
    if request.from_index is not None:
        expected = "from_s or from_index"
        raise InvalidRequest("the cue's place is given twice", expected=expected, received="both", param="from_s")
    return first_chunk_from(request.from_s, spec)


def first_chunk_from(time_s: float, spec: StreamSpec) -> int:
    """Index of the first chunk that begins `time_s` seconds into the film, or later. Raises `InvalidRequest`."""
    if not 0 <= time_s < math.inf:
        expected = "seconds from the film's beginning, 0 or more"
        raise InvalidRequest("from_s is out of range", expected=expected, received=time_s, param="from_s")
    frame = math.ceil(time_s * spec.fps - 1e-6)  # a time that was a frame's stays that frame's
    return 0 if frame <= 0 else spec.chunks_for(frame)


def seed_warnings(cue: Cue, timeline: Timeline) -> tuple[str, ...]:
    """A sentence for a seed that changes nothing: in preset `published` one random generator runs on through the film."""
    if "seed" not in cue.changes or cue.index == 0 or timeline.at(cue.index).preset != "published":
        return ()
    return ("in preset published the random numbers run on from the film's first seed: another one changes nothing later.",)


def cue_warnings(request: AddCue, cue: Cue, card: ModelCard, num_frames: int | None) -> tuple[str, ...]:
    """Sentences for the person: it comes later than asked, or after the film's end, or has unknown words."""
    wanted, start, said = wanted_index(request, card.spec), card.spec.start_of(cue.index), list[str]()
    if wanted is not None and wanted < cue.index:
        at = f"chunk {cue.index} ({start / card.spec.fps:g} s)"
        said.append(f"chunk {cue.index - 1} is made or being made: the cue takes effect from {at} on, not from chunk {wanted}.")
    if num_frames is not None and start >= num_frames:
        said.append(f"the film ends before {start / card.spec.fps:g} s: the cue takes effect if it goes on.")
    return (*said, *(() if request.changes.prompt is None else card.warnings(request.changes.prompt)))
