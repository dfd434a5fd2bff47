"""All measures of one film in one pass: frames come one by one, a film of any length takes the same memory.

Flow and MAWE are taken at 720x720 whatever the film's size (aspect ratio ignored), as the paper and its released code do;
everything else at the film's own size, or at 720x720 too where the protocol says so.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from st2v_stream.chunk import Frames
from st2v_stream.errors import InvalidRequest
from st2v_stream.evaluation import mawe, seams
from st2v_stream.evaluation.cuts import RunningCuts
from st2v_stream.evaluation.film import ChunkGrid, Film
from st2v_stream.evaluation.flow import NamedFlow

if TYPE_CHECKING:
    from st2v_stream.evaluation.clip_score import ClipScorer

PAPER_SIDE = 720
VERSION = 1
"""Of what is measured and how; another version measures again what a folder already holds."""


@dataclass(frozen=True)
class Settings:
    """How films are measured. side: of the square frames for flow and MAWE. resizes_all: every measure takes those.

    max_frames: what comes later in a film is not looked at.
    """

    flow: NamedFlow
    clip: ClipScorer | None = None
    side: int = PAPER_SIDE
    resizes_all: bool = False
    max_frames: int | None = None

    def to_json(self) -> dict[str, Any]:
        """All that the numbers depend on."""
        return {
            "version": VERSION,
            "flow": self.flow.name,
            "flow_is_raft": self.flow.is_raft,
            "clip": None if self.clip is None else self.clip.name,
            "side": self.side,
            "resizes_all": self.resizes_all,
            "max_frames": self.max_frames,
        }


@dataclass(frozen=True)
class FilmMeasures:
    """The result for one film. values: by key of the glossary, None where it has no value (`notes` say why).

    series: one number per frame (colours, saturation, clip_score) or per pair of frames (the others).
    """

    name: str
    group: str
    path: str
    prompt: str | None
    width: int
    height: int
    fps: float
    frames: int
    is_exact: bool
    grid: ChunkGrid | None
    cuts: tuple[int, ...]
    values: Mapping[str, float | None]
    series: Mapping[str, tuple[float, ...]] = field(repr=False)
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values, the inverse of `from_json`."""
        return asdict(self)

    @staticmethod
    def from_json(fields: Mapping[str, Any]) -> FilmMeasures:
        """Measures from what `to_json` wrote. Raises TypeError or KeyError for anything else."""
        grid = fields["grid"]
        changed = {
            "grid": None if grid is None else ChunkGrid(**grid),
            "cuts": tuple(fields["cuts"]),
            "series": {name: tuple(values) for name, values in fields["series"].items()},
            "notes": tuple(fields["notes"]),
        }
        return FilmMeasures(**{**fields, **changed})


def measure_film(film: Film, settings: Settings, on_frame: Callable[[int], None] = lambda number: None) -> FilmMeasures:
    """Decode and measure a film; `on_frame(n)` after the n-th. Raises `InvalidRequest` for a film that cannot be measured."""
    running = RunningMeasures(film.fps, settings, film.prompt)
    for number, frame in enumerate(itertools.islice(film.frames(), settings.max_frames), 1):
        running.push(frame)
        on_frame(number)
    if running.frames < 2:
        raise InvalidRequest(f"{film.path} cannot be measured", expected="at least 2 frames", received=running.frames)
    return running.result(film)


def measure_frames(frames: Iterable[Frames], fps: float, settings: Settings, prompt: str | None = None) -> RunningMeasures:
    """The same for frames (H, W, 3) that are not in a file; read `.values(grid)` and `.series()`."""
    running = RunningMeasures(fps, settings, prompt)
    for frame in frames:
        running.push(frame)
    return running


class RunningMeasures:
    """What is known of a film so far. Keeps two frames, and the few that wait for CLIP."""

    def __init__(self, fps: float, settings: Settings, prompt: str | None = None) -> None:
        self.frames = 0
        self._settings = settings
        self._cuts = RunningCuts(fps)
        self._clip = settings.clip.running(prompt) if settings.clip is not None and prompt else None
        self._before: tuple[Frames, Frames] | None = None  # the last frame, and the same as a square
        self._colours: list[seams.Series] = []
        self._saturations: list[float] = []
        self._differences: list[float] = []
        self._motion: list[tuple[float, float, float]] = []  # warp error, flow length, flow energy

    def push(self, frame: Frames) -> None:
        """The next frame (H, W, 3) uint8 RGB."""
        square = to_square(frame, self._settings.side)
        frame = square if self._settings.resizes_all else frame
        self._colours.append(seams.mean_colour(frame))
        self._saturations.append(seams.mean_saturation(frame))
        self._cuts.push(frame)
        if self._clip is not None:
            self._clip.push(frame)
        if self._before is not None:
            before, square_before = self._before
            self._differences.append(seams.difference(before, frame))
            self._motion.append(self._measure_motion(square_before, square))
        self._before = frame, square
        self.frames += 1

    def _measure_motion(self, before: Frames, square: Frames) -> tuple[float, float, float]:
        flow = self._settings.flow.estimate(before, square)
        return mawe.warp_error(before, square, flow), mawe.flow_length(flow), mawe.flow_energy(flow)

    @property
    def cuts(self) -> tuple[int, ...]:
        """Frames that begin a new scene."""
        return tuple(self._cuts.found)

    def series(self) -> dict[str, tuple[float, ...]]:
        """One number per frame, or per pair of frames."""
        colours, motion = np.array(self._colours), np.array(self._motion).reshape(-1, 3)
        columns: dict[str, Iterable[float]] = {
            "red": colours[:, 0],
            "green": colours[:, 1],
            "blue": colours[:, 2],
            "saturation": self._saturations,
            "frame_difference": self._differences,
            "warp_error": motion[:, 0],
            "flow_length": motion[:, 1],
        }
        if self._clip is not None:
            columns["clip_score"] = self._clip.scores()
        return {name: tuple(float(value) for value in column) for name, column in columns.items()}

    def values(self, grid: ChunkGrid | None = None) -> dict[str, float | None]:
        """The numbers of the glossary, None where there is none."""
        errors, lengths, energies = np.array(self._motion).reshape(-1, 3).T
        differences = np.array(self._differences)
        return {
            "cuts": float(len(self.cuts)),
            "mawe": _number(mawe.mawe(errors, lengths)),
            "mawe_squared": _number(mawe.mawe_squared(errors, energies)),
            "mawe_of_released_code": _number(mawe.mawe_of_released_code(errors, lengths)),
            "clip_score": None if self._clip is None else float(np.mean(self._clip.scores())),
            "flow_length": float(lengths.mean()),
            "flow_deviation": float(lengths.std()),
            "boundary_ratio": None if grid is None else _number(seams.seam_ratio(differences, *_sizes(grid))),
            "rgb_drift": float(np.abs(seams.drift(np.array(self._colours))).mean()),
            "saturation_drift": float(seams.drift(np.array(self._saturations))),
            "frame_difference": float(differences.mean()),
        }

    def result(self, film: Film) -> FilmMeasures:
        """Everything about `film`, whose frames were pushed."""
        values = self.values(film.grid)
        return FilmMeasures(
            name=film.name,
            group=film.group,
            path=str(film.path),
            prompt=film.prompt,
            width=film.width,
            height=film.height,
            fps=film.fps,
            frames=self.frames,
            is_exact=film.is_exact,
            grid=film.grid,
            cuts=self.cuts,
            values=values,
            series=self.series(),
            notes=(*film.notes, *self._notes(film, values)),
        )

    def _notes(self, film: Film, values: Mapping[str, float | None]) -> list[str]:
        """Why a value is missing, or is to be read with care."""
        notes = []
        still = sum(length == 0 for _, length, _ in self._motion)
        if still:
            notes.append(f"{still} of {len(self._motion)} pairs of frames do not move at all: no MAWE as the code computes it")
        if film.grid is None:
            notes.append("the chunk grid is not known: no boundary ratio (--first-chunk-frames and --chunk-frames give it)")
        elif values["boundary_ratio"] is None:
            notes.append("no boundary ratio: fewer than two chunks, or nothing changes inside them")
        elif not film.is_exact:
            notes.append("from a lossy file: an encoder's key frames, where chunks begin, add to the boundary ratio")
        if self._settings.clip is not None and self._clip is None:
            notes.append("no CLIP score: the prompt is not known (the title of the file, or --prompts)")
        return notes + self._length_notes(film)

    def _length_notes(self, film: Film) -> list[str]:
        wanted, declared = self._settings.max_frames, film.declared_frames or 0
        if wanted is not None and self.frames >= wanted:
            return []
        notes = [] if wanted is None else [f"{self.frames} frames, {wanted} were asked for"]
        if self.frames < 0.9 * declared:  # a duration is rounded, and may count the pause after the last frame
            notes.append(f"the file is not whole: it speaks of {declared} frames, {self.frames} could be read")
        return notes


def to_square(frame: Frames, side: int) -> Frames:
    """(H, W, 3) -> (side, side, 3): bilinear without a blur before shrinking, aspect ratio ignored (released code)."""
    if frame.shape[:2] == (side, side):
        return frame
    square = cv2.resize(frame.astype(np.float32), (side, side), interpolation=cv2.INTER_LINEAR)
    return np.rint(square).astype(np.uint8)


def _sizes(grid: ChunkGrid) -> tuple[int, int]:
    return grid.first_chunk_frames, grid.chunk_frames


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
