"""`st2v generate` and its friends, on the test card."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from st2v_stream.cli import main

TESTCARD = ["generate", "--model", "testcard", "--prompt", "numbers"]


def frame_count(path: Path) -> int:
    import av

    with av.open(str(path)) as film:
        return sum(1 for _ in film.decode(video=0))


def test_generate_writes_a_seekable_film(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    film = tmp_path / "film.mp4"
    assert main([*TESTCARD, "--num-frames", "40", "-o", str(film)]) == 0
    assert frame_count(film) == 40
    progress = capsys.readouterr().err
    assert "chunk 1 of 4" in progress
    assert "frames/s" in progress
    assert [path.name for path in tmp_path.iterdir()] == ["film.mp4"]


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    first, second = tmp_path / "a.mp4", tmp_path / "b.mp4"
    for film in (first, second):
        assert main([*TESTCARD, "--num-frames", "24", "--seed", "7", "-o", str(film)]) == 0
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        (["--num-frames", "0"], "a whole number from 1 to 100000, or null for an endless video, received 0"),
        (["--num-frames", "-8"], "received -8"),
        (["--num-frames", "100001"], "received 100001"),
        (["--prompt", "   "], "prompt is empty"),
        (["--prompt", "boat " * 2000], "at most 2000 characters"),
        (["--seed", "-1"], "seed is out of range"),
        (["--num-inference-steps", "0"], "num_inference_steps is out of range"),
        (["--model", "nonesuch"], "no such model: expected one of"),
        (["-o", "missing-folder/film.mp4"], "the output folder does not exist"),
    ],
)
def test_bad_input_is_one_clear_sentence(
    extra: list[str], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*TESTCARD, *extra]) == 2
    assert expected in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_existing_film_is_not_overwritten_unasked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    film = tmp_path / "film.mp4"
    film.write_bytes(b"precious")
    assert main([*TESTCARD, "-o", str(film)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert film.read_bytes() == b"precious"
    assert main([*TESTCARD, "--num-frames", "16", "--overwrite", "-o", str(film)]) == 0
    assert frame_count(film) == 16


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_keeps_the_whole_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    film, fsync, left = tmp_path / "film.mp4", os.fsync, iter(range(3))

    def fill_up(descriptor: int) -> None:
        if next(left, None) is None:
            raise OSError(number, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fill_up)
    assert main([*TESTCARD, "--num-frames", "80", "-o", str(film)]) == 2
    assert "cannot write" in capsys.readouterr().err
    assert frame_count(film) == 16 + 8 + 8
    assert [path.name for path in tmp_path.iterdir()] == ["film.mp4"]


def test_film_plays_while_it_grows_and_ctrl_c_keeps_it(tmp_path: Path) -> None:
    film = tmp_path / "film.mp4"
    command = [sys.executable, "-m", "st2v_stream", *TESTCARD, "--num-frames", "100000", "-o", str(film)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=os.environ | {"PYTHONUNBUFFERED": "1"})
    try:
        deadline = time.monotonic() + 30
        while not (film.exists() and film.stat().st_size > 20_000):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert frame_count_of_a_growing_file(film) >= 16
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 0
    finally:
        process.kill()
    whole = frame_count(film)
    assert whole >= 16
    assert (whole - 16) % 8 == 0


def frame_count_of_a_growing_file(path: Path) -> int:
    """Decode a copy taken at this moment; its last segment may be half-written, as a player would find it."""
    import av

    copy = path.with_suffix(".copy.mp4")
    copy.write_bytes(path.read_bytes())
    frames = 0
    try:
        with av.open(str(copy)) as film:
            for _ in film.decode(video=0):
                frames += 1
    except av.error.InvalidDataError:
        pass
    finally:
        copy.unlink()
    return frames


def test_models_lists_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    assert "testcard" in capsys.readouterr().out
