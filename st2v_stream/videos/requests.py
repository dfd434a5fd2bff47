"""What a request for a video has to be, and what it becomes."""

from __future__ import annotations

import math
from dataclasses import replace

from st2v_stream.chunk import StreamSpec
from st2v_stream.config import Config
from st2v_stream.direction import DEFAULT_SEED, Direction, Timeline
from st2v_stream.errors import InvalidRequest
from st2v_stream.types import CreateVideo, ModelCard, VideoView

_TITLE_CHARS = 200
_OF_FIRST_CHUNK = ("first_chunk_guidance_scale", "first_chunk_num_inference_steps")


def new_view(
    request: CreateVideo, timeline: Timeline, card: ModelCard, config: Config, video_id: str, created_at_s: int
) -> VideoView:
    """The video this request asks for, with these directions, not yet begun. Raises `InvalidRequest`."""
    direction = timeline.first
    if request.when_unwatched is not None:
        patience_s(request.when_unwatched)
    check_num_frames(request.num_frames, card, config)
    num_frames = None if request.num_frames is None else whole_frames(card.spec, request.num_frames)
    return VideoView(
        id=video_id,
        state="queued",
        title=title_of(request.title, direction.prompt),
        model=card.name,
        preset=direction.preset,
        seed=direction.seed,
        prompt=direction.prompt,
        spec=card.spec,
        created_at_s=created_at_s,
        num_frames=num_frames,
        direction=direction,
        when_unwatched=request.when_unwatched,
        warnings=(*_word_warnings(timeline, card), *rounding_warnings(request.num_frames, num_frames)),
    )


def direction_of(request: CreateVideo, card: ModelCard, config: Config) -> Direction:
    """Explicit values, else the preset's, else the Direction's own. Raises `InvalidRequest`."""
    check_text("prompt", request.prompt, config)
    check_text("negative_prompt", request.negative_prompt, config, may_be_empty=True)
    direction = card.direction(
        request.prompt,
        preset=request.preset or config.preset,
        seed=DEFAULT_SEED if request.seed is None else request.seed,
        negative_prompt=request.negative_prompt,
        guidance_scale=request.guidance_scale,
        num_inference_steps=request.num_inference_steps,
    )
    given = {name: getattr(request, name) for name in _OF_FIRST_CHUNK if getattr(request, name) is not None}
    return replace(direction, **given)


def title_of(given: str | None, otherwise: str) -> str:
    """A title that is short enough."""
    return (given or otherwise)[:_TITLE_CHARS]


def checked_title(title: str) -> str:
    """A title that says something. Raises `InvalidRequest`."""
    if not title.strip():
        raise InvalidRequest("the title is empty", expected="a few words", received=title, param="title")
    return title_of(title.strip(), title)


def patience_s(when_unwatched: str) -> float | None:
    """Seconds to go on without a viewer, None = for ever. Raises `InvalidRequest`."""
    if when_unwatched == "run":
        return None
    try:
        seconds = float(when_unwatched)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < math.inf:
        expected = "run, or a number of seconds"
        raise InvalidRequest("when_unwatched is not usable", expected=expected, received=when_unwatched, param="when_unwatched")
    return seconds


def check_num_frames(num_frames: int | None, card: ModelCard, config: Config) -> None:
    """Raise `InvalidRequest` unless this many frames (None = endless) may be asked for."""
    if num_frames is None:
        return
    limit = _most_frames(card, config)
    if isinstance(num_frames, bool) or not isinstance(num_frames, int) or not 1 <= num_frames <= limit:
        expected = f"a whole number from 1 to {limit}, or null for an endless video"
        raise InvalidRequest("num_frames is out of range", expected=expected, received=num_frames, param="num_frames")


def continued_frames(view: VideoView, num_frames: int | None, card: ModelCard, config: Config) -> int | None:
    """How long the film becomes with `num_frames` more (None = endless). Raises `InvalidRequest`, saying what is left."""
    if num_frames is None:
        return None
    border = view.spec.start_of(view.spec.chunks_for(_most_frames(card, config) + 1) - 1)  # the last one within the limit
    left = max(border - view.frames, 0)
    if isinstance(num_frames, bool) or not isinstance(num_frames, int) or not 1 <= num_frames <= left:
        expected = f"a whole number, at most {left} more frames, or null for an endless video"
        raise InvalidRequest("num_frames is out of range", expected=expected, received=num_frames, param="num_frames")
    return whole_frames(view.spec, view.frames + num_frames)


def _most_frames(card: ModelCard, config: Config) -> int:
    return config.max_num_frames if card.spec.max_frames is None else min(config.max_num_frames, card.spec.max_frames)


def whole_frames(spec: StreamSpec, num_frames: int) -> int:
    """Rounded up to whole chunks."""
    return spec.start_of(spec.chunks_for(num_frames))


def rounding_warnings(asked: int | None, planned: int | None) -> tuple[str, ...]:
    """One sentence if the film becomes longer than asked for."""
    if asked is None or planned is None or asked == planned:
        return ()
    return (f"num_frames was rounded up from {asked} to {planned}: films end on a chunk border",)


def _word_warnings(timeline: Timeline, card: ModelCard) -> tuple[str, ...]:
    """Each sentence once, however many cues give reason for it."""
    spoken = [timeline.first.prompts, *(cue.changes.get("prompts", ()) for cue in timeline.cues)]
    texts = dict.fromkeys(text for prompts in spoken for text, _ in prompts)
    return tuple(dict.fromkeys(warning for text in texts for warning in card.warnings(text)))


def check_text(param: str, text: str, config: Config, *, may_be_empty: bool = False) -> None:
    """Raise `InvalidRequest` for text that is too long, or empty where it may not be."""
    if not may_be_empty and not text.strip():
        raise InvalidRequest(f"{param} is empty", expected="a sentence that says what to show", received=text, param=param)
    if len(text) > config.max_prompt_chars:
        expected = f"at most {config.max_prompt_chars} characters"
        raise InvalidRequest(f"{param} is too long", expected=expected, received=f"{len(text)} characters", param=param)
