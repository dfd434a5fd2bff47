"""The whole vocabulary on one page: what the rooms promise each other.

Makers implement `Generator` or `Enhancer`; the flow awaits a `Worker`; everything above speaks to a `Director` and sees only
its frozen views (`VideoView`, `LogEntry`, `SegmentRef`, `Progress`). No room needs more of another than what stands here.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias, TypeVar, cast, runtime_checkable

from st2v_stream.chunk import Chunk, Frames, Memory, StreamSpec
from st2v_stream.direction import DEFAULT_SEED, PRESETS, Cue, Direction, Preset, Timeline
from st2v_stream.errors import InvalidRequest

T = TypeVar("T")

OnStep: TypeAlias = Callable[[int, int], None]
"""on_step(k, n): called on the worker before denoising step k of n (k from 0) and once with k == n after the last.
The one place to stop (raises `Stopped`), to report progress and to hand the device to more urgent work."""

Rendition = Literal["preview", "enhanced"]
EnhancePolicy = Literal["all", "watched", "idle", "none"]
"""When a film is made sharp: all = as it is made; watched = while somebody watches it; idle = while no film is being made on
this device; none. What was asked for by itself (`Director.enhance`) is done under every policy."""
VideoState = Literal["queued", "loading", "running", "paused", "stopping", "stopped", "completed", "failed"]
EndedBy = Literal["length", "stopped", "error"]


# ---------------------------------------------------------------- makers


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What is known of a model without loading it (card.json; torch-free).

    vocabulary: the words it knows by group, None when it takes any text. presets: by preset name the defaults of
    num_inference_steps and guidance_scale, and of the same with first_chunk_ before it.
    """

    name: str
    title: str
    version: str
    licence: str
    spec: StreamSpec
    example_prompts: tuple[str, ...] = ()
    vocabulary: Mapping[str, Sequence[str]] | None = None
    presets: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    description: str = ""

    def unknown_words(self, prompt: str) -> tuple[str, ...]:
        """Words of the prompt that the model does not know, in order, each once (empty when it takes any text)."""
        if self.vocabulary is None:
            return ()
        known = {word for group in self.vocabulary.values() for phrase in group for word in phrase.lower().split()}
        words = "".join(c if c.isalnum() or c in "'-" else " " for c in prompt.lower()).split()
        return tuple(dict.fromkeys(word for word in words if word not in known))

    def warnings(self, prompt: str) -> tuple[str, ...]:
        """Sentences for the person who wrote the prompt: which words the model does not know, and what it does know."""
        unknown = self.unknown_words(prompt)
        if not unknown or self.vocabulary is None:
            return ()
        known = "; ".join(f"{group}: {', '.join(words)}" for group, words in self.vocabulary.items())
        return (f"{self.title} does not know {', '.join(map(repr, unknown))} and goes on without. It knows {known}.",)

    def direction(
        self,
        prompt: str,
        *,
        preset: str = "default",
        seed: int = DEFAULT_SEED,
        negative_prompt: str = "",
        guidance_scale: float | None = None,
        num_inference_steps: int | None = None,
    ) -> Direction:
        """The Direction for a prompt: the preset's defaults, and every value that is given (not None) instead of them.

        Raises `InvalidRequest` for an empty prompt, an unknown preset or a value out of range.
        """
        if not prompt.strip():
            raise InvalidRequest("the prompt is empty", expected="a few words", received=prompt, param="prompt")
        if preset not in PRESETS:
            raise InvalidRequest("unknown preset", expected="one of " + ", ".join(PRESETS), received=preset, param="preset")
        defaults = dict(self.presets.get(preset, {}))
        for name, given in (("guidance_scale", guidance_scale), ("num_inference_steps", num_inference_steps)):
            if given is not None:  # then it holds for every chunk
                defaults[name] = given
                defaults.pop(f"first_chunk_{name}", None)
        settings: dict[str, Any] = {name: int(value) if "steps" in name else value for name, value in defaults.items()}
        return Direction(((prompt.strip(), 1.0),), negative_prompt, preset=cast(Preset, preset), seed=seed, **settings)


@dataclass(frozen=True, slots=True)
class Reference:
    """An image or a clip a film starts from: (T, H, W, 3) uint8 of any size; T = 1 is an image, more is a clip to continue.

    Of a clip longer than a first chunk only its first frame and its last ones count: what lies between may be left out.
    """

    frames: Frames


class Generator(Protocol):
    """Makes chunks. Owns no state between chunks: the same arguments give the same frames."""

    @property
    def card(self) -> ModelCard: ...

    @property
    def spec(self) -> StreamSpec: ...

    def begin(self, direction: Direction, reference: Reference | None, on_step: OnStep) -> tuple[Frames, Memory]:
        """The first chunk: (first_chunk_frames, H, W, 3) and the memory for chunk 1. Raises `Stopped`."""
        ...

    def generate(self, direction: Direction, memory: Memory, on_step: OnStep) -> tuple[Frames, Memory]:
        """Chunk `memory.next_index`: (chunk_frames, H, W, 3) and the memory for the one after. Raises `Stopped`."""
        ...


@runtime_checkable
class Remembers(Protocol):
    """A `Generator` whose memories hold frames of the chunk they were made by, exactly as they were shown."""

    def frames_of(self, direction: Direction, memory: Memory) -> Frames:
        """The last frames of chunk `memory.next_index` - 1, which was made with `direction`; mostly all of them."""
        ...


@dataclass(frozen=True, slots=True)
class EnhancedChunk:
    """A preview chunk made sharp.

    chunk: index, start and direction of the preview chunk, frames (T, H', W', 3) uint8 of the enhancer's size, and as its
    memory the carry after it: with that, enhancement goes on at preview chunk `memory.next_index`, which may lie further on.
    revision: its n-th making, from 0. is_provisional: made where the film ended for now; if it goes on, it is made again.
    """

    chunk: Chunk
    revision: int = 0
    is_provisional: bool = False


class Enhancer(Protocol):
    """Makes chunks sharp, some frames behind the preview. Owns no state between calls: all of it is in the carry.

    The carry is a `Memory` of the enhancer's own kind: what was begun and is not finished, whatever the film's length.
    """

    @property
    def name(self) -> str: ...

    @property
    def lag_frames(self) -> int:
        """How many frames, from one on, must exist at most until that one is sharp (0: a chunk is, as soon as it exists)."""
        ...

    def sharp_spec(self, preview: StreamSpec) -> StreamSpec:
        """What enhanced films of this preview look like: the same chunks, another size."""
        ...

    def enhance(self, chunk: Chunk, carry: Memory | None, on_step: OnStep) -> tuple[Sequence[EnhancedChunk], Memory]:
        """Take the next preview chunk -> the chunks that became sharp, maybe none, and the carry after them.

        carry: None begins, with any chunk of a film. Raises `Stopped`, `InvalidRequest` (another chunk, another's carry).
        """
        ...

    def finish(self, carry: Memory, on_step: OnStep) -> tuple[Sequence[EnhancedChunk], Memory]:
        """No chunk follows for now -> the rest, provisional, and the carry with which the film can go on. Raises `Stopped`."""
        ...


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A model by name: its card, and how to load it (blocking; run it on the worker). load raises `CheckpointError`.

    load_enhancer: what makes its films sharp (blocking), None where nothing does. enhancer: its name before it is loaded.
    """

    card: ModelCard
    load: Callable[[], Generator]
    load_enhancer: Callable[[], Enhancer] | None = None
    enhancer: str | None = None


# ---------------------------------------------------------------- flow


class Worker(Protocol):
    """One device: runs blocking work, one call at a time, the most urgent first (lower number = more urgent)."""

    async def run(self, fn: Callable[..., T], *args: Any, priority: int = 0) -> T:
        """Await `fn(*args)` run on the device's thread. Cancelling the await leaves `fn` running to its next on_step."""
        ...

    def yield_to_urgent(self, priority: int) -> None:
        """Called on the worker thread between steps: first run whatever waits with a lower number."""
        ...

    async def aclose(self) -> None:
        """Finish what runs, refuse what waits, end the thread."""
        ...


# ---------------------------------------------------------------- what the doors see


@dataclass(frozen=True, slots=True)
class SegmentRef:
    """An encoded chunk, addressed by the sha256 of its bytes. `codec` is the MIME codecs string, e.g. avc1.42C00B.

    init: hash of its init segment. start, frames: its place in the film. width, height: of the encoded picture.
    """

    hash: str
    size_bytes: int
    init: str
    codec: str
    index: int
    start: int
    frames: int
    width: int
    height: int
    rendition: Rendition = "preview"
    revision: int = 0


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One row of a video's append-only log; `seq` (from 1) is the cursor of everybody who follows.

    kind segment: `segment` is set. reset: chunks from `index` on are no longer part of the film. cue: `cue` says what
    changes from chunk `index` on, or, where it is None, the cue with the seq `taken_back` does not hold any more. state:
    `view` holds the video as it then was.
    """

    seq: int
    kind: Literal["segment", "reset", "cue", "state"]
    index: int
    segment: SegmentRef | None = None
    view: VideoView | None = None
    cue: Cue | None = None
    taken_back: int | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """Denoising step `step` of `steps` of chunk `index`; not logged, only the newest of each rendition matters."""

    index: int
    step: int
    steps: int
    frames_per_second: float | None = None
    """Measured over the last chunks made; None before the first."""
    rendition: Rendition = "preview"


@dataclass(frozen=True, slots=True)
class VideoView:
    """A video as the doors see it; a snapshot of one moment."""

    id: str
    state: VideoState
    title: str
    model: str
    preset: str
    seed: int
    prompt: str
    """Of the first chunk that is its own: of a branch, what it goes its own way with (`direction` is chunk 0's)."""
    spec: StreamSpec
    created_at_s: int
    num_frames: int | None
    """Frames planned (whole chunks), None = endless."""
    frames: int = 0
    """Frames that exist (acknowledged)."""
    chunks: int = 0
    seq: int = 0
    """seq of the newest log entry."""
    ended_by: EndedBy | None = None
    error: str | None = None
    paused_reason: str | None = None
    completed_at_s: int | None = None
    direction: Direction | None = None
    warnings: tuple[str, ...] = ()
    parent_id: str | None = None
    fork_index: int | None = None
    enhanced_frames: int = 0
    """Frames that there are sharp."""
    size_bytes: int = 0
    """Bytes of everything it refers to; what several films share counts for each of them."""
    when_unwatched: str | None = None
    """run, or seconds to go on without a viewer; None: as the server is configured."""
    enhanced_prefix_frames: int = 0
    """The frontier: so many frames are sharp without a gap from the film's beginning."""
    enhance: EnhancePolicy = "none"
    enhancer: str | None = None
    """What makes it sharp; None: nothing can."""
    enhance_error: str | None = None
    """Why it is made sharp no further."""


@dataclass(frozen=True, slots=True)
class DeletedVideo:
    """A video that can be had back until `forgotten_at_s` (Unix seconds), or until the disk is full."""

    view: VideoView
    deleted_at_s: int
    forgotten_at_s: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What exists at one moment: the newest revision of the best rendition per chunk (one `segment` entry each, ordered
    by seq, so that a reader cut off half-way goes on from its last seq), and the seq it was read at."""

    view: VideoView
    entries: tuple[LogEntry, ...]
    seq: int


@dataclass(frozen=True, slots=True)
class Changes:
    """What a director may say anew in the middle of a film; None means: as before."""

    prompt: str | None = None
    negative_prompt: str | None = None
    guidance_scale: float | None = None
    num_inference_steps: int | None = None
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class AddCue:
    """A checked request for a cue: what changes, and from where on.

    from_index: a chunk; from_s: the first chunk that begins then or later; neither: as soon as can be.
    transition_chunks: over how many chunks a new prompt is mixed in.
    """

    changes: Changes
    from_index: int | None = None
    from_s: float | None = None
    transition_chunks: int = 0


@dataclass(frozen=True, slots=True)
class AddedCue:
    """A cue as it was taken: `cue.index` is the first chunk it will change; `seq`: of its entry in the log."""

    seq: int
    cue: Cue
    start: int
    """First frame of that chunk, counted from the film's beginning."""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CreateVideo:
    """A checked request for a new video; None means: the preset's or the model's default."""

    prompt: str
    model: str | None = None
    num_frames: int | None = 120
    """None = endless."""
    seed: int | None = None
    preset: str | None = None
    negative_prompt: str = ""
    guidance_scale: float | None = None
    num_inference_steps: int | None = None
    title: str | None = None
    reference: Reference | None = field(default=None, repr=False, compare=False)
    """What the film starts from besides the prompt."""
    cues: tuple[AddCue, ...] = ()
    """What changes later. One at the film's beginning changes the values above."""
    first_chunk_guidance_scale: float | None = None
    first_chunk_num_inference_steps: int | None = None
    when_unwatched: str | None = None
    """run, or seconds to go on without a viewer; None: as the server is configured."""
    enhance: EnhancePolicy | None = None
    """None: as the server is configured, where there is an enhancer."""


@dataclass(frozen=True, slots=True)
class EnhanceVideo:
    """A checked request to make chunks sharp, whatever the policy: the chunks from the first on up to the second, not included.

    By index, or by time (the chunks that show a moment of [from_s, to_s)); nothing is said: all that is not sharp.
    """

    from_index: int | None = None
    to_index: int | None = None
    from_s: float | None = None
    to_s: float | None = None


@dataclass(frozen=True, slots=True)
class BranchVideo:
    """A checked request for a video that shares the chunks before `from_index` with its parent (None: all of them).

    changes: hold from there to the end. num_frames: length of the whole film; by default its parent's plan.
    model: None = the parent's. or_new_film: where that model cannot go on from here, begin a film of its own from the last
    frame before instead of refusing.
    """

    from_index: int | None = None
    changes: Changes = Changes()
    transition_chunks: int = 0
    num_frames: int | Literal["as planned"] | None = "as planned"
    model: str | None = None
    title: str | None = None
    or_new_film: bool = False


class Director(Protocol):
    """All that can be done to videos. `videos/live` is the local one; a cluster's client is another."""

    async def create(self, request: CreateVideo) -> VideoView: ...

    async def get(self, video_id: str) -> VideoView:
        """Raises `NotFound`."""
        ...

    async def list(
        self, *, after: str | None = None, limit: int = 20, order: Literal["asc", "desc"] = "desc", search: str = ""
    ) -> tuple[list[VideoView], bool]:
        """One page (after = the last id of the page before) and whether there are more.

        search: words, each of which the title, a prompt or the id contains.
        """
        ...

    async def delete(self, video_id: str) -> None:
        """It is not found from now on, and forgotten when its grace is over."""
        ...

    async def undelete(self, video_id: str) -> VideoView:
        """Have a deleted video back. Raises `NotFound` once its grace is over."""
        ...

    async def deleted(self) -> Sequence[DeletedVideo]:
        """What can be had back, the newest deletion first."""
        ...

    async def edit(
        self,
        video_id: str,
        *,
        title: str | None = None,
        when_unwatched: str | None = None,
        enhance: EnhancePolicy | None = None,
    ) -> VideoView:
        """Change what is given; when_unwatched: run, or seconds to go on without a viewer.

        enhance: none also takes back what `enhance` asked for.
        """
        ...

    async def enhance(self, video_id: str, request: EnhanceVideo) -> VideoView:
        """Make these chunks sharp, whatever the policy; harmless for those that are. Raises `Conflict` without an enhancer."""
        ...

    async def stop(self, video_id: str) -> VideoView:
        """Ask it to end within one denoising step; everything made is kept. Raises `Conflict` if it is not running."""
        ...

    async def continue_(self, video_id: str, num_frames: int | None) -> VideoView:
        """Go on by `num_frames` (None = endless). Raises `Conflict` if it is running."""
        ...

    async def timeline(self, video_id: str) -> Timeline:
        """Its Direction and its cues. Raises `NotFound`."""
        ...

    async def cue(self, video_id: str, request: AddCue) -> AddedCue:
        """Change what is made from a chunk on: never one that is there or being made, then the next one after is taken.

        When it returns the cue is durable and the chunk it names is not begun.
        """
        ...

    async def cues(self, video_id: str) -> Sequence[tuple[int, Cue]]:
        """Those that hold, each with the seq of its log entry, in the order they were given. Raises `NotFound`."""
        ...

    async def take_back_cue(self, video_id: str, seq: int) -> LogEntry:
        """Undo the cue with this seq; from chunk `index` of the answer on the film follows what holds without it.

        Raises `NotFound` for no such cue, `Conflict` where its first chunk is begun.
        """
        ...

    async def branch(self, video_id: str, request: BranchVideo) -> VideoView:
        """A new video that shares chunks with this one. Raises `Conflict` where a model cannot go on from there."""
        ...

    async def redo(self, video_id: str, from_index: int, seed: int | None = None) -> tuple[VideoView, VideoView]:
        """Make the chunks from `from_index` on anew, with another seed (None = drawn); watchers are told by a reset.

        Returns the video, and the one that keeps the film as it was.
        """
        ...

    async def snapshot(self, video_id: str) -> Snapshot: ...

    def follow(self, video_id: str, seq: int = 0) -> AsyncIterator[LogEntry | Progress]:
        """Every log entry after `seq`, in order, for ever (ends when the video is deleted); Progress in between.

        Close with `contextlib.aclosing`. Memory does not grow with a slow reader: entries are read from the store.
        """
        ...

    async def read_blob(self, sha256: str) -> bytes:
        """The bytes of a segment or init segment. Raises `NotFound`."""
        ...

    async def thumbnail(self, video_id: str, index: int) -> bytes:
        """A JPEG of the first frame of chunk `index`. Raises `NotFound`."""
        ...

    async def spritesheet(self, video_id: str) -> bytes:
        """A JPEG with the first frames of up to 100 chunks, row by row with ten in each. Raises `NotFound`."""
        ...

    async def manifest(self, video_id: str) -> Mapping[str, Any]:
        """How every chunk of it was made (plain values; `videos/provenance.py` says which). Raises `NotFound`."""
        ...

    def verify(self, video_id: str, first: int = 0, last: int | None = None) -> AsyncIterator[Mapping[str, Any]]:
        """Make the chunks from `first` to `last` (None = to the end) again: each, as soon as it is compared, as plain values.

        Films that are being made come first. Close with `contextlib.aclosing`. Raises `NotFound`, `InvalidRequest`.
        """
        ...

    def bundle(self, video_id: str) -> AsyncIterator[bytes]:
        """The film as one file, piece by piece, to carry it elsewhere. Close with `contextlib.aclosing`. Raises `NotFound`."""
        ...

    async def import_bundle(self, pieces: AsyncIterator[bytes]) -> VideoView:
        """Take in a film that `bundle` gave elsewhere: all of it, or nothing. Raises `InvalidRequest`, `StoreError`."""
        ...

    def models(self) -> Sequence[ModelCard]: ...

    def system(self) -> Mapping[str, Any]:
        """Plain facts for /v1/system: device, model state, running, viewers, bytes on disk."""
        ...

    @property
    def ready(self) -> bool:
        """The default model is loaded and the store can be written."""
        ...
