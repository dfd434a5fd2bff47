"""What a branch becomes: its length, its directions, and whether another model can go on from where it begins."""

from __future__ import annotations

from typing import Any

from st2v_stream.chunk import Memory, StreamSpec
from st2v_stream.config import Config
from st2v_stream.direction import Cue, Timeline
from st2v_stream.errors import Conflict, InvalidRequest, Stopped
from st2v_stream.types import BranchVideo, Generator, ModelCard, VideoView
from st2v_stream.videos.cues import changes_of, seed_warnings
from st2v_stream.videos.requests import check_num_frames, rounding_warnings, title_of, whole_frames


class ModelDoesNotFit(Conflict):
    """This model cannot go on from what another one has made."""

    code = "model_does_not_fit"

    def __init__(self, model: str, expected: object, received: object) -> None:
        offer = "; say or_new_film to begin a new film from this frame instead"
        super().__init__(f"{model} cannot go on from here{offer}", expected=expected, received=received, param="model")


def fork_of(request: BranchVideo, parent: VideoView) -> int:
    """The first chunk that is the branch's own. Raises `InvalidRequest`."""
    index = parent.chunks if request.from_index is None else request.from_index
    check_index(index, parent.chunks)
    return index


def check_index(index: int, last: int) -> None:
    """Raise `InvalidRequest` unless 0 <= index <= last."""
    if not 0 <= index <= last:
        raise InvalidRequest("from_index is out of range", expected=f"0 to {last}", received=index, param="from_index")


def check_seed_counts(cue: Cue, timeline: Timeline) -> None:
    """Raise `Conflict` for a redo that would make the same film again."""
    for reason in seed_warnings(cue, timeline):
        raise Conflict(f"nothing would be different: {reason}", expected="from_index 0", received=cue.index, param="from_index")


def branch_timeline(request: BranchVideo, fork: int, timeline: Timeline, card: ModelCard, config: Config) -> Timeline:
    """The parent's directions, and from chunk `fork` on what the request says instead. Raises `InvalidRequest`."""
    said = changes_of(request.changes, config)
    before = timeline.at(fork)
    if request.model is not None:  # another model's own steps and guidance, unless they are given
        own = card.direction(before.prompt, preset=before.preset, seed=before.seed)
        said = _settings(own.to_json(), fork) | said
    turned = timeline.turned(Cue(fork, said, request.transition_chunks if "prompts" in said else 0))
    turned.at(fork)  # a Direction that cannot be says so
    return turned


def branch_view(
    request: BranchVideo, parent: VideoView, fork: int, timeline: Timeline, card: ModelCard, config: Config
) -> dict[str, Any]:
    """What is different about the branch's view, besides its id and its age. Raises `InvalidRequest`."""
    prompt, asked = timeline.at(fork + request.transition_chunks).prompt, request.num_frames
    planned = parent.num_frames if asked == "as planned" else asked
    if planned is not None:
        check_num_frames(planned, card, config)
        _check_longer(planned, parent.spec.start_of(fork))
    num_frames = None if planned is None else whole_frames(card.spec, planned)
    return {
        "state": "queued",
        "title": title_of(request.title, parent.title if request.changes.prompt is None else prompt),
        "model": card.name,
        "spec": card.spec,
        "num_frames": num_frames,
        "direction": timeline.first,
        "warnings": (*card.warnings(prompt), *_seed_warnings(request, fork, timeline), *rounding_warnings(planned, num_frames)),
        "parent_id": parent.id,
        "fork_index": fork,
    }


def check_fits(card: ModelCard, spec: StreamSpec) -> None:
    """Raise `ModelDoesNotFit` unless the model makes films of this speed, size and chunk length."""
    expected, received = _shape(card.spec), _shape(spec)
    if expected != received:
        raise ModelDoesNotFit(card.name, expected, received)


def takes(generator: Generator, timeline: Timeline, memory: Memory) -> bool:
    """Whether the generator can go on from this memory: it looks at it before its first denoising step (blocking)."""

    def leave(k: int, n: int) -> None:
        raise Stopped("it takes it")

    try:
        generator.generate(timeline.at(memory.next_index), memory, leave)
    except Stopped:
        return True
    except InvalidRequest:
        return False
    return True


def _seed_warnings(request: BranchVideo, fork: int, timeline: Timeline) -> tuple[str, ...]:
    return () if request.changes.seed is None else seed_warnings(Cue(fork, {"seed": request.changes.seed}), timeline)


def _shape(spec: StreamSpec) -> str:
    chunks = f"{spec.first_chunk_frames}+{spec.chunk_frames} frames per chunk"
    return f"{spec.width}x{spec.height} at {spec.fps} fps, {chunks}"


def _settings(direction: dict[str, Any], fork: int) -> dict[str, Any]:
    names = ["guidance_scale", "num_inference_steps"]
    return {name: direction[name] for name in (*names, *(f"first_chunk_{name}" for name in names if fork == 0))}


def _check_longer(num_frames: int, shared: int) -> None:
    if num_frames <= shared:
        expected = f"more than the {shared} frames it has from its parent, or null for an endless video"
        raise InvalidRequest("the branch would make nothing", expected=expected, received=num_frames, param="num_frames")
