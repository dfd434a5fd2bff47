"""Four ways to condition on the tail, trained alike: the networks behind the rows of the ablation table (ablation.py).

All variants start from the same storybook weights. What carries the tail is made anew in every one, CAM included, so that
none has a head start; then all parameters train, with one learning rate, for the same steps on the same films, noise and
order. Nothing of a step depends on the variant.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from st2v_stream.networks.cam import CamFeatures, ControlBranch, with_further_inputs
from st2v_stream.networks.folder import load_weights
from st2v_stream.networks.resampler import LatentImageEncoder
from st2v_stream.networks.unet import Conditioning, StreamingUNet
from st2v_stream.training import randomness
from st2v_stream.training.muon import MuonWithAdam, parameter_groups
from st2v_stream.training.noise import TIMESTEPS_PER_TIME, noised, training_times
from st2v_stream.training.parts import TAIL_FRAMES, Parts
from st2v_stream.training.pool import LatentPool
from st2v_stream.training.recipe import LearningRate
from st2v_stream.training.text import new_tokenizer, tokenize

WEIGHTS_FILE = "weights.safetensors"
CHECKPOINT_FILE = "checkpoint.pt"
SAVE_EVERY_STEPS = 50
CLIP_NORM = 2.0
# The recipe's numbers for windows that continue a film (training/recipe.py).
TIMESTEP_SHIFT = 4.0
TAIL_NOISE, ANCHOR_NOISE = 0.3, 0.1
CAPTION_DROPOUT, ANCHOR_DROPOUT = 0.1, 0.15
OVERLAP_WEIGHT, NEW_FRAMES_WEIGHT = 0.5, 1.5


@dataclass(frozen=True)
class Budget:
    """What every variant gets, no more and no less."""

    steps: int
    batch: int = 4  # windows of 16 frames
    films: int = 1200  # rendered and encoded once, shared by all variants
    peak_rate: float = 1.5e-3
    warmup_steps: int = 20

    def rate(self, step: int) -> float:
        """Warm-up, a plateau, then a linear fall over the last 60 % of the steps."""
        return LearningRate(self.peak_rate, self.warmup_steps, decay_share=0.6).at(step, step / self.steps)


@dataclass
class Variant:
    """The networks that make a chunk. `cam` is None where no branch is needed."""

    unet: StreamingUNet
    cam: ControlBranch | None
    image_encoder: LatentImageEncoder
    text_encoder: nn.Module

    @property
    def networks(self) -> nn.ModuleDict:
        """All of them, by the names that the optimiser's groups know."""
        parts = {"unet": self.unet, "image_encoder": self.image_encoder, "text_encoder": self.text_encoder}
        return nn.ModuleDict(parts if self.cam is None else parts | {"cam": self.cam})

    def encode_text(self, token_ids: Tensor) -> Tensor:
        """(B, 12) -> (B, 12, 64)."""
        text: Tensor = self.text_encoder(token_ids).last_hidden_state
        return text

    def control(self, tail: Tensor, text: Tensor) -> CamFeatures | None:
        """What the UNet gets to know of the tail's latents (B, C, 8, h, w)."""
        if self.unet.config.conditioning == "none":
            return None
        if self.cam is None:
            return CamFeatures((), None, tail)
        return self.cam.clean_features(tail, text)


# ---------------------------------------------------------------- before training


def new_variant(conditioning: Conditioning, origin: Parts, seed: int) -> Variant:
    """The origin's networks with another (or its own kind of) conditioning that adds nothing yet."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(randomness.address(seed, f"ablation {conditioning}"))
        unet = StreamingUNet(dataclasses.replace(origin.unet.config, conditioning=conditioning))
        unet.init_weights()
        _copy_trunk(origin.unet, unet)
        cam = _new_branch(conditioning, origin)
    return Variant(unet, cam, copy.deepcopy(origin.image_encoder), copy.deepcopy(origin.text_encoder))


def _copy_trunk(origin: StreamingUNet, unet: StreamingUNet) -> None:
    """Everything but the mergers; input channels that the origin lacks start without weight."""
    trunk = {name: value for name, value in origin.state_dict().items() if "merger" not in name}
    trunk["conv_in.weight"] = with_further_inputs(trunk["conv_in.weight"], unet.conv_in.in_channels)
    fresh = {name: value for name, value in unet.state_dict().items() if "merger" in name}
    unet.load_state_dict(trunk | fresh)


def _new_branch(conditioning: Conditioning, origin: Parts) -> ControlBranch | None:
    """A copy of the UNet's encoder, as CAM and ControlNet both begin (paper sec. 4.1)."""
    config = origin.cam.config
    if conditioning == "addition":
        config = dataclasses.replace(config, pads_to_window=True, num_frames=origin.unet.config.num_frames)
    elif conditioning != "attention":
        return None
    branch = ControlBranch(config)
    branch.copy_from(origin.unet)
    return branch


# ---------------------------------------------------------------- training


def trained_variant(
    conditioning: Conditioning,
    origin: Parts,
    pool: Callable[[], LatentPool],
    budget: Budget,
    folder: Path,
    *,
    seed: int,
    say: Callable[[str], None],
) -> Variant:
    """The variant with the weights kept in `folder`; trained, or trained on, if they are not finished.

    `pool` is asked only if there is something to train.
    """
    variant = new_variant(conditioning, origin, seed)
    kept = folder / WEIGHTS_FILE
    if not kept.exists():
        folder.mkdir(parents=True, exist_ok=True)
        _train(variant, pool(), budget, folder / CHECKPOINT_FILE, seed, lambda line: say(f"{conditioning}: {line}"))
        half = kept.with_suffix(".half")
        save_file({name: value.contiguous() for name, value in variant.networks.state_dict().items()}, half)
        os.replace(half, kept)
        (folder / CHECKPOINT_FILE).unlink(missing_ok=True)
    load_weights(variant.networks, load_file(kept))
    variant.networks.eval().requires_grad_(False)
    return variant


def _train(variant: Variant, pool: LatentPool, budget: Budget, checkpoint: Path, seed: int, say: Callable[[str], None]) -> None:
    """To the end of the budget, from the checkpoint if there is one; interrupted and resumed equals uninterrupted."""
    networks = variant.networks.train()
    optimizer = MuonWithAdam(parameter_groups(networks))
    first = _resume(checkpoint, networks, optimizer)
    started = time.monotonic()
    for step in range(first, budget.steps):
        optimizer.set_rate(budget.rate(step))
        loss = window_loss(variant, pool, budget.batch, randomness.torch_rng(seed, "ablation step", step))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(networks.parameters(), CLIP_NORM)
        optimizer.step()
        done = step + 1
        if done % SAVE_EVERY_STEPS == 0 or done == budget.steps:
            _save(checkpoint, networks, optimizer, done)
            pace = (time.monotonic() - started) / (done - first)
            say(f"step {done} of {budget.steps}, loss {loss.item():.4f}, {pace:.2f} s per step")


def _resume(checkpoint: Path, networks: nn.ModuleDict, optimizer: MuonWithAdam) -> int:
    if not checkpoint.exists():
        return 0
    state = torch.load(checkpoint, weights_only=True)
    networks.load_state_dict(state["networks"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])


def _save(checkpoint: Path, networks: nn.ModuleDict, optimizer: MuonWithAdam, step: int) -> None:
    half = checkpoint.with_suffix(".half")
    torch.save({"networks": networks.state_dict(), "optimizer": optimizer.state_dict(), "step": step}, half)
    os.replace(half, checkpoint)


def window_loss(variant: Variant, pool: LatentPool, batch: int, rng: torch.Generator) -> Tensor:
    """v-prediction error of windows anywhere in the films, given caption, tail and anchor; new frames count three times.

    The draws and their order are the same for every variant.
    """
    films = torch.randint(len(pool), (batch,), generator=rng)
    clean = _window(pool.later[films])
    times = training_times(batch, TIMESTEP_SHIFT, rng)
    noisy, target = noised(clean, torch.randn(clean.shape, generator=rng), times)
    tail = _window(pool.tail[films])
    tail = tail + TAIL_NOISE * torch.rand((batch, 1, 1, 1, 1), generator=rng) * torch.randn(tail.shape, generator=rng)
    text = variant.encode_text(_captions(pool, films, rng))
    image = _anchor_tokens(variant, pool, films, rng)
    predicted = variant.unet(noisy, TIMESTEPS_PER_TIME * times, text, image, variant.control(tail, text))
    error = (predicted - target).pow(2).mean((0, 1, 3, 4))  # (16,)
    overlap, new = error[:TAIL_FRAMES].mean(), error[TAIL_FRAMES:].mean()
    loss: Tensor = (OVERLAP_WEIGHT * overlap + NEW_FRAMES_WEIGHT * new) / 2
    return loss


def _captions(pool: LatentPool, films: Tensor, rng: torch.Generator) -> Tensor:
    is_dropped = torch.rand((len(films), 1), generator=rng) < CAPTION_DROPOUT
    return torch.where(is_dropped, _no_caption(), pool.token_ids[films])


@functools.cache
def _no_caption() -> Tensor:
    return tokenize(new_tokenizer(), [""])  # (1, 12)


def _anchor_tokens(variant: Variant, pool: LatentPool, films: Tensor, rng: torch.Generator) -> Tensor:
    which = torch.randint(pool.anchor.shape[1], (len(films),), generator=rng)
    anchor = pool.anchor[films, which].float()
    anchor = anchor + ANCHOR_NOISE * torch.randn(anchor.shape, generator=rng)
    is_dropped = torch.rand((len(films), 1, 1), generator=rng) < ANCHOR_DROPOUT
    return torch.where(is_dropped, variant.image_encoder.null_tokens(len(films)), variant.image_encoder(anchor))


def _window(frames: Tensor) -> Tensor:
    """Stored (B, F, C, h, w) half -> the network's (B, C, F, h, w) float."""
    return frames.float().transpose(1, 2).contiguous()
