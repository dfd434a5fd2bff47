"""What the ablation table compares: its rows, its measures, and which row each is held against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from st2v_stream.errors import InvalidRequest
from st2v_stream.evaluation.blended_films import Blending
from st2v_stream.evaluation.cuts import scene_cuts
from st2v_stream.evaluation.flow import dis_flow
from st2v_stream.evaluation.mawe import flow_length
from st2v_stream.evaluation.rollouts import Anchor
from st2v_stream.evaluation.seams import boundary_ratio, frame_differences, rgb_drift
from st2v_stream.networks.unet import Conditioning
from st2v_stream.worlds.judge import Verdict
from st2v_stream.worlds.storybook import FilmSpec

FPS = 8
WINDOW = 16
Film = NDArray[np.uint8]
"""(T, H, W, 3)."""


class Reader(Protocol):
    """The judge."""

    def read(self, frames: Film) -> Verdict:
        """What 16 frames show."""
        ...


# ---------------------------------------------------------------- rows


@dataclass(frozen=True)
class RollOutRow:
    """A way to extend films."""

    name: str
    title: str
    group: str
    conditioning: Conditioning = "attention"
    anchor: Anchor = "first"


@dataclass(frozen=True)
class BlendingRow:
    """A way to join windows."""

    name: str
    title: str
    blending: Blending
    group: str = "blending"


Row = RollOutRow | BlendingRow

ROLL_OUT_CONTROL = RollOutRow("cam", "CAM, APM, anchor frame 0 (published)", "conditioning")
ROLL_OUT_ROWS = (
    ROLL_OUT_CONTROL,
    RollOutRow("concatenation", "tail latents concatenated to the input", "conditioning", "concatenation"),
    RollOutRow("addition", "ControlNet-style addition", "conditioning", "addition"),
    RollOutRow("none", "no short-term conditioning: text and APM", "conditioning", "none"),
    RollOutRow("apm-off", "CAM, APM off", "apm", anchor="off"),
    RollOutRow("anchor-newest", "anchor: newest frame of the tail", "anchor", anchor="newest"),
    RollOutRow("anchor-random", "anchor: a random earlier frame", "anchor", anchor="random"),
    RollOutRow("anchor-none", 'anchor: none (the learned "no anchor")', "anchor", anchor="null"),
)
BLENDING_CONTROL = BlendingRow("blend-coded", "randomized blending as coded (of x0, cut 0..7)", "coded")
BLENDING_ROWS = (
    BLENDING_CONTROL,
    BlendingRow("blend-paper", "randomized blending as in the paper (of x_{t-1}, cut 0..8)", "paper"),
    BlendingRow("blend-average", "overlap, shared noise, averaged", "average"),
    BlendingRow("blend-independent", "overlap, independent noise, averaged", "independent"),
    BlendingRow("blend-naive", "windows side by side, no overlap", "naive"),
)
ROWS: tuple[Row, ...] = (*ROLL_OUT_ROWS, *BLENDING_ROWS)


def chosen_rows(names: Sequence[str] | None) -> tuple[Row, ...]:
    """Rows by their own names or their group's, with the control of each table among them; None: all.

    Raises `InvalidRequest`.
    """
    if not names:
        return ROWS
    known = {row.name for row in ROWS} | {row.group for row in ROWS}
    if unknown := sorted(set(names) - known):
        raise InvalidRequest(
            "no such row", expected="among " + ", ".join(sorted(known)), received=", ".join(unknown), param="rows"
        )
    wanted = [row for row in ROWS if row.name in names or row.group in names]
    kinds = {type(row) for row in wanted}
    return tuple(row for row in ROWS if row in wanted or (row in (ROLL_OUT_CONTROL, BLENDING_CONTROL) and type(row) in kinds))


# ---------------------------------------------------------------- measures


@dataclass(frozen=True)
class Measure:
    """A column. `digits`: decimals in the table."""

    name: str
    title: str
    digits: int = 2


ROLL_OUT_MEASURES = (
    Measure("boundary_ratio", "boundary ratio"),
    Measure("scene_cuts", "scene cuts"),
    Measure("colour", "colour"),
    Measure("subject", "subject"),
    Measure("scene", "scene"),
    Measure("variant_kept", "variant kept"),
    Measure("rgb_drift", "RGB drift", 1),
    Measure("frame_difference", "frame difference / real"),
)
BLENDING_MEASURES = (
    Measure("seam_less_inside", "seam - inside"),
    Measure("seam_excess", "excess at seams"),
    Measure("inside_excess", "excess inside"),
    Measure("flow_deviation", "flow deviation"),
    Measure("sharpness", "sharpness", 0),
)
HEADLINES = {"conditioning": "boundary_ratio", "apm": "variant_kept", "anchor": "variant_kept", "blending": "seam_less_inside"}
"""The measure that the paper's claim about a group is about; named first in a row's verdict."""


def measure_roll_out(film: Film, truth: Film, spec: FilmSpec, judge: Reader) -> dict[str, float]:
    """One number per measure for a film (T, H, W, 3) whose first 16 frames were given; `truth`: the renderer's film.

    Judged are the windows of 16 new frames. Nothing in this world stays out of sight for more than 8 frames, so a window
    without its subject counts as wrong.
    """
    verdicts = [judge.read(film[start : start + WINDOW]) for start in range(WINDOW, len(film) - WINDOW + 1, WINDOW)]
    inside = slice(WINDOW - 1, None)  # pairs that show at least one new frame
    return {
        "boundary_ratio": boundary_ratio(film),
        "scene_cuts": float(len(scene_cuts(film, FPS))),
        "colour": float(np.mean([verdict.colour == spec.colour for verdict in verdicts])),
        "subject": float(np.mean([verdict.subject == spec.subject for verdict in verdicts])),
        "scene": float(np.mean([verdict.scene == spec.scene for verdict in verdicts])),
        "variant_kept": float(np.mean([(v.scene, v.variant) == (spec.scene, spec.variant) for v in verdicts])),
        "rgb_drift": rgb_drift(film),
        "frame_difference": float(frame_differences(film)[inside].mean() / frame_differences(truth)[inside].mean()),
    }


def measure_blending(film: Film, source: Film) -> dict[str, float]:
    """One number per measure for a film and the film it was denoised again from (both through the autoencoder).

    A seam is a pair of frames 16 k - 1, 16 k, where some window ends in every variant; inside are the pairs where none begins
    or ends. Excess: mean absolute frame difference beyond the source's.
    """
    excess = frame_differences(film) - frame_differences(source)
    following = np.arange(1, len(film))
    seam = float(excess[following % WINDOW == 0].mean())
    inside = float(excess[following % (WINDOW // 2) != 0].mean())
    return {
        "seam_less_inside": seam - inside,
        "seam_excess": seam,
        "inside_excess": inside,
        "flow_deviation": flow_deviation(film),
        "sharpness": sharpness(film),
    }


def flow_deviation(film: Film) -> float:
    """Standard deviation over time of the mean optical flow length, in pixels (paper sec. 5: seams let the flow jump)."""
    estimate = dis_flow().estimate
    return float(np.std([flow_length(estimate(film[t], film[t + 1])) for t in range(len(film) - 1)]))


def sharpness(film: Film) -> float:
    """Variance of the Laplacian of the grey frames, mean over the film."""
    return float(np.mean([cv2.Laplacian(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), cv2.CV_64F).var() for frame in film]))
