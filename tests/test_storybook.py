"""The committed weights: what lies in checkpoints/storybook is what its README says, and it paints what it is told."""

from __future__ import annotations

import asyncio
import hashlib
import re
import shutil
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from st2v_stream import Timeline, load_generator, stream_chunks
from st2v_stream.chunk import Frames
from st2v_stream.errors import CheckpointError
from st2v_stream.types import Generator
from st2v_stream.worlds.reading import read_film

FOLDER = Path(__file__).resolve().parent.parent / "checkpoints" / "storybook"
BOAT = "a red boat drifts left over the sea"
NIGHT = "a yellow ball hovers in the night sky"


@pytest.fixture(autouse=True, scope="module")
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def storybook() -> Generator:
    return load_generator("storybook", device="cpu")


def film(generator: Generator, prompt: str, num_frames: int, seed: int = 7) -> Frames:
    """(T, H, W, 3) uint8."""

    async def collect() -> list[Frames]:
        timeline = Timeline(generator.card.direction(prompt, preset="live", seed=seed))
        async with aclosing(stream_chunks(generator, timeline, num_frames=num_frames)) as chunks:
            return [chunk.frames async for chunk in chunks]

    return np.concatenate(asyncio.run(collect()))


@pytest.fixture(scope="module")
def boat(storybook: Generator) -> Frames:
    return film(storybook, BOAT, 64)


def differences(frames: Frames) -> np.ndarray:
    """Mean absolute difference of neighbouring frames, 0..255."""
    return np.abs(np.diff(frames.astype(np.float32), axis=0)).mean(axis=(1, 2, 3))


def test_readme_lists_the_hash_of_every_file() -> None:
    listed = dict(re.findall(r"`storybook/(\S+)` \| `([0-9a-f]{64})`", (FOLDER.parent / "README.md").read_text()))
    weights = {str(path.relative_to(FOLDER)): path for path in FOLDER.rglob("*.safetensors")}
    assert set(listed) == set(weights)
    for name, path in weights.items():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == listed[name], name


def test_every_example_prompt_uses_known_words_only(storybook: Generator) -> None:
    assert storybook.card.example_prompts
    for prompt in storybook.card.example_prompts:
        assert storybook.card.unknown_words(prompt) == ()


@pytest.mark.slow
def test_the_scene_is_the_one_asked_for(storybook: Generator, boat: Frames) -> None:
    night = film(storybook, NIGHT, 16)
    sky = slice(0, 12)
    assert boat[:, sky].mean() > 150, "the sky over the sea is bright"
    assert night[:, sky].mean() < 90, "the night sky is dark"
    low = boat[:, 50:].reshape(-1, 3).mean(axis=0)
    assert low[2] > low[0] + 60, "the sea is blue"


@pytest.mark.slow
def test_the_thing_is_the_one_asked_for_and_moves_as_told(boat: Frames) -> None:
    seen = read_film(boat[:16])  # the renderer finds its own drawing again
    assert (seen.scene, seen.colour, seen.subject, seen.motion) == ("sea", "red", "boat", "drifts left")
    assert seen.seen_share > 0.8
    assert np.nanmax(np.ptp(seen.positions[~np.isnan(seen.positions).any(axis=1)], axis=0)) > 0.03, "of the picture's side"


@pytest.mark.slow
def test_no_jump_where_chunks_meet(boat: Frames) -> None:
    steps = differences(boat)
    at_borders = steps[15::8]
    inside = np.delete(steps, np.arange(15, len(steps), 8))
    assert inside.mean() > 0.5, "something moves"
    assert at_borders.mean() < 1.8 * inside.mean()
    assert at_borders.max() < 25, "a cut to another picture differs by far more"


@pytest.mark.slow
def test_same_seed_same_film_other_seed_another(storybook: Generator, boat: Frames) -> None:
    assert np.array_equal(film(storybook, BOAT, 24), boat[:24])
    assert differences(np.stack([film(storybook, BOAT, 16, seed=8)[0], boat[0]])).item() > 1


@pytest.mark.slow
def test_one_zeroed_weight_changes_the_film(boat: Frames, tmp_path: Path) -> None:
    folder = tmp_path / "storybook"
    shutil.copytree(FOLDER, folder)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    name = next(name for name in sorted(tensors) if name.startswith("mid_block.") and name.endswith("attn2.to_v.weight"))
    tensors[name] = torch.zeros_like(tensors[name])
    save_file(tensors, weights, metadata={"format": "pt"})
    changed = film(load_generator(folder, device="cpu"), BOAT, 16)
    assert not np.array_equal(changed, boat[:16])


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "storybook"
    shutil.copytree(FOLDER, folder)
    weights = folder / "cam" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match="cam"):
        load_generator(folder, device="cpu")
