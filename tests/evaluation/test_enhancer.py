"""The enhancer's scores: what counts as held, and that the measures tell sharp from soft."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from st2v_stream.enhancers.lanczos import Lanczos
from st2v_stream.enhancers.passthrough import Passthrough
from st2v_stream.evaluation.enhancer import DEGRADED, Tally, held, made_sharp, table, ways
from st2v_stream.training.enhancer_measures import near_edges
from st2v_stream.training.enhancer_pairs import draw_window, shrunk

ROW = {"edge_psnr_db": 18.0, "psnr_db": 25.0, "flicker": 1.0, "edge_width": 6.0}
BETTER = {"edge_psnr_db": 20.5, "psnr_db": 25.0, "flicker": 1.0, "edge_width": 3.0}
SCORES = {kind: {"bicubic": ROW, "enhancer": BETTER} for kind in DEGRADED}


def test_targets_that_hold() -> None:
    assert [line.rpartition(" ")[2] for line in held(SCORES)] == ["held"] * 3


@pytest.mark.parametrize(("name", "value", "line"), [("edge_psnr_db", 19.9, 0), ("psnr_db", 24.9, 1), ("flicker", 1.1, 2)])
def test_the_worst_kind_of_degradation_decides(name: str, value: float, line: int) -> None:
    scores = copy.deepcopy(SCORES)
    scores[DEGRADED[1]]["enhancer"][name] = value
    assert [n for n, verdict in enumerate(held(scores)) if verdict.endswith("MISSED")] == [line]


def test_every_way_has_its_line() -> None:
    films = {"bicubic": {"edge_width": 6.0, "shrunk_psnr_db": 40.0, "colour_shift": 0.1}, "renderer": {"edge_width": 1.5}}
    lines = table(SCORES, films)
    assert len(lines) == 2 + 2 * len(DEGRADED) + 2
    assert any("20.50 dB" in line and "enhancer" in line for line in lines)


def test_ways_of_enlarging() -> None:
    window = draw_window(0, "test", 0, "any", 8)
    truth = window.truth(range(window.start, window.start + 2))
    made = {name: way(shrunk(truth)) for name, way in ways(Lanczos(4)).items()}
    assert np.array_equal(made["enhancer"], made["lanczos"])
    assert not np.array_equal(made["bicubic"], made["lanczos"])
    assert np.array_equal(made_sharp(Passthrough(), truth), truth)
    scores = {}
    for name, film in (made | {"truth": truth}).items():
        tally = Tally()
        tally.add(film, truth, near_edges(truth))
        scores[name] = tally.scores()
    assert scores["truth"]["psnr_db"] > 100
    assert scores["truth"]["edge_width"] < 2.5 < scores["bicubic"]["edge_width"]
    assert 15 < scores["bicubic"]["edge_psnr_db"] < scores["bicubic"]["psnr_db"]
