"""The films of a model, one per prompt, into a folder: made through the product's own chunk loop, kept as they were made.

    FOLDER/<words of the prompt>-<recipe>.mkv    the frames without loss (FFV1): what is measured
    FOLDER/<the same>.mp4                        H.264, as `st2v generate` writes it: what a person watches
    FOLDER/<the same>.json                       what it was made with; written last, so a film that has it is whole

A film whose recipe (prompt, seed, preset, model and its weights, length, start) is already there is not made again.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import re
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np

from st2v_stream.checkpoints.models import find_folder, folder_entry, known_models
from st2v_stream.chunk import Chunk, Frames, StreamSpec
from st2v_stream.config import Config
from st2v_stream.direction import Timeline
from st2v_stream.errors import InvalidRequest, StoreError, UnknownModel
from st2v_stream.evaluation.film import ChunkGrid, Film
from st2v_stream.generate import FilmFile
from st2v_stream.media.image import fit_image
from st2v_stream.streaming.autoregressive import stream_chunks
from st2v_stream.streaming.prefetch import prefetch
from st2v_stream.streaming.worker import ThreadWorker
from st2v_stream.types import Generator, ModelCard, ModelEntry, Reference
from st2v_stream.videos.requests import check_num_frames, whole_frames

_VERSION = 1
_SLUG_CHARS = 48

Progress = Callable[[str], None]
Starts = dict[str, Frames]
"""The first chunk per prompt, (T, H, W, 3), from which further models start."""


@dataclass(frozen=True, slots=True)
class Model:
    """A model to film with: how reports call it, how it is loaded, and a stamp that changes with its weights."""

    label: str
    entry: ModelEntry
    stamp: str

    @property
    def card(self) -> ModelCard:
        """What is known of it."""
        return self.entry.card


@dataclass(frozen=True, slots=True)
class Shoot:
    """What all films of a run have in common."""

    num_frames: int
    seed: int
    preset: str


def find_model(name: str, device: str = "auto") -> Model:
    """A known model by name, or a folder with a card. Raises `UnknownModel` or `CheckpointError`."""
    if Path(name).is_dir():
        return Model(Path(name).resolve().name, folder_entry(Path(name), device=device), _stamp(Path(name)))
    known = known_models(device=device)
    if name not in known:
        expected = f"one of {', '.join(sorted(known))}, or a folder"
        raise UnknownModel("no such model", expected=expected, received=name, param="model")
    with contextlib.suppress(UnknownModel):  # the test card has no folder
        return Model(name, known[name], _stamp(find_folder(name)))
    return Model(name, known[name], "")


def _stamp(folder: Path) -> str:
    """Of names, sizes and times, not of gigabytes of content: a copy is made again, a changed model never mistaken."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    rows = [[str(path.relative_to(folder)), path.stat().st_size, path.stat().st_mtime_ns] for path in files]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def make_films(
    model: Model, prompts: Sequence[str], folder: Path, shoot: Shoot, *, starts: Starts | None = None, report: Progress = print
) -> list[Film]:
    """One film per prompt, in their order; those already there are taken as they are.

    starts: where it holds a prompt, the film begins with that clip, if the generator takes one. Raises `InvalidRequest`
    for a length or a preset that the model cannot make, `StoreError` if FOLDER cannot be written.
    """
    check_num_frames(shoot.num_frames, model.card, Config())
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"cannot make {folder}", expected="a writable folder", received=error.strerror) from error
    plans = [_Plan.of(model, prompt, folder, shoot, (starts or {}).get(prompt)) for prompt in prompts]
    missing = [plan for plan in plans if not plan.is_made]
    if missing:
        asyncio.run(_make(model, missing, report))
    return [plan.film() for plan in plans]


def first_chunks(films: Sequence[Film]) -> Starts:
    """The first chunk of every film, by its prompt."""
    return {
        film.prompt: np.stack(list(islice(film.frames(), film.grid.first_chunk_frames)))
        for film in films
        if film.prompt is not None and film.grid is not None
    }


# ---------------------------------------------------------------- one film


@dataclass(frozen=True)
class _Plan:
    """A film to be made, and where."""

    model: Model
    prompt: str
    timeline: Timeline
    num_frames: int
    reference: Frames | None
    recipe: dict[str, Any]
    stem: Path

    @staticmethod
    def of(model: Model, prompt: str, folder: Path, shoot: Shoot, start: Frames | None) -> _Plan:
        spec = model.card.spec
        direction = model.card.direction(prompt, preset=shoot.preset, seed=shoot.seed)
        reference = None if start is None else _fitted(start, spec)
        recipe = {
            "version": _VERSION,
            "model": model.label,
            "model_version": model.card.version,
            "weights": model.stamp,
            "direction": json.loads(json.dumps(direction.to_json())),
            "num_frames": whole_frames(spec, shoot.num_frames),
            "start": None if reference is None else hashlib.sha256(reference.tobytes()).hexdigest(),
        }
        address = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:10]
        stem = folder / f"{slug(prompt)}-{address}"
        return _Plan(model, prompt, Timeline(direction), shoot.num_frames, reference, recipe, stem)

    def file(self, suffix: str) -> Path:
        return self.stem.with_name(self.stem.name + suffix)

    @property
    def is_made(self) -> bool:
        try:
            known = json.loads(self.file(".json").read_text())
        except (OSError, ValueError):
            return False
        return bool(known.get("recipe") == self.recipe) and self.file(".mkv").is_file() and self.file(".mp4").is_file()

    def film(self) -> Film:
        made, spec = json.loads(self.file(".json").read_text()), self.model.card.spec
        return Film(
            path=self.file(".mkv"),
            width=spec.width,
            height=spec.height,
            fps=float(spec.fps),
            name=self.stem.name,
            group=self.model.label,
            prompt=self.prompt,
            grid=ChunkGrid(spec.first_chunk_frames, spec.chunk_frames),
            is_exact=True,
            shown=self.file(".mp4"),
            notes=(*self.model.card.warnings(self.prompt), *made["notes"]),
        )


def slug(text: str) -> str:
    """Letters, digits and hyphens of a text, for a file name."""
    words = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    return words[:_SLUG_CHARS].rstrip("-") or "film"


def _fitted(clip: Frames, spec: StreamSpec) -> Frames:
    """The clip at the model's size, no longer than a first chunk."""
    clip = clip[-spec.first_chunk_frames :]
    return clip if clip.shape[1:3] == (spec.height, spec.width) else fit_image(clip, spec.width, spec.height)


async def _make(model: Model, plans: Sequence[_Plan], report: Progress) -> None:
    worker = ThreadWorker("evaluate")
    try:
        report(f"loading {model.label}")
        generator = await worker.run(model.entry.load)
        for number, plan in enumerate(plans, 1):
            report(f"{model.label}: film {number} of {len(plans)} to make: {plan.prompt}")
            await _make_film(plan, generator, worker)
    finally:
        await worker.aclose()


async def _make_film(plan: _Plan, generator: Generator, worker: ThreadWorker) -> None:
    """Both files under other names first; the sidecar last."""
    note = None
    try:
        with _files(plan) as (exact, shown):
            note = await _write(plan, generator, worker, exact, shown)
        plan.file(".part.mkv").replace(plan.file(".mkv"))
        plan.file(".part.mp4").replace(plan.file(".mp4"))
        written = {"recipe": plan.recipe, "notes": [] if note is None else [note]}
        write_whole(plan.file(".json"), json.dumps(written, indent=1, ensure_ascii=False))
    except (OSError, av.FFmpegError) as error:
        raise StoreError(f"cannot write {plan.stem}", expected="space and permission", received=str(error)) from error
    finally:
        for suffix in (".part.mkv", ".part.mp4"):
            plan.file(suffix).unlink(missing_ok=True)


@contextlib.contextmanager
def _files(plan: _Plan) -> Iterator[tuple[ExactFile, FilmFile]]:
    spec = plan.model.card.spec
    shown = FilmFile(plan.file(".part.mp4"), spec, title=plan.prompt, overwrite=True)
    with contextlib.closing(ExactFile(plan.file(".part.mkv"), spec.width, spec.height, spec.fps)) as exact:
        try:
            yield exact, shown
        finally:
            shown.finish()


async def _write(plan: _Plan, generator: Generator, worker: ThreadWorker, exact: ExactFile, shown: FilmFile) -> str | None:
    """The chunks into both files; a sentence where the film did not begin as it was asked to."""
    note = None
    async with aclosing(_chunks(plan, generator, worker)) as chunks:
        async for chunk in chunks:
            if chunk.index == 0 and plan.reference is not None and not np.array_equal(chunk.frames, plan.reference):
                note = "does not begin with the shared first chunk: this model made its own"
            await asyncio.to_thread(exact.append, chunk.frames)
            await asyncio.to_thread(shown.append, chunk)
    return note


async def _chunks(plan: _Plan, generator: Generator, worker: ThreadWorker) -> AsyncGenerator[Chunk, None]:
    """From the shared clip where the generator takes it, else from the prompt."""
    for reference in (Reference(plan.reference), None) if plan.reference is not None else (None,):
        made = stream_chunks(generator, plan.timeline, num_frames=plan.num_frames, worker=worker, reference=reference)
        begun = False
        try:
            async with aclosing(prefetch(made, depth=1)) as chunks:
                async for chunk in chunks:
                    begun = True
                    yield chunk
            return
        except InvalidRequest:
            if begun or reference is None:
                raise


# ---------------------------------------------------------------- files


class ExactFile:
    """Frames into a Matroska file without loss (FFV1, every frame for itself)."""

    def __init__(self, path: Path, width: int, height: int, fps: int) -> None:
        self._container: Any = av.open(str(path), "w", format="matroska")
        self._stream = self._container.add_stream("ffv1", rate=Fraction(fps))
        self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, "bgr0"
        self._stream.thread_count = 1
        self._frames = 0

    def append(self, frames: Frames) -> None:
        """(T, H, W, 3) uint8 RGB."""
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            self._container.mux(self._stream.encode(picture))
            self._frames += 1

    def close(self) -> None:
        """Write what is left and the index."""
        if self._frames:  # an encoder that never saw a frame cannot be flushed
            self._container.mux(self._stream.encode(None))
        self._container.close()


def write_whole(path: Path, text: str) -> None:
    """Write a file that appears whole or not at all. Raises OSError."""
    unfinished = path.with_name(f".{path.name}.part")
    try:
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
