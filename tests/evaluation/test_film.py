"""Films as files: what is read from them, and what is said about files that are none."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from evaluation.drawn_films import translation, write_film
from st2v_stream.cli import main
from st2v_stream.errors import InvalidRequest
from st2v_stream.evaluation.film import ChunkGrid, grid_from_keys, open_film, read_frames
from st2v_stream.media.decode import decode_frames


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `st2v generate` writes."""
    path = tmp_path_factory.mktemp("own") / "own.mp4"
    assert main(["generate", "--model", "testcard", "--prompt", "numbers go by", "--num-frames", "48", "-o", str(path)]) == 0
    return path


def test_our_own_film_tells_its_prompt_and_its_chunks(own: Path) -> None:
    film = open_film(own)
    assert (film.width, film.height, film.fps) == (256, 192, 8)
    assert (film.prompt, film.grid, film.is_exact) == ("numbers go by", ChunkGrid(16, 8), False)


def test_our_own_film_is_decoded_as_everywhere_else(own: Path) -> None:
    assert np.array_equal(np.stack(list(read_frames(own))), decode_frames(own.read_bytes(), []))


def test_lossless_frames_come_back_exactly_at_odd_sizes(tmp_path: Path) -> None:
    frames = translation(5)[:, :33, :47]
    film = open_film(write_film(tmp_path / "odd.mkv", frames))
    assert (film.width, film.height, film.is_exact, film.grid, film.prompt) == (47, 33, True, None, None)
    assert np.array_equal(np.stack(list(film.frames())), frames)


@pytest.mark.parametrize(("pix_fmt", "codec"), [("yuv420p", "libx264"), ("yuvj420p", "libx264"), ("yuv444p", "libx264")])
def test_other_encoders_films_keep_their_colours(tmp_path: Path, pix_fmt: str, codec: str) -> None:
    flat = np.full((4, 48, 64, 3), (200, 60, 30), np.uint8)
    path = write_film(tmp_path / "flat.mp4", flat, codec=codec, pix_fmt=pix_fmt, crf="4")
    film = open_film(path)
    assert film.grid is None
    assert np.abs(np.stack(list(film.frames())).astype(int) - flat).max() <= 4


@pytest.mark.parametrize(
    ("keys", "grid"),
    [
        ([0, 16, 24, 32], ChunkGrid(16, 8)),
        ([0, 8, 16, 24], ChunkGrid(8, 8)),
        ([0, 16], None),  # two chunks do not show a rhythm
        ([0, 16, 24, 33], None),
        ([0, 250, 500, 750], None),
        ([0], None),
        ([], None),
    ],
)
def test_a_grid_is_read_only_from_a_clear_rhythm(keys: list[int], grid: ChunkGrid | None) -> None:
    assert grid_from_keys(keys) == grid


def test_a_grid_of_nothing_is_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"chunk_frames is out of range: expected 1 or more, received 0"):
        ChunkGrid(16, 0)


class TestWhatIsNoFilm:
    def refusal(self, path: Path) -> str:
        with pytest.raises(InvalidRequest) as caught:
            open_film(path)
        assert str(path) in str(caught.value)
        return str(caught.value)

    def test_a_missing_file(self, tmp_path: Path) -> None:
        assert "no such file" in self.refusal(tmp_path / "film.mp4")

    def test_a_folder(self, tmp_path: Path) -> None:
        assert "a folder" in self.refusal(tmp_path)

    @pytest.mark.parametrize("content", [b"", b"not a film", b"\0\0\0\x18ftypisom"])
    def test_other_bytes(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "film.mp4"
        path.write_bytes(content)
        self.refusal(path)

    def test_sound_without_picture(self, tmp_path: Path) -> None:
        path = tmp_path / "sound.wav"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("pcm_s16le", rate=8000)
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
            silence.sample_rate = 8000
            container.mux(stream.encode(silence))
        assert "a video track" in self.refusal(path)

    def test_an_index_without_a_frame(self, tmp_path: Path, own: Path) -> None:
        path = tmp_path / "empty.mp4"
        path.write_bytes(own.read_bytes()[: own.read_bytes().index(b"mdat") + 4])
        self.refusal(path)

    def test_damage_half_way_is_named_with_its_place(self, tmp_path: Path, own: Path) -> None:
        path = tmp_path / "cut.mp4"
        path.write_bytes(own.read_bytes()[: own.stat().st_size // 2])
        film, frames = open_film(path), []
        with pytest.raises(InvalidRequest, match=r"cut\.mp4 cannot be decoded after frame \d+"):
            frames.extend(film.frames())

    def test_a_file_that_ends_early_still_says_how_long_it_should_be(self, tmp_path: Path) -> None:
        whole = write_film(tmp_path / "whole.mkv", translation(32)).read_bytes()
        path = tmp_path / "cut.mkv"
        path.write_bytes(whole[: len(whole) // 2])
        film = open_film(path)
        assert film.declared_frames == 32
        assert 2 < len(list(film.frames())) < 20
