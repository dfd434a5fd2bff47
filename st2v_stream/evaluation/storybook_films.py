"""The films that `st2v evaluate storybook` looks at: which ones, made by the product's own path, one by one, and kept.

The words of a film are chosen so that motions, colours and subjects take turns; its seed is addressed by its name, so two
models get the same prompts and the same noise. A film is kept under a name that tells what it was made from and how: the
same evaluation finds it again, another model or another generator does not.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from st2v_stream.checkpoints.load import choose_device, load_generator, load_networks
from st2v_stream.checkpoints.models import read_card, weights_digest
from st2v_stream.chunk import Frames
from st2v_stream.direction import Cue, Timeline
from st2v_stream.generators import conditioning, memory, streamingt2v
from st2v_stream.generators.conditioning import AnchorEncoder
from st2v_stream.generators.firstchunk import storybook as first_chunk
from st2v_stream.generators.streamingt2v import StreamingT2V
from st2v_stream.networks import apm, ar_step, cam, guidance, resampler, sampling, unet, vae, video_blocks
from st2v_stream.streaming.autoregressive import stream_chunks
from st2v_stream.training import randomness
from st2v_stream.types import ModelCard
from st2v_stream.worlds import captions, storybook
from st2v_stream.worlds.storybook import FilmSpec

SPLITS = ("seen", "held_out_pair", "held_out_motion")
OPENING_FRAMES = 16
IDENTITY_FRAMES = 96  # a traveller is out after about 40 frames, back after about 60, and must then be seen for a while
_SEED = 0
_GENERATOR_MODULES = (conditioning, first_chunk, memory, streamingt2v)
_NETWORK_MODULES = (apm, ar_step, cam, guidance, resampler, sampling, unet, vae, video_blocks)


@dataclass(frozen=True)
class FilmOrder:
    """One film: its words, the unnamed numbers of the real film that it is held against, and how it is made."""

    name: str
    spec: FilmSpec
    num_frames: int
    drops_colour: bool = False  # from the second chunk on the prompt has no colour word
    has_anchor: bool = True  # False: APM sees "no anchor" throughout

    @property
    def seed(self) -> int:
        """Of the noise; the same with and without APM."""
        return randomness.address(_SEED, f"evaluation noise {self.name}")

    def timeline(self, card: ModelCard, preset: str) -> Timeline:
        """What the generator is told."""
        first = card.direction(self.spec.caption, preset=preset, seed=self.seed)
        if not self.drops_colour:
            return Timeline(first)
        return Timeline(first, (Cue(1, {"prompts": ((colourless(self.spec), 1.0),)}),))

    def real_film(self) -> Frames:
        """`(T, 64, 64, 3)`: what the renderer draws for the same words."""
        return storybook.clip(self.spec, range(self.num_frames))


def colourless(spec: FilmSpec) -> str:
    """The caption without its colour word."""
    return f"a {spec.subject} {spec.motion} {captions.PLACES[spec.scene]}"


# ---------------------------------------------------------------- which films


def openings(split: str, count: int) -> list[FilmOrder]:
    """First chunks of one split; see `words`."""
    return [_order(f"{split}-{number:03}", split, number, OPENING_FRAMES) for number in range(count)]


def long_films(count: int, num_frames: int) -> list[FilmOrder]:
    """Long films of seen words, the motions in turn. A shorter film is the beginning of the longer one of its name."""
    return [_order(f"long-{number:02}", "seen", number, num_frames) for number in range(count)]


def identity_films(count: int) -> list[FilmOrder]:
    """Travellers that lose their colour word, seen words, each with and without APM."""
    with_apm = [_traveller(number) for number in range(count)]
    return [*with_apm, *(dataclasses.replace(order, has_anchor=False) for order in with_apm)]


def _traveller(number: int) -> FilmOrder:
    rng = randomness.numpy_rng(_SEED, "identity film", number)
    while True:
        spec = storybook.sample_spec(rng)
        if spec.motion == storybook.TRAVELS[number % len(storybook.TRAVELS)]:
            return FilmOrder(f"identity-{number:02}", spec, IDENTITY_FRAMES, drops_colour=True)


def _order(name: str, split: str, number: int, num_frames: int) -> FilmOrder:
    rng = randomness.numpy_rng(_SEED, f"evaluation film {name}")
    return FilmOrder(name, storybook.spec_for_words(rng, *words(split, number, rng)), num_frames)


def words(split: str, number: int, rng: np.random.Generator) -> tuple[str, str, str, str]:
    """Colour, subject, scene, motion of film `number` of a split.

    Exactly what the split names is held out: in `held_out_pair` the scene-motion pair is a seen one, in `held_out_motion`
    the colour-subject pair is. Motions take turns, and so do the held-out pairs.
    """
    motion = captions.MOTIONS[number % len(captions.MOTIONS)]
    pairs, places = sorted(captions.HELD_OUT_COLOUR_SUBJECT), sorted(captions.HELD_OUT_SCENE_MOTION)
    while True:
        colour, subject = str(rng.choice(captions.COLOURS)), str(rng.choice(captions.SUBJECTS))
        scene = str(rng.choice(captions.SCENES))
        if split == "held_out_pair":
            colour, subject = pairs[number % len(pairs)]
        elif split == "held_out_motion":
            scene, motion = places[number % len(places)]
        is_new = (colour, subject) in captions.HELD_OUT_COLOUR_SUBJECT, (scene, motion) in captions.HELD_OUT_SCENE_MOTION
        if is_new == (split == "held_out_pair", split == "held_out_motion"):
            return colour, subject, scene, motion


# ---------------------------------------------------------------- making and keeping them


class NoAnchor:
    """APM switched off: whatever frame is given, the tokens are those of "no anchor". Implements `AnchorEncoder`."""

    def __init__(self, anchor: AnchorEncoder) -> None:
        self._anchor = anchor

    def __call__(self, frames: Tensor) -> Tensor:
        return self._anchor.none(frames).expand(len(frames), -1, -1)

    def none(self, like: Tensor) -> Tensor:
        return self._anchor.none(like)


def without_anchor(folder: Path, device: str) -> StreamingT2V:
    """The model of a folder with APM switched off; everything else is the same."""
    card, networks = read_card(folder), load_networks(folder, choose_device(device))
    networks = dataclasses.replace(networks, anchor=NoAnchor(networks.anchor))
    return StreamingT2V(card, networks, first_chunk.StorybookFirstChunk(card, networks))


@dataclass(frozen=True)
class MadeFilm:
    """Frames `(T, 64, 64, 3)` uint8 and the seconds that each chunk took, `(chunks,)`."""

    frames: Frames
    making_s: np.ndarray


class Studio:
    """Makes the ordered films with one model and preset and keeps them under `folder`; what is there is not made again."""

    def __init__(self, model: Path, folder: Path, *, preset: str, device: str = "auto") -> None:
        self.card = read_card(model)
        self.preset = preset
        self._model, self._folder, self._device = model, folder, device
        self._generators: dict[bool, StreamingT2V] = {}

    def film(self, order: FilmOrder) -> MadeFilm:
        """The film, read or made."""
        path = self.path(order)
        if not path.exists():
            _write(path, self._make(order))
        with np.load(path) as kept:
            return MadeFilm(kept["frames"], kept["making_s"])

    def has(self, order: FilmOrder) -> bool:
        """Whether it is made already."""
        return self.path(order).exists()

    def path(self, order: FilmOrder) -> Path:
        """Where it is kept: named after all that its pixels depend on."""
        told = order.timeline(self.card, self.preset).to_json()
        depends = [told, order.num_frames, order.has_anchor, self._maker, self._device]
        key = hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:12]
        return self._folder / self.preset / f"{order.name}{'' if order.has_anchor else '-no-apm'}-{key}.npz"

    @functools.cached_property
    def _maker(self) -> str:
        return weights_digest(self._model) + _code_digest()

    def _generator(self, has_anchor: bool) -> StreamingT2V:
        if has_anchor not in self._generators:
            load = load_generator if has_anchor else without_anchor
            self._generators[has_anchor] = load(self._model, self._device)
        return self._generators[has_anchor]

    def _make(self, order: FilmOrder) -> MadeFilm:
        generator = self._generator(order.has_anchor)
        return asyncio.run(_made(generator, order.timeline(generator.card, self.preset), order.num_frames))


async def _made(generator: StreamingT2V, timeline: Timeline, num_frames: int) -> MadeFilm:
    async with contextlib.aclosing(stream_chunks(generator, timeline, num_frames=num_frames)) as stream:
        chunks = [chunk async for chunk in stream]
    frames = np.concatenate([chunk.frames for chunk in chunks])
    return MadeFilm(frames[:num_frames], np.array([chunk.making_s for chunk in chunks]))


def _write(path: Path, film: MadeFilm) -> None:
    """Beside its place, then renamed: an interrupted evaluation leaves no half film."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_suffix(".half.npz")
    np.savez_compressed(half, frames=film.frames, making_s=film.making_s)
    os.replace(half, path)


@functools.cache  # once: what this process makes, it makes with the code that it has read
def _code_digest() -> str:
    """Of the modules whose code makes the pixels: a changed generator makes its films anew."""
    makers = (*_GENERATOR_MODULES, *_NETWORK_MODULES)
    return hashlib.sha256(b"".join(Path(module.__file__ or "").read_bytes() for module in makers)).hexdigest()


def make_all(studio: Studio, orders: Sequence[FilmOrder], say: Callable[[str], None]) -> None:
    """Make what is missing, saying how far it is."""
    missing = [order for order in orders if not studio.has(order)]
    frames_left, frames_made, started = sum(order.num_frames for order in missing), 0, time.monotonic()
    for number, order in enumerate(missing):
        studio.film(order)
        frames_made += order.num_frames
        left_s = (time.monotonic() - started) / frames_made * (frames_left - frames_made)
        say(f"{studio.preset}: film {number + 1} of {len(missing)}, {order.name}, about {left_s:.0f} s left")
