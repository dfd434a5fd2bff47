"""What a request for a video has to be, and what it becomes."""

from __future__ import annotations

from st2v_stream.chunk import StreamSpec
from st2v_stream.config import Config
from st2v_stream.direction import DEFAULT_SEED, Direction
from st2v_stream.errors import InvalidRequest
from st2v_stream.types import CreateVideo, ModelCard, VideoView

_TITLE_CHARS = 200


def new_view(request: CreateVideo, card: ModelCard, config: Config, video_id: str, created_at_s: int) -> VideoView:
    """The video this request asks for, not yet begun. Raises `InvalidRequest`."""
    direction = direction_of(request, card, config)
    check_num_frames(request.num_frames, card, config)
    num_frames = None if request.num_frames is None else whole_frames(card.spec, request.num_frames)
    return VideoView(
        id=video_id,
        state="queued",
        title=(request.title or direction.prompt)[:_TITLE_CHARS],
        model=card.name,
        preset=direction.preset,
        seed=direction.seed,
        prompt=direction.prompt,
        spec=card.spec,
        created_at_s=created_at_s,
        num_frames=num_frames,
        direction=direction,
        warnings=(*card.warnings(direction.prompt), *rounding_warnings(request.num_frames, num_frames)),
    )


def direction_of(request: CreateVideo, card: ModelCard, config: Config) -> Direction:
    """Explicit values, else the preset's, else the Direction's own. Raises `InvalidRequest`."""
    _check_text("prompt", request.prompt, config)
    _check_text("negative_prompt", request.negative_prompt, config, may_be_empty=True)
    return card.direction(
        request.prompt,
        preset=request.preset or config.preset,
        seed=DEFAULT_SEED if request.seed is None else request.seed,
        negative_prompt=request.negative_prompt,
        guidance_scale=request.guidance_scale,
        num_inference_steps=request.num_inference_steps,
    )


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


def _check_text(param: str, text: str, config: Config, *, may_be_empty: bool = False) -> None:
    if not may_be_empty and not text.strip():
        raise InvalidRequest(f"{param} is empty", expected="a sentence that says what to show", received=text, param=param)
    if len(text) > config.max_prompt_chars:
        expected = f"at most {config.max_prompt_chars} characters"
        raise InvalidRequest(f"{param} is too long", expected=expected, received=f"{len(text)} characters", param=param)
