"""The judge of the story-book model: a small network, never shown a generated film, that says what a window of frames shows.

It finds the subject (a 16 x 16 mask), names colour, subject, scene and variant from the evidence of all frames in which the
subject is seen, and the motion from the track of the mask's centroid. Two readings need no training: `hue`, the palette
colour nearest in hue inside the mask, and the flow of the background, which is the movement of the camera.

It is trained once, on renders of every pair of words (training/judge.py), and frozen: figures are comparable only between
films read by the same weights, so every report carries `judge_digest`.
"""

from __future__ import annotations

import colorsys
import dataclasses
import functools
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from st2v_stream.checkpoints.models import find_weights
from st2v_stream.errors import CheckpointError, InvalidRequest
from st2v_stream.worlds import captions, storybook

NAME = "storybook-judge"
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
SIZE = 64
WINDOW = 16  # frames from which a motion is read
GRID = 16  # cells of the mask per side
SEEN_CELLS = 3.0  # a subject is seen when at least this many of the 256 cells show it (a whole one covers about 35)
WHOLE_CELLS = 30.0  # more cells than this add no weight to a frame's evidence
LEAST_SEEN = 4  # frames of a window with the subject in sight, or its motion is not read
_SATURATED, _BRIGHT = 110, 90  # of 255; white sails and dark rims have no hue
_INSIDE = 0.6  # mask probability of the pixels whose hue counts
_EDGE = 12.0  # grey levels per pixel: flow is read where there is something to see


# --- what it says


@dataclass(frozen=True)
class Verdict:
    """What a window shows. Words are None where nothing is seen to be named.

    `positions` `(T, 2)`: x and y of the visible part's centre in sides, NaN where unseen. `confidence`: the probability of
    the named subject, 0..1. `camera_flow_px`: pixels per frame.
    """

    scene: str
    variant: int
    colour: str | None
    hue: str | None
    subject: str | None
    motion: str | None
    positions: np.ndarray
    seen_share: float
    confidence: float
    camera_flow_px: float


# --- the networks


@dataclass(frozen=True)
class JudgeConfig:
    """Widths, and the words in the order of the outputs."""

    widths: tuple[int, ...] = (24, 48, 64, 96, 128)
    motion_width: int = 128
    subjects: tuple[str, ...] = captions.SUBJECTS
    colours: tuple[str, ...] = captions.COLOURS
    scenes: tuple[str, ...] = captions.SCENES
    motions: tuple[str, ...] = captions.MOTIONS
    variants: int = storybook.VARIANTS
    reading_rules: int = 1  # raised with any change to the numbers or rules of this file that can change a verdict


@dataclass(frozen=True)
class FrameScores:
    """Raw outputs for N frames: mask `(N, 16, 16)`, the others `(N, words)`."""

    mask: Tensor
    colour: Tensor
    subject: Tensor
    scene: Tensor
    variant: Tensor


class FrameReader(nn.Module):
    """Frames `(N, 3, 64, 64)` in -1..1 -> `FrameScores`."""

    def __init__(self, config: JudgeConfig) -> None:
        super().__init__()
        first, second, third, fourth, fifth = config.widths
        self.fine = nn.Sequential(_convolution(3, first, 2), _convolution(first, second, 2), _convolution(second, third, 1))
        self.coarse = nn.Sequential(_convolution(third, fourth, 2), _convolution(fourth, fifth, 1))
        width = third + fifth
        self.mask = nn.Conv2d(width, 1, 1)
        self.colour = nn.Linear(width, len(config.colours))
        self.subject = nn.Linear(width, len(config.subjects))
        self.scene = nn.Linear(width, len(config.scenes))
        self.variant = nn.Linear(4 * width, config.variants)

    def forward(self, frames: Tensor) -> FrameScores:
        fine = self.fine(frames)  # (N, C, 16, 16)
        features = torch.cat([fine, F.interpolate(self.coarse(fine), scale_factor=2.0)], dim=1)
        mask = self.mask(features)
        inside = torch.sigmoid(mask)
        on_subject = _weighted_mean(features, inside)
        columns = F.adaptive_avg_pool2d(features, (1, 4)).flatten(1)
        return FrameScores(
            mask=mask[:, 0],
            colour=self.colour(on_subject),
            subject=self.subject(on_subject),
            scene=self.scene(_weighted_mean(features, 1 - inside)),
            variant=self.variant(columns),
        )


class MotionReader(nn.Module):
    """Tracks `(N, 48)` (see `track_features`) -> `(N, motions)`."""

    def __init__(self, config: JudgeConfig) -> None:
        super().__init__()
        width = config.motion_width
        self.layers = nn.Sequential(
            nn.Linear(3 * WINDOW, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, len(config.motions))
        )

    def forward(self, tracks: Tensor) -> Tensor:
        return self.layers(tracks)


def _convolution(channels: int, width: int, stride: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())


def _weighted_mean(features: Tensor, weights: Tensor) -> Tensor:
    """Mean over space, `(N, C, h, w)` by `(N, 1, h, w)` -> `(N, C)`."""
    return (features * weights).sum((2, 3)) / (weights.sum((2, 3)) + 1e-3)


def to_network(frames: np.ndarray) -> Tensor:
    """`(N, 64, 64, 3)` uint8 -> `(N, 3, 64, 64)` in -1..1."""
    return rearrange(torch.from_numpy(np.ascontiguousarray(frames)), "n h w c -> n c h w").float() / 127.5 - 1


# --- where the subject is


def centroids(inside: Tensor) -> tuple[Tensor, Tensor]:
    """Mask probabilities `(N, 16, 16)` -> centres `(N, 2)` in sides and the number of cells `(N,)`."""
    cells = inside.sum((1, 2))
    middle = (torch.arange(GRID) + 0.5) / GRID
    x = (inside * middle).sum((1, 2)) / (cells + 1e-6)
    y = (inside * middle[:, None]).sum((1, 2)) / (cells + 1e-6)
    return torch.stack([x, y], dim=1), cells


def track_features(centres: Tensor, cells: Tensor) -> Tensor:
    """A window's centres `(16, 2)` and cells `(16,)` -> `(48,)`: x, y from the middle of the frame (0 where unseen), seen."""
    seen = (cells > SEEN_CELLS).float()
    return torch.cat([(centres[:, 0] - 0.5) * seen, (centres[:, 1] - 0.5) * seen, seen])


# --- reading


class Judge:
    """Reads windows. Deterministic; holds no state between windows."""

    def __init__(self, frame_reader: FrameReader, motion_reader: MotionReader, config: JudgeConfig) -> None:
        self.frame_reader = frame_reader.eval().requires_grad_(False)
        self.motion_reader = motion_reader.eval().requires_grad_(False)
        self.config = config

    @classmethod
    def load(cls, folder: Path | None = None) -> Judge:
        """From a folder, by default the one that comes with the package. Raises `CheckpointError`."""
        folder = folder or find_weights(NAME)
        config = _read_config(folder / CONFIG_FILE)
        frame_reader, motion_reader = FrameReader(config), MotionReader(config)
        try:
            tensors = {name: value.float() for name, value in load_file(folder / WEIGHTS_FILE).items()}
            frame_reader.load_state_dict(_below("frame.", tensors))
            motion_reader.load_state_dict(_below("motion.", tensors))
        except (OSError, RuntimeError, SafetensorError) as error:
            weights = folder / WEIGHTS_FILE
            raise CheckpointError(f"{weights} is damaged", expected="the judge's weights", received=str(error)) from error
        return cls(frame_reader, motion_reader, config)

    def save(self, folder: Path) -> None:
        """Write config.json and model.safetensors (float16)."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CONFIG_FILE).write_text(json.dumps(dataclasses.asdict(self.config), indent=2) + "\n")
        parts = {"frame": self.frame_reader, "motion": self.motion_reader}
        tensors = {f"{name}.{key}": _stored(value) for name, part in parts.items() for key, value in part.state_dict().items()}
        save_file(tensors, folder / WEIGHTS_FILE)

    @torch.inference_mode()
    def read(self, frames: np.ndarray) -> Verdict:
        """Read `(T, 64, 64, 3)` uint8, T of any length; the motion only if T is 16. Raises `InvalidRequest`."""
        if frames.ndim != 4 or len(frames) == 0 or frames.shape[1:] != (SIZE, SIZE, 3) or frames.dtype != np.uint8:
            received = (frames.shape, str(frames.dtype))
            raise InvalidRequest("frames of another shape", expected=("T", SIZE, SIZE, 3, "uint8"), received=received)
        scores = self.frame_reader(to_network(frames))
        inside = torch.sigmoid(scores.mask)
        centres, cells = centroids(inside)
        seen = cells > SEEN_CELLS
        evidence = cells.clamp(max=WHOLE_CELLS) * seen
        subject = _named(scores.subject, evidence)
        colour = _named(scores.colour, evidence)
        is_seen = bool(seen.any())
        return Verdict(
            scene=self.config.scenes[_named(scores.scene, torch.ones(len(frames)))[0]],
            variant=_named(scores.variant, torch.ones(len(frames)))[0],
            colour=self.config.colours[colour[0]] if is_seen else None,
            hue=nearest_hue(frames[seen.numpy()], inside[seen].numpy()),
            subject=self.config.subjects[subject[0]] if is_seen else None,
            motion=self._motion(centres, cells),
            positions=np.where(seen.numpy()[:, None], centres.numpy(), np.nan),
            seen_share=seen.float().mean().item(),
            confidence=subject[1] if is_seen else 0.0,
            camera_flow_px=camera_flow(frames, inside.numpy()),
        )

    def _motion(self, centres: Tensor, cells: Tensor) -> str | None:
        if len(cells) != WINDOW or (cells > SEEN_CELLS).sum() < LEAST_SEEN:
            return None
        return self.config.motions[int(self.motion_reader(track_features(centres, cells)[None]).argmax())]


def judge_digest(folder: Path | None = None) -> str:
    """SHA-256 over what decides a verdict: config.json and model.safetensors."""
    folder = folder or find_weights(NAME)
    digest = hashlib.sha256()
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        digest.update(hashlib.sha256((folder / name).read_bytes()).digest())
    return digest.hexdigest()


def _named(scores: Tensor, evidence: Tensor) -> tuple[int, float]:
    """The word with most evidence over all frames, and its share of it. `(N, words)`, `(N,)`."""
    shares = (scores.softmax(1) * evidence[:, None]).sum(0) / evidence.sum().clamp(min=1e-6)
    best = int(shares.argmax())
    return best, float(shares[best])


def _read_config(path: Path) -> JudgeConfig:
    try:
        fields: dict[str, Any] = json.loads(path.read_text())
        frozen: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}
        config = JudgeConfig(**frozen)
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged", expected="the judge's settings as JSON", received=str(error)) from error
    words = JudgeConfig()
    for kind in ("subjects", "colours", "scenes", "motions", "variants", "reading_rules"):
        if getattr(config, kind) != getattr(words, kind):
            raise CheckpointError(f"{path}: other {kind}", expected=getattr(words, kind), received=getattr(config, kind))
    return config


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _stored(value: Tensor) -> Tensor:
    return value.detach().cpu().half().contiguous() if value.is_floating_point() else value.cpu()


# --- readings without a network


def nearest_hue(frames: np.ndarray, inside: np.ndarray) -> str | None:
    """The palette colour nearest in hue to most saturated pixels on the subject; None if there are none.

    `frames` `(N, 64, 64, 3)` uint8; `inside` `(N, 16, 16)` mask probabilities.
    """
    votes = np.zeros(len(captions.COLOURS))
    for frame, mask in zip(frames, inside, strict=True):
        hsv = cv2.cvtColor(frame, cv2.COLOR_RGB2HSV)[_enlarged(mask) > _INSIDE]  # (pixels, 3)
        hues = hsv[(hsv[:, 1] > _SATURATED) & (hsv[:, 2] > _BRIGHT), :1] / 180.0
        apart = np.abs(hues - _palette_hues())
        votes += np.bincount(np.minimum(apart, 1 - apart).argmin(1), minlength=len(votes))
    return captions.COLOURS[int(votes.argmax())] if votes.any() else None


@functools.cache
def _palette_hues() -> np.ndarray:
    """Hues of the palette, 0..1, in the order of the captions' colours."""
    return np.array([colorsys.rgb_to_hsv(*(value / 255 for value in storybook.PALETTE[name]))[0] for name in captions.COLOURS])


def _enlarged(mask: np.ndarray) -> np.ndarray:
    return cv2.resize(mask, (SIZE, SIZE), interpolation=cv2.INTER_LINEAR)


def camera_flow(frames: np.ndarray, inside: np.ndarray) -> float:
    """How fast the background slides, in pixels per frame: mean over the pairs of frames; 0.0 for a single frame.

    Per pair, the one shift that explains the optical flow (DIS) of all background pixels, each weighing by its gradient:
    an edge says nothing of a shift along it. Pixels near the subject are left out.
    """
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    near = [cv2.dilate(_enlarged(mask), np.ones((9, 9))) > 0.3 for mask in inside]
    shifts = [_shift(grey[i], grey[i + 1], ~(near[i] | near[i + 1])) for i in range(len(grey) - 1)]
    return float(np.mean([np.hypot(*shift) for shift in shifts])) if shifts else 0.0


def _shift(before: np.ndarray, after: np.ndarray, is_background: np.ndarray) -> np.ndarray:
    """Least squares over normal flow: minimises sum (g . (shift - flow))^2 with the grey gradient g."""
    flow = _flow(before, after)[is_background]  # (pixels, 2)
    smooth = cv2.GaussianBlur(before.astype(np.float32), (0, 0), 1.0)
    gradient = np.stack([cv2.Scharr(smooth, cv2.CV_32F, 1, 0), cv2.Scharr(smooth, cv2.CV_32F, 0, 1)], axis=-1) / 32
    gradient = gradient[is_background]
    is_edge = np.hypot(gradient[:, 0], gradient[:, 1]) > _EDGE
    g, f = gradient[is_edge], flow[is_edge]
    return np.linalg.solve(g.T @ g + np.eye(2), g.T @ (g * f).sum(1))


def _flow(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Optical flow `(64, 64, 2)` in pixels, by dense inverse search."""
    search: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    return np.asarray(search.calc(before, after, None), np.float32)
