"""The first stage: an autoencoder for single frames, 64 x 64 RGB <-> 8 x 8 x 12.

Recipe and reasons: docs/storybook.md. The subject counts five times, some frames have their RGB channels shuffled, and the
first three latent channels are anchored to the average colour: without these a plain autoencoder paints red boats brown.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from st2v_stream.networks.vae import FrameAutoencoder, FrameAutoencoderConfig
from st2v_stream.training import randomness
from st2v_stream.training.ahead import map_ahead
from st2v_stream.training.recipe import VaeRecipe
from st2v_stream.worlds import storybook

VALIDATION_FRAMES = 96
# Raw latents while it is trained: scaling 1, no statistics. `finished` adds them.
TRAINING_CONFIG = FrameAutoencoderConfig(
    block_out_channels=(64, 96),
    layers_per_block=1,
    latent_channels=12,
    norm_num_groups=8,
    mid_block_add_attention=False,
    scaling_factor=1.0,
    patch_size=4,
)


def new_autoencoder(seed: int) -> FrameAutoencoder:
    """The untrained autoencoder."""
    torch.manual_seed(randomness.address(seed, "vae weights"))
    return FrameAutoencoder(TRAINING_CONFIG)


class VaeStage:
    """Trains the autoencoder on frames drawn on the fly."""

    name = "vae"

    def __init__(
        self, vae: FrameAutoencoder, recipe: VaeRecipe, *, seed: int, size: int, device: str = "cpu", workers: int = 0
    ) -> None:
        self.vae = vae.to(device).train()
        self.recipe = recipe
        self.seed = seed
        self.size = size
        self.device = torch.device(device)
        self.workers = workers
        self._batches: Iterator[tuple[np.ndarray, np.ndarray]] | None = None
        self.optimizer = torch.optim.AdamW(vae.parameters(), betas=(0.9, 0.98), weight_decay=recipe.weight_decay)
        self.validation = self._validation_batch()

    def train_step(self, step: int, rate: float) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        frames, masks = self._to_tensors(*self._next_batch(step))
        loss = self._loss(frames, masks, randomness.torch_rng(self.seed, "vae noise", step))
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.vae.parameters(), self.recipe.clip_norm)
        self.optimizer.step()
        return loss.item()

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """PSNR of the frame and the subject (dB), mean colour error on the subject (of 255); half of the films are held out."""
        frames, masks = self.validation
        decoded = self.vae.decode(self.vae.encode(frames)).clamp(-1, 1)
        error = decoded - frames  # (B, 3, H, W)
        on_subject = (error**2 * masks).sum() / (3 * masks.sum())
        colour = (error * masks).sum((2, 3)) / masks.sum((2, 3)).clamp(min=1)
        return {
            "psnr_db": psnr((error**2).mean((1, 2, 3))).mean().item(),
            "psnr_subject_db": psnr(on_subject).item(),
            "colour_error": colour.abs().mean().item() * 127.5,
        }

    def state_dict(self) -> dict[str, Any]:
        return {"vae": self.vae.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.vae.load_state_dict(state["vae"])
        self.optimizer.load_state_dict(state["optimizer"])

    def _loss(self, frames: torch.Tensor, masks: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        r = self.recipe
        mean = self.vae.encode(frames)  # (B, 12, 8, 8)
        noise = torch.randn(mean.shape, generator=rng).to(mean.device)
        decoded = self.vae.decode(mean + r.latent_noise * noise * mean.detach().std((0, 2, 3), keepdim=True))
        error = decoded - frames
        weight = 1 + (r.subject_weight - 1) * masks
        edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
        colours = 2 * F.avg_pool2d(frames, frames.shape[-1] // mean.shape[-1])  # (B, 3, 8, 8)
        return (
            r.mse_weight * (weight * error**2).mean()
            + r.l1_weight * (weight * error.abs()).mean()
            + r.edge_weight * edges
            + r.colour_anchor_weight * F.mse_loss(mean[:, :3], colours)
            + r.prior_weight * 0.5 * (mean[:, 3:] ** 2).mean()
        )

    def _next_batch(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Drawn ahead from the first step asked for; steps follow one another."""
        if self._batches is None:
            draw = functools.partial(_draw_batch, self.recipe, self.seed, self.size)
            self._batches = map_ahead(draw, itertools.count(step), self.workers)
        return next(self._batches)

    def _validation_batch(self) -> tuple[torch.Tensor, torch.Tensor]:
        rng = randomness.numpy_rng(self.seed, "vae validation")
        specs = [storybook.sample_spec(rng, ("held_out", "train")[i % 2]) for i in range(VALIDATION_FRAMES)]
        drawn = [storybook.frame_and_mask(spec, int(rng.integers(800)), self.size) for spec in specs]
        frames, masks = zip(*drawn, strict=True)
        return self._to_tensors(np.stack(frames), np.stack(masks).astype(np.float32))

    def _to_tensors(self, frames: np.ndarray, masks: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        return to_network(frames).to(self.device), torch.from_numpy(masks)[:, None].to(self.device)


def _draw_batch(recipe: VaeRecipe, seed: int, size: int, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Frames `(B, H, W, 3)` uint8 and subject masks `(B, H, W)` float32 of one step."""
    rng = randomness.numpy_rng(seed, "vae batch", step)
    frames, masks = zip(*(_draw_frame(recipe, size, rng) for _ in range(recipe.batch)), strict=True)
    return np.stack(frames), np.stack(masks)


def _draw_frame(recipe: VaeRecipe, size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    spec = storybook.sample_spec(rng)
    spec = dataclasses.replace(spec, radius=spec.radius * float(rng.uniform(*recipe.radius_jitter)))
    frame, mask = storybook.frame_and_mask(spec, int(rng.integers(800)), size)
    if rng.random() < recipe.permute_colours:
        frame = frame[:, :, rng.permutation(3)]
    return frame, cv2.dilate(mask.astype(np.float32), np.ones((3, 3)))


def to_network(frames: np.ndarray) -> torch.Tensor:
    """`(N, H, W, 3)` uint8 to `(N, 3, H, W)` float in -1..1."""
    return torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 127.5 - 1


@torch.no_grad()
def finished(trained: dict[str, torch.Tensor], *, seed: int, size: int, frames: int = 512) -> FrameAutoencoder:
    """The autoencoder with the trained weights, frozen; its latents normalised by the statistics of that many frames."""
    raw = FrameAutoencoder(TRAINING_CONFIG)
    raw.load_state_dict(trained)
    rng = randomness.numpy_rng(seed, "vae statistics")
    drawn = [storybook.frame(storybook.sample_spec(rng), int(rng.integers(1200)), size) for _ in range(frames)]
    latents = raw.encode(to_network(np.stack(drawn)))
    mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    vae = FrameAutoencoder(
        dataclasses.replace(TRAINING_CONFIG, latents_mean=tuple(mean.tolist()), latents_std=tuple(std.tolist()))
    )
    vae.load_state_dict(trained)
    return vae.eval().requires_grad_(False)


def psnr(mean_square: torch.Tensor) -> torch.Tensor:
    """In dB, of mean squared errors."""
    return -10 * torch.log10(mean_square / 4)  # values span -1..1
