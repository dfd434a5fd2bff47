"""The ways in which a tail can reach the UNet: CAM as published, and what the ablation compares it with."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from small_networks import randomize, small_branch, small_unet
from torch import Tensor

from st2v_stream.networks.cam import AdditionMerger, CamFeatures, ControlBranch, padded_with_mask
from st2v_stream.networks.sampling import noise_at
from st2v_stream.networks.unet import Conditioning, StreamingUNet

KINDS = get_args(Conditioning)


def draw(shape: tuple[int, ...], purpose: str) -> Tensor:
    return noise_at(1, 0, purpose, shape)


SAMPLE, TEXT = draw((1, 12, 16, 8, 8), "latents"), draw((1, 12, 16), "text")
TIME = torch.tensor([300.5])
TAIL, OTHER_TAIL = draw((1, 12, 8, 8, 8), "tail"), draw((1, 12, 8, 8, 8), "other tail")


def padding_branch() -> ControlBranch:
    return small_branch(pads_to_window=True, num_frames=16)


def control(kind: str, tail: Tensor) -> CamFeatures:
    """What carries the tail; a UNet without conditioning is given CAM's features, and must not look at them."""
    if kind == "concatenation":
        return CamFeatures((), None, tail)
    branch = padding_branch() if kind == "addition" else small_branch()
    return randomize(branch).clean_features(tail, TEXT)


@torch.no_grad()
def predict(unet: StreamingUNet, cam: CamFeatures | None) -> Tensor:
    return unet(SAMPLE, TIME, TEXT, None, cam)


@pytest.mark.parametrize("kind", KINDS)
def test_the_tail_is_used_by_all_but_none(kind: str) -> None:
    unet = randomize(small_unet(conditioning=kind))
    same, other = predict(unet, control(kind, TAIL)), predict(unet, control(kind, OTHER_TAIL))
    assert torch.equal(same, other) == (kind == "none")


@pytest.mark.parametrize("kind", KINDS)
def test_new_conditioning_adds_nothing_yet(kind: str) -> None:
    unet = small_unet(conditioning=kind)
    weights = {
        name: value for name, value in randomize(small_unet(conditioning=kind)).state_dict().items() if "merger" not in name
    }
    unet.init_weights()
    if kind == "concatenation":
        weights["conv_in.weight"][:, 12:] = 0
    unet.load_state_dict(weights, strict=False)
    with_tail = predict(unet, control(kind, TAIL))
    assert with_tail.any()
    assert torch.equal(with_tail, predict(unet, None))


def test_concatenation_starts_with_weights_of_zero_for_the_tail() -> None:
    unet = small_unet(conditioning="concatenation")
    unet.init_weights()
    assert unet.conv_in.weight.shape[1] == 12 + 12 + 1
    assert not unet.conv_in.weight[:, 12:].any()
    assert unet.conv_in.weight[:, :12].any()


def test_concatenation_tells_no_tail_from_a_black_one() -> None:
    unet = randomize(small_unet(conditioning="concatenation"))
    assert not torch.equal(predict(unet, None), predict(unet, CamFeatures((), None, torch.zeros_like(TAIL))))


def test_control_frames_come_first_and_are_marked() -> None:
    padded = padded_with_mask(TAIL, 16)
    assert padded.shape == (1, 13, 16, 8, 8)
    assert torch.equal(padded[:, :12, :8], TAIL)
    assert (padded[:, 12, :8] == 1).all()
    assert not padded[:, :, 8:].any()


def test_addition_gives_every_window_frame_a_feature_of_its_own() -> None:
    features = control("addition", TAIL)
    assert {feature.shape[0] for feature in (*features.skips, features.mid)} == {16}
    assert features.skips[0][8:].any()  # empty frames have features too: biases, and what the temporal layers bring


def test_addition_is_frame_by_frame() -> None:
    merger = randomize(AdditionMerger(4))
    hidden, features = draw((16, 4, 2, 2), "hidden"), draw((16, 4, 2, 2), "features")
    changed = features.clone()
    changed[3] += 1
    differs = (merger(hidden, changed, 16) != merger(hidden, features, 16)).flatten(1).any(1)
    assert differs.nonzero().flatten().tolist() == [3]


def test_a_padding_branch_starts_as_a_copy_that_ignores_the_mask() -> None:
    unet, branch = randomize(small_unet()), randomize(padding_branch(), seed=2)
    branch.copy_from(unet)
    assert torch.equal(branch.conv_in.weight[:, :12], unet.conv_in.weight)
    assert not branch.conv_in.weight[:, 12].any()
    assert torch.equal(branch.frame_positions, unet.frame_positions)


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match=r"conditioning: expected one of .*received 'sum'"):
        small_unet(conditioning="sum")
    with pytest.raises(ValueError, match="pads_to_window: expected cam_features 'clean', received 'noisy'"):
        small_branch(cam_features="noisy", pads_to_window=True)


@pytest.mark.parametrize("kind", KINDS)
def test_without_control_frames_there_is_no_conditioning(kind: str) -> None:
    names = set(small_unet(conditioning=kind, num_control_frames=0).state_dict())
    assert names == set(small_unet(num_control_frames=0).state_dict())
