"""ar_step: one full autoregressive extension with the published sampler, both variants (golden README section 2a)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from einops import rearrange
from golden_folder import deviation, load, read, recorded_networks, settings
from torch import Tensor

from st2v_stream.networks.ar_step import ChunkConditions, chunk_conditions, extend, predictor
from st2v_stream.networks.guidance import Guidance, pair
from st2v_stream.networks.resampler import (
    ImageResampler,
    ImageResamplerConfig,
    OpenClipImageEncoder,
    OpenClipImageEncoderConfig,
)
from st2v_stream.networks.sampling import DdimSampler, denoise, draw_published
from st2v_stream.networks.vae import FrameAutoencoder, FrameAutoencoderConfig

pytestmark = pytest.mark.golden
LATENTS_TOLERANCE, FRAMES_TOLERANCE, PREDICTION_TOLERANCE, TOKENS_TOLERANCE = 3e-3, 1e-4, 3e-4, 5e-5


def recorded_parts(config: dict[str, Any]) -> tuple[OpenClipImageEncoder, ImageResampler, FrameAutoencoder]:
    vision, resampler, vae = config["open_clip_vision"], config["resampler"], config["vae"]
    names = ("image_size", "patch_size", "width", "layers", "heads", "mlp_ratio", "output_dim")
    encoder = OpenClipImageEncoder(OpenClipImageEncoderConfig(**{name: vision[name] for name in names}))
    tokens = ImageResamplerConfig(
        embedding_dim=vision["output_dim"],
        inner_dim=resampler["inner_dim"],
        cross_attention_dim=resampler["cross_attention_dim"],
        image_tokens=resampler["expansion_factor"],
    )
    frames = FrameAutoencoderConfig(
        block_out_channels=tuple(vae["block_out_channels"]),
        layers_per_block=vae["layers_per_block"],
        latent_channels=vae["latent_channels"],
        norm_num_groups=vae["norm_num_groups"],
        scaling_factor=vae["scaling_factor"],
    )
    return (
        load(encoder, "ar_step.weights_parts", "image_encoder."),
        load(ImageResampler(tokens), "ar_step.weights_parts", "resampler."),
        load(FrameAutoencoder(frames), "ar_step.weights_parts", "vae."),
    )


class Recorded:
    """The recording and everything that is constant in the chunk."""

    def __init__(self) -> None:
        self.io, self.config = read("ar_step.io"), settings("ar_step.io")
        self.unet, self.branch = recorded_networks()
        self.encoder, self.resampler, self.vae = recorded_parts(self.config)
        anchor = self.io["in.anchor_frame"][:, 0]
        self.embeddings = {"anchor": self.encoder(anchor), "uncond": self.encoder(torch.zeros_like(anchor))}
        self.tokens = {name: self.resampler(value[:, None]) for name, value in self.embeddings.items()}

    def conditions(self, guidance: Guidance) -> ChunkConditions:
        text = pair(self.io["in.text_neg"], self.io["in.text_pos"], guidance)
        image = pair(self.tokens["uncond"], self.tokens["anchor"], guidance)
        assert text is not None
        return chunk_conditions(self.branch, text, image, control_frames=self.io["in.control_frames"])

    def step_noise(self, k: int) -> Tensor:
        return rearrange(self.io["in.step_noise"][k], "(b f) c h w -> b c f h w", b=1)


@pytest.fixture(scope="module")
def recorded() -> Recorded:
    with torch.no_grad():
        return Recorded()


class WatchedSampler(DdimSampler):
    """Keeps the latents after every step."""

    def __init__(self, config: dict[str, Any], variant: dict[str, Any]) -> None:
        super().__init__(config["scheduler"], variant["num_inference_steps"], variant["eta"])
        self.latents_per_step: list[Tensor] = []

    def step(self, k: int, quantity: Tensor, latents: Tensor, noise: Tensor | None) -> Tensor:
        self.latents_per_step.append(super().step(k, quantity, latents, noise))
        return self.latents_per_step[-1]


def test_image_tokens_and_context(recorded: Recorded) -> None:
    io = recorded.io
    for name in ("anchor", "uncond"):
        assert deviation(recorded.embeddings[name], io[f"mid.image_embed_{name}"]) < TOKENS_TOLERANCE
        assert deviation(recorded.tokens[name], io[f"mid.image_tokens_{name}"]) < TOKENS_TOLERANCE
    with torch.no_grad():
        conditions = recorded.conditions(Guidance(recorded.config["guidance_scale"]))
    assert conditions.image is not None
    context = torch.cat([conditions.text, conditions.image], dim=1)
    assert deviation(context, io["mid.context_cfg"]) < TOKENS_TOLERANCE


def test_draws_come_from_the_running_generator(recorded: Recorded) -> None:
    io, config = recorded.io, recorded.config
    rng = torch.Generator().manual_seed(int(io["in.generator_seed"]))
    init, noise = draw_published(rng, tuple(io["in.init_noise"].shape), config["num_inference_steps"])
    assert torch.equal(init, io["in.init_noise"])
    assert torch.equal(torch.cat(noise), torch.cat([recorded.step_noise(k) for k in range(len(noise))]))


@torch.no_grad()
def test_main_variant(recorded: Recorded) -> None:
    io, config = recorded.io, recorded.config
    guidance = Guidance(config["guidance_scale"])
    sampler = WatchedSampler(config, config)
    predictions: list[Tensor] = []
    predict = predictor(recorded.unet, recorded.branch, recorded.conditions(guidance))

    def watched_predict(latents: Tensor, timestep: Tensor) -> Tensor:
        predictions.append(predict(latents, timestep))
        return predictions[-1]

    latents = denoise(watched_predict, sampler, io["in.init_noise"], recorded.step_noise, guidance)
    assert torch.equal(sampler.timesteps, io["mid.timesteps"])
    assert deviation(predictions[0], io["mid.noise_pred_cfg_per_step"][0]) < PREDICTION_TOLERANCE
    assert deviation(torch.stack(sampler.latents_per_step), io["out.latents_per_step"]) < LATENTS_TOLERANCE
    assert deviation(latents, io["out.latents"]) < LATENTS_TOLERANCE
    new = latents[0, :, config["num_control_input_frames"] :].transpose(0, 1)
    frames = (recorded.vae.decode(new, frames_at_once=1) / 2 + 0.5).clamp(0, 1)
    assert deviation(frames, io["out.kept_frames"]) < FRAMES_TOLERANCE


@torch.no_grad()
def test_eta0_variant(recorded: Recorded) -> None:
    io, variant = recorded.io, recorded.config["variant_eta0"]
    guidance, sampler = Guidance(variant["guidance_scale"]), WatchedSampler(recorded.config, variant)
    conditions = recorded.conditions(guidance)
    extend(recorded.unet, recorded.branch, conditions, sampler, guidance, io["in.eta0_init_noise"], recorded.step_noise)
    assert torch.equal(sampler.timesteps, io["mid.eta0_timesteps"])
    assert deviation(torch.stack(sampler.latents_per_step), io["out.eta0_g9_latents_per_step"]) < LATENTS_TOLERANCE
