"""The options of `st2v convert`, `pull` and `models`, and what they print."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import pytest

from checkpoints.published_files import write_base
from st2v_stream.checkpoints.command import add_convert, add_models, add_pull, listing, size
from st2v_stream.errors import CheckpointError, InvalidRequest, UnknownModel


def run(add: Callable[[argparse.ArgumentParser], None], *words: str) -> int:
    parser = argparse.ArgumentParser()
    add(parser)
    args = parser.parse_args(words)
    status: int = args.run(args)
    return status


@pytest.mark.parametrize(
    ("text", "expected"),
    [("2GB", 2_000_000_000), ("500MB", 500_000_000), ("1GiB", 2**30), ("1.5g", 1_500_000_000), ("4096", 4096), ("8 kb", 8000)],
)
def test_sizes(text: str, expected: int) -> None:
    assert size(text) == expected


@pytest.mark.parametrize("text", ["", "GB", "2TB", "two", "1e999"])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="expected a size such as 2GB"):
        size(text)


def test_convert_says_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "file.ckpt").write_text("no checkpoint")
    with pytest.raises(CheckpointError, match="expected a whole torch file"):
        run(add_convert, str(tmp_path / "file.ckpt"), str(tmp_path / "out"), "--dtype", "bf16", "--shard-size", "1GB")
    assert not (tmp_path / "out").exists()


def test_pull_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(UnknownModel, match="expected one of StreamingT2V"):
        run(add_pull, "nonesuch")
    with pytest.raises(InvalidRequest, match="--revision has no meaning with --from"):
        run(add_pull, "StreamingT2V", "--from", str(tmp_path), "--revision", "main")
    with pytest.raises(CheckpointError, match=r"lacks a file of PAIR/StreamingT2V: expected streaming_t2v\.ckpt"):
        run(add_pull, "StreamingT2V", "--from", str(tmp_path), "--to", str(tmp_path / "checkpoints"))


def test_pull_by_hand_says_what_comes_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    torch.save({"state_dict": {}}, tmp_path / "streaming_t2v.ckpt")
    assert run(add_pull, "StreamingT2V", "--from", str(tmp_path), "--to", str(tmp_path / "checkpoints")) == 0
    said = capsys.readouterr().err
    assert "licence: non-commercial" in said
    assert (
        f"next: st2v convert {tmp_path}/checkpoints/StreamingT2V/streaming_t2v.ckpt {tmp_path}/checkpoints/streaming-t2v"
        in said
    )


def test_models_lists_what_is_known_and_what_is_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from st2v_stream.checkpoints import models

    monkeypatch.setattr(models, "_HOMES", (models._HOMES[0], tmp_path))
    write_base(tmp_path / "text-to-video-ms-1.7b")
    assert run(add_models) == 0
    text = capsys.readouterr().out
    assert "storybook" in text
    assert "testcard" in text
    lines = list(listing())
    at = next(number for number, line in enumerate(lines) if "text-to-video-ms-1.7b" in line)
    assert str(tmp_path) in lines[at]
    assert "about 3.7 GB" in lines[at]
    assert "CC BY-NC 4.0: non-commercial" in lines[at + 2]
    assert "commit 8227dddca75a" in lines[at + 3]
    streaming = next(line for line in lines if line.startswith("  StreamingT2V "))
    assert "about 25.6 GB" in streaming
    assert "not here" in streaming
    assert any("no commit is known to us" in line for line in lines)
