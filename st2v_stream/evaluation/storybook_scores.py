"""The figures of the story-book model, from its films: each with the same number on real films of the same words beside it.

    opening    the first 16 frames from text alone: the judge's words against the caption's
    decoder    rendered frames encoded and decoded
    long       seams, cuts, drift, motion, and the judge's words in the first and last hundred frames
    identity   travellers whose colour word leaves the prompt: which colour comes back into the picture?

Windows in which nothing can be named count as wrong, so that a film cannot win by losing its subject; real travellers are
out of sight now and then, which the ceiling shows. Keys are those of `targets.KINDS`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from st2v_stream.chunk import Frames
from st2v_stream.evaluation.cuts import scene_cuts
from st2v_stream.evaluation.intervals import mean_interval
from st2v_stream.evaluation.seams import boundary_ratio, frame_differences, rgb_drift, still_difference
from st2v_stream.evaluation.storybook_films import FilmOrder, MadeFilm
from st2v_stream.evaluation.targets import LONG_WORDS, Figures, Measured, mean, share
from st2v_stream.networks.vae import FrameAutoencoder
from st2v_stream.training import randomness
from st2v_stream.worlds import storybook
from st2v_stream.worlds.judge import WINDOW, Judge, Verdict, to_network
from st2v_stream.worlds.storybook import FilmSpec

FPS = 8
CHUNK_FRAMES = 8
HUNDRED = 100
OPENING_WORDS = ("colour", "hue", "subject", "scene", "motion")
GONE_FRAMES = 3  # out of sight for at least this long, or a subject has not left
RETURN_FRAMES = 24  # read from the frame of re-entry on: at first only its nose is seen
LEAST_RETURN_FRAMES = 8
_JUMP = 0.2  # sides; a longer step is a re-entry at the other edge
_SMOOTHED = 3  # frames: the track's jitter is no path


@dataclass(frozen=True)
class Shown:
    """A film and what it was to show."""

    order: FilmOrder
    made: MadeFilm

    @property
    def frames(self) -> Frames:
        """`(T, 64, 64, 3)`."""
        return self.made.frames

    @property
    def spec(self) -> FilmSpec:
        """Its words."""
        return self.order.spec


def is_right(verdict: Verdict, spec: FilmSpec, word: str) -> bool:
    """Whether the verdict names the film's word; `hue` is held against the colour."""
    truth = spec.colour if word == "hue" else getattr(spec, word)
    return bool(getattr(verdict, word) == truth)


# ---------------------------------------------------------------- first chunks


@dataclass(frozen=True)
class _Read:
    """What a first chunk shows, and what the real film of the same words shows."""

    spec: FilmSpec
    made: Verdict
    real: Verdict


def opening_figures(judge: Judge, films: dict[str, list[Shown]]) -> dict[str, Measured]:
    """`films` by split."""
    figures: dict[str, Measured] = {}
    everything: list[_Read] = []
    for split, shown in films.items():
        read = [_read_opening(judge, film) for film in shown]
        everything += read
        for word in OPENING_WORDS:
            real = [is_right(one.real, one.spec, word) for one in read]
            figures[f"opening.{split}.{word}"] = share([is_right(one.made, one.spec, word) for one in read], real)
    drifters = [one for one in everything if one.spec.motion.startswith("drifts")]
    real = [goes_the_right_way(one.real, one.spec) for one in drifters]
    figures["opening.right_way"] = share([goes_the_right_way(one.made, one.spec) for one in drifters], real)
    flows = [one.made.camera_flow_px for one in everything], [one.real.camera_flow_px for one in everything]
    figures["opening.camera_flow"] = _averaged(*flows)
    return figures


def _read_opening(judge: Judge, film: Shown) -> _Read:
    return _Read(film.spec, judge.read(film.frames[:WINDOW]), judge.read(film.order.real_film()[:WINDOW]))


def goes_the_right_way(verdict: Verdict, spec: FilmSpec) -> bool:
    """Whether a drifter's displacement, last quarter of the frames that show it less first quarter, has the right sign.

    One that is seen in fewer than 4 frames goes no way.
    """
    x = verdict.positions[~np.isnan(verdict.positions[:, 0]), 0]
    if len(x) < 4:
        return False
    quarter = len(x) // 4
    moved = x[-quarter:].mean() - x[:quarter].mean()
    return bool(moved < 0) if spec.motion == "drifts left" else bool(moved > 0)


# ---------------------------------------------------------------- autoencoder


def decoder_figures(vae: FrameAutoencoder, *, frames: int, clips: int, seed: int = 0) -> dict[str, Measured]:
    """Rendered frames and clips of 16, half of them held-out words, from anywhere in films, encoded and decoded to uint8.

    psnr: mean over frames of each frame's PSNR. colour_error: per frame and channel the mean signed error over the pixels
    of the subject (renderer's mask), its absolute value averaged. still_difference: per clip, mean absolute difference of
    consecutive decoded frames over the pixels whose rendered values are equal in both.
    """
    rng = randomness.numpy_rng(seed, "decoder evaluation")
    drawn = [storybook.frame_and_mask(_any_spec(rng, number), int(rng.integers(1200))) for number in range(frames)]
    decoded = round_trip(vae, np.stack([frame for frame, _ in drawn]))
    pairs = [(back, frame, mask) for back, (frame, mask) in zip(decoded, drawn, strict=True)]
    films = [storybook.clip(_any_spec(rng, number), np.arange(WINDOW) + int(rng.integers(1200))) for number in range(clips)]
    still = [still_difference(round_trip(vae, film), film) for film in films]
    return {
        "decoder.psnr": _averaged([psnr(back, frame) for back, frame, _ in pairs]),
        "decoder.colour_error": _averaged([colour_error(*pair) for pair in pairs if pair[2].any()]),
        "decoder.still_difference": _averaged([value for value in still if not math.isnan(value)]),
    }


def _any_spec(rng: np.random.Generator, number: int) -> FilmSpec:
    return storybook.sample_spec(rng, ("held_out", "train")[number % 2])


def round_trip(vae: FrameAutoencoder, frames: Frames) -> Frames:
    """`(N, 64, 64, 3)` uint8 encoded, decoded and rounded as the generator does."""
    with torch.inference_mode():
        pieces = [vae.decode(vae.encode(piece)) for piece in to_network(frames).to(vae.device).split(64)]
        pixels = ((torch.cat(pieces) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return np.asarray(pixels.permute(0, 2, 3, 1).cpu().numpy(), np.uint8)


def psnr(frame: Frames, truth: Frames) -> float:
    """In dB, over all pixels and channels; of identical frames the value of an error of 1/255 in one in 10,000 values."""
    error = float(((frame.astype(np.float64) - truth) ** 2).mean())
    return 10 * math.log10(255**2 / max(error, 1e-4))


def colour_error(frame: Frames, truth: Frames, mask: NDArray[np.bool_]) -> float:
    """How far the mean colour inside the mask is off, mean over R, G, B, of 255."""
    difference = frame[mask].astype(np.float64) - truth[mask]  # (pixels, 3)
    return float(np.abs(difference.mean(0)).mean())


# ---------------------------------------------------------------- long films


@dataclass(frozen=True)
class LongReading:
    """A long film reduced to numbers. `verdicts`: of its whole windows of 16 frames, one after the other."""

    spec: FilmSpec
    verdicts: tuple[Verdict, ...]
    cuts: int
    boundary_ratio: float
    rgb_drift: float
    pixel_motion: float  # mean absolute difference of consecutive frames, of 255
    path_motion: float  # mean step of the subject's smoothed track, in sides per frame

    @property
    def first(self) -> tuple[Verdict, ...]:
        """Windows of the first hundred frames."""
        return self.verdicts[: HUNDRED // WINDOW]

    @property
    def last(self) -> tuple[Verdict, ...]:
        """Windows of the last hundred frames."""
        return self.verdicts[-(HUNDRED // WINDOW) :]


def read_long(judge: Judge, frames: Frames, spec: FilmSpec) -> LongReading:
    """Everything that is asked of a long film `(T, 64, 64, 3)`."""
    verdicts = tuple(judge.read(frames[start : start + WINDOW]) for start in range(0, len(frames) - WINDOW + 1, WINDOW))
    return LongReading(
        spec=spec,
        verdicts=verdicts,
        cuts=len(scene_cuts(frames, FPS)),
        boundary_ratio=boundary_ratio(frames),
        rgb_drift=rgb_drift(frames, HUNDRED),
        pixel_motion=float(frame_differences(frames).mean()),
        path_motion=path_motion([verdict.positions for verdict in verdicts]),
    )


def path_motion(windows: Sequence[NDArray[np.float64]]) -> float:
    """Mean length of the steps of tracks `(T, 2)`, smoothed over 3 frames, in sides per frame; 0 where nothing is seen."""
    steps = np.concatenate([_steps(positions) for positions in windows])
    return float(steps.mean()) if len(steps) else 0.0


def _steps(positions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Lengths of the steps between frames that both show the subject; jumps to the other edge are no steps."""
    kernel = np.ones(_SMOOTHED) / _SMOOTHED
    smooth = np.stack([np.convolve(positions[:, axis], kernel, mode="valid") for axis in (0, 1)], axis=1)  # NaN spreads
    lengths = np.hypot(*np.diff(smooth, axis=0).T)
    kept: NDArray[np.float64] = lengths[lengths < _JUMP]  # NaN compares false
    return kept


def long_figures(judge: Judge, films: Sequence[Shown]) -> dict[str, Measured]:
    """All figures of long films; the ceiling is the renderer's film of the same words.

    For motion it is a second real film with other unnamed numbers (size, speed, place): how far two real ones differ.
    """
    made = [read_long(judge, film.frames, film.spec) for film in films]
    real = [read_long(judge, film.order.real_film(), film.spec) for film in films]
    other = [_motion_of(judge, film) for film in films]
    return {
        "long.cuts": Measured(float(sum(one.cuts for one in made)), len(made), ceiling=float(sum(one.cuts for one in real))),
        "long.boundary_ratio": _averaged([one.boundary_ratio for one in made], [one.boundary_ratio for one in real]),
        "long.rgb_drift": _averaged([one.rgb_drift for one in made], [one.rgb_drift for one in real]),
        "long.camera_flow": _averaged(_flows(made), _flows(real)),
        "long.variant_kept": share(_kept(made), _kept(real)),
        **motion_figures(
            [(m.pixel_motion, m.path_motion) for m in made], [(r.pixel_motion, r.path_motion) for r in real], other
        ),
        **word_figures(made, real),
    }


def motion_figures(
    made: Sequence[tuple[float, float]], real: Sequence[tuple[float, float]], other: Sequence[tuple[float, float]]
) -> dict[str, Measured]:
    """Motion by pixels and by path of every film, as a multiple of the real film's; `other`: of a second real film.

    The two means weigh every film by its real motion (sum over sum), so that a hoverer's jitter decides nothing; the stillest
    and the liveliest film are by pixels alone. A film that stands still has 0 in both.
    """
    ratios, ceilings = ([a[0] / b[0] for a, b in zip(films, real, strict=True)] for films in (made, other))
    return {
        "long.motion_by_pixels": Measured(
            _total(made, 0) / _total(real, 0), len(made), ceiling=_total(other, 0) / _total(real, 0)
        ),
        "long.motion_by_path": Measured(
            _total(made, 1) / _total(real, 1), len(made), ceiling=_total(other, 1) / _total(real, 1)
        ),
        "long.stillest_film": Measured(min(ratios), len(made), ceiling=min(ceilings)),
        "long.liveliest_film": Measured(max(ratios), len(made), ceiling=max(ceilings)),
    }


def _total(films: Sequence[tuple[float, float]], which: int) -> float:
    return sum(film[which] for film in films)


def _motion_of(judge: Judge, film: Shown) -> tuple[float, float]:
    """By pixels and by path, of a second real film with the same words."""
    rng = randomness.numpy_rng(1, f"second real film {film.order.name}")
    spec = storybook.spec_for_words(rng, film.spec.colour, film.spec.subject, film.spec.scene, film.spec.motion)
    frames = storybook.clip(spec, range(min(len(film.frames), 240)))
    positions = [judge.read(frames[start : start + WINDOW]).positions for start in range(0, len(frames) - WINDOW + 1, WINDOW)]
    return float(frame_differences(frames).mean()), path_motion(positions)


def word_figures(made: Sequence[LongReading], real: Sequence[LongReading]) -> dict[str, Measured]:
    """The judge's words in the first and the last hundred frames, and the change. n counts windows (6 per film and end)."""
    figures: dict[str, Measured] = {}
    for word in LONG_WORDS:
        first, last = (share(_hits(made, word, end), _hits(real, word, end)) for end in ("first", "last"))
        figures |= {f"long.first.{word}": first, f"long.last.{word}": last}
        changes = [mean(_hits([one], word, "last")) - mean(_hits([one], word, "first")) for one in made]
        interval = mean_interval(changes)
        real_change = (last.ceiling or 0.0) - (first.ceiling or 0.0)
        figures[f"long.change.{word}"] = Measured(interval.mean, interval.n, interval.low, interval.high, real_change)
    return figures


def _hits(readings: Sequence[LongReading], word: str, end: str) -> list[bool]:
    return [is_right(verdict, one.spec, word) for one in readings for verdict in getattr(one, end)]


def _kept(readings: Sequence[LongReading]) -> list[bool]:
    """Whether the windows of the last hundred frames show the scene and variant of the first window."""
    return [
        (verdict.scene, verdict.variant) == (one.verdicts[0].scene, one.verdicts[0].variant)
        for one in readings
        for verdict in one.last
    ]


def _flows(readings: Sequence[LongReading]) -> list[float]:
    return [mean(verdict.camera_flow_px for verdict in one.verdicts) for one in readings]


# ---------------------------------------------------------------- identity


@dataclass(frozen=True)
class Return:
    """What became of a traveller. `kept`: None if it did not come back."""

    kept: bool | None
    is_kept_at_end: bool


def identity_figures(judge: Judge, films: Sequence[Shown]) -> dict[str, Measured]:
    """The colour after re-entry is held against what the first chunk showed: that is all the model can know."""
    figures: dict[str, Measured] = {}
    for name, has_anchor in (("apm", True), ("no_apm", False)):
        shown = [film for film in films if film.order.has_anchor == has_anchor]
        made = [read_return(judge, film.frames) for film in shown]
        real = [read_return(judge, film.order.real_film()) for film in shown]
        figures |= {
            f"identity.{name}.came_back": share(_came_back(made), _came_back(real)),
            f"identity.{name}.colour_kept": share(_colours_kept(made), _colours_kept(real)),
            f"identity.{name}.colour_at_end": share([r.is_kept_at_end for r in made], [r.is_kept_at_end for r in real]),
        }
    return figures


def read_return(judge: Judge, frames: Frames) -> Return:
    """Read a film `(T, 64, 64, 3)` whose subject should leave and come back."""
    anchor = judge.read(frames[:WINDOW]).colour
    end = judge.read(frames[-WINDOW:]).colour
    back = first_return(judge.read(frames).positions)
    is_kept_at_end = anchor is not None and end == anchor
    if back is None or len(frames) - back < LEAST_RETURN_FRAMES:
        return Return(None, is_kept_at_end)
    colour = judge.read(frames[back : back + RETURN_FRAMES]).colour
    return Return(anchor is not None and colour == anchor, is_kept_at_end)


def first_return(positions: NDArray[np.float64]) -> int | None:
    """First frame that shows the subject again after at least 3 frames without it; `(T, 2)`, NaN where unseen."""
    gone = None  # frames without it, since it was first seen
    for number, is_seen in enumerate(~np.isnan(positions[:, 0])):
        if is_seen and gone is not None and gone >= GONE_FRAMES:
            return number
        if is_seen:
            gone = 0
        elif gone is not None:
            gone += 1
    return None


def _came_back(returns: Sequence[Return]) -> list[bool]:
    return [one.kept is not None for one in returns]


def _colours_kept(returns: Sequence[Return]) -> list[bool]:
    return [one.kept for one in returns if one.kept is not None]


# ---------------------------------------------------------------- the rest


def speed_figures(films: Sequence[Shown]) -> dict[str, Measured]:
    """Frames per second while further chunks are made, the median chunk, the autoencoder included."""
    seconds = np.concatenate([film.made.making_s[1:] for film in films])
    return {"speed.further_chunks": Measured(CHUNK_FRAMES / float(np.median(seconds)), len(seconds), ceiling=None)}


def _averaged(values: Sequence[float], ceiling: Sequence[float] | None = None) -> Measured:
    """The mean over films with its bootstrap interval."""
    interval = mean_interval(values)
    return Measured(interval.mean, interval.n, interval.low, interval.high, None if ceiling is None else mean(ceiling))


def merged(*parts: Figures) -> dict[str, Measured]:
    """All figures of all parts."""
    return {key: figure for part in parts for key, figure in part.items()}
