"""The second and third stage: the denoiser learns single images, then to continue films.

On a GPU arithmetic is bfloat16 and the networks are compiled; that path has not been run on one yet.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from st2v_stream.training import randomness
from st2v_stream.training.compiling import compile_on_gpu
from st2v_stream.training.muon import NEW_IN_VIDEO_NAMES, MuonWithAdam, parameter_groups
from st2v_stream.training.noise import TIMESTEPS_PER_TIME, noised, training_times
from st2v_stream.training.parts import TAIL_FRAMES, WINDOW_FRAMES, Parts
from st2v_stream.training.pool import LatentPool
from st2v_stream.training.recipe import BaseRecipe, CamApmRecipe, DiffusionRecipe
from st2v_stream.training.text import FIRST_WORD_ID, UNKNOWN_ID, new_tokenizer, tokenize, without_colours

VALIDATION_TIMES = (0.6, 0.8, 0.95, 1.0)


class DenoisingStage(ABC):
    """What the stages share: captions, noise, optimiser, running average of the weights."""

    name: str

    def __init__(
        self,
        parts: Parts,
        pool: LatentPool,
        validation: LatentPool,
        shared: DiffusionRecipe,
        *,
        seed: int,
        spatial_rate: float = 1.0,
        device: str = "cpu",
    ) -> None:
        self.parts = parts.to(device).train()
        self.average = copy.deepcopy(self.parts).requires_grad_(False).eval()
        self.pool = pool
        self.validation = validation
        self.shared = shared
        self.seed = seed
        self.device = torch.device(device)
        compile_on_gpu(self.device, self.parts.unet, self.parts.cam)
        self.no_caption = tokenize(new_tokenizer(), [""])  # (1, 12)
        self.optimizer = MuonWithAdam(
            parameter_groups(self.parts, spatial_rate=spatial_rate),
            momentum=shared.momentum,
            weight_decay=shared.weight_decay,
        )

    @abstractmethod
    def loss(self, step: int, rng: torch.Generator) -> Tensor:
        """The loss of this step's batch."""

    @abstractmethod
    def validate(self) -> dict[str, float]: ...

    def train_step(self, step: int, rate: float) -> float:
        self.optimizer.set_rate(rate)
        with self._autocast():
            loss = self.loss(step, randomness.torch_rng(self.seed, self.name, step))
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parts.parameters(), self.shared.clip_norm)
        self.optimizer.step()
        self._update_average(step)
        return loss.item()

    def state_dict(self) -> dict[str, Any]:
        return {
            "parts": self.parts.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.parts.load_state_dict(state["parts"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])

    def _update_average(self, step: int) -> None:
        keep = min(self.shared.ema, (1 + step) / (10 + step))
        weights = [parameter.detach() for parameter in self.parts.parameters()]
        torch._foreach_lerp_(list(self.average.parameters()), weights, 1 - keep)

    def _autocast(self) -> AbstractContextManager[None]:
        if self.device.type == "cuda":
            return torch.autocast("cuda", torch.bfloat16)
        return nullcontext()

    def _captions(self, films: Tensor, rng: torch.Generator) -> Tensor:
        """Token numbers of these films; some captions dropped (for guidance), some words unknown (for real prompts).

        Some name no colour: then it is the anchor's (APM).
        """
        ids = self.pool.token_ids[films]  # (B, 12)
        is_colourless = torch.rand((len(films), 1), generator=rng) < self.shared.colour_dropout
        ids = torch.where(is_colourless, without_colours(ids), ids)
        is_unknown = (torch.rand(ids.shape, generator=rng) < self.shared.unknown_word) & (ids >= FIRST_WORD_ID)
        ids = torch.where(is_unknown, UNKNOWN_ID, ids)
        is_dropped = torch.rand((len(films), 1), generator=rng) < self.shared.caption_dropout
        return torch.where(is_dropped, self.no_caption, ids).to(self.device)

    def _noised(self, clean: Tensor, recipe: BaseRecipe | CamApmRecipe, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Noisy latents, v target and timesteps for clean `(B, 12, F, 8, 8)`; a share of them is (nearly) pure noise.

        Only there the caption is needed to tell where things are and where they go: at t = .95 the noisy latents still show
        it, and a network that can look does not listen.
        """
        times = training_times(len(clean), recipe.timestep_shift, rng)
        blind = 1 - recipe.blind_time * torch.rand(len(clean), generator=rng)
        is_blind = torch.rand(len(clean), generator=rng) < recipe.blind_share
        return self._at(clean, torch.randn(clean.shape, generator=rng), torch.where(is_blind, blind, times))

    def _validation_noise(self, clean: Tensor, time: float) -> tuple[Tensor, Tensor, Tensor]:
        """The same at one time, with noise that never changes."""
        noise = torch.randn(clean.shape, generator=randomness.torch_rng(self.seed, "validation noise"))
        return self._at(clean, noise, torch.full((len(clean),), time))

    def _at(self, clean: Tensor, noise: Tensor, times: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        noisy, target = noised(clean, noise, times)
        return noisy.to(self.device), target.to(self.device), (TIMESTEPS_PER_TIME * times).to(self.device)


def window_of(frames: Tensor) -> Tensor:
    """Stored `(B, F, C, h, w)` half to the network's `(B, C, F, h, w)` float."""
    return frames.float().transpose(1, 2).contiguous()


class BaseStage(DenoisingStage):
    """Text to first pictures; a window of one frame passes no temporal layer. These weights begin films."""

    name = "base"

    def __init__(self, *args: Any, recipe: BaseRecipe, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.recipe = recipe

    def loss(self, step: int, rng: torch.Generator) -> Tensor:
        films = torch.randint(len(self.pool), (self.recipe.batch,), generator=rng)
        frames = (WINDOW_FRAMES * torch.rand(len(films), generator=rng) ** self.recipe.earliness).long()
        clean = window_of(self.pool.opening[films, frames][:, None])
        noisy, target, timesteps = self._noised(clean, self.recipe, rng)
        text = self.parts.encode_text(self._captions(films, rng))
        return (self.parts.unet(noisy, timesteps, text).float() - target).pow(2).mean()

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Loss of the averaged weights on unseen films, by noise level."""
        films = torch.arange(len(self.validation))
        clean = window_of(self.validation.opening[films, :1])
        text = self.average.encode_text(self.validation.token_ids.to(self.device))
        losses = {}
        for time in VALIDATION_TIMES:
            noisy, target, timesteps = self._validation_noise(clean, time)
            losses[f"images_{time}"] = (self.average.unet(noisy, timesteps, text) - target).pow(2).mean().item()
        return losses


class CamApmStage(DenoisingStage):
    """Windows of films from text, tail and anchor, in new films and old ones."""

    name = "cam-apm"

    def __init__(self, parts: Parts, *args: Any, recipe: CamApmRecipe, **kwargs: Any) -> None:
        if recipe.spatial_rate == 0:
            freeze_image_model(parts)
        super().__init__(parts, *args, spatial_rate=recipe.spatial_rate or 1.0, **kwargs)
        self.recipe = recipe

    def loss(self, step: int, rng: torch.Generator) -> Tensor:
        films = torch.randint(len(self.pool), (self.recipe.batch,), generator=rng)
        starts = torch.rand(len(films), generator=rng) < self.recipe.start_share
        window, tail = windows_of(self.pool, films, starts)
        noisy, target, timesteps = self._noised(window_of(window), self.recipe, rng)
        text = self.parts.encode_text(self._captions(films, rng))
        cam = self.parts.cam.clean_features(self._noisy_tail(window_of(tail), rng), text)
        anchor = torch.where(starts, 0, torch.randint(2, (len(films),), generator=rng))  # a new film's anchor is its picture
        predicted = self.parts.unet(noisy, timesteps, text, self._anchor_tokens(films, anchor, rng), cam)
        error = (predicted.float() - target).pow(2).mean((0, 1, 3, 4))  # (16,)
        return (
            self.recipe.overlap_weight * error[:TAIL_FRAMES].mean() + self.recipe.new_frames_weight * error[TAIL_FRAMES:].mean()
        ) / 2

    def _noisy_tail(self, tail: Tensor, rng: torch.Generator) -> Tensor:
        amount = self.recipe.tail_noise * torch.rand((len(tail), 1, 1, 1, 1), generator=rng)
        return (tail + amount * torch.randn(tail.shape, generator=rng)).to(self.device)

    def _anchor_tokens(self, films: Tensor, which: Tensor, rng: torch.Generator) -> Tensor:
        """APM's tokens `(B, 16, 64)`; some anchors are dropped, which guidance's other half needs."""
        anchor = self.pool.anchor[films, which].float()
        anchor = anchor + self.recipe.anchor_noise * torch.randn(anchor.shape, generator=rng)
        is_dropped = torch.rand((len(films), 1, 1), generator=rng) < self.recipe.anchor_dropout
        tokens = self.parts.image_encoder(anchor.to(self.device))
        return torch.where(is_dropped.to(self.device), self.parts.image_encoder.null_tokens(len(films)), tokens)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Losses of the averaged weights on the new frames of unseen films: starts from a picture, continuations."""
        films = torch.arange(min(12, len(self.validation)))
        net, pool = self.average, self.validation
        text = net.encode_text(pool.token_ids[films].to(self.device))
        anchor = net.image_encoder(pool.anchor[films, 0].float().to(self.device))
        losses = {}
        for name, starts in (("starting", True), ("continuing", False)):
            window, tail = windows_of(pool, films, torch.full((len(films),), starts))
            cam = net.cam.clean_features(window_of(tail).to(self.device), text)
            for time in (0.6, 0.95, 1.0):
                noisy, target, timesteps = self._validation_noise(window_of(window), time)
                error = (net.unet(noisy, timesteps, text, anchor, cam) - target)[:, :, TAIL_FRAMES:]
                losses[f"{name}_{time}"] = error.pow(2).mean().item()
        return losses


def windows_of(pool: LatentPool, films: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
    """Windows `(B, 16, 12, 8, 8)` and the tails `(B, 8, 12, 8, 8)` they continue; `starts` `(B,)` bool.

    A start: the tail is frame 0 eight times, as a memory brings it, and the window shows that stillness, then frames 1..8.
    """
    opening = pool.opening[films]
    still = opening[:, :1].expand(-1, TAIL_FRAMES, -1, -1, -1)
    started = torch.cat([still, opening[:, 1 : WINDOW_FRAMES - TAIL_FRAMES + 1]], dim=1)
    picture = pool.anchor[films, :1].expand(-1, TAIL_FRAMES, -1, -1, -1)
    is_start = starts.view(-1, 1, 1, 1, 1)
    return torch.where(is_start, started, pool.later[films]), torch.where(is_start, picture, pool.tail[films])


def freeze_image_model(parts: Parts) -> None:
    """Of what draws single images only the text encoder and the cross-attention go on learning."""
    learning = (*NEW_IN_VIDEO_NAMES, "text_encoder.", "attn2.")
    for name, parameter in parts.named_parameters():
        parameter.requires_grad_(any(part in name for part in learning))
