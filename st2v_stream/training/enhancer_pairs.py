"""What the enhancer learns from: previews whose truth is known.

Truth is the renderer's film at four times the preview's size; it can draw any. What a preview could show of it is that film,
shrunk. (Not drawn small: then lines lie up to three quarters of a pixel of the large picture elsewhere, and the sharp film
would jump against its preview.) The preview suffers what a generated one does and still shows the same frame: most are the
model's own last step. A shrunk window is encoded, noised as at that step, and what the model takes for clean is decoded: its
blunders, the film's places. The rest are decoded from latents with a little noise on them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from st2v_stream.chunk import Frames
from st2v_stream.networks.sampling import alpha_sigma
from st2v_stream.networks.vae import FrameAutoencoder
from st2v_stream.training import randomness
from st2v_stream.training.distil import ONE_PASS, Conditions, grid, predictor
from st2v_stream.training.parts import TAIL_FRAMES, WINDOW_FRAMES, Parts
from st2v_stream.training.pool import through_memory
from st2v_stream.training.recipe import EnhancerRecipe
from st2v_stream.training.text import new_tokenizer, tokenize
from st2v_stream.training.vae import to_network
from st2v_stream.worlds import storybook

LAST_STEPS = ((2, 1), (3, 2))
"""(steps of the sampler, the one that is made): the last steps of the presets `live` and `default`."""

PREVIEW_SIDE, SCALE = 64, 4
SHARP_SIDE = SCALE * PREVIEW_SIDE


@dataclass(frozen=True)
class Window:
    """16 frames of a film, from `start` on."""

    spec: storybook.FilmSpec
    start: int

    @property
    def numbers(self) -> range:
        """Its frames, counted from the film's beginning."""
        return range(self.start, self.start + WINDOW_FRAMES)

    def truth(self, numbers: Iterable[int]) -> Frames:
        """These frames of the film as they should come out, (T, 256, 256, 3)."""
        return storybook.clip(self.spec, numbers, SHARP_SIDE)


def shrunk(truth: Frames) -> Frames:
    """(T, 256, 256, 3) -> what (T, 64, 64, 3) can show of it: averages of 4 x 4 pixels."""
    size = (truth.shape[2] // SCALE, truth.shape[1] // SCALE)
    return np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in truth])


def draw_window(seed: int, purpose: str, number: int, split: str, last_frame: int) -> Window:
    """The window with this number: a film of the split, seen anywhere before `last_frame`."""
    rng = randomness.numpy_rng(seed, purpose, number)
    return Window(storybook.sample_spec(rng, split), int(rng.integers(last_frame)))


class PreviewModel:
    """The model whose previews are made sharp: what it takes for clean."""

    def __init__(self, parts: Parts, vae: FrameAutoencoder) -> None:
        self.parts, self.vae = parts, vae
        self.tokenizer = new_tokenizer()

    @torch.no_grad()
    def predicted(self, window: Window, step: tuple[int, int], noise: Callable[[Tensor], Tensor]) -> Frames:
        """(16, 64, 64, 3) uint8: the window noised as before that step, then as the model sees it. noise: of a shape like."""
        clean = self._encoded(window)  # (16, C, h, w)
        text = self.parts.encode_text(tokenize(self.tokenizer, [window.spec.caption]))
        remembered = through_memory(self.vae, clean[:TAIL_FRAMES])
        anchor = self.parts.image_encoder(remembered[:1])
        tail = remembered.transpose(0, 1)[None].contiguous()
        conditions = Conditions(text, text, anchor, anchor, tail)
        time = grid(step[0])[step[1]]
        alpha, sigma = alpha_sigma(time)
        latents = clean.transpose(0, 1)[None].contiguous()  # (1, C, 16, h, w)
        seen = predictor(self.parts, conditions, ONE_PASS)(alpha * latents + sigma * noise(latents), time)
        return self._decoded(seen[0].transpose(0, 1).contiguous())

    @torch.no_grad()
    def decoded(self, window: Window, level: float, noise: Callable[[Tensor], Tensor]) -> Frames:
        """(16, 64, 64, 3) uint8: encoded, noise of this deviation added, decoded."""
        clean = self._encoded(window)
        return self._decoded(clean + level * noise(clean))

    def _encoded(self, window: Window) -> Tensor:
        return self.vae.encode(to_network(shrunk(window.truth(window.numbers))))

    def _decoded(self, latents: Tensor) -> Frames:
        pixels = (self.vae.decode(latents).clamp(-1, 1) + 1) * 127.5
        frames: Frames = pixels.round().byte().permute(0, 2, 3, 1).contiguous().numpy()
        return frames


@dataclass
class PairPool:
    """Windows and, of each, the preview (N, 16, 64, 64, 3) uint8, decoded only or predicted. Films are kept as numbers."""

    windows: list[Window]
    previews: Tensor
    is_decoded: list[bool]

    def __len__(self) -> int:
        return len(self.windows)

    @classmethod
    def made(cls, model: PreviewModel, recipe: EnhancerRecipe, *, seed: int, purpose: str, split: str, count: int) -> PairPool:
        """Windows 0 .. count - 1 of that purpose. About a second each on one core."""
        windows = [draw_window(seed, purpose, number, split, recipe.last_frame) for number in range(count)]
        previews = [_preview(model, window, recipe, seed, purpose, number) for number, window in enumerate(windows)]
        return cls(windows, torch.from_numpy(np.stack(previews)), _are_decoded(recipe, seed, purpose, count))

    @classmethod
    def kept(cls, path: Path, model: PreviewModel, recipe: EnhancerRecipe, **which: object) -> PairPool:
        """Read from the file, or made and written there. which: as `made` takes it."""
        if path.exists():
            previews = torch.load(path, weights_only=True)
            drawn = which["seed"], which["purpose"], which["split"]
            windows = [draw_window(drawn[0], drawn[1], i, drawn[2], recipe.last_frame) for i in range(len(previews))]
            return cls(windows, previews, _are_decoded(recipe, drawn[0], drawn[1], len(previews)))
        pool = cls.made(model, recipe, **which)
        path.parent.mkdir(parents=True, exist_ok=True)
        half = path.with_suffix(".half")
        torch.save(pool.previews, half)
        os.replace(half, path)
        return pool


def _are_decoded(recipe: EnhancerRecipe, seed: int, purpose: str, count: int) -> list[bool]:
    return [_kind(_preview_rng(seed, purpose, number)) < recipe.decoded_share for number in range(count)]


def _preview_rng(seed: int, purpose: str, number: int) -> torch.Generator:
    return randomness.torch_rng(seed, f"{purpose} preview", number)


def _kind(rng: torch.Generator) -> float:
    """In 0..1: below `decoded_share` decoded, and the larger the noisier; else predicted."""
    return torch.rand((), generator=rng).item()


def _preview(model: PreviewModel, window: Window, recipe: EnhancerRecipe, seed: int, purpose: str, number: int) -> Frames:
    rng = _preview_rng(seed, purpose, number)

    def noise(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=rng)

    kind = _kind(rng)
    if kind < recipe.decoded_share:
        return model.decoded(window, recipe.latent_noise * kind / recipe.decoded_share, noise)
    return model.predicted(window, LAST_STEPS[number % len(LAST_STEPS)], noise)
