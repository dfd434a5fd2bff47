"""Frames to latents and back: diffusers' `AutoencoderKL` on single frames (published: the VAE of Stable Diffusion 2.1).

Settings beyond it: `patch_size` folds p x p pixels into channels first (a cheap eight-fold reduction for a small
model), `latents_mean`/`latents_std` normalise per channel instead of the one `scaling_factor`,
`decoder_block_out_channels`/`decoder_layers_per_block` make the decoder larger than the encoder, and
`decoder_memory_slots` lets it remember what recurs at fixed places (`PlaceMemory`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.vae import Decoder
from einops import rearrange
from torch import Tensor, nn

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
    decoder_block_out_channels: tuple[int, ...] | None = None  # None: as `block_out_channels`; else as many levels
    decoder_layers_per_block: int | None = None  # None: as `layers_per_block`
    decoder_memory_slots: int = 0
    decoder_memory_side: int = 8  # latent positions per axis of the only picture size that a memory fits

    def __post_init__(self) -> None:
        decoder = self.decoder_block_out_channels
        if decoder is not None and len(decoder) != len(self.block_out_channels):
            expected = f"{len(self.block_out_channels)} levels, as block_out_channels"
            raise ValueError(f"decoder_block_out_channels: expected {expected}, received {decoder}")

    @property
    def downscale(self) -> int:
        """Pixels per latent position and axis (8 when published)."""
        return self.patch_size * 2 ** (len(self.block_out_channels) - 1)


class FrameAutoencoder(FolderModule[FrameAutoencoderConfig]):
    """Published keys `vae.*`: encoder, decoder, quant_conv, post_quant_conv."""

    config_class = FrameAutoencoderConfig

    def __init__(self, config: FrameAutoencoderConfig) -> None:
        super().__init__(config)
        parts = _parts(config, config.block_out_channels, config.layers_per_block)
        self.encoder, self.quant_conv = parts.encoder, parts.quant_conv
        if config.decoder_block_out_channels is not None or config.decoder_layers_per_block is not None:
            channels = config.decoder_block_out_channels or config.block_out_channels
            parts = _parts(config, channels, config.decoder_layers_per_block or config.layers_per_block)
        self.post_quant_conv, self.decoder = parts.post_quant_conv, parts.decoder
        if config.decoder_memory_slots:
            self.memory = PlaceMemory(config, width=self.decoder.conv_out.in_channels)

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
        hidden = self.post_quant_conv(latents)
        if self.config.decoder_memory_slots:
            patches = self.memory(self.normalize(latents), *_painted(self.decoder, hidden))
        else:
            patches = self.decoder(hidden)
        return F.pixel_shuffle(patches, self.config.patch_size)


def _painted(decoder: Decoder, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """diffusers' `Decoder.forward`, with the last features (N, width, H, W) beside what it paints."""
    hidden = decoder.mid_block(decoder.conv_in(hidden))
    for block in decoder.up_blocks:
        hidden = block(hidden)
    features = decoder.conv_act(decoder.conv_norm_out(hidden))
    return decoder.conv_out(features), features


class PlaceMemory(nn.Module):
    """Learned pictures, one of which shows wherever the decoder sees nothing in front of it.

    A small world has few backgrounds, and they stand still: which one it is, the whole frame tells, and it need not be
    squeezed through each place's own latents. Besides, a background that is remembered cannot flicker or drift. A softmax
    over all latents of the frame mixes the pictures; the gate, one per pixel, comes from the decoder's last features.
    """

    SCALE = 5.0  # pictures learn with Adam, whose steps have the size of the rate: they must get far in few of them
    CLOSED = -2.0  # the gate's bias to begin with: little of what is remembered shows yet

    def __init__(self, config: FrameAutoencoderConfig, width: int) -> None:
        super().__init__()
        side, channels = config.decoder_memory_side, config.latent_channels
        self.latents_shape = (channels, side, side)
        self.patch_pixels = config.patch_size**2
        finest = side * 2 ** (len(config.block_out_channels) - 1)
        self.choice = nn.Linear(channels * side**2, config.decoder_memory_slots)
        nn.init.normal_(self.choice.weight, std=2 / self.choice.in_features**0.5)
        self.pictures = nn.Parameter(
            torch.zeros(config.decoder_memory_slots, config.out_channels * self.patch_pixels, finest, finest)
        )
        self.gate = nn.Conv2d(width, self.patch_pixels, kernel_size=3, padding=1)
        nn.init.zeros_(self.gate.weight)
        nn.init.constant_(self.gate.bias, self.CLOSED)

    def recalled(self, latents: Tensor) -> Tensor:
        """Normalised latents (N, C, h, w) -> the remembered picture in patches (N, 3 p p, H, W). ValueError: another size."""
        if latents.shape[1:] != self.latents_shape:
            received = tuple(latents.shape[1:])
            raise ValueError(f"latents for a decoder with memory: expected {self.latents_shape}, received {received}")
        shares = self.choice(latents.flatten(1)).softmax(dim=1)
        return self.SCALE * torch.einsum("nk,kchw->nchw", shares, self.pictures)

    def forward(self, latents: Tensor, painted: Tensor, features: Tensor) -> Tensor:
        """The remembered picture over `painted` (N, 3 p p, H, W), where the gate is open."""
        gate = rearrange(torch.sigmoid(self.gate(features)), "n p h w -> n 1 p h w")
        painted, recalled = (
            rearrange(patches, "n (c p) h w -> n c p h w", p=self.patch_pixels) for patches in (painted, self.recalled(latents))
        )
        return rearrange(painted + gate * (recalled - painted), "n c p h w -> n (c p) h w")


def _parts(config: FrameAutoencoderConfig, channels: tuple[int, ...], layers: int) -> AutoencoderKL:
    return AutoencoderKL(
        in_channels=config.in_channels * config.patch_size**2,
        out_channels=config.out_channels * config.patch_size**2,
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        block_out_channels=channels,
        layers_per_block=layers,
        latent_channels=config.latent_channels,
        norm_num_groups=config.norm_num_groups,
        mid_block_add_attention=config.mid_block_add_attention,
    )


def _channels(values: tuple[float, ...], like: Tensor) -> Tensor:
    return torch.tensor(values, device=like.device, dtype=like.dtype).view(-1, *[1] * (like.ndim - 2))
