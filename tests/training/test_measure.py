import numpy as np
import pytest

from st2v_stream.training.measure import boundary_ratio, score
from st2v_stream.worlds import storybook


def test_real_films_get_full_marks() -> None:
    rng = np.random.default_rng(5)
    specs = [storybook.sample_spec(rng) for _ in range(2)]
    scores = score(specs, np.stack([storybook.clip(spec, range(16)) for spec in specs]))
    assert (scores.scene, scores.colour, scores.subject, scores.motion) == (1, 1, 1, 1)
    assert scores.seen > 0.9
    assert scores.match_error < 0.15


def test_the_boundary_ratio_sees_seams() -> None:
    smooth = np.arange(40, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 3), np.uint8)
    assert boundary_ratio(smooth) == pytest.approx(1)
    jumping = smooth.copy()
    jumping[16:24] += 40
    jumping[24:] += 80
    assert boundary_ratio(jumping) > 10
