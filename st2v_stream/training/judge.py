"""Trains the judge (worlds/judge.py), once: `python -m st2v_stream.training.judge --out FOLDER --budget SECONDS`.

It sees renders only, of all words, held-out pairs included, so that it favours no pair and no model. Frames come from
anywhere in a film and are blurred, dimmed, greyed, made noisy; a share goes through the model's autoencoder with noise on
the latents, because a denoiser's mistakes are decoded to soft shapes that must be read too.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from st2v_stream.checkpoints.models import find_folder
from st2v_stream.networks.vae import FrameAutoencoder
from st2v_stream.training import randomness
from st2v_stream.training.ahead import map_ahead
from st2v_stream.training.loop import Loop
from st2v_stream.training.recipe import LearningRate
from st2v_stream.worlds import captions, storybook
from st2v_stream.worlds.judge import (
    GRID,
    LEAST_SEEN,
    SIZE,
    WINDOW,
    FrameReader,
    FrameScores,
    Judge,
    JudgeConfig,
    MotionReader,
    Verdict,
    centroids,
    to_network,
    track_features,
)

NAMEABLE_PIXELS = 100  # of the subject (a whole one covers about 600); with fewer in sight, training asks for no name
FIGURES = ("colour", "hue", "subject", "scene", "variant", "motion")


@dataclasses.dataclass(frozen=True)
class JudgeRecipe:
    """Every number of the judge's training."""

    learning_rate: LearningRate = LearningRate(peak=3e-3, warmup_steps=30, decay_share=0.8)  # noqa: RUF009 (it is frozen)
    batch: int = 48  # frames
    mask_weight: float = 4.0
    variant_weight: float = 0.5
    last_frame: int = 1200
    radius_jitter: tuple[float, float] = (0.9, 1.1)
    blurred: float = 0.6  # share of the frames; deviation below, in pixels
    blur: tuple[float, float] = (0.3, 1.1)
    noise: float = 8.0  # upper end of the deviation, of 255
    brightness: float = 0.12  # factor 1 +- this
    greyed: float = 0.25  # up to this share of grey is mixed in
    decoded: float = 0.2  # share of the frames that pass the autoencoder
    latent_noise: float = 0.5  # upper end of the deviation (latents have about unit variance)
    tracks: int = 1600  # clips whose tracks the motion reader learns from
    motion_steps: int = 2000
    motion_batch: int = 96
    motion_rate: float = 2e-3
    track_noise: float = 0.015  # sides
    track_gaps: float = 0.08  # share of the frames in which the subject is made unseen


@dataclasses.dataclass(frozen=True)
class Labels:
    """What a batch of frames shows: `(B,)` indices, `(B, 16, 16)` mask shares, and whether a subject can be named."""

    mask: np.ndarray
    colour: np.ndarray
    subject: np.ndarray
    scene: np.ndarray
    variant: np.ndarray
    is_seen: np.ndarray


Batch = tuple[np.ndarray, Labels]


class JudgeStage:
    """Trains the frame reader. Implements the loop's `Stage`."""

    name = "judge"

    def __init__(self, recipe: JudgeRecipe, *, seed: int, vae: FrameAutoencoder | None = None, workers: int = 0) -> None:
        torch.manual_seed(randomness.address(seed, "judge weights"))
        self.recipe, self.seed, self.vae, self.workers = recipe, seed, vae, workers
        self.reader = FrameReader(JudgeConfig()).to(memory_format=torch.channels_last)  # nearly twice as fast on a CPU
        self.optimizer = torch.optim.AdamW(self.reader.parameters(), weight_decay=1e-3)
        self._batches: Iterator[Batch] | None = None

    def train_step(self, step: int, rate: float) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        frames, labels = self._next_batch(step)
        rng = randomness.torch_rng(self.seed, "judge latent noise", step)
        loss = self._loss(self.reader.train()(self._some_decoded(to_network(frames), rng)), labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return float(loss.item())

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Shares of single, augmented frames that are named right."""
        frames, labels = self._validation
        scores = self.reader.eval()(to_network(frames))
        seen = torch.from_numpy(labels.is_seen)
        hits = {
            kind: (getattr(scores, kind).argmax(1) == torch.from_numpy(getattr(labels, kind)))[seen].float().mean().item()
            for kind in ("colour", "subject", "scene", "variant")
        }
        return hits | {"mask_error": F.l1_loss(torch.sigmoid(scores.mask), torch.from_numpy(labels.mask)).item()}

    @functools.cached_property
    def _validation(self) -> Batch:
        return _draw_batch(dataclasses.replace(self.recipe, batch=384), self.seed, "judge validation", 0)

    def state_dict(self) -> dict[str, Any]:
        return {"reader": self.reader.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.reader.load_state_dict(state["reader"])
        self.optimizer.load_state_dict(state["optimizer"])

    def _loss(self, scores: FrameScores, labels: Labels) -> torch.Tensor:
        r, seen = self.recipe, torch.from_numpy(labels.is_seen).float()
        named = _cross_entropy(scores.colour, labels.colour) + _cross_entropy(scores.subject, labels.subject)
        return (
            r.mask_weight * F.binary_cross_entropy_with_logits(scores.mask, torch.from_numpy(labels.mask))
            + (named * seen).mean()
            + _cross_entropy(scores.scene, labels.scene).mean()
            + r.variant_weight * _cross_entropy(scores.variant, labels.variant).mean()
        )

    def _some_decoded(self, frames: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        """The first share of the batch (films are in no order) through the autoencoder, with noise on the latents."""
        count = round(self.recipe.decoded * len(frames))
        if self.vae is None or not count:
            return frames
        return torch.cat([through_vae(self.vae, frames[:count], self.recipe.latent_noise, rng), frames[count:]])

    def _next_batch(self, step: int) -> Batch:
        if self._batches is None:
            draw = functools.partial(_draw_batch, self.recipe, self.seed, "judge batch")
            self._batches = map_ahead(draw, itertools.count(step), self.workers)
        return next(self._batches)


def _cross_entropy(scores: torch.Tensor, labels: np.ndarray) -> torch.Tensor:
    return F.cross_entropy(scores, torch.from_numpy(labels), reduction="none")


@torch.no_grad()
def through_vae(vae: FrameAutoencoder, frames: torch.Tensor, latent_noise: float, rng: torch.Generator) -> torch.Tensor:
    """Frames `(N, 3, H, W)` encoded and decoded; each with its own noise level on the latents, 0..`latent_noise`."""
    latents = vae.encode(frames)
    level = latent_noise * torch.rand((len(latents), 1, 1, 1), generator=rng)
    return vae.decode(latents + level * torch.randn(latents.shape, generator=rng)).clamp(-1, 1)


# --- frames


def _draw_batch(recipe: JudgeRecipe, seed: int, purpose: str, step: int) -> Batch:
    rng = randomness.numpy_rng(seed, purpose, step)
    drawn = [_draw_frame(recipe, rng) for _ in range(recipe.batch)]
    frames, masks, specs, is_seen = zip(*drawn, strict=True)
    return np.stack(frames), Labels(
        mask=np.stack(masks),
        colour=np.array([captions.COLOURS.index(spec.colour) for spec in specs]),
        subject=np.array([captions.SUBJECTS.index(spec.subject) for spec in specs]),
        scene=np.array([captions.SCENES.index(spec.scene) for spec in specs]),
        variant=np.array([spec.variant for spec in specs]),
        is_seen=np.array(is_seen),
    )


def _draw_frame(recipe: JudgeRecipe, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, storybook.FilmSpec, bool]:
    spec = storybook.sample_spec(rng, "any")
    spec = dataclasses.replace(spec, radius=spec.radius * float(rng.uniform(*recipe.radius_jitter)))
    frame, mask = storybook.frame_and_mask(spec, int(rng.integers(recipe.last_frame)), SIZE)
    cells = cv2.resize(mask.astype(np.float32), (GRID, GRID), interpolation=cv2.INTER_AREA)
    return worsened(recipe, frame, rng), cells, spec, bool(mask.sum() > NAMEABLE_PIXELS)


def worsened(recipe: JudgeRecipe, frame: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The frame `(H, W, 3)` uint8 blurred, greyed, dimmed or brightened, and noisy."""
    picture: np.ndarray = frame.astype(np.float32)
    if rng.random() < recipe.blurred:
        picture = cv2.GaussianBlur(picture, (0, 0), float(rng.uniform(*recipe.blur)))
    grey = recipe.greyed * float(rng.random()) ** 2
    picture = picture * (1 - grey) + picture.mean(2, keepdims=True) * grey
    picture *= 1 + float(rng.uniform(-recipe.brightness, recipe.brightness))
    picture += rng.normal(0, rng.uniform(0, recipe.noise), picture.shape)
    return np.asarray(np.clip(np.round(picture), 0, 255), np.uint8)


# --- tracks


@torch.no_grad()
def train_motion(reader: FrameReader, recipe: JudgeRecipe, *, seed: int) -> MotionReader:
    """Learn motions from the frame reader's own tracks of rendered windows from anywhere in films."""
    tracks, motions = _draw_tracks(reader.eval(), recipe, seed)
    torch.manual_seed(randomness.address(seed, "motion weights"))
    motion_reader = MotionReader(JudgeConfig())
    optimizer = torch.optim.AdamW(motion_reader.parameters(), lr=recipe.motion_rate, weight_decay=1e-3)
    for step in range(recipe.motion_steps):
        rng = randomness.torch_rng(seed, "motion batch", step)
        picked = torch.randint(len(tracks), (recipe.motion_batch,), generator=rng)
        with torch.enable_grad():
            loss = F.cross_entropy(motion_reader(_disturbed(tracks[picked], recipe, rng)), motions[picked])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        optimizer.param_groups[0]["lr"] = recipe.motion_rate * max(0.02, 1 - step / recipe.motion_steps)
    return motion_reader


def _draw_tracks(reader: FrameReader, recipe: JudgeRecipe, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`(tracks, 48)` and the index of each one's motion; a quarter of the windows open their film."""
    rng = randomness.numpy_rng(seed, "motion tracks")
    tracks, motions = [], []
    for number in range(recipe.tracks):
        spec = storybook.sample_spec(rng, "any")
        start = 0 if number % 4 == 0 else int(rng.integers(recipe.last_frame))
        frames = storybook.clip(spec, range(start, start + WINDOW), SIZE)
        tracks.append(track_features(*centroids(torch.sigmoid(reader(to_network(frames)).mask))))
        motions.append(captions.MOTIONS.index(spec.motion))
    return torch.stack(tracks), torch.tensor(motions)


def _disturbed(tracks: torch.Tensor, recipe: JudgeRecipe, rng: torch.Generator) -> torch.Tensor:
    """Shaky positions, and frames in which the subject was missed."""
    x, y, seen = tracks.split(WINDOW, dim=1)
    seen = seen * (torch.rand(seen.shape, generator=rng) > recipe.track_gaps)
    x = x + recipe.track_noise * torch.randn(x.shape, generator=rng)
    y = y + recipe.track_noise * torch.randn(y.shape, generator=rng)
    return torch.cat([x * seen, y * seen, seen], dim=1)


# --- its ceiling


def ceiling(judge: Judge, *, seed: int, clips: int = 200, vae: FrameAutoencoder | None = None) -> dict[str, float]:
    """Shares read right on real clips of 16 frames, half of them held-out pairs; with `vae`, encoded and decoded.

    Half of the windows open their film, the others lie anywhere in it where the subject can be named (`is_nameable`).
    """
    rng = randomness.numpy_rng(seed, "judge ceiling")
    hits: Counter[str] = Counter()
    flows, silent = [], torch.Generator()
    for number in range(clips):
        spec = storybook.sample_spec(rng, ("held_out", "train")[number % 2])
        start = 0 if number % 4 < 2 else _nameable_start(spec, rng)
        frames = storybook.clip(spec, range(start, start + WINDOW), SIZE)
        if vae is not None:
            decoded = through_vae(vae, to_network(frames), 0.0, silent)
            frames = ((decoded + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
        verdict = judge.read(frames)
        hits.update(right_figures(verdict, spec))
        flows.append(verdict.camera_flow_px)
    shares = {figure: hits[figure] / clips for figure in FIGURES}
    return shares | {"camera_flow_px": float(np.mean(flows)), "camera_flow_px_worst": float(np.max(flows))}


def _nameable_start(spec: storybook.FilmSpec, rng: np.random.Generator) -> int:
    while True:
        start = int(rng.integers(4000))
        if is_nameable(spec, start):
            return start


def is_nameable(spec: storybook.FilmSpec, start: int) -> bool:
    """Whether the window shows something of the subject in at least 4 frames: travellers are out of sight for 8 to 14."""
    pixels = [int(storybook.subject_mask(spec, start + t, SIZE).sum()) for t in range(WINDOW)]
    return sum(count > NAMEABLE_PIXELS for count in pixels) >= LEAST_SEEN


def right_figures(verdict: Verdict, spec: storybook.FilmSpec) -> list[str]:
    """Which figures of the verdict are those of the film."""
    said = dataclasses.asdict(verdict)
    truth = {"hue": spec.colour} | {name: getattr(spec, name) for name in FIGURES if name != "hue"}
    return [figure for figure in FIGURES if said[figure] == truth[figure]]


# --- from the command line


def train_judge(out: Path, *, budget_s: float, seed: int = 0, workers: int = 1, scratch: Path | None = None) -> Judge:
    """Train frame and motion reader, write the folder, and read it back (the weights are rounded to float16)."""
    vae = FrameAutoencoder.from_pretrained(find_folder("storybook") / "vae")
    recipe = JudgeRecipe()
    stage = JudgeStage(recipe, seed=seed, vae=vae, workers=workers)
    Loop(stage, recipe.learning_rate, budget_s, scratch or out / "training").run()
    Judge(stage.reader, train_motion(stage.reader, recipe, seed=seed), JudgeConfig()).save(out)
    return Judge.load(out)


def main() -> None:
    """Train and print the ceilings as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the weights")
    parser.add_argument("--scratch", type=Path, help="folder of the log and the resumable state (OUT/training)")
    parser.add_argument("--budget", type=float, default=200.0, help="seconds for the frame reader (200)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)  # the other core draws
    judge = train_judge(args.out, budget_s=args.budget, seed=args.seed, scratch=args.scratch)
    vae = FrameAutoencoder.from_pretrained(find_folder("storybook") / "vae")
    ceilings = {"real": ceiling(judge, seed=args.seed), "decoded": ceiling(judge, seed=args.seed, vae=vae)}
    print(json.dumps(ceilings, indent=2))


if __name__ == "__main__":
    main()
