"""What every measure is called, which way is better, and what it can and cannot say; for tables, plots and reports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Better = Literal["lower", "higher", "near 1", "near 0", "neither"]


@dataclass(frozen=True, slots=True)
class Measure:
    """One column; `short` heads it where it is narrow. `digits` after the point; `unit` empty where it is a plain number."""

    key: str
    title: str
    short: str
    unit: str
    better: Better
    digits: int
    meaning: str


MEASURES: tuple[Measure, ...] = (
    Measure(
        "cuts",
        "SCuts",
        "cuts",
        "per film",
        "lower",
        2,
        "Hard cuts found by PySceneDetect's AdaptiveDetector with default settings. A film from one prompt should have none. "
        "Cuts within 15 frames of the film's beginning or of the last cut are not counted.",
    ),
    Measure(
        "mawe",
        "MAWE, paper",
        "MAWE",
        "",
        "lower",
        2,
        "Motion-aware warp error as a ratio of means: mean warp error / (9.5 × mean flow length). The warp error is the mean "
        "squared difference (of 255) between a frame and the one before it, pushed along the optical flow, where that lands.",
    ),
    Measure(
        "mawe_squared",
        "MAWE, paper v2",
        "MAWE v2",
        "",
        "lower",
        2,
        "The same with the mean squared flow length and without the constant, as the second version of the paper words it.",
    ),
    Measure(
        "mawe_of_released_code",
        "MAWE, code",
        "MAWE code",
        "",
        "lower",
        2,
        "As the released code computes it: the ratio of every pair of frames, then the mean. One pair that hardly moves can "
        "dominate it; not defined for a film with two equal frames in a row.",
    ),
    Measure(
        "clip_score",
        "CLIP",
        "CLIP",
        "",
        "higher",
        2,
        "100 × cosine between prompt and frame in a CLIP, mean over frames: does it show what was asked for? Compares only "
        "within one CLIP.",
    ),
    Measure(
        "flow_length",
        "Flow",
        "flow",
        "px",
        "neither",
        2,
        "Mean length of the optical flow between consecutive frames, at 720×720: how much moves. Near 0 the film stands still, "
        "and every error measure looks good.",
    ),
    Measure(
        "flow_deviation",
        "Flow deviation",
        "deviation",
        "px",
        "lower",
        2,
        "Standard deviation over the film of the mean flow length: jerks at borders of chunks show as a large value. Rests and "
        "starts that belong to the motion do, too.",
    ),
    Measure(
        "boundary_ratio",
        "Boundary ratio",
        "boundary",
        "",
        "near 1",
        2,
        "Mean frame difference where chunks meet / inside chunks after the first. 1 is a film without seams, below 1 it slows "
        "down at borders. Needs the chunk grid.",
    ),
    Measure(
        "rgb_drift",
        "RGB drift",
        "RGB drift",
        "of 255",
        "lower",
        2,
        "How far the mean colour moved from the first to the last frames (100 each, of a shorter film an eighth), mean over "
        "R, G and B.",
    ),
    Measure(
        "saturation_drift",
        "Saturation drift",
        "sat. drift",
        "of 255",
        "near 0",
        2,
        "Mean saturation of the last frames less that of the first. Autoregressive films tend to grow louder (above 0).",
    ),
    Measure(
        "frame_difference",
        "Frame difference",
        "difference",
        "of 255",
        "neither",
        2,
        "Mean absolute difference of consecutive frames: motion, flicker and noise together. Near 0 the film stagnates.",
    ),
)
BY_KEY = {measure.key: measure for measure in MEASURES}
KEYS = tuple(BY_KEY)
