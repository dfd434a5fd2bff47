"""CAM, then CAM with APM, over a frozen text-to-video UNet (paper sec. 4.1, 4.2 and its training details).

    stage   trained                                              paper
    cam     the branch (a copy of the encoder) and the mergers   400,000 steps of 8 clips, learning rate 5e-5
    apm     these, APM's mixing in every cross-attention and     1,000 steps more; the paper also lets the UNet's spatial layers
            the resampler                                        learn (`train_spatial`), its temporal ones never

The loss is the squared error of the predicted noise over all 16 frames of the window; timesteps are uniform over the base's
schedule. The branch sees the noisy latents of frames 0..7 and their pixels, as published. Now and then the caption, the anchor
or both are dropped, which guidance needs; CAM never is.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from st2v_stream.errors import St2vError
from st2v_stream.networks.video_blocks import VideoBlock
from st2v_stream.training import randomness
from st2v_stream.training.modelscope import ExtenderParts, is_new
from st2v_stream.training.parts import TAIL_FRAMES
from st2v_stream.training.recipe import LearningRate
from st2v_stream.training.windows import Nothing, WindowBatch, Windows

StageName = Literal["cam", "apm"]
STAGE_NAMES: tuple[StageName, ...] = ("cam", "apm")
VALIDATION_TIMESTEPS = (100, 400, 700, 950)
_TEMPORAL = ("transformer_in", "temp_attentions", "temp_convs")


@dataclass(frozen=True)
class FinetuneRecipe:
    """The defaults are the paper's, except `train_spatial` (there True)."""

    rate: float = 5e-5
    batch: int = 1  # windows that the networks see at once
    accumulate: int = 8  # batches per step: 8 windows, as in the paper, fit any memory
    text_dropout: float = 0.05  # the caption alone
    anchor_dropout: float = 0.05  # the anchor alone
    both_dropout: float = 0.05
    clip_norm: float = 1.0
    weight_decay: float = 0.01
    train_spatial: bool = False
    checkpoint_activations: bool = False
    fixed_windows: int = 4  # whose loss is followed

    @property
    def learning_rate(self) -> LearningRate:
        """Constant from the first step on."""
        return LearningRate(self.rate, warmup_steps=1, decay_share=0.0)


def is_trained(name: str, stage: StageName, *, train_spatial: bool) -> bool:
    """Whether a parameter of `ExtenderParts` learns in a stage."""
    if name.startswith("cam.") or "cross_attention_merger_" in name:  # the branch and the mergers
        return True
    if stage == "cam":
        return False
    is_apm = name.startswith("resampler.") or is_new(name)
    return is_apm or (train_spatial and not any(part in name for part in _TEMPORAL))


def checkpoint_activations(network: nn.Module) -> None:
    """Keep only what enters each layer of the video blocks and compute the inside again on the way back."""
    for block in (module for module in network.modules() if isinstance(module, VideoBlock)):
        block.layer = functools.partial(checkpoint, block.layer, use_reentrant=False)  # type: ignore[method-assign]


class FinetuneStage:
    """Implements `Stage`. Its state is what is trained and AdamW's moments; the frozen base is not in it.

    AdamW, as the published checkpoint's moments suggest; no running average (published `ema_param` -1).
    """

    def __init__(
        self,
        name: StageName,
        parts: ExtenderParts,
        windows: Windows,
        validation: Windows,
        nothing: Nothing,
        scheduler: dict[str, Any],
        recipe: FinetuneRecipe,
        *,
        seed: int,
    ) -> None:
        self.name: str = name
        self._stage = name
        self.parts = parts.eval()
        self.windows, self.nothing, self.recipe = windows, nothing, recipe
        self.seed, self.device = seed, parts.unet.device
        self.alphas = DDIMScheduler.from_config(scheduler).alphas_cumprod  # (1000,)
        self.trained = self._choose_trained()
        self.optimizer = torch.optim.AdamW(self.trained.values(), lr=recipe.rate, weight_decay=recipe.weight_decay)
        rng = randomness.torch_rng(seed, "fixed windows")
        self.fixed = validation.draw(recipe.fixed_windows, rng, with_anchor=self.has_anchor)
        self.fixed_noise = torch.randn(self.fixed.latents.shape, generator=rng)

    @property
    def has_anchor(self) -> bool:
        """Whether APM takes part."""
        return self.name == "apm"

    def train_step(self, step: int, rate: float) -> float:
        """One update from `accumulate` batches; the mean of their losses. Raises `St2vError` when it is no number."""
        rng = randomness.torch_rng(self.seed, self.name, step)
        self.optimizer.param_groups[0]["lr"] = rate
        self.optimizer.zero_grad()
        with self._learning(step):
            total = sum(self._backward(rng) for _ in range(self.recipe.accumulate)) / self.recipe.accumulate
        if not math.isfinite(total):  # leave before the checkpoint is overwritten
            raise St2vError(f"{self.name}: the loss of step {step}", expected="a finite number", received=total)
        nn.utils.clip_grad_norm_(self.trained.values(), self.recipe.clip_norm)
        self.optimizer.step()
        return total

    def _backward(self, rng: torch.Generator) -> float:
        batch = self.windows.draw(self.recipe.batch, rng, with_anchor=self.has_anchor)
        batch = dropped(batch, self.nothing, self.recipe, rng)
        timesteps = torch.randint(len(self.alphas), (self.recipe.batch,), generator=rng)
        noise = torch.randn(batch.latents.shape, generator=rng)
        loss = self.loss(batch, noise, timesteps)
        (loss / self.recipe.accumulate).backward()
        return float(loss.item())

    def loss(self, batch: WindowBatch, noise: Tensor, timesteps: Tensor, *, use_cam: bool = True) -> Tensor:
        """Mean squared error of the predicted noise (B, C, 16, h, w); timesteps (B,)."""
        noisy = noised(batch.latents, noise, self.alphas[timesteps]).to(self.device)
        timesteps, text = timesteps.to(self.device), batch.text.to(self.device)
        with self._autocast():
            cam = None
            if use_cam:
                embedding = self.parts.cam.embed_condition(batch.tail.to(self.device))
                cam = self.parts.cam(noisy[:, :, :TAIL_FRAMES], timesteps, text, embedding)
            image = None if batch.anchor is None else self.parts.resampler(batch.anchor.to(self.device)[:, None])
            predicted = self.parts.unet(noisy, timesteps, text, image, cam)
        return F.mse_loss(predicted.float(), noise.to(self.device))

    def validate(self) -> dict[str, float]:
        """Loss of fixed windows with fixed noise by timestep, and its mean without what the stage teaches to use.

        without_cam: the windows' loss when CAM is skipped. without_anchor: when the anchor is a grey frame.
        """
        at = {f"fixed_{timestep}": self._fixed_loss(self.fixed, timestep) for timestep in VALIDATION_TIMESTEPS}
        if self.fixed.anchor is None:
            without = [self._fixed_loss(self.fixed, timestep, use_cam=False) for timestep in VALIDATION_TIMESTEPS]
            return at | {"without_cam": sum(without) / len(without)}
        grey = self.nothing.embedding.expand_as(self.fixed.anchor)
        blind = WindowBatch(self.fixed.latents, self.fixed.tail, self.fixed.text, grey)
        without = [self._fixed_loss(blind, timestep) for timestep in VALIDATION_TIMESTEPS]
        return at | {"without_anchor": sum(without) / len(without)}

    def _fixed_loss(self, batch: WindowBatch, timestep: int, *, use_cam: bool = True) -> float:
        timesteps = torch.full((len(batch.latents),), timestep)
        with torch.no_grad():
            return float(self.loss(batch, self.fixed_noise, timesteps, use_cam=use_cam))

    def state_dict(self) -> dict[str, Any]:
        """What training changed."""
        return {
            "trained": {name: value.detach() for name, value in self.trained.items()},
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Strict: the trained parameters must be the same ones."""
        load_trained(self.trained, state["trained"])
        self.optimizer.load_state_dict(state["optimizer"])

    def _choose_trained(self) -> dict[str, nn.Parameter]:
        spatial = self.recipe.train_spatial
        for name, parameter in self.parts.named_parameters():
            parameter.requires_grad_(is_trained(name, self._stage, train_spatial=spatial))
        return {name: value for name, value in self.parts.named_parameters() if value.requires_grad}

    @contextmanager
    def _learning(self, step: int) -> Iterator[None]:
        """The branch with its dropout, which is drawn from the step's address; the frozen networks have none."""
        devices = [self.device] if self.device.type == "cuda" else []
        self.parts.cam.train()
        try:
            with torch.random.fork_rng(devices):
                torch.manual_seed(randomness.address(self.seed, f"{self.name} dropout", step))
                yield
        finally:
            self.parts.cam.eval()

    def _autocast(self) -> AbstractContextManager[None]:
        """bfloat16 products on a GPU, while the weights stay float32."""
        if self.device.type != "cuda":
            return nullcontext()
        mixed: AbstractContextManager[None] = torch.autocast("cuda", torch.bfloat16)
        return mixed


def load_trained(parameters: dict[str, nn.Parameter], values: dict[str, Tensor]) -> None:
    """Raises `St2vError` if these are not the values of just these parameters."""
    if set(parameters) != set(values):
        expected, received = len(parameters), len(values)
        raise St2vError("a checkpoint of other parameters", expected=f"{expected} names", received=f"{received} names")
    with torch.no_grad():
        for name, value in values.items():
            parameters[name].copy_(value)


def noised(clean: Tensor, noise: Tensor, alphas: Tensor) -> Tensor:
    """sqrt(a) x + sqrt(1 - a) e for cumulated alphas (B,) (DDPM, arXiv 2006.11239 eq. 4)."""
    a = alphas.view(-1, *(1,) * (clean.ndim - 1))
    return a.sqrt() * clean + (1 - a).sqrt() * noise


def dropped(batch: WindowBatch, nothing: Nothing, recipe: FinetuneRecipe, rng: torch.Generator) -> WindowBatch:
    """Per window, one draw: no caption, no anchor, neither, or (mostly) all as it is."""
    draw = torch.rand(len(batch.text), generator=rng)
    text_end, anchor_end = recipe.text_dropout, recipe.text_dropout + recipe.anchor_dropout
    both = (draw >= anchor_end) & (draw < anchor_end + recipe.both_dropout)
    no_text = (draw < text_end) | both
    text = torch.where(no_text[:, None, None], nothing.text, batch.text)
    if batch.anchor is None:
        return WindowBatch(batch.latents, batch.tail, text, None)
    no_anchor = ((draw >= text_end) & (draw < anchor_end)) | both
    return WindowBatch(batch.latents, batch.tail, text, torch.where(no_anchor[:, None], nothing.embedding, batch.anchor))
