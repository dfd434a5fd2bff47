"""MAWE against the recorded vectors: masks exact, the metric to a relative 1e-5 (tests/golden/README.md, section 6)."""

from __future__ import annotations

import golden_folder as golden
import numpy as np
import pytest
from numpy.typing import NDArray

from st2v_stream.evaluation import mawe

pytestmark = pytest.mark.golden

CLIPS = sorted(golden.settings("mawe"))
RELATIVE = 1e-5


def recorded(clip: str) -> dict[str, NDArray[np.generic]]:
    return {name: value.numpy() for name, value in golden.part(golden.read("mawe"), f"{clip}.").items()}


def pairs(clip: dict[str, NDArray[np.generic]]) -> list[tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.float32]]]:
    frames = clip["in.frames"].transpose(0, 2, 3, 1).astype(np.uint8)
    flows = clip["in.flow"].transpose(0, 2, 3, 1).astype(np.float32)
    return list(zip(frames[:-1], frames[1:], flows, strict=True))


@pytest.mark.parametrize("clip", CLIPS)
def test_masks_and_warped_frames_are_exact(clip: str) -> None:
    vectors = recorded(clip)
    for number, (frame, _, flow) in enumerate(pairs(vectors)):
        warped = mawe.push(frame, flow)
        assert np.array_equal(~warped.is_hit, vectors["mid.unknown_mask"][number] == 1)
        assert np.array_equal(warped.frame, vectors["mid.warped"][number].transpose(1, 2, 0))


@pytest.mark.parametrize("clip", CLIPS)
def test_error_motion_and_metric(clip: str) -> None:
    vectors = recorded(clip)
    errors = np.array([mawe.warp_error(*pair) for pair in pairs(vectors)])
    lengths = np.array([mawe.flow_length(flow) for _, _, flow in pairs(vectors)])
    np.testing.assert_allclose(errors, vectors["mid.warp_error_per_pair"], rtol=RELATIVE)
    np.testing.assert_allclose(lengths, vectors["mid.motion_per_pair"], rtol=RELATIVE)
    assert golden.settings("mawe")[clip]["coeff"] == mawe.COEFFICIENT
    assert mawe.mawe_of_released_code(errors, lengths) == pytest.approx(vectors["out.mawe"].item(), rel=RELATIVE)


def test_the_recording_tells_the_forms_apart() -> None:
    """The vectors would not accept a ratio of means: the test above cannot pass by accident."""
    vectors = recorded(CLIPS[0])
    errors, lengths = (vectors[f"mid.{name}_per_pair"].astype(np.float64) for name in ("warp_error", "motion"))
    assert mawe.mawe(errors, lengths) != pytest.approx(vectors["out.mawe"].item(), rel=1e-2)
