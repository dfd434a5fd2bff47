"""Clips encoded once, kept on disk, and the windows that training draws from them.

What a clip becomes does not change in training (VAE, text and image encoder are frozen), so it is computed once; then none of
the three has to be in memory. Memory holds one clip while it is encoded and one batch while training: a batch reads just its
own frames from the files.

    cache/<key of the file>.safetensors       frames (T, H, W, 3) uint8, for CAM's pixel encoder
                                              mean, std (T, C, h, w) float16 of the latents' posterior, normalised
                                              embeddings (T, D) of the image encoder: every frame may be an anchor
    cache/<key of the caption>.safetensors    text (tokens, D)
    cache/<key of nothing>.safetensors        text of no caption, embeddings (1, D) of no anchor: a mid-grey frame

Which frames (paper, training details; clips of 32 frames): the window is frames 17 to 32, the tail its first 8, the anchor
any of frames 1 to 16. A longer clip has its window anywhere behind 16 frames and the anchor in the 16 before it; a shorter one
ends with the window. CAM alone needs no anchor: its window is any 16 frames.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from einops import rearrange
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from st2v_stream.chunk import Frames
from st2v_stream.errors import InvalidRequest
from st2v_stream.generators.memory import to_network
from st2v_stream.training.clips import MAX_FRAMES, Clip, read_frames
from st2v_stream.training.loop import StopFlag
from st2v_stream.training.modelscope import Base
from st2v_stream.training.parts import TAIL_FRAMES, WINDOW_FRAMES

ANCHOR_REACH = 16
"""Frames before the window among which the anchor is drawn."""

_FRAMES_AT_ONCE = 8

Say = Callable[[str], None]


@dataclass(frozen=True)
class EncodedClip:
    """A clip in the cache."""

    name: str
    caption: str
    num_frames: int
    pictures: Path
    text: Path

    def read_frames(self) -> Frames:
        """All of it, (T, H, W, 3) uint8."""
        with safe_open(self.pictures, "pt") as tensors:
            frames: Frames = tensors.get_tensor("frames").numpy()
        return frames


@dataclass(frozen=True)
class Nothing:
    """What stands in for a dropped caption (tokens, D) and a dropped anchor (D',): guidance's other half."""

    text: Tensor
    embedding: Tensor


@dataclass(frozen=True)
class WindowBatch:
    """latents (B, C, 16, h, w) normalised; tail (B, 8, 3, H, W) in [-1, 1]; text (B, tokens, D); anchor (B, D') or None."""

    latents: Tensor
    tail: Tensor
    text: Tensor
    anchor: Tensor | None


class ClipCache:
    """Encodes clips with a base's frozen encoders into files of `directory`; what is there already is taken from there."""

    def __init__(self, base: Base, directory: Path, *, fps: float) -> None:
        self._base, self._directory, self._fps = base, directory, fps
        self._encoders = encoder_stamps(base.encoder_folders)
        directory.mkdir(parents=True, exist_ok=True)

    def add(self, clip: Clip) -> EncodedClip:
        """Raises `InvalidRequest` naming the clip if it cannot be used."""
        file, base = clip.path.stat(), self._base
        stamp = (clip.name, file.st_size, file.st_mtime_ns, self._fps, base.width, base.height, MAX_FRAMES)
        pictures = self._file(stamp, lambda: self._encode(self._read(clip)))
        text = self._file(("caption", clip.caption), lambda: {"text": self._encode_text(clip.caption)})
        with safe_open(pictures, "pt") as tensors:
            num_frames = tensors.get_slice("frames").get_shape()[0]
        return EncodedClip(clip.name, clip.caption, num_frames, pictures, text)

    def nothing(self) -> Nothing:
        """What the published pipeline shows the networks in place of a prompt and of an anchor."""
        with safe_open(self._file(("nothing", self._base.width, self._base.height), self._encode_nothing), "pt") as tensors:
            return Nothing(tensors.get_tensor("text"), tensors.get_tensor("embeddings")[0])

    def _file(self, stamp: tuple[object, ...], make: Callable[[], dict[str, Tensor]]) -> Path:
        """The file of this stamp, made if it is not there: beside its place and renamed, so it is whole if it is there."""
        key = hashlib.sha256(repr((self._encoders, stamp)).encode()).hexdigest()[:32]
        path = self._directory / f"{key}.safetensors"
        if not path.exists():
            half = path.with_suffix(".half")
            with torch.no_grad():
                save_file({name: value.contiguous() for name, value in make().items()}, half)
            os.replace(half, path)
        return path

    def _read(self, clip: Clip) -> Frames:
        return read_frames(clip, fps=self._fps, width=self._base.width, height=self._base.height)

    def _encode(self, frames: Frames) -> dict[str, Tensor]:
        means, deviations, embeddings = [], [], []
        for start in range(0, len(frames), _FRAMES_AT_ONCE):
            pixels = to_network(frames[start : start + _FRAMES_AT_ONCE]).to(self._base.vae.device)
            mean, deviation = self._base.vae.posterior(pixels)
            normal = self._base.vae.normalize
            means.append(normal(mean).half().cpu())
            deviations.append((normal(mean + deviation) - normal(mean)).half().cpu())  # std in normalised units
            embeddings.append(self._base.image_encoder(pixels).cpu())
        encoded = {"mean": torch.cat(means), "std": torch.cat(deviations), "embeddings": torch.cat(embeddings)}
        return {"frames": torch.from_numpy(frames)} | encoded

    def _encode_text(self, caption: str) -> Tensor:
        return self._base.text([caption])[0].cpu()

    def _encode_nothing(self) -> dict[str, Tensor]:
        grey = torch.zeros(1, 3, self._base.height, self._base.width, device=self._base.vae.device)
        return {"text": self._encode_text(""), "embeddings": self._base.image_encoder(grey).cpu()}


def encoder_stamps(folders: Sequence[Path]) -> list[tuple[object, ...]]:
    """Changes when a file changes that clips are encoded with (by name, size and time, without reading gigabytes)."""
    files = [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]
    return [(path.parent.name, path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]


def encode_clips(
    clips: Sequence[Clip], cache: ClipCache, stop: StopFlag, say: Say
) -> tuple[list[EncodedClip], list[InvalidRequest]]:
    """One clip after the other -> those that can be used, and what is wrong with the others. Ends early when `stop` is set."""
    encoded: list[EncodedClip] = []
    problems: list[InvalidRequest] = []
    for number, clip in enumerate(clips, start=1):
        if stop.is_set:
            break
        try:
            encoded.append(cache.add(clip))
            say(f"clip {number} of {len(clips)}: {clip.name}, {encoded[-1].num_frames} frames, {clip.caption!r}")
        except InvalidRequest as problem:
            problems.append(problem)
    return encoded, problems


class Windows:
    """Draws windows from encoded clips: every clip as often as any other, every window of it too."""

    def __init__(self, clips: Sequence[EncodedClip]) -> None:
        self._clips = clips

    def draw(self, batch: int, rng: torch.Generator, *, with_anchor: bool) -> WindowBatch:
        """On the CPU; latents are samples of the posterior. The same `rng` gives the same batch."""
        drawn = [self._draw_one(rng, with_anchor) for _ in range(batch)]
        mean, std, frames, text, anchors = zip(*drawn, strict=True)
        noise = torch.randn((batch, *mean[0].shape), generator=rng)
        latents = torch.stack(mean).float() + torch.stack(std).float() * noise
        return WindowBatch(
            latents=rearrange(latents, "b f c h w -> b c f h w"),
            tail=torch.stack([to_network(clip.numpy()) for clip in frames]),
            text=torch.stack(text),
            anchor=torch.stack(anchors) if with_anchor else None,
        )

    def _draw_one(self, rng: torch.Generator, with_anchor: bool) -> tuple[Tensor, ...]:
        clip = self._clips[_below(len(self._clips), rng)]
        start, anchor = draw_place(clip.num_frames, rng, with_anchor=with_anchor)
        with safe_open(clip.pictures, "pt") as tensors:
            window, tail = slice(start, start + WINDOW_FRAMES), slice(start, start + TAIL_FRAMES)
            mean, std = (tensors.get_slice(name)[window] for name in ("mean", "std"))
            frames, embedding = tensors.get_slice("frames")[tail], tensors.get_slice("embeddings")[anchor : anchor + 1]
        with safe_open(clip.text, "pt") as tensors:
            return mean, std, frames, tensors.get_tensor("text"), embedding[0]


def draw_place(num_frames: int, rng: torch.Generator, *, with_anchor: bool) -> tuple[int, int]:
    """First frame of the window and number of the anchor frame (0 where there is none)."""
    latest = num_frames - WINDOW_FRAMES
    earliest = min(ANCHOR_REACH, latest) if with_anchor else 0
    start = earliest + _below(latest - earliest + 1, rng)
    return start, start - 1 - _below(min(ANCHOR_REACH, start), rng) if with_anchor else 0


def _below(end: int, rng: torch.Generator) -> int:
    """0 .. end - 1."""
    return int(torch.randint(end, (), generator=rng))
