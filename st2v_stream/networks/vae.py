"""Frames to latents and back: diffusers' `AutoencoderKL` on single frames (published: the VAE of Stable Diffusion 2.1).

Settings beyond it: `patch_size` folds p x p pixels into channels first (a cheap eight-fold reduction for a small
model), and `latents_mean`/`latents_std` normalise per channel instead of the one `scaling_factor`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor

from st2v_stream.networks.folder import FolderModule


@dataclass(frozen=True)
class FrameAutoencoderConfig:
    """The defaults are the published VAE (83.7 M parameters). Channel counts are in pixels' RGB, before patching."""

    in_channels: int = 3
    out_channels: int = 3
    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2
    latent_channels: int = 4
    norm_num_groups: int = 32
    mid_block_add_attention: bool = True
    scaling_factor: float = 0.18215
    latents_mean: tuple[float, ...] | None = None
    latents_std: tuple[float, ...] | None = None
    patch_size: int = 1

    @property
    def downscale(self) -> int:
        """Pixels per latent position and axis (8 when published)."""
        return self.patch_size * 2 ** (len(self.block_out_channels) - 1)


class FrameAutoencoder(FolderModule[FrameAutoencoderConfig]):
    """Published keys `vae.*`: encoder, decoder, quant_conv, post_quant_conv."""

    config_class = FrameAutoencoderConfig

    def __init__(self, config: FrameAutoencoderConfig) -> None:
        super().__init__(config)
        levels = len(config.block_out_channels)
        parts = AutoencoderKL(
            in_channels=config.in_channels * config.patch_size**2,
            out_channels=config.out_channels * config.patch_size**2,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            block_out_channels=config.block_out_channels,
            layers_per_block=config.layers_per_block,
            latent_channels=config.latent_channels,
            norm_num_groups=config.norm_num_groups,
            mid_block_add_attention=config.mid_block_add_attention,
        )
        self.encoder, self.quant_conv = parts.encoder, parts.quant_conv
        self.post_quant_conv, self.decoder = parts.post_quant_conv, parts.decoder

    def posterior(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Frames (N, 3, H, W) in [-1, 1] -> mean and std of the posterior, each (N, C, h, w), not normalised."""
        patches = F.pixel_unshuffle(frames, self.config.patch_size)
        mean, log_variance = self.quant_conv(self.encoder(patches)).chunk(2, dim=1)
        return mean, torch.exp(0.5 * log_variance.clamp(-30, 20))

    def normalize(self, latents: Tensor) -> Tensor:
        """What the encoder gives -> what the UNet denoises (about unit variance); channels at dimension 1."""
        if self.config.latents_mean is None or self.config.latents_std is None:
            return latents * self.config.scaling_factor
        return (latents - _channels(self.config.latents_mean, latents)) / _channels(self.config.latents_std, latents)

    def denormalize(self, latents: Tensor) -> Tensor:
        """Inverse of `normalize`."""
        if self.config.latents_mean is None or self.config.latents_std is None:
            return latents / self.config.scaling_factor
        return latents * _channels(self.config.latents_std, latents) + _channels(self.config.latents_mean, latents)

    def encode(self, frames: Tensor, noise: Tensor | None = None) -> Tensor:
        """Frames (N, 3, H, W) in [-1, 1] -> normalised latents (N, C, h, w): the mean, or a sample made with `noise`."""
        mean, std = self.posterior(frames)
        return self.normalize(mean if noise is None else mean + std * noise)

    def decode(self, latents: Tensor, frames_at_once: int | None = None) -> Tensor:
        """Normalised latents (N, C, h, w) -> frames (N, 3, H, W) in about [-1, 1], not clamped.

        `frames_at_once` bounds memory (published: 1, "VAE slicing"); None decodes the batch whole.
        """
        pieces = latents.split(frames_at_once or latents.shape[0])
        return torch.cat([self._decode(self.denormalize(piece)) for piece in pieces])

    def _decode(self, latents: Tensor) -> Tensor:
        return F.pixel_shuffle(self.decoder(self.post_quant_conv(latents)), self.config.patch_size)


def _channels(values: tuple[float, ...], like: Tensor) -> Tensor:
    return torch.tensor(values, device=like.device, dtype=like.dtype).view(-1, *[1] * (like.ndim - 2))
