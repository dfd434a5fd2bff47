"""A video and its chunks as other programs see them: plain JSON, the same over REST, events and WebSocket.

The first block of `VideoJson` is OpenAI's video object, the second is ours. `/openapi.json` is made from these types.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypedDict

from st2v_stream.media.scaling import enlarge_factor
from st2v_stream.types import EndedBy, EnhancePolicy, LogEntry, Progress, Rendition, SegmentRef, VideoState, VideoView

Status = Literal["queued", "in_progress", "completed", "failed"]

_STATUS: Mapping[VideoState, Status] = {
    "queued": "queued",
    "loading": "queued",
    "running": "in_progress",
    "paused": "in_progress",
    "stopping": "in_progress",
    "stopped": "completed",
    "completed": "completed",
    "failed": "failed",
}


class VideoErrorJson(TypedDict):
    """Why a video failed."""

    code: str
    message: str


class VideoJson(TypedDict):
    """A video: OpenAI's fields, then ours."""

    id: str
    object: Literal["video"]
    created_at: int
    completed_at: int | None
    expires_at: None
    error: VideoErrorJson | None
    model: str
    progress: int
    prompt: str
    first_prompt: str
    remixed_from_video_id: str | None
    seconds: str
    size: str
    status: Status

    title: str
    state: VideoState
    fps: int
    frames: int
    num_frames: int | None
    chunks: int
    first_chunk_frames: int
    chunk_frames: int
    width: int
    height: int
    preset: str
    seed: int
    guidance_scale: float | None
    num_inference_steps: int | None
    negative_prompt: str
    parent_id: str | None
    fork_index: int | None
    enhance: EnhancePolicy
    enhancer: str | None
    enhanced_frames: int
    enhanced_prefix_frames: int
    enhance_error: str | None
    ended_by: EndedBy | None
    paused_reason: str | None
    warnings: list[str]
    cursor: int
    size_bytes: int


class ChunkJson(TypedDict):
    """An encoded chunk. `url` and `init_url` are relative to the video's address, so a grant in the path carries over."""

    seq: int
    index: int
    start: int
    frames: int
    rendition: Rendition
    revision: int
    hash: str
    init: str
    codec: str
    width: int
    height: int
    size_bytes: int
    url: str
    init_url: str


class CueNoteJson(TypedDict):
    """The direction changes from chunk `index` on: by a cue with this prompt (null: it changes something else), or because the
    cue with the seq `taken_back` does not hold any more."""

    seq: int
    index: int
    prompt: str | None
    taken_back: int | None


class ProgressJson(TypedDict):
    """Denoising step `step` of `steps` of chunk `index` in one rendition."""

    index: int
    step: int
    steps: int
    frames_per_second: float | None
    rendition: Rendition


def video_json(view: VideoView) -> VideoJson:
    """The video as other programs see it."""
    direction = view.direction
    width, height = encoded_size(view.spec.width, view.spec.height)
    return {
        "id": view.id,
        "object": "video",
        "created_at": view.created_at_s,
        "completed_at": view.completed_at_s,
        "expires_at": None,
        "error": None if view.error is None else {"code": "generation_failed", "message": view.error},
        "model": view.model,
        "progress": progress_percent(view),
        "prompt": view.prompt,
        "first_prompt": view.prompt if direction is None else direction.prompt,
        "remixed_from_video_id": view.parent_id,
        "seconds": f"{_duration_frames(view) / view.spec.fps:g}",
        "size": f"{width}x{height}",
        "status": _STATUS[view.state],
        "title": view.title,
        "state": view.state,
        "fps": view.spec.fps,
        "frames": view.frames,
        "num_frames": view.num_frames,
        "chunks": view.chunks,
        "first_chunk_frames": view.spec.first_chunk_frames,
        "chunk_frames": view.spec.chunk_frames,
        "width": width,
        "height": height,
        "preset": view.preset,
        "seed": view.seed,
        "guidance_scale": None if direction is None else direction.guidance_scale,
        "num_inference_steps": None if direction is None else direction.num_inference_steps,
        "negative_prompt": "" if direction is None else direction.negative_prompt,
        "parent_id": view.parent_id,
        "fork_index": view.fork_index,
        "enhance": view.enhance,
        "enhancer": view.enhancer,
        "enhanced_frames": view.enhanced_frames,
        "enhanced_prefix_frames": view.enhanced_prefix_frames,
        "enhance_error": view.enhance_error,
        "ended_by": view.ended_by,
        "paused_reason": view.paused_reason,
        "warnings": list(view.warnings),
        "cursor": view.seq,
        "size_bytes": view.size_bytes,
    }


def chunk_json(seq: int, segment: SegmentRef) -> ChunkJson:
    """An encoded chunk as other programs see it."""
    return {
        "seq": seq,
        "index": segment.index,
        "start": segment.start,
        "frames": segment.frames,
        "rendition": segment.rendition,
        "revision": segment.revision,
        "hash": segment.hash,
        "init": segment.init,
        "codec": segment.codec,
        "width": segment.width,
        "height": segment.height,
        "size_bytes": segment.size_bytes,
        "url": f"segments/{segment.hash}.m4s",
        "init_url": f"init/{segment.init}.mp4",
    }


def cue_note_json(entry: LogEntry) -> CueNoteJson:
    """A log entry of kind cue as those who watch are told it."""
    prompt = None if entry.cue is None else entry.cue.prompt
    return {"seq": entry.seq, "index": entry.index, "prompt": prompt, "taken_back": entry.taken_back}


def progress_json(progress: Progress) -> ProgressJson:
    """A denoising step as other programs see it."""
    return {
        "index": progress.index,
        "step": progress.step,
        "steps": progress.steps,
        "frames_per_second": progress.frames_per_second,
        "rendition": progress.rendition,
    }


def encoded_size(width: int, height: int) -> tuple[int, int]:
    """Size of the encoded picture of a model that makes width x height (small ones are enlarged before encoding)."""
    factor = enlarge_factor(width, height)
    return width * factor, height * factor


def progress_percent(view: VideoView) -> int:
    """0 to 100: 100 only for a film that has ended well; an endless one stays at 0."""
    if _STATUS[view.state] == "completed":
        return 100
    if not view.num_frames:
        return 0
    return min(99, 100 * view.frames // view.num_frames)


def has_ended(entry: LogEntry) -> VideoView | None:
    """The view of a log entry that says that the film has ended (it may go on later), else None."""
    view = entry.view if entry.kind == "state" else None
    return view if view is not None and view.ended_by is not None else None


def _duration_frames(view: VideoView) -> int:
    if view.ended_by is not None or view.num_frames is None:
        return view.frames
    return view.num_frames
