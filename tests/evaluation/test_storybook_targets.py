"""Targets, intervals, and which of two measurements is better."""

from __future__ import annotations

import math

import pytest

from st2v_stream.evaluation.targets import KINDS, Bound, Measured, beats, mean, merit, missed, share, table, wilson


def figures(**changes: float) -> dict[str, Measured]:
    """Every figure with a required target, exactly on it; `changes` by key with __ for dots."""
    at_target = {key: _edge(kind.required) for key, kind in KINDS.items() if kind.required}
    changed = {name.replace("__", "."): value for name, value in changes.items()}
    return {key: Measured(value, 64) for key, value in (at_target | changed).items()}


def _edge(bound: Bound) -> float:
    edge = bound.least if bound.least is not None else bound.most
    assert edge is not None
    return edge


def test_the_targets_are_those_of_the_issue() -> None:
    def bounds(key: str) -> tuple[Bound | None, Bound | None]:
        return KINDS[key].required, KINDS[key].goal

    assert bounds("opening.seen.colour") == (Bound(least=0.95), Bound(least=0.98))
    assert bounds("opening.held_out_pair.colour") == (Bound(least=0.90), Bound(least=0.95))
    assert bounds("opening.held_out_pair.subject") == (Bound(least=0.85), Bound(least=0.92))
    assert bounds("opening.seen.scene") == (Bound(least=0.98), Bound(least=0.99))
    assert bounds("opening.held_out_motion.motion") == (Bound(least=0.60), Bound(least=0.80))
    assert bounds("opening.right_way") == (Bound(least=0.85), Bound(least=0.95))
    assert bounds("decoder.psnr") == (Bound(least=29.0), Bound(least=32.0))
    assert bounds("long.boundary_ratio") == (Bound(most=1.3), Bound(most=1.15))
    assert bounds("long.motion_by_pixels")[0] == Bound(0.7, 1.4)


@pytest.mark.parametrize(
    ("bound", "value", "holds", "score"),
    [
        (Bound(least=0.9), 0.9, True, 1.0),
        (Bound(least=0.9), 0.45, False, 0.5),
        (Bound(most=1.3), 2.6, False, 0.5),
        (Bound(0.7, 1.4), 0.0, False, 0.0),
        (Bound(0.7, 1.4), 2.8, False, 0.5),
        (Bound(most=0.0), 1.0, False, 0.5),
        (Bound(least=-0.05), -0.30, False, 0.75),
        (Bound(least=-0.05), 0.0, True, 1.0),
        (Bound(least=0.9), math.nan, False, 0.0),
    ],
)
def test_a_bound(bound: Bound, value: float, holds: bool, score: float) -> None:
    assert bound.holds(value) is holds
    assert bound.score(value) == pytest.approx(score)


def test_wilson_against_published_numbers() -> None:
    # Newcombe 1998, table I: 81 of 263, 15 of 148, 0 of 20
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=1e-4)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
    assert wilson(0, 0) == (0.0, 1.0)


def test_a_share_of_nothing_is_no_number() -> None:
    empty = share([])
    assert math.isnan(empty.value)
    assert empty.to_json()["value"] is None
    assert math.isnan(mean([]))
    assert share([True, False], [True, True]).ceiling == 1.0


def test_what_is_missed() -> None:
    assert missed(figures()) == []
    assert missed(figures(long__cuts=1.0, opening__seen__colour=0.949)) == ["opening.seen.colour", "long.cuts"]
    assert missed(figures(long__rgb_drift=math.nan)) == ["long.rgb_drift"]


def test_one_target_more_beats_any_score() -> None:
    loose = {"live": figures(opening__seen__motion=0.74, opening__seen__colour=1.0, opening__seen__subject=1.0)}
    strict = {"live": figures()}
    assert beats(strict, loose)
    assert not beats(loose, strict)


def test_with_equal_targets_the_mean_score_decides() -> None:
    better = {"live": figures(opening__seen__motion=0.85)}
    assert beats(better, {"live": figures()})
    assert not beats({"live": figures()}, better)
    assert not beats(better, better), "equal is not better"


def test_excellence_beyond_the_goal_pays_for_nothing() -> None:
    assert merit([("decoder.psnr", 60.0), ("long.cuts", 3.0)])[1] == merit([("decoder.psnr", 32.0), ("long.cuts", 3.0)])[1]


def test_figures_without_a_target_and_figures_of_one_side_count_for_nothing() -> None:
    old = {"live": figures()}
    new = {"live": figures(opening__seen__hue=1.0), "default": figures()}
    assert not beats(new, old)
    assert merit([("opening.seen.hue", 0.2)]) == (0, 0.0)


def test_the_table_shows_value_interval_ceiling_and_targets() -> None:
    text = table({"opening.seen.colour": share([True] * 63 + [False], [True] * 64), "long.cuts": Measured(2.0, 5, ceiling=0.0)})
    colour = next(line for line in text.splitlines() if line.strip().startswith("colour"))
    for cell in ("98.4 %", "91.7 .. 99.7", "64", "100.0", ">= 95", ">= 98", "goal"):
        assert cell in colour
    cuts = next(line for line in text.splitlines() if "cuts" in line)
    assert cuts.endswith("MISSED")
    assert "first 16 frames, words seen in training" in text
