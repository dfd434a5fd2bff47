"""The published sizes, without memory: every name and shape of the checkpoint; and the reduced-architecture numbers."""

from __future__ import annotations

import json
import zlib

import pytest
import torch
from golden_folder import GOLDEN
from torch import Tensor, nn

from st2v_stream.networks.cam import ControlBranch, ControlBranchConfig
from st2v_stream.networks.resampler import (
    DROPPED_PREFIXES,
    ImageResampler,
    ImageResamplerConfig,
    OpenClipImageEncoder,
    OpenClipImageEncoderConfig,
)
from st2v_stream.networks.unet import StreamingUNet, StreamingUNetConfig
from st2v_stream.networks.vae import FrameAutoencoder, FrameAutoencoderConfig


def shapes(network: nn.Module) -> dict[str, list[int]]:
    return {name: list(value.shape) for name, value in network.state_dict().items()}


@pytest.mark.golden
@pytest.mark.parametrize(
    ("prefix", "network_class", "config"),
    [
        ("base_model", StreamingUNet, StreamingUNetConfig()),
        ("unet", ControlBranch, ControlBranchConfig()),
        ("resampler", ImageResampler, ImageResamplerConfig()),
    ],
)
def test_names_and_shapes(prefix: str, network_class: type[nn.Module], config: object) -> None:
    with torch.device("meta"):
        ours = shapes(network_class(config))
    expected = json.loads((GOLDEN / "official_key_shapes.json").read_text())[prefix]
    assert {f"{prefix}.{name}": shape for name, shape in ours.items()} == expected


def test_numbers_of_parameters() -> None:
    """Counts of the remaining parts, from the checkpoint's key list."""
    with torch.device("meta"):
        vae, encoder = FrameAutoencoder(FrameAutoencoderConfig()), OpenClipImageEncoder(OpenClipImageEncoderConfig())
    assert (len(shapes(vae)), sum(p.numel() for p in vae.parameters())) == (248, 83_653_863)
    assert (len(shapes(encoder)), sum(p.numel() for p in encoder.parameters())) == (392, 632_076_800)
    assert not any(name.removeprefix("model.").startswith(DROPPED_PREFIXES) for name in shapes(encoder))


REDUCED = (64, 128, 256, 256)


def fill(network: nn.Module, prefix: str) -> nn.Module:
    """Weights from their own names: a generator seeded with CRC32 of the full key."""
    for name, value in network.state_dict().items():
        key = f"{prefix}.{name}"
        draw = torch.randn(value.shape, generator=torch.Generator().manual_seed(zlib.crc32(key.encode())))
        value.copy_(filled(key, draw))
    return network.eval()


def filled(key: str, draw: Tensor) -> Tensor:
    if key.endswith("alpha"):
        return torch.tensor(0.5)
    if draw.ndim >= 2:
        return draw / (draw.numel() / draw.shape[0]) ** 0.5
    return 1 + 0.1 * draw if key.endswith("weight") else 0.1 * draw


def seeded(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def assert_looks_like(value: Tensor, mean: float, std: float, first: list[float], last: list[float]) -> None:
    """Published rows are printed with five or six digits."""
    flat = value.flatten()
    received = [flat.mean(), flat.std(), *flat[:4], *flat[-2:]]
    torch.testing.assert_close(torch.stack(received), torch.tensor([mean, std, *first, *last]), rtol=1e-4, atol=2e-4)


@pytest.mark.slow
@torch.no_grad()
def test_reduced_architecture() -> None:
    """The real architecture at a fifth of its width: the numbers the official modules gave."""
    branch = ControlBranch(ControlBranchConfig(block_out_channels=REDUCED))
    unet = StreamingUNet(StreamingUNetConfig(block_out_channels=REDUCED))
    assert sum(p.numel() for p in unet.parameters()) == 68_929_876
    assert sum(p.numel() for p in branch.parameters()) == 34_195_936
    fill(branch, "unet")
    fill(unet, "base_model")
    sample, tokens, t = seeded(1, 2, 4, 16, 16, 16), seeded(2, 2, 93, 1024), torch.tensor([481, 481])
    text, image = tokens[:, :77], tokens[:, 77:]
    condition = branch.embed_condition(seeded(3, 16, 3, 128, 128).unflatten(0, (2, 8)))
    cam = branch(sample[:, :, :8], t, text, condition)
    assert cam.mid is not None
    rows = [
        (condition, -0.016641, 0.107114, [0.16478, 0.13843, 0.14363, 0.13688], [-0.00541, -0.00663]),
        (cam.skips[0], -0.019394, 1.804561, [-0.12838, -1.16441, -0.70294, 0.97096], [-0.42526, -1.871]),
        (cam.skips[3], 0.022184, 3.421679, [-0.28436, 1.41859, 0.41795, -0.65152], [3.99509, -0.51189]),
        (cam.skips[11], 0.304792, 4.635342, [1.36642, -4.29179, 6.83452, -5.25081], [-4.62208, -0.09839]),
        (cam.mid, 0.281046, 5.225090, [-0.1228, -7.33239, 2.1913, -4.21077], [-2.60623, 3.61607]),
        (unet(sample, t, text, image), -0.094925, 0.574303, [-0.29393, -0.85055, -1.0959, -0.07626], [-0.34021, -0.17363]),
        (unet(sample, t, text, image, cam), -0.197736, 0.566476, [0.06495, -0.5283, -0.62322, 0.19005], [0.03397, -0.42448]),
    ]
    for row in rows:
        assert_looks_like(*row)
    resampler = fill(ImageResampler(ImageResamplerConfig()), "resampler")
    tokens = resampler(seeded(4, 2, 1024)[:, None])
    assert_looks_like(tokens, 0.001091, 0.610872, [0.79005, 0.64624, 0.47109, 0.19725], [0.56614, -0.68104])
