"""unit_parts: image embedder, resampler, VAE arithmetic, noise sums (golden README section 5)."""

from __future__ import annotations

import pytest
import torch
from golden_folder import deviation, read, settings

from networks.test_golden_ar_step import recorded_parts
from st2v_stream.networks.resampler import preprocess

pytestmark = pytest.mark.golden
TOKENS_TOLERANCE, VAE_TOLERANCE = 5e-5, 2e-5


@pytest.fixture(scope="module")
def io() -> dict[str, torch.Tensor]:
    return read("unit_parts.io")


@pytest.fixture(scope="module")
def parts() -> tuple[torch.nn.Module, ...]:
    return recorded_parts(settings("ar_step.weights_parts"))


@torch.no_grad()
def test_image_embedder(io: dict[str, torch.Tensor], parts: tuple) -> None:
    encoder = parts[0]
    image = io["img.in.image_uint8"][None].float() / 127.5 - 1
    ready = preprocess(image, encoder.config.image_size)
    rows, columns = io["img.mid.preprocessed_crop"].shape[-2:]
    assert deviation(ready[..., 40 : 40 + rows, 100 : 100 + columns], io["img.mid.preprocessed_crop"]) < TOKENS_TOLERANCE
    assert deviation(torch.stack([ready.mean(), ready.std()]), io["img.mid.preprocessed_mean_std"]) < TOKENS_TOLERANCE
    assert deviation(encoder(image), io["img.out.embedding"]) < TOKENS_TOLERANCE
    assert deviation(encoder(io["img.in.small_images"]), io["img.out.embedding_small"]) < TOKENS_TOLERANCE


@torch.no_grad()
def test_resampler(io: dict[str, torch.Tensor], parts: tuple) -> None:
    resampler, single, small = parts[1], io["img.out.embedding"], io["img.out.embedding_small"]
    assert deviation(resampler(single[:, None]), io["res.out.tokens_single_frame"]) < TOKENS_TOLERANCE
    assert deviation(resampler(small[:, None]), io["res.out.tokens_batch_of_two"]) < TOKENS_TOLERANCE
    assert deviation(resampler(small[None]), io["res.out.tokens_mean_of_two_frames"]) < TOKENS_TOLERANCE


@torch.no_grad()
def test_vae(io: dict[str, torch.Tensor], parts: tuple) -> None:
    vae = parts[2]
    mean, std = vae.posterior(io["vae.in.frames"])
    assert deviation(mean, io["vae.out.posterior_mean"]) < VAE_TOLERANCE
    assert deviation(std, io["vae.out.posterior_std"]) < VAE_TOLERANCE
    latents = vae.encode(io["vae.in.frames"], io["vae.in.posterior_noise"])
    assert deviation(latents, io["vae.out.scaled_latent"]) < VAE_TOLERANCE
    decoded = vae.decode(io["vae.out.scaled_latent"], frames_at_once=1)
    assert deviation(decoded.transpose(0, 1)[None], io["vae.out.decoded"]) < VAE_TOLERANCE
    unit_range = (2 * decoded / 2 + 0.5).clamp(0, 1)
    assert deviation(unit_range, io["vae.out.frames_unit_range"]) < VAE_TOLERANCE


def test_mixed_noise_sums(io: dict[str, torch.Tensor]) -> None:
    """Unused in released inference; the recording says how its parts add up."""
    for chunk in ("chunk0", "chunk1"):
        individual = torch.cat(list(io[f"noise.mixed.draw.individual_{chunk}"]), dim=2)
        assert torch.equal(io["noise.mixed.draw.shared"] + individual, io[f"noise.mixed.out.{chunk}"])
