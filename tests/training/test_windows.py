"""Clips on disk, and which frames of them training sees."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from st2v_stream.errors import InvalidRequest
from st2v_stream.generators.memory import to_network
from st2v_stream.training.clips import Clip, find_clips
from st2v_stream.training.loop import StopFlag
from st2v_stream.training.modelscope import Base, read_base
from st2v_stream.training.windows import ClipCache, EncodedClip, Windows, draw_place, encode_clips
from training.tiny_base import SIDE, write_base, write_clips


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("clips")
    write_base(home / "base")
    write_clips(home / "clips", count=2)
    return home


@pytest.fixture(scope="module")
def base(home: Path) -> Base:
    return read_base(home / "base")


@pytest.fixture(scope="module")
def clips(home: Path) -> list[Clip]:
    return find_clips(home / "clips")[0]


@pytest.fixture(scope="module")
def encoded(home: Path, base: Base, clips: list[Clip]) -> list[EncodedClip]:
    return encode_clips(clips, ClipCache(base, home / "cache", fps=8), StopFlag(), lambda _: None)[0]


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_clip_becomes_what_the_encoders_make_of_it(encoded: list[EncodedClip], base: Base) -> None:
    clip = encoded[0]
    tensors = load_file(clip.pictures)
    frames = clip.read_frames()
    assert frames.shape == (40, SIDE, SIDE, 3)
    assert clip.num_frames == 40
    with torch.no_grad():
        pixels = to_network(frames)
        mean, std = base.vae.posterior(pixels)
        scale = base.vae.config.scaling_factor
        torch.testing.assert_close(tensors["mean"].float(), scale * mean, atol=2e-3, rtol=2e-3)
        torch.testing.assert_close(tensors["std"].float(), scale * std, atol=2e-3, rtol=2e-3)
        torch.testing.assert_close(tensors["embeddings"], base.image_encoder(pixels), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(load_file(clip.text)["text"], base.text([clip.caption])[0])


def test_nothing_is_no_words_and_a_grey_frame(home: Path, base: Base) -> None:
    nothing = ClipCache(base, home / "cache", fps=8).nothing()
    with torch.no_grad():
        torch.testing.assert_close(nothing.text, base.text([""])[0])
        torch.testing.assert_close(nothing.embedding, base.image_encoder(torch.zeros(1, 3, SIDE, SIDE))[0])


def test_a_clip_is_encoded_once_and_again_when_something_changed(tmp_path: Path, base: Base) -> None:
    folder = write_clips(tmp_path / "clips", count=1)
    (clip,) = find_clips(folder)[0]
    first = ClipCache(base, tmp_path / "cache", fps=8).add(clip)
    written = first.pictures.stat().st_mtime_ns
    assert ClipCache(base, tmp_path / "cache", fps=8).add(clip) == first
    assert first.pictures.stat().st_mtime_ns == written
    other_caption = ClipCache(base, tmp_path / "cache", fps=8).add(Clip(clip.path, clip.name, "a blue cat"))
    assert other_caption.pictures == first.pictures
    assert other_caption.text != first.text
    assert ClipCache(base, tmp_path / "cache", fps=5).add(clip).pictures != first.pictures
    os.utime(clip.path, ns=(0, 0))
    assert ClipCache(base, tmp_path / "cache", fps=8).add(clip).pictures != first.pictures


def test_a_clip_that_cannot_be_used_stops_nothing_and_leaves_nothing(tmp_path: Path, base: Base, clips: list[Clip]) -> None:
    broken = Clip(tmp_path / "broken.mp4", "broken.mp4", "a boat")
    broken.path.write_bytes(b"no film")
    cache, said = ClipCache(base, tmp_path / "cache", fps=8), list[str]()
    encoded, problems = encode_clips([broken, clips[0]], cache, StopFlag(), said.append)
    assert [clip.name for clip in encoded] == [clips[0].name]
    assert [type(problem) for problem in problems] == [InvalidRequest]
    assert "broken.mp4" in str(problems[0])
    assert len(said) == 1
    assert {path.suffix for path in (tmp_path / "cache").iterdir()} == {".safetensors"}


def test_encoding_ends_when_asked_to(tmp_path: Path, base: Base, clips: list[Clip]) -> None:
    stop = StopFlag()
    encoded, _ = encode_clips(clips, ClipCache(base, tmp_path, fps=8), stop, lambda _: stop.set())
    assert len(encoded) == 1


@pytest.mark.parametrize("num_frames", [24, 27, 32, 33, 100])
def test_places_are_those_of_the_paper(num_frames: int) -> None:
    drawn = [draw_place(num_frames, rng(seed), with_anchor=True) for seed in range(3000)]
    starts, anchors = {start for start, _ in drawn}, {anchor for _, anchor in drawn}
    first, last = min(16, num_frames - 16), num_frames - 16
    assert starts == set(range(first, last + 1))
    assert all(max(0, start - 16) <= anchor < start for start, anchor in drawn)
    if num_frames == 32:  # the paper's clips: window 17-32, anchor anywhere in 1-16
        assert starts == {16}
        assert anchors == set(range(16))
    alone = {draw_place(num_frames, rng(seed), with_anchor=False) for seed in range(3000)}
    assert alone == {(start, 0) for start in range(num_frames - 15)}


def test_a_batch_is_cut_from_its_clips(encoded: list[EncodedClip]) -> None:
    batch = Windows(encoded[:1]).draw(3, rng(), with_anchor=True)
    tensors = load_file(encoded[0].pictures)
    assert batch.latents.shape == (3, 4, 16, SIDE // 8, SIDE // 8)
    assert batch.anchor is not None
    for row in range(3):
        tails = torch.stack([to_network(tensors["frames"][start : start + 8].numpy()) for start in range(25)])
        start = int((tails - batch.tail[row]).abs().amax((1, 2, 3, 4)).argmin())
        assert torch.equal(tails[start], batch.tail[row])
        mean, std = (tensors[name][start : start + 16].float().transpose(0, 1) for name in ("mean", "std"))
        noise = (batch.latents[row] - mean) / std
        assert noise.std() == pytest.approx(1, abs=0.15)  # a sample of the posterior, not its mean
        anchors = (tensors["embeddings"] == batch.anchor[row]).all(1).nonzero().flatten()
        assert any(start - 16 <= anchor < start for anchor in anchors.tolist())
        assert torch.equal(batch.text[row], load_file(encoded[0].text)["text"])


def test_the_same_numbers_give_the_same_batch(encoded: list[EncodedClip]) -> None:
    windows = Windows(encoded)
    first, again, other = (windows.draw(2, rng(seed), with_anchor=True) for seed in (1, 1, 2))
    for name in ("latents", "tail", "text", "anchor"):
        assert torch.equal(getattr(first, name), getattr(again, name))
    assert not torch.equal(first.latents, other.latents)


def test_every_clip_comes_up(encoded: list[EncodedClip]) -> None:
    texts = Windows(encoded).draw(40, rng(), with_anchor=False).text
    own = [load_file(clip.text)["text"] for clip in encoded]
    counts = [sum(torch.equal(row, text) for row in texts) for text in own]
    assert sum(counts) == 40
    assert min(counts) >= 10


def test_frames_are_stored_as_they_were_read(encoded: list[EncodedClip]) -> None:
    with safe_open(encoded[0].pictures, "pt") as tensors:
        stored = tensors.get_slice("frames")[:].numpy()
    assert stored.dtype == np.uint8
    assert np.array_equal(stored, encoded[0].read_frames())
