"""What the story-book model has to reach, and how far a measurement is from it.

A figure is one number with its interval and its ceiling (the same number measured on real films); targets come in two
tiers, required and goal. `merit` is the one rule by which two measurements of the same plan are ordered.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

_Z = 1.959964  # 97.5 % quantile of the normal distribution


@dataclass(frozen=True)
class Bound:
    """`least <= value <= most`; None is no bound on that side."""

    least: float | None = None
    most: float | None = None

    def holds(self, value: float) -> bool:
        """Whether the value lies inside; NaN never does."""
        if math.isnan(value):
            return False
        return (self.least is None or value >= self.least) and (self.most is None or value <= self.most)

    def score(self, value: float) -> float:
        """1 inside; outside the ratio to the bound that is missed (0..1), the distance where that bound is not above 0."""
        if math.isnan(value):
            return 0.0
        if self.least is not None and value < self.least:
            return max(0.0, value / self.least) if self.least > 0 else max(0.0, 1 - (self.least - value))
        if self.most is not None and value > self.most:
            return self.most / value if self.most > 0 else 1 / (1 + value - self.most)
        return 1.0


@dataclass(frozen=True)
class Kind:
    """What a figure is: its unit (`%` are kept as shares of 1) and its targets."""

    label: str
    unit: str = "%"
    required: Bound | None = None
    goal: Bound | None = None


@dataclass(frozen=True)
class Measured:
    """A number, what it was counted over, its 95 % interval, and the same number on real films."""

    value: float
    n: int
    low: float | None = None
    high: float | None = None
    ceiling: float | None = None

    def to_json(self) -> dict[str, Any]:
        """NaN as null: JSON has none."""
        return {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in asdict(self).items()}


Figures = Mapping[str, Measured]
"""By key of `KINDS`."""


def share(hits: Iterable[bool], ceiling: Iterable[bool] | None = None) -> Measured:
    """A share with its Wilson interval; NaN if there is nothing to count."""
    outcomes = list(hits)
    low, high = wilson(sum(outcomes), len(outcomes))
    value = sum(outcomes) / len(outcomes) if outcomes else math.nan
    return Measured(value, len(outcomes), low, high, None if ceiling is None else mean(ceiling))


def wilson(hits: int, n: int) -> tuple[float, float]:
    """The 95 % score interval of a binomial share (Wilson 1927); 0..1 without any observation."""
    if n == 0:
        return 0.0, 1.0
    middle = (hits + _Z**2 / 2) / (n + _Z**2)
    half = _Z / (n + _Z**2) * math.sqrt(hits * (n - hits) / n + _Z**2 / 4)
    return max(0.0, middle - half), min(1.0, middle + half)


def mean(values: Iterable[float]) -> float:
    """NaN if there is none."""
    known = [float(value) for value in values]
    return sum(known) / len(known) if known else math.nan


# ---------------------------------------------------------------- the targets


def _kinds() -> dict[str, Kind]:
    """In the order in which they are printed."""
    kinds: dict[str, Kind] = {}
    for split, column in (("seen", 0), ("held_out_pair", 1), ("held_out_motion", 1)):
        for word, (required, goal) in _WORD_TARGETS.items():
            targets = (_at_least(required[column]), _at_least(goal[column])) if required else (None, None)
            kinds[f"opening.{split}.{word}"] = Kind(word, "%", *targets)
    kinds["opening.right_way"] = Kind("drifters go the right way", "%", _at_least(0.85), _at_least(0.95))
    kinds["opening.camera_flow"] = Kind("camera flow", "px/frame")
    kinds |= _DECODER_AND_LENGTH
    for span in ("first", "last"):
        kinds |= {f"long.{span}.{word}": Kind(word) for word in LONG_WORDS}
    flat = (Bound(least=-0.05), Bound(least=-0.02))
    kinds |= {f"long.change.{word}": Kind(word, "points", *flat) for word in LONG_WORDS}
    for anchor, words in (("apm", "APM"), ("no_apm", "APM off")):
        kinds[f"identity.{anchor}.came_back"] = Kind(f"{words}: subject left and came back")
        kinds[f"identity.{anchor}.colour_kept"] = Kind(f"{words}: its colour is the anchor's")
        kinds[f"identity.{anchor}.colour_at_end"] = Kind(f"{words}: colour at the film's end, all films")
    kinds["speed.further_chunks"] = Kind("frames per second, further chunks", "fps")
    return kinds


def _at_least(value: float) -> Bound:
    return Bound(least=value)


LONG_WORDS = ("colour", "subject", "scene", "motion")
_WORD_TARGETS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {  # (required), (goal); each: seen, held out
    "colour": ((0.95, 0.90), (0.98, 0.95)),
    "hue": ((), ()),
    "subject": ((0.90, 0.85), (0.95, 0.92)),
    "scene": ((0.98, 0.98), (0.99, 0.99)),
    "motion": ((0.75, 0.60), (0.90, 0.80)),
}
_MOTION = Bound(0.7, 1.4)
_DECODER_AND_LENGTH = {
    "decoder.psnr": Kind("PSNR on renders", "dB", Bound(least=29.0), Bound(least=32.0)),
    "decoder.colour_error": Kind("mean colour error on the subject", "/255", Bound(most=3.0), Bound(most=3.0)),
    "decoder.still_difference": Kind(
        "frame difference where the renderer stands still", "/255", Bound(most=1.5), Bound(most=1.5)
    ),
    "long.cuts": Kind("cuts, all films together", "", Bound(most=0.0), Bound(most=0.0)),
    "long.boundary_ratio": Kind("boundary ratio", "", Bound(most=1.3), Bound(most=1.15)),
    "long.motion_by_pixels": Kind("motion by pixels, of the renderer's", "x", _MOTION, _MOTION),
    "long.motion_by_path": Kind("motion by path, of the renderer's", "x", _MOTION, _MOTION),
    "long.stillest_film": Kind("the stillest film, by pixels", "x", Bound(least=0.7), Bound(least=0.7)),
    "long.liveliest_film": Kind("the liveliest film, by pixels", "x", Bound(most=1.4), Bound(most=1.4)),
    "long.rgb_drift": Kind("RGB drift, first to last hundred frames", "/255", Bound(most=12.0), Bound(most=6.0)),
    "long.variant_kept": Kind("unnamed background kept to the last hundred frames"),
    "long.camera_flow": Kind("camera flow", "px/frame"),
}
KINDS: dict[str, Kind] = _kinds()


# ---------------------------------------------------------------- which is better


def missed(figures: Figures) -> list[str]:
    """Keys of the figures that are measured and miss their required target."""
    return [key for key, figure in figures.items() if (bound := KINDS[key].required) and not bound.holds(figure.value)]


def merit(values: Iterable[tuple[str, float]]) -> tuple[int, float]:
    """How good measured values (by key) are: first the number of required targets held, then the mean score of the goals.

    Only figures with a required target count, all alike; a figure scores 1 at its goal, less in proportion to what it
    lacks, and never more than 1, so that excellence in one place pays for nothing elsewhere.
    """
    judged = [(required, KINDS[key].goal or required, value) for key, value in values if (required := KINDS[key].required)]
    held = sum(required.holds(value) for required, _, value in judged)
    return held, round(mean(goal.score(value) for _, goal, value in judged), 6) if judged else 0.0


def beats(new: Mapping[str, Figures], old: Mapping[str, Figures]) -> bool:
    """Whether the new figures (by preset) have more merit than the old ones, over the figures that both have."""
    both = [(preset, key) for preset in new if preset in old for key in new[preset] if key in old[preset] and key in KINDS]
    mine, theirs = (merit((key, side[preset][key].value) for preset, key in both) for side in (new, old))
    return mine > theirs


# ---------------------------------------------------------------- as text


_HEADINGS = {
    "opening.seen": "first 16 frames, words seen in training",
    "opening.held_out_pair": "first 16 frames, colour-subject pair never seen",
    "opening.held_out_motion": "first 16 frames, scene-motion pair never seen",
    "opening": "first 16 frames, all splits",
    "decoder": "autoencoder",
    "long": "long films",
    "long.first": "long films, what is read in the first hundred frames",
    "long.last": "long films, what is read in the last hundred frames",
    "long.change": "long films, last hundred frames less first",
    "identity.apm": "identity, the colour word leaves the prompt after the first chunk",
    "identity.no_apm": "identity, the same without APM",
    "speed": "speed on this machine, as busy as it was",
}
_COLUMNS = ("", "value", "95 %", "n", "ceiling", "required", "goal", "")


def table(figures: Figures) -> str:
    """All figures with interval, n, ceiling and both targets, aligned."""
    rows: list[Sequence[str]] = [_COLUMNS]
    heading = ""
    for key in (key for key in KINDS if key in figures):
        if _heading(key) != heading:
            heading = _heading(key)
            rows.append((heading, *[""] * 7))
        rows.append(_row(KINDS[key], figures[key]))
    widths = [max(len(row[i]) for row in rows if row[1] or i) for i in range(len(_COLUMNS))]
    return "\n".join(_aligned(row, widths) for row in rows)


def _heading(key: str) -> str:
    return _HEADINGS[key.rpartition(".")[0]]


def _row(kind: Kind, figure: Measured) -> tuple[str, ...]:
    interval = ""
    if figure.low is not None and figure.high is not None and figure.n:
        interval = f"{_number(figure.low, kind.unit)} .. {_number(figure.high, kind.unit)}"
    return (
        f"  {kind.label}",
        f"{_number(figure.value, kind.unit)} {kind.unit}".strip(),
        interval,
        str(figure.n),
        "" if figure.ceiling is None else _number(figure.ceiling, kind.unit),
        _bound(kind.required, kind.unit),
        _bound(kind.goal, kind.unit),
        _judgement(kind, figure.value),
    )


def _judgement(kind: Kind, value: float) -> str:
    if kind.required is None:
        return ""
    if not kind.required.holds(value):
        return "MISSED"
    return "goal" if kind.goal and kind.goal.holds(value) else "held"


def _number(value: float, unit: str) -> str:
    if math.isnan(value):
        return "-"
    if unit in ("%", "points"):
        return f"{100 * value:{'+' if unit == 'points' else ''}.1f}"
    return f"{value:.2f}" if unit else f"{value:g}" if value == int(value) else f"{value:.2f}"


def _bound(bound: Bound | None, unit: str) -> str:
    if bound is None:
        return ""
    if bound.least is not None and bound.most is not None:
        return f"{bound.least:g} .. {bound.most:g}"
    sign, value = (">=", bound.least) if bound.least is not None else ("<=", bound.most)
    assert value is not None
    return f"{sign} {100 * value:g}" if unit in ("%", "points") else f"{sign} {value:g}"


def _aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    if not row[1] and row[0]:
        return row[0]
    return "  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))]).rstrip()
