"""`st2v pull` against a small hub on loopback: whole, resumed, refused, spoiled, offline, by hand."""

from __future__ import annotations

import collections
import fcntl
import json
import os
import shutil
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from checkpoints.small_hub import COMMIT, Hub, serve
from st2v_stream.checkpoints.published import PUBLISHED, Published, published
from st2v_stream.checkpoints.pull import pull
from st2v_stream.errors import CheckpointError, Conflict, InvalidRequest, St2vError, UnknownModel

WEIGHTS = save({"w": torch.arange(20_000, dtype=torch.float32)})
FILES = {
    "README.md": b"not wanted",
    "config.json": b'{"a": 1}',
    "tokenizer/vocab.json": b'{"!": 0}',
    "unet/diffusion_pytorch_model.safetensors": WEIGHTS,
    "unet/diffusion_pytorch_model.bin": b"never wanted" * 100,
}
WANTED = Published(
    name="Small",
    repo="someone/Small",
    revision=COMMIT,
    size_bytes=len(WEIGHTS),
    licence="Apache-2.0",
    files=(
        "config.json",
        "tokenizer/vocab.json",
        "unet/diffusion_pytorch_model.fp16.safetensors|unet/diffusion_pytorch_model.safetensors",
    ),
    use="a test",
)
BIG = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No proxy between us and loopback, no account of the machine's owner."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serve(Hub({"someone/Small": dict(FILES)})) as hub:
        yield hub


def held(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_is_wanted_arrives_and_nothing_else(hub: Hub, tmp_path: Path) -> None:
    lines: list[str] = []
    folder = pull(WANTED, tmp_path / "checkpoints", endpoint=hub.address, report=lines.append)
    assert folder == tmp_path / "checkpoints" / "Small"
    files = held(folder)
    origin = json.loads(files.pop("origin.json"))
    assert files == {name: FILES[name] for name in ("config.json", "tokenizer/vocab.json", BIG)}
    assert (origin["published"], origin["revision"], origin["licence"]) == ("someone/Small", COMMIT, "Apache-2.0")
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["Small"]
    assert lines[0] == f"someone/Small at {COMMIT}: 3 files, 0.00 GB to fetch"


def test_a_broken_pull_goes_on_where_it_was(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 10_000)  # what it writes at once: 10 MB
    hub.repositories["someone/Small"] = {**FILES, "config.json": b"{}"}
    arrived = 50_000
    wanted = replace(WANTED, files=(BIG, "config.json"))
    hub.cut_after = arrived
    with pytest.raises(
        CheckpointError, match="cannot be fetched; what has arrived is kept: expected a connection; or the files"
    ):
        pull(wanted, tmp_path, endpoint=hub.address)
    assert not (tmp_path / "Small").exists()
    hub.closed = False
    hub.requests.clear()
    folder = pull(wanted, tmp_path, endpoint=hub.address)
    assert hub.requests == [(BIG, f"bytes={arrived}-"), ("config.json", None)]
    assert (folder / BIG).read_bytes() == WEIGHTS
    assert not list(tmp_path.rglob("*.incomplete"))


def test_what_arrived_whole_but_unchecked_is_checked_not_asked_for(hub: Hub, tmp_path: Path) -> None:
    hub.cut_after = 50_000
    wanted = replace(WANTED, files=(BIG,))
    with pytest.raises(CheckpointError):
        pull(wanted, tmp_path, endpoint=hub.address)
    (growing,) = tmp_path.rglob("*.incomplete")
    hub.requests.clear()
    growing.write_bytes(WEIGHTS[:-1] + b"x")  # as killed before the digest was worked out
    with pytest.raises(CheckpointError, match="did not arrive as the repository lists it"):
        pull(wanted, tmp_path, endpoint=hub.address)
    growing.write_bytes(WEIGHTS)
    assert (pull(wanted, tmp_path, endpoint=hub.address) / BIG).read_bytes() == WEIGHTS
    assert hub.requests == []


def test_whole_files_are_not_fetched_twice(hub: Hub, tmp_path: Path) -> None:
    hub.repositories["someone/Small"] = dict(FILES)
    with pytest.raises(CheckpointError, match="lacks a file"):
        pull(replace(WANTED, files=(*WANTED.files, "missing.json")), tmp_path, endpoint=hub.address)
    assert hub.requests == [], "the list is checked before anything is fetched"
    hub.cut_after = 10
    with pytest.raises(CheckpointError):
        pull(replace(WANTED, files=(BIG,)), tmp_path, endpoint=hub.address)
    hub.closed = False
    part = tmp_path / ".Small.part"
    (part / "config.json").write_bytes(FILES["config.json"])
    hub.requests.clear()
    pull(WANTED, tmp_path, endpoint=hub.address)
    assert [path for path, _ in hub.requests] == ["tokenizer/vocab.json", BIG]


def test_other_bytes_than_listed_are_not_kept(hub: Hub, tmp_path: Path) -> None:
    for path, kind in (("config.json", "git"), (BIG, "sha256")):
        hub.spoil = path
        with pytest.raises(CheckpointError, match=f"{path} did not arrive as the repository lists it.*{kind}"):
            pull(WANTED, tmp_path, endpoint=hub.address)
        assert not (tmp_path / "Small").exists()
    assert held(pull(WANTED, tmp_path, endpoint=hub.address))[BIG] == WEIGHTS


@pytest.mark.parametrize(
    ("refuse", "error", "expected"),
    [
        ((401, "GatedRepo"), CheckpointError, r"asks who you are: expected an account that accepted the licence .*HF_TOKEN"),
        ((401, "RepoNotFound"), CheckpointError, r"is not on the hub: expected http://127.*--from FOLDER"),
        ((404, "RepoNotFound"), CheckpointError, r"is not on the hub"),
        ((500, ""), CheckpointError, r"cannot be fetched.*--from FOLDER, received .*500"),
    ],
)
def test_refusals_are_said_plainly(
    refuse: tuple[int, str], error: type[St2vError], expected: str, hub: Hub, tmp_path: Path
) -> None:
    hub.refuse = refuse
    with pytest.raises(error, match=expected):
        pull(WANTED, tmp_path / "checkpoints", endpoint=hub.address)
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_revisions(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="no such revision: expected a commit or branch, received 'v9'"):
        pull(WANTED, tmp_path, revision="v9", endpoint=hub.address)
    folder = pull(WANTED, tmp_path, revision="main", endpoint=hub.address)
    assert json.loads((folder / "origin.json").read_text())["revision"] == COMMIT, "which commit a branch was is written down"


def test_no_connection(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"cannot be fetched.*expected a connection; or the files by hand.*--from FOLDER"):
        pull(WANTED, tmp_path, endpoint="http://127.0.0.1:9")
    assert list(tmp_path.iterdir()) == []


def test_a_hub_that_is_switched_off(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        CheckpointError, match=r"switched off by HF_HUB_OFFLINE: expected it unset; or the files .*--from FOLDER"
    ):
        pull(WANTED, tmp_path, endpoint=hub.address)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_file_names_what_is_there(hub: Hub, tmp_path: Path) -> None:
    wanted = replace(WANTED, files=("unet/a.safetensors|unet/b.safetensors",))
    with pytest.raises(
        CheckpointError, match=r"expected unet/a\.safetensors or unet/b\.safetensors, received \['unet/diffusion_"
    ):
        pull(wanted, tmp_path, endpoint=hub.address)


def test_the_disk_is_looked_at_first(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = collections.namedtuple("usage", "total used free")(10, 10, 40_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(CheckpointError, match=r"no room for these weights: expected .* GB free in .*, received '0\.0 GB'"):
        pull(WANTED, tmp_path, endpoint=hub.address)
    assert hub.requests == []


def test_what_is_here_is_not_overwritten(hub: Hub, tmp_path: Path) -> None:
    folder = pull(WANTED, tmp_path, endpoint=hub.address)
    with pytest.raises(Conflict, match="is there already"):
        pull(WANTED, tmp_path, endpoint=hub.address)
    assert (folder / BIG).read_bytes() == WEIGHTS


# ---------------------------------------------------------------- by hand


def write(folder: Path, **changes: bytes | None) -> Path:
    for name, content in ({name: FILES[name] for name in ("config.json", "tokenizer/vocab.json", BIG)} | changes).items():
        if content is not None:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
    return folder


def test_files_fetched_by_hand(tmp_path: Path) -> None:
    source = write(tmp_path / "downloads")
    folder = pull(WANTED, tmp_path / "checkpoints", source=source, endpoint="http://127.0.0.1:9")
    assert (folder / BIG).read_bytes() == WEIGHTS
    assert os.path.samefile(folder / BIG, source / BIG), "the same bytes, not a copy of 25.6 GB"
    assert json.loads((folder / "origin.json").read_text())["revision"] == "fetched by hand"


def test_a_browser_saves_without_folders(tmp_path: Path) -> None:
    source = write(tmp_path / "downloads", **{BIG: None, "diffusion_pytorch_model.safetensors": WEIGHTS})
    assert (pull(WANTED, tmp_path / "checkpoints", source=source) / BIG).read_bytes() == WEIGHTS


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({BIG: None}, "lacks a file of someone/Small: expected unet/.*fp16.safetensors or unet/.*safetensors, received"),
        ({BIG: WEIGHTS[:-9]}, "is damaged or cut short: expected a whole .safetensors file"),
        ({"config.json": b"<html>"}, "is damaged or cut short: expected a whole .json file"),
    ],
)
def test_bad_files_by_hand(change: dict[str, bytes | None], expected: str, tmp_path: Path) -> None:
    source = write(tmp_path / "downloads", **change)
    with pytest.raises(CheckpointError, match=expected):
        pull(WANTED, tmp_path / "checkpoints", source=source)
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_a_cut_torch_file_by_hand(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1000)}, tmp_path / "streaming_t2v.ckpt")
    os.truncate(tmp_path / "streaming_t2v.ckpt", 2000)
    with pytest.raises(CheckpointError, match=r"cut short: expected a whole \.ckpt file"):
        pull(published("streamingt2v"), tmp_path / "checkpoints", source=tmp_path)


# ---------------------------------------------------------------- the table


def test_the_table_of_published_weights() -> None:
    assert len({known.name for known in PUBLISHED}) == len(PUBLISHED) == 7
    for known in PUBLISHED:
        assert known.name == known.repo.rpartition("/")[2]
        assert published(known.repo) is published(known.name.upper()) is known
        assert known.licence
        assert known.is_pinned == (known.revision != "main")
        endings = {path.rpartition(".")[2] for entry in known.files for path in entry.split("|")}
        unconverted = known.name in ("StreamingT2V", "MS-Vid2Vid-XL")  # read by st2v convert only
        assert endings <= ({"ckpt", "pth", "bin"} if unconverted else {"safetensors", "json", "txt"}), "no other pickles"
    with pytest.raises(UnknownModel, match=r"expected one of StreamingT2V, .*received 'nonesuch'"):
        published("nonesuch")


# ---------------------------------------------------------------- as a command


@pytest.mark.slow
def test_the_command_asks_the_hub_that_hf_endpoint_names(tmp_path: Path) -> None:
    wanted = published("animatediff-motion-adapter-v1-5-2")
    files = {"config.json": b"{}", "diffusion_pytorch_model.fp16.safetensors": WEIGHTS}
    code = """
import argparse, sys
from st2v_stream.checkpoints.command import add_pull
parser = argparse.ArgumentParser()
add_pull(parser)
args = parser.parse_args(sys.argv[1:])
sys.exit(args.run(args))
"""
    command = [sys.executable, "-c", code, wanted.name, "--revision", COMMIT, "--to", str(tmp_path)]
    with serve(Hub({wanted.repo: files})) as hub:
        said, status = run_on_a_terminal(command, os.environ | {"HF_ENDPOINT": hub.address})
    assert status == 0, said
    assert (tmp_path / wanted.name / "diffusion_pytorch_model.fp16.safetensors").read_bytes() == WEIGHTS
    assert "AnimateDiff's code is Apache-2.0" in said
    assert "100%" in said, "progress is shown"


def run_on_a_terminal(command: list[str], environment: dict[str, str]) -> tuple[str, int]:
    """-> what it writes on its terminal, and its exit status."""
    ours, its = os.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))  # without a width the bar is not drawn
    child = subprocess.Popen(command, env=environment, stdout=its, stderr=its)
    os.close(its)
    said = b""
    try:
        while piece := os.read(ours, 1 << 16):
            said += piece
    except OSError:  # how Linux says that nobody writes there any more
        pass
    finally:
        os.close(ours)
    return said.decode(), child.wait(timeout=60)
