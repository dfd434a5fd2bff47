"""The decoder trained on alone: the encoder is frozen, so every latent, and whatever was trained on latents, stays valid.

The decoder may grow first. Width is multiplied by copying channels (Net2Net, arXiv 1511.05641) in such an order that group
normalisation sees the same statistics, and new residual blocks begin as the identity: the grown decoder paints what the old
one painted, up to the small asymmetry that lets copies learn different things.
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
from einops import rearrange
from torch import Tensor

from st2v_stream.errors import InvalidRequest
from st2v_stream.networks.vae import FrameAutoencoder, FrameAutoencoderConfig, PlaceMemory
from st2v_stream.training import randomness
from st2v_stream.training.ahead import map_ahead
from st2v_stream.training.muon import MuonWithAdam, parameter_groups
from st2v_stream.training.recipe import DecoderRecipe
from st2v_stream.training.vae import psnr, to_network
from st2v_stream.worlds import storybook

VALIDATION_FILMS = 48
# Copies of a channel share its weight in these unequal parts; with equal parts they would stay equal for ever.
UNEVENNESS = 0.2
# How far a frame's shares fall from its own centre's to one that lies as far again beyond, in powers of e.
MEMORY_SHARPNESS = 10.0
SETTLING_RATE = 2e-3
SETTLING_STEPS = 300
SETTLING_BATCH = 48

Frames = tuple[np.ndarray, np.ndarray]  # (B, 2, H, W, 3) uint8, masks (B, 2, H, W) float32


class DecoderStage:
    """Trains decoder and `post_quant_conv` of a finished autoencoder. Implements the loop's `Stage`."""

    name = "decoder"

    def __init__(
        self, vae: FrameAutoencoder, recipe: DecoderRecipe, *, seed: int, size: int, device: str = "cpu", workers: int = 0
    ) -> None:
        self.vae = vae.to(device).requires_grad_(False)
        self.recipe = recipe
        self.seed = seed
        self.size = size
        self.device = torch.device(device)
        self.workers = workers
        self.trained = torch.nn.ModuleDict(
            {name: part for name, part in vae.named_children() if name not in ("encoder", "quant_conv")}
        ).requires_grad_(True)
        self.optimizer = MuonWithAdam(self._parameter_groups(), weight_decay=recipe.weight_decay)
        self._batches: Iterator[Frames] | None = None
        self.validation = self._to_tensors(*_draw_batch(self._validation_recipe, seed, size, "decoder validation", 0))

    def _parameter_groups(self) -> list[dict[str, Any]]:
        """The memory learns with Adam, whole: neither its pictures nor its choice are hidden matrices."""
        painting = torch.nn.ModuleDict({name: part for name, part in self.trained.items() if name != "memory"})
        groups = parameter_groups(painting)
        if "memory" in self.trained:
            memory, r = self.trained["memory"], self.recipe
            remembered = [*memory.choice.parameters(), memory.pictures]
            groups.append({"params": remembered, "kind": "adam", "rate_factor": r.memory_rate})
            groups.append({"params": list(memory.gate.parameters()), "kind": "adam", "rate_factor": r.gate_rate})
        return groups

    @property
    def _validation_recipe(self) -> DecoderRecipe:
        return dataclasses.replace(self.recipe, films=VALIDATION_FILMS, permute_colours=0.0, radius_jitter=(1.0, 1.0))

    def train_step(self, step: int, rate: float) -> float:
        self.optimizer.set_rate(rate)
        frames, masks = self._to_tensors(*self._next_batch(step))
        latents = self._latents(frames, randomness.torch_rng(self.seed, "decoder noise", step))
        flat = latents.flatten(0, 1)
        loss = self._loss(self.vae.decode(flat), frames, masks) + self._memory_loss(flat, frames, masks)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.trained.parameters(), self.recipe.clip_norm)
        self.optimizer.step()
        return loss.item()

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """On renders of both splits: PSNR of frames, of the subject and after one memory (dB); errors of 255.

        `colour_error`: of the subject's mean colour. `still_change`: mean change from frame to frame where the renderer
        changes nothing.
        """
        frames, masks = self.validation
        flat, on_subject = frames.flatten(0, 1), masks.flatten(0, 1)
        latents = self.vae.encode(flat)
        decoded = self.vae.decode(latents).clamp(-1, 1)
        error = decoded - flat
        colour = (error * on_subject).sum((2, 3)) / on_subject.sum((2, 3)).clamp(min=1)
        remembered = self.vae.decode(self._remembered(latents)).clamp(-1, 1)
        is_still = (frames[:, :1] == frames[:, 1:]).all(2, keepdim=True)  # (B, 1, 1, H, W)
        change = decoded.unflatten(0, frames.shape[:2]).diff(dim=1).abs().mean(2, keepdim=True)
        return {
            "psnr_db": _mean_psnr(error),
            "psnr_subject_db": psnr((error**2 * on_subject).sum() / (3 * on_subject.sum())).item(),
            "psnr_remembered_db": _mean_psnr(remembered - flat),
            "colour_error": colour.abs().mean().item() * 127.5,
            "still_change": change[is_still].mean().item() * 127.5,
        }

    def state_dict(self) -> dict[str, Any]:
        return {
            "config": dataclasses.asdict(self.vae.config),
            "vae": self.vae.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.vae.load_state_dict(state["vae"])
        self.optimizer.load_state_dict(state["optimizer"])

    @torch.no_grad()
    def _latents(self, frames: Tensor, rng: torch.Generator) -> Tensor:
        """`(B, 2, 12, h, w)`: most as encoded, some with noise on them, some that went through an 8-bit memory."""
        r = self.recipe
        latents = self.vae.encode(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
        noisy, remembered = (round(share * len(frames)) for share in (r.noisy_share, r.remembered_share))
        noise = torch.randn(latents[:noisy].shape, generator=rng)
        levels = r.latent_noise * torch.rand((noisy, 1, 1, 1, 1), generator=rng)
        latents[:noisy] += (levels * noise).to(self.device)
        if remembered:
            some = latents[-remembered:]
            latents[-remembered:] = self._remembered(some.flatten(0, 1)).view_as(some)
        return latents

    def _remembered(self, latents: Tensor) -> Tensor:
        frames = (self.vae.decode(latents).clamp(-1, 1) + 1) * 127.5
        return self.vae.encode(frames.round() / 127.5 - 1)

    def _loss(self, decoded: Tensor, frames: Tensor, masks: Tensor) -> Tensor:
        """`decoded` `(2 B, 3, H, W)`; the error's differences over x, y and time count beside the error itself."""
        r = self.recipe
        error = decoded.unflatten(0, frames.shape[:2]) - frames
        weight = 1 + (r.subject_weight - 1) * masks
        edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
        flicker = error[round(r.noisy_share * len(error)) :].diff(dim=1).abs().mean()  # noise differs from frame to frame
        return (
            r.mse_weight * (weight * error**2).mean()
            + r.l1_weight * (weight * error.abs()).mean()
            + r.edge_weight * edges
            + r.flicker_weight * flicker
        )

    def _memory_loss(self, latents: Tensor, frames: Tensor, masks: Tensor) -> Tensor:
        """The remembered picture alone, wherever the subject is not."""
        if "memory" not in self.trained:
            return torch.zeros((), device=self.device)
        recalled = F.pixel_shuffle(self.vae.memory.recalled(latents), self.vae.config.patch_size).view_as(frames)
        return self.recipe.memory_weight * ((recalled - frames) ** 2 * (1 - masks)).mean()

    def _next_batch(self, step: int) -> Frames:
        """Drawn ahead from the first step asked for; steps follow one another."""
        if self._batches is None:
            draw = functools.partial(_draw_batch, self.recipe, self.seed, self.size, "decoder batch")
            self._batches = map_ahead(draw, itertools.count(step), self.workers)
        return next(self._batches)

    def _to_tensors(self, frames: np.ndarray, masks: np.ndarray) -> tuple[Tensor, Tensor]:
        flat = to_network(rearrange(frames, "b t h w c -> (b t) h w c"))
        pairs = flat.unflatten(0, frames.shape[:2])
        return pairs.to(self.device), torch.from_numpy(masks)[:, :, None].to(self.device)


def _mean_psnr(error: Tensor) -> float:
    return psnr((error**2).mean((1, 2, 3))).mean().item()


def _draw_batch(recipe: DecoderRecipe, seed: int, size: int, purpose: str, step: int) -> Frames:
    """Two neighbouring frames of each film, and the subject's masks."""
    rng = randomness.numpy_rng(seed, purpose, step)
    split = "train" if purpose == "decoder batch" else "any"
    frames, masks = zip(*(_draw_pair(recipe, size, split, rng) for _ in range(recipe.films)), strict=True)
    return np.stack(frames), np.stack(masks)


def _draw_pair(recipe: DecoderRecipe, size: int, split: str, rng: np.random.Generator) -> Frames:
    spec = storybook.sample_spec(rng, split)
    spec = dataclasses.replace(spec, radius=spec.radius * float(rng.uniform(*recipe.radius_jitter)))
    start = int(rng.integers(recipe.last_frame))
    drawn = [storybook.frame_and_mask(spec, start + later, size) for later in range(2)]
    frames = np.stack([frame for frame, _ in drawn])
    if rng.random() < recipe.permute_colours:
        frames = frames[..., rng.permutation(3)]
    masks = [cv2.dilate(mask.astype(np.float32), np.ones((3, 3))) for _, mask in drawn]
    return frames, np.stack(masks)


# --- growth


@torch.no_grad()
def grown(vae: FrameAutoencoder, recipe: DecoderRecipe, *, seed: int, side: int = 8) -> FrameAutoencoder:
    """The autoencoder with a wider (whole multiples of each level), deeper, remembering decoder that decodes as before, nearly.

    `side`: latent positions per axis, for the memory.

    Raises InvalidRequest when a level would shrink or grow by a fraction.
    """
    old = vae.config
    before = old.decoder_block_out_channels or old.block_out_channels
    layers = old.decoder_layers_per_block or old.layers_per_block
    wanted, depth = recipe.block_out_channels or before, recipe.layers_per_block or layers
    slots = max(recipe.memory_slots, old.decoder_memory_slots)
    if (wanted, depth, slots) == (before, layers, old.decoder_memory_slots):
        return vae
    if len(wanted) != len(before) or depth < layers or any(new % width for new, width in zip(wanted, before, strict=True)):
        expected = f"whole multiples of {before}, at least {layers} layers per block"
        raise InvalidRequest("the decoder cannot grow so", expected=expected, received=f"{wanted}, {depth}")
    torch.manual_seed(randomness.address(seed, "decoder growth"))
    config = dataclasses.replace(
        old,
        decoder_block_out_channels=None if wanted == old.block_out_channels else wanted,
        decoder_layers_per_block=None if depth == old.layers_per_block else depth,
        decoder_memory_slots=slots,
        decoder_memory_side=side,
    )
    larger = FrameAutoencoder(config)
    _silence_new_blocks(larger, layers)
    small, large = vae.state_dict(), larger.state_dict()
    if new := {name for name in large if "conv_shortcut" in name} - set(small):
        raise InvalidRequest(
            "the decoder cannot grow so", expected="levels that stay equally wide", received=f"{wanted}: {new}"
        )
    large.update({name: _widened(value, large[name].shape, name) for name, value in small.items()})
    larger.load_state_dict(large)
    return larger.eval()


@torch.no_grad()
def begin_memory(vae: FrameAutoencoder, recipe: DecoderRecipe, *, seed: int, size: int) -> None:
    """Start the memory as a codebook starts, from k-means: the centres choose, their frames without subjects are remembered.

    Then some hundred steps for it alone, which cost nothing beside those of a decoder. From nothing the same choice takes a
    thousand steps to be found.
    """
    drawn = dataclasses.replace(recipe, films=recipe.memory_frames // 2, radius_jitter=(1.0, 1.0), permute_colours=0.0)
    frames, masks = _draw_batch(drawn, seed, size, "decoder batch", -1)
    pixels = to_network(rearrange(frames, "b t h w c -> (b t) h w c"))
    seen = 1 - torch.from_numpy(rearrange(masks, "b t h w -> (b t) 1 h w"))
    latents = torch.cat([vae.encode(some).flatten(1) for some in pixels.split(32)])
    memory = vae.memory
    centres, nearest = _clusters(latents, len(memory.pictures), randomness.torch_rng(seed, "decoder memory"))
    spread = (latents - centres[nearest]).pow(2).sum(1).mean()
    sharpness = MEMORY_SHARPNESS / spread.clamp(min=1e-6)
    memory.choice.weight.copy_(sharpness * centres)  # shares fall with the squared distance to the centres
    memory.choice.bias.copy_(-0.5 * sharpness * centres.pow(2).sum(1))
    belongs = F.one_hot(nearest, len(centres)).T.float()  # (slots, frames)
    shown, weight = (torch.einsum("kn,nchw->kchw", belongs, part) for part in (pixels * seen, seen))
    memory.pictures.copy_(F.pixel_unshuffle(shown / weight.clamp(min=1), vae.config.patch_size) / memory.SCALE)
    _settle(memory, latents.unflatten(1, memory.latents_shape), pixels, seen, vae.config.patch_size, seed)


@torch.enable_grad()
def _settle(memory: PlaceMemory, latents: Tensor, pixels: Tensor, seen: Tensor, patch_size: int, seed: int) -> None:
    """Choice and pictures learn together: clusters that k-means tore between subjects come to agree on backgrounds."""
    learned = [*memory.choice.requires_grad_(True).parameters(), memory.pictures.requires_grad_(True)]
    optimizer = torch.optim.Adam(learned, lr=SETTLING_RATE)
    rng = randomness.torch_rng(seed, "decoder memory settles")
    for step in range(SETTLING_STEPS):
        picked = torch.randint(len(latents), (SETTLING_BATCH,), generator=rng)
        recalled = F.pixel_shuffle(memory.recalled(latents[picked]), patch_size)
        loss = ((recalled - pixels[picked]) ** 2 * seen[picked]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        optimizer.param_groups[0]["lr"] = SETTLING_RATE * (1 - step / SETTLING_STEPS)


def _clusters(points: Tensor, count: int, rng: torch.Generator, rounds: int = 10) -> tuple[Tensor, Tensor]:
    """k-means of `(N, D)`: centres `(count, D)`, spread at first (k-means++), and the nearest one of each point `(N,)`."""
    centres = points[torch.randint(len(points), (1,), generator=rng)]
    while len(centres) < count:
        distance = torch.cdist(points, centres).min(1).values.pow(2) + 1e-12
        centres = torch.cat([centres, points[torch.multinomial(distance, 1, generator=rng)]])
    for _ in range(rounds):
        belongs = F.one_hot(torch.cdist(points, centres).argmin(1), count).T.float()
        filled = belongs.sum(1, keepdim=True)
        centres = torch.where(filled > 0, belongs @ points / filled.clamp(min=1), centres)
    return centres, torch.cdist(points, centres).argmin(1)


def _silence_new_blocks(larger: FrameAutoencoder, old_layers: int) -> None:
    """A residual block whose last convolution is zero is the identity."""
    for block in larger.decoder.up_blocks:
        for resnet in block.resnets[old_layers + 1 :]:
            torch.nn.init.zeros_(resnet.conv2.weight)
            torch.nn.init.zeros_(resnet.conv2.bias)


def _widened(weight: Tensor, shape: torch.Size, name: str) -> Tensor:
    """Channels copied side by side, so that each group of a normalisation holds the copies of what it held."""
    if weight.ndim and shape[0] != weight.shape[0]:
        weight = weight.repeat_interleave(shape[0] // weight.shape[0], dim=0)
    if weight.ndim > 1 and shape[1] != weight.shape[1]:
        copies = shape[1] // weight.shape[1]
        weight = weight.repeat_interleave(copies, dim=1) / copies
        parts = UNEVENNESS * torch.randn(weight.shape).unflatten(1, (-1, copies))
        weight = weight * (1 + (parts - parts.mean(2, keepdim=True)).flatten(1, 2))
    return weight


def load_vae(state: dict[str, Any]) -> FrameAutoencoder:
    """The autoencoder of a decoder stage's checkpoint, frozen."""
    settings: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in state["config"].items()
    }
    vae = FrameAutoencoder(FrameAutoencoderConfig(**settings))
    vae.load_state_dict(state["vae"])
    return vae.eval().requires_grad_(False)
