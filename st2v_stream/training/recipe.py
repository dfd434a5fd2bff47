"""Every number of the recipe, one dataclass per stage. Source: docs/storybook.md, "The recipe"."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

MODEL_STAGES = ("vae", "base", "cam-apm", "decoder", "distil")
STAGES = (*MODEL_STAGES, "judge", "enhancer")


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

    budget_share: float = 0.1
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
    """Text to first pictures, temporal layers skipped."""

    budget_share: float = 0.2
    learning_rate: LearningRate = LearningRate(peak=2.5e-3, decay_share=0.5)
    batch: int = 64  # images
    timestep_shift: float = 3.0
    blind_share: float = 0.6  # of the images are noised to t in 1 - blind_time .. 1
    blind_time: float = 0.01
    earliness: float = 5.0  # frame number = 16 u^earliness: mostly first frames


@dataclass(frozen=True)
class CamApmRecipe:
    """Films: every window continues something, with CAM and APM; a new film continues its first picture, held still."""

    budget_share: float = 0.48
    learning_rate: LearningRate = LearningRate(peak=2.5e-3, decay_share=0.5)
    spatial_rate: float = 0.0  # of the image model's layers, times the learning rate; 0: only what reads the text learns
    batch: int = 4  # clips of 16 frames
    timestep_shift: float = 4.0
    blind_share: float = 0.7  # of the windows are noised to t in 1 - blind_time .. 1
    blind_time: float = 0.01
    start_share: float = 0.55  # of the clips start from a still picture, where only the caption says what will move how
    tail_noise: float = 0.3  # upper end of the uniform deviation added to the 8 conditioning latents
    anchor_noise: float = 0.1
    anchor_dropout: float = 0.15
    overlap_weight: float = 0.5  # loss on window frames 0..7, which repeat the tail
    new_frames_weight: float = 1.5  # loss on window frames 8..15


@dataclass(frozen=True)
class DecoderRecipe:
    """The decoder, trained on (and grown) while the encoder stays."""

    budget_share: float = 0.1
    learning_rate: LearningRate = LearningRate(peak=1.5e-3, decay_share=0.8)
    block_out_channels: tuple[int, ...] | None = None  # None: as it is
    layers_per_block: int | None = None
    memory_slots: int = 64
    memory_frames: int = 1024  # that the memory begins with
    memory_rate: float = 0.3  # times the learning rate
    gate_rate: float = 2.0  # likewise
    memory_weight: float = 1.0
    films: int = 8  # per step, two neighbouring frames of each
    clip_norm: float = 1.0
    weight_decay: float = 1e-4
    noisy_share: float = 0.375  # of the films, whose latents get noise up to this deviation (they have about unit variance)
    latent_noise: float = 0.25
    remembered_share: float = 0.125  # of the films, whose latents were decoded, rounded to 8 bits and encoded again
    subject_weight: float = 5.0
    mse_weight: float = 4.0
    l1_weight: float = 0.3
    edge_weight: float = 0.3
    flicker_weight: float = 0.3
    permute_colours: float = 0.3
    radius_jitter: tuple[float, float] = (0.85, 1.15)
    last_frame: int = 1200


@dataclass(frozen=True)
class DistilRecipe:
    """Guidance into one pass, many steps into two or three."""

    budget_share: float = 0.12
    learning_rate: LearningRate = LearningRate(peak=5e-4, warmup_steps=10, decay_share=1.0)
    batch: int = 4  # windows
    steps: tuple[tuple[int, float], ...] = ((2, 0.6), (3, 0.4))  # how many the student's sampler has, and how often
    teacher_steps: int = 6  # of a whole sample
    guidance_scale: float = 1.5
    image_share: float = 0.0  # of the steps are first pictures; they come from the model of stage base, which stays guided
    image_batch: int = 32
    image_steps: int = 4
    image_teacher_steps: int = 8
    image_guidance_scale: float = 2.0
    roll_out_share: float = 0.5  # of the noisy inputs are the student's own
    start_share: float = 0.4
    drift_share: float = 0.25  # of the steps continue films that the student has made itself
    chains: int = 8  # such films at a time
    chain_chunks: int = 24  # their mean length
    overlap_weight: float = 0.5
    new_frames_weight: float = 1.5
    anchor_dropout: float = 0.05
    caption_dropout: float = 0.02
    ema: float = 0.99


@dataclass(frozen=True)
class EnhancerRecipe:
    """The small enhancer, on previews of the finished model; not one of the model's own stages."""

    learning_rate: LearningRate = LearningRate(peak=4e-3, decay_share=0.65)
    windows: int = 480  # whose previews are kept; 16 frames each
    validation_windows: int = 12
    last_frame: int = 1200
    decoded_share: float = 0.25  # of the windows are decoded from noisy latents; the others are the model's last step
    latent_noise: float = 0.3  # upper end of that noise's deviation
    clean_items: float = 0.25  # of the items in a batch show the render itself, shrunk
    decoded_items: float = 0.4  # and of them show a window of the decoded kind
    blur_share: float = 0.25  # of the items are blurred besides
    blur_pixels: float = 0.8  # upper end of the deviation, in pixels of the preview
    noise_share: float = 0.25  # of the items get noise besides
    pixel_noise: float = 6.0  # upper end of its deviation, of 255
    permute_colours: float = 0.3
    mirror: float = 0.5
    whole_share: float = 0.15  # of the batches are whole pictures, the others pieces: most of a picture is background
    batch: int = 2  # whole pictures, each in two neighbouring frames
    piece_batch: int = 6
    piece_side: int = 32  # pixels of the preview
    subject_share: float = 0.75  # of the pieces lie about the subject
    clip_norm: float = 1.0
    weight_decay: float = 1e-4
    near_edges: float = 3.0  # how much more pixels near edges count
    l1_weight: float = 1.0
    mse_weight: float = 1.0
    edge_weight: float = 0.5
    flicker_weight: float = 0.5


@dataclass(frozen=True)
class DiffusionRecipe:
    """What the base and cam-apm stages share."""

    caption_dropout: float = 0.1
    colour_dropout: float = 0.15  # share of the captions that name no colour
    unknown_word: float = 0.02  # share of the words replaced by <unk>
    clip_norm: float = 2.0
    ema: float = 0.993
    weight_decay: float = 0.01
    momentum: float = 0.95


@dataclass(frozen=True)
class PoolRecipe:
    """The films whose latents are kept in memory."""

    films: int = 4000
    validation_films: int = 96
    last_frame: int = 1200  # later windows start anywhere before this frame
    second_chunk_share: float = 0.2  # of the later windows start at frame 8, as the first continuation does
    re_entry_share: float = 0.4  # of the travellers' later windows see the subject come back
    anchor_distances: tuple[int, ...] = (8, 40, 120, 300)


@dataclass(frozen=True)
class Recipe:
    """The whole training."""

    seed: int = 0
    size: int = 64
    preview_chunks: int = 6  # of the films on the contact sheets
    vae: VaeRecipe = field(default_factory=VaeRecipe)
    base: BaseRecipe = field(default_factory=BaseRecipe)
    cam_apm: CamApmRecipe = field(default_factory=CamApmRecipe)
    decoder: DecoderRecipe = field(default_factory=DecoderRecipe)
    distil: DistilRecipe = field(default_factory=DistilRecipe)
    diffusion: DiffusionRecipe = field(default_factory=DiffusionRecipe)
    pool: PoolRecipe = field(default_factory=PoolRecipe)
    enhancer: EnhancerRecipe = field(default_factory=EnhancerRecipe)

    def continued(self) -> Recipe:
        """On trained weights: lower rates (the peak unlearns what took hours, docs/log.md), all layers of the video model, and
        more of what long films need, continuations, once starts are learned."""
        base_rate = dataclasses.replace(self.base.learning_rate, peak=2e-3, decay_share=0.6)
        rate = dataclasses.replace(self.cam_apm.learning_rate, peak=1e-3, decay_share=0.7)
        return dataclasses.replace(
            self,
            base=dataclasses.replace(self.base, learning_rate=base_rate),
            cam_apm=dataclasses.replace(self.cam_apm, learning_rate=rate, spatial_rate=0.3, blind_share=0.5, start_share=0.3),
        )

    def for_device(self, device: str) -> Recipe:
        """A GPU takes larger batches and more films; everything else stays."""
        if device == "cpu":
            return self
        return dataclasses.replace(
            self,
            vae=dataclasses.replace(self.vae, batch=128),
            base=dataclasses.replace(self.base, batch=512),
            cam_apm=dataclasses.replace(self.cam_apm, batch=64),
            decoder=dataclasses.replace(self.decoder, films=64),
            distil=dataclasses.replace(self.distil, batch=32, image_batch=256, chains=64),
            pool=dataclasses.replace(self.pool, films=10_000),
            enhancer=dataclasses.replace(self.enhancer, batch=16, piece_batch=64),
        )
