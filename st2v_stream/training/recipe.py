"""Every number of the recipe, one dataclass per stage. Source: docs/storybook.md, "The recipe"."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

STAGES = ("vae", "base", "cam-apm")


@dataclass(frozen=True)
class LearningRate:
    """Warm up by steps, hold, then fall linearly; the fall is placed by wall clock, so that any budget ends decayed."""

    peak: float
    warmup_steps: int = 30
    decay_share: float = 0.5  # of the budget, at its end
    floor: float = 0.02  # of the peak

    def at(self, step: int, elapsed_share: float) -> float:
        """The rate for a step taken when `elapsed_share` (0..1) of the budget is spent."""
        warm = min(1.0, (step + 1) / self.warmup_steps)
        fall = min(1.0, (1.0 - elapsed_share) / self.decay_share) if self.decay_share else 1.0
        return self.peak * warm * max(self.floor, fall)


@dataclass(frozen=True)
class VaeRecipe:
    """Frame autoencoder: f = 8, 12 channels, colours anchored so that a red boat comes back red."""

    budget_share: float = 0.12
    learning_rate: LearningRate = LearningRate(peak=2.5e-3, warmup_steps=60, decay_share=0.5)
    batch: int = 16  # frames
    clip_norm: float = 1.0
    weight_decay: float = 1e-4
    latent_noise: float = 0.12  # of each channel's deviation: the decoder learns to forgive the denoiser
    subject_weight: float = 5.0
    mse_weight: float = 2.0
    l1_weight: float = 0.3
    edge_weight: float = 0.3
    colour_anchor_weight: float = 0.5
    prior_weight: float = 1e-3
    permute_colours: float = 0.4  # share of the frames whose RGB channels are shuffled
    radius_jitter: tuple[float, float] = (0.85, 1.15)


@dataclass(frozen=True)
class BaseRecipe:
    """Text to single images, temporal layers skipped."""

    budget_share: float = 0.15
    learning_rate: LearningRate = LearningRate(peak=2.5e-3, decay_share=0.4, floor=0.1)
    batch: int = 64  # images
    timestep_shift: float = 1.5


@dataclass(frozen=True)
class CamApmRecipe:
    """Films: every window continues something, with CAM and APM; a new film continues its first picture, held still."""

    budget_share: float = 0.73
    learning_rate: LearningRate = LearningRate(peak=2e-3, decay_share=0.6)
    spatial_rate: float = 0.5  # the image model is damaged by the full rate (storybook.md, section 6)
    batch: int = 4  # clips of 16 frames
    timestep_shift: float = 4.0
    image_share: float = 0.1  # of the steps are first pictures, as in the base stage
    image_batch: int = 64
    image_timestep_shift: float = 1.5
    start_share: float = 0.4  # of the clips start from a still picture, where only the caption says what will move how
    tail_noise: float = 0.3  # upper end of the uniform deviation added to the 8 conditioning latents
    anchor_noise: float = 0.1
    anchor_dropout: float = 0.15
    overlap_weight: float = 0.5  # loss on window frames 0..7, which repeat the tail
    new_frames_weight: float = 1.5  # loss on window frames 8..15


@dataclass(frozen=True)
class DiffusionRecipe:
    """What the base and cam-apm stages share."""

    caption_dropout: float = 0.1
    unknown_word: float = 0.02  # share of the words replaced by <unk>
    clip_norm: float = 2.0
    ema: float = 0.998
    weight_decay: float = 0.01
    momentum: float = 0.95


@dataclass(frozen=True)
class PoolRecipe:
    """The films whose latents are kept in memory."""

    films: int = 4000
    validation_films: int = 96
    last_frame: int = 1200  # later windows start anywhere before this frame
    second_chunk_share: float = 0.3  # of the later windows start at frame 8, as the first continuation does
    anchor_distances: tuple[int, ...] = (8, 40, 120, 300)


@dataclass(frozen=True)
class Recipe:
    """The whole training."""

    seed: int = 0
    size: int = 64
    vae: VaeRecipe = field(default_factory=VaeRecipe)
    base: BaseRecipe = field(default_factory=BaseRecipe)
    cam_apm: CamApmRecipe = field(default_factory=CamApmRecipe)
    diffusion: DiffusionRecipe = field(default_factory=DiffusionRecipe)
    pool: PoolRecipe = field(default_factory=PoolRecipe)

    def for_device(self, device: str) -> Recipe:
        """A GPU takes larger batches and more films; everything else stays."""
        if device == "cpu":
            return self
        return dataclasses.replace(
            self,
            vae=dataclasses.replace(self.vae, batch=128),
            base=dataclasses.replace(self.base, batch=512),
            cam_apm=dataclasses.replace(self.cam_apm, batch=64),
            pool=dataclasses.replace(self.pool, films=10_000),
        )
