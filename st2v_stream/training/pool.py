"""Films rendered once, encoded once and kept in memory as float16 latents: no drawing and no encoder inside the training loop.

What the model will meet as a condition (the 8-frame tail, the anchor) has been decoded, rounded to 8 bits and encoded
again, as in a real film, where the memory holds what viewers saw. The targets are encoded once: continuing a film therefore
also learns to undo one round trip of the autoencoder, which works against drift.
"""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from st2v_stream.networks.vae import FrameAutoencoder
from st2v_stream.training import randomness
from st2v_stream.training.ahead import map_ahead
from st2v_stream.training.parts import TAIL_FRAMES, WINDOW_FRAMES
from st2v_stream.training.recipe import PoolRecipe
from st2v_stream.training.text import new_tokenizer, tokenize
from st2v_stream.training.vae import to_network
from st2v_stream.worlds import storybook


@dataclass
class LatentPool:
    """N films. Latents are float16, channels first per frame."""

    token_ids: Tensor  # (N, 12) int64
    opening: Tensor  # (N, 16, 12, 8, 8): frames 0..15, what text alone has to make
    later: Tensor  # (N, 16, 12, 8, 8): a window anywhere in the film
    tail: Tensor  # (N, 8, 12, 8, 8): the first half of `later` as a memory brings it
    anchor: Tensor  # (N, 2, 12, 8, 8): two earlier frames as a memory brings them; the first is frame 0

    def __len__(self) -> int:
        return len(self.token_ids)

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        half = path.with_suffix(".half")
        torch.save(vars(self), half)
        os.replace(half, path)

    @classmethod
    def load(cls, path: Path) -> LatentPool:
        return cls(**torch.load(path, weights_only=True))


@dataclass(frozen=True)
class _Film:
    spec: storybook.FilmSpec
    later_start: int
    anchors: tuple[int, int]


def _draw_film(rng: np.random.Generator, recipe: PoolRecipe) -> _Film:
    spec = storybook.sample_spec(rng)
    is_second_chunk = rng.random() < recipe.second_chunk_share
    start = TAIL_FRAMES if is_second_chunk else int(rng.integers(TAIL_FRAMES, recipe.last_frame))
    if rng.random() < recipe.re_entry_share:
        start = _before_re_entry(spec, start, rng)
    distance = int(rng.choice(recipe.anchor_distances))
    return _Film(spec, start, (0, max(0, start - distance)))


def _before_re_entry(spec: storybook.FilmSpec, start: int, rng: np.random.Generator) -> int:
    """Of a traveller a later start, such that it comes back while the window lasts or just before."""
    re_entry = storybook.next_re_entry(spec, start + WINDOW_FRAMES)
    return start if re_entry is None else re_entry - int(rng.integers(WINDOW_FRAMES))


def _render_film(film: _Film, size: int) -> np.ndarray:
    """`(34, size, size, 3)`: opening, later window, anchors."""
    numbers = [*range(WINDOW_FRAMES), *range(film.later_start, film.later_start + WINDOW_FRAMES), *film.anchors]
    return storybook.clip(film.spec, numbers, size)


def _render_batch(recipe: PoolRecipe, seed: int, purpose: str, size: int, numbers: range) -> tuple[list[str], np.ndarray]:
    """Captions and frames `(films, 34, size, size, 3)` of the films with these numbers, each from its own address."""
    films = [_draw_film(randomness.numpy_rng(seed, purpose, number), recipe) for number in numbers]
    return [film.spec.caption for film in films], np.stack([_render_film(film, size) for film in films])


@torch.no_grad()
def build_pool(
    vae: FrameAutoencoder,
    films: int,
    recipe: PoolRecipe,
    *,
    seed: int,
    purpose: str,
    size: int,
    device: str = "cpu",
    workers: int = 0,
) -> LatentPool:
    """Render and encode `films` films of the training split."""
    vae = vae.to(device)
    tokenizer = new_tokenizer()
    token_ids, windows, memories = [], [], []
    render = functools.partial(_render_batch, recipe, seed, purpose, size)
    batches = [range(start, min(films, start + 8)) for start in range(0, films, 8)]
    for captions, frames in map_ahead(render, batches, workers):
        token_ids.append(tokenize(tokenizer, captions))
        latents = vae.encode(to_network(frames.reshape(-1, size, size, 3)).to(device))
        latents = latents.unflatten(0, frames.shape[:2])  # (films, 34, 12, 8, 8)
        conditions = torch.cat([latents[:, WINDOW_FRAMES : WINDOW_FRAMES + TAIL_FRAMES], latents[:, -2:]], dim=1)
        remembered = through_memory(vae, conditions.flatten(0, 1)).unflatten(0, conditions.shape[:2])
        windows.append(latents[:, : 2 * WINDOW_FRAMES].half().cpu())
        memories.append(remembered.half().cpu())
    opening, later = torch.cat(windows).split(WINDOW_FRAMES, dim=1)
    tail, anchor = torch.cat(memories).split([TAIL_FRAMES, 2], dim=1)
    return LatentPool(torch.cat(token_ids), opening.clone(), later.clone(), tail.clone(), anchor.clone())


def through_memory(vae: FrameAutoencoder, latents: Tensor) -> Tensor:
    """Decode, round to 8 bits, encode: what happens to frames between two chunks."""
    pixels = (vae.decode(latents).clamp(-1, 1) + 1) * 127.5
    return vae.encode(pixels.round() / 127.5 - 1)
