"""The small enhancer's network: sizes, and what it makes before it has learned anything."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from small_networks import randomize

from st2v_stream.networks.enhancer_onestep import OneStepUNet, OneStepUNetConfig

SMALL = OneStepUNetConfig(block_out_channels=(8, 8, 8), down_blocks=1, up_blocks=1, sharp_channels=8)


def frames(height: int = 16, width: int = 16) -> torch.Tensor:
    return torch.rand((2, 3, 3, height, width), generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_untrained_it_enlarges() -> None:
    with torch.inference_mode():
        made = OneStepUNet(SMALL)(frames())
    torch.testing.assert_close(made, F.interpolate(frames()[:, -1], scale_factor=4, mode="bicubic", align_corners=False))


@pytest.mark.parametrize(("height", "width"), [(16, 16), (17, 22), (3, 5)])
def test_any_size(height: int, width: int) -> None:
    network = randomize(OneStepUNet(SMALL))
    with torch.inference_mode():
        made = network(frames(height, width))
    assert made.shape == (2, 3, 4 * height, 4 * width)
    assert made.isfinite().all()


def test_it_looks_at_every_frame_that_it_is_given() -> None:
    network = randomize(OneStepUNet(SMALL))
    with torch.inference_mode():
        made = network(frames())
        for number in range(3):
            changed = frames()
            changed[0, number] *= -1
            others = network(changed)
            assert not torch.allclose(others[0], made[0]), number
            torch.testing.assert_close(others[1], made[1])
