"""Published torch files -> a model folder in the diffusers layout, safetensors only (`st2v convert`).

The files are mapped into memory and copied tensor by tensor, so a 25.6 GB file needs no more memory than its largest tensor.
Before the first byte is written every name and shape is held against the networks they will fill; the folder is written
under another name and renamed at the end. OUT is whole or it is not there.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from st2v_stream import __version__
from st2v_stream.checkpoints.key_maps import Placed, place
from st2v_stream.checkpoints.layouts import Layout, Part, SourceFile, enhancer, streaming_t2v
from st2v_stream.checkpoints.models import find_published
from st2v_stream.checkpoints.parts import read_tokenizer
from st2v_stream.checkpoints.published import MODELSCOPE
from st2v_stream.checkpoints.shards import DTYPES, bytes_of, folder_bytes, write_weights
from st2v_stream.checkpoints.torch_file import WEIGHT_DTYPES, read_tensors
from st2v_stream.errors import CheckpointError, Conflict, InvalidRequest
from st2v_stream.networks.folder import weight_problems

DEFAULT_SHARD_BYTES = 2_000_000_000
_SPARE_BYTES = 50_000_000  # the tokenizer, the configs, the file system's own

Report = Callable[[str], None]


@dataclass(frozen=True)
class Converted:
    """What was written. left_out: published tensors that have no use, by name."""

    folder: Path
    part_bytes: Mapping[str, int]
    left_out: tuple[str, ...]
    layout: Layout = field(repr=False)


@dataclass(frozen=True)
class Source:
    """A tensor of ours and the published one it is, or is a piece of."""

    place: Placed
    tensor: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return self.place.shape(tuple(self.tensor.shape))

    def read(self) -> Tensor:
        whole = self.tensor
        if self.place.pieces > 1:
            whole = whole.chunk(self.place.pieces)[self.place.piece]
        return whole.reshape(self.shape)


def convert(
    source: Path,
    out: Path,
    *,
    dtype: str = "fp32",
    shard_bytes: int = DEFAULT_SHARD_BYTES,
    base: Path | None = None,
    overwrite: bool = False,
    layouts: Sequence[Layout] | None = None,
    report: Report = lambda _: None,
) -> Converted:
    """Convert a published file, or the folder that holds the published files, to the model folder `out`.

    dtype: fp32 (as published: the `published` preset then computes with the very numbers) or bf16 (half the disk; rounded).
    base: a diffusers folder with a CLIP tokenizer, which the published files lack; None = text-to-video-ms-1.7b
    under checkpoints/. layouts: what the files may be; None = the published ones.

    Raises `CheckpointError` (the files: missing, cut short, unsafe, not these networks', damaged numbers; no room on the
    disk), `Conflict` (`out` is there), `InvalidRequest` (a setting). Nothing is left behind then.
    """
    if dtype not in DTYPES:
        raise InvalidRequest("unknown dtype", expected=" or ".join(DTYPES), received=dtype, param="dtype")
    if shard_bytes < 1:
        raise InvalidRequest("the shards are too small", expected="1 byte or more", received=shard_bytes, param="shard_size")
    _check_out(out, overwrite)
    layout, tensors = _open(source, layouts or (streaming_t2v(), enhancer()))
    plan, left_out = plan_conversion(layout, tensors)
    tokenizer = _tokenizer_folder(base, layout)
    needed = sum(bytes_of(shape, DTYPES[dtype]) for part in layout.parts for shape in part.shapes.values())
    _check_room(out, needed)
    with _whole_or_not(out) as half:
        sizes = {
            part.folder: _write_part(half, part, plan[part.folder], DTYPES[dtype], shard_bytes, report) for part in layout.parts
        }
        _write_tokenizer(tokenizer, half / "tokenizer", layout)
        _write_descriptions(half, out.name, layout)
        _write_json(half / "origin.json", _origin(layout, source, dtype, left_out))
    return Converted(out, sizes, left_out, layout)


# ---------------------------------------------------------------- reading


def _open(source: Path, layouts: Sequence[Layout]) -> tuple[Layout, dict[SourceFile, dict[str, Tensor]]]:
    """Which layout it is, by what is inside; and its files, opened."""
    if source.is_dir():
        return _open_folder(source, layouts)
    tensors = read_tensors(source)
    for layout in layouts:
        for file in layout.files:
            if file.mark in tensors:
                if len(layout.files) > 1:
                    names = ", ".join(other.name for other in layout.files)
                    raise CheckpointError(
                        f"{source} is one of several files", expected=f"the folder with {names}", received=source.name
                    )
                return layout, {file: tensors}
    marks = " or ".join(file.mark for layout in layouts for file in layout.files)
    raise CheckpointError(f"{source} is no published file", expected=f"a tensor {marks}", received=sorted(tensors)[:3])


def _open_folder(source: Path, layouts: Sequence[Layout]) -> tuple[Layout, dict[SourceFile, dict[str, Tensor]]]:
    for layout in layouts:
        here = [file for file in layout.files if (source / file.name).is_file()]
        if here and len(here) < len(layout.files):
            expected = ", ".join(file.name for file in layout.files)
            raise CheckpointError(f"{source} is incomplete", expected=expected, received=[file.name for file in here])
        if here:
            return layout, {file: read_tensors(source / file.name) for file in here}
    known = "; or ".join(", ".join(file.name for file in layout.files) for layout in layouts)
    found = sorted(path.name for path in source.iterdir())[:5]
    raise CheckpointError(f"{source} holds no published files", expected=known, received=found)


def plan_conversion(
    layout: Layout, tensors: Mapping[SourceFile, Mapping[str, Tensor]]
) -> tuple[dict[str, dict[str, Source]], tuple[str, ...]]:
    """Every tensor of every part and where it comes from; strict: nothing missing, nothing unknown, shapes as they must be."""
    plan: dict[str, dict[str, Source]] = {part.folder: {} for part in layout.parts}
    left_out: list[str] = []
    problems: list[str] = []
    for file, named in tensors.items():
        placement = place(named, file.table)
        left_out += placement.left_out
        if placement.unknown:
            problems.append(
                f"{file.name}: received {len(placement.unknown)} unknown tensors such as {sorted(placement.unknown)[:3]}"
            )
        for placed in placement.placed:
            if placed.ours in plan[placed.part]:
                twin = plan[placed.part][placed.ours].place.published
                problems.append(f"{file.name}: {placed.published} and {twin} are both {placed.part}/{placed.ours}")
            plan[placed.part][placed.ours] = Source(placed, named[placed.published])
    for part in layout.parts:
        problems += _part_problems(part, plan[part.folder])
    if problems:
        raise CheckpointError(
            f"this is not {layout.published.name} as published, or only a piece of it: " + "; ".join(problems)
        )
    return plan, tuple(left_out)


def _part_problems(part: Part, found: Mapping[str, Source]) -> list[str]:
    received = {name: placed.shape for name, placed in found.items()}
    problems = [f"{part.folder}: {problem}" for problem in weight_problems(part.shapes, received)]
    for placed in found.values():
        if placed.tensor.dtype not in WEIGHT_DTYPES:
            kinds = ", ".join(str(kind).removeprefix("torch.") for kind in WEIGHT_DTYPES)
            problems.append(
                f"{placed.place.published}: expected {kinds}, received {str(placed.tensor.dtype).removeprefix('torch.')}"
            )
            break
    return problems


# ---------------------------------------------------------------- writing


def _write_part(
    folder: Path, part: Part, found: Mapping[str, Source], dtype: torch.dtype, shard_bytes: int, report: Report
) -> int:
    paths = write_weights(
        folder / part.folder / part.weights_file, part.shapes, lambda name: found[name].read(), dtype, shard_bytes
    )
    _write_json(folder / part.folder / "config.json", part.settings)
    size = folder_bytes(paths)
    report(f"{part.folder}: {len(part.shapes)} tensors, {size / 1e9:.2f} GB in {len(paths)} file{'s' * (len(paths) > 1)}")
    return size


def _write_descriptions(folder: Path, name: str, layout: Layout) -> None:
    _write_json(folder / "model_index.json", layout.model_index)
    if layout.scheduler is not None:
        _write_json(folder / "scheduler" / "scheduler_config.json", layout.scheduler)
    if layout.card is not None:
        _write_json(folder / "card.json", {"name": name} | dict(layout.card))


def _origin(layout: Layout, source: Path, dtype: str, left_out: Sequence[str]) -> dict[str, Any]:
    files = [source / file.name for file in layout.files] if source.is_dir() else [source]
    return {
        "published": layout.published.repo,
        "licence": layout.published.licence,
        "files": {path.name: path.stat().st_size for path in files},
        "dtype": dtype,
        "left_out": len(left_out),
        "converted_by": f"st2v_stream {__version__}",
    }


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n")


# ---------------------------------------------------------------- tokenizer


def _tokenizer_folder(given: Path | None, layout: Layout) -> Path:
    """The folder with a CLIP vocabulary that fits the text encoder."""
    base = given or find_published(MODELSCOPE.name)
    expected = f"--base FOLDER with tokenizer/vocab.json and merges.txt: st2v pull {MODELSCOPE.name} brings them"
    if base is None:
        raise CheckpointError("the published files hold no tokenizer", expected=expected, received="no --base")
    for folder in (base / "tokenizer", base):
        if all((folder / name).is_file() for name in ("vocab.json", "merges.txt")):
            _check_vocabulary(folder / "vocab.json", layout)
            return folder
    raise CheckpointError(f"{base} holds no CLIP tokenizer", expected=expected, received="neither there nor under tokenizer/")


def _check_vocabulary(path: Path, layout: Layout) -> None:
    words = _vocabulary(path)
    text = next(part for part in layout.parts if part.folder == "text_encoder")
    size = int(text.settings["vocab_size"])
    if sorted(words.values()) != list(range(size)):
        raise CheckpointError(f"{path} is another model's", expected=f"words 0 to {size - 1}", received=f"{len(words)} words")


def _vocabulary(path: Path) -> dict[str, int]:
    try:
        words = json.loads(path.read_text(encoding="utf-8"))
        return {str(word): int(number) for word, number in words.items()}
    except (ValueError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged", expected="words and their numbers as JSON", received=str(error)) from error


def _write_tokenizer(base: Path, folder: Path, layout: Layout) -> None:
    """The vocabulary, and settings of our own: both published text encoders pad with token 0 (`!`), up to their length.

    text-to-video-ms-1.7b says so in special_tokens_map.json and the contrary in tokenizer_config.json; which of the two is
    believed depends on the version of transformers, and the padding is most of what the network reads.
    """
    folder.mkdir(parents=True)
    for name in ("vocab.json", "merges.txt"):
        shutil.copyfile(base / name, folder / name)
    text = next(part for part in layout.parts if part.folder == "text_encoder").settings
    words = {number: word for word, number in _vocabulary(folder / "vocab.json").items()}
    end = words[int(text["eos_token_id"])]
    tokens = {"bos_token": words[int(text["bos_token_id"])], "eos_token": end, "unk_token": end, "pad_token": words[0]}
    length = {"model_max_length": int(text["max_position_embeddings"])}
    settings = {"tokenizer_class": "CLIPTokenizer", "add_prefix_space": False, "do_lower_case": True} | length | tokens
    _write_json(folder / "special_tokens_map.json", tokens)
    _write_json(folder / "tokenizer_config.json", settings)
    try:
        read_tokenizer(folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{base} holds no tokenizer that loads", expected="CLIP's", received=repr(error)) from error


# ---------------------------------------------------------------- the folder


def _check_out(out: Path, overwrite: bool) -> None:
    if not out.parent.is_dir():
        raise InvalidRequest(
            "the folder for OUT does not exist", expected="an existing folder", received=str(out.parent), param="out"
        )
    if not out.exists():
        return
    if not overwrite:
        raise Conflict(f"{out} exists", expected="a name that is free, or --overwrite", received=str(out))
    if not (out / "model_index.json").is_file():  # never delete what is no model
        raise Conflict(f"{out} is no model folder", expected="one with a model_index.json to overwrite", received=str(out))


def _check_room(out: Path, needed: int) -> None:
    free = shutil.disk_usage(out.parent).free
    if free < needed + _SPARE_BYTES:
        expected, received = f"{needed / 1e9:.1f} GB free in {out.parent}", f"{free / 1e9:.1f} GB"
        raise CheckpointError("the disk has no room for the model", expected=expected, received=received)


@contextmanager
def _whole_or_not(out: Path) -> Iterator[Path]:
    """A folder to fill; it becomes `out` when the block ends well and vanishes when it does not."""
    _remove_abandoned(out)
    half = out.with_name(f".{out.name}.{os.getpid()}.half")
    half.mkdir()
    try:
        yield half
        _swap_in(half, out)
    except OSError as error:
        raise CheckpointError(
            f"{out} cannot be written", expected="room and the right to write", received=str(error)
        ) from error
    finally:
        shutil.rmtree(half, ignore_errors=True)


def _swap_in(half: Path, out: Path) -> None:
    if not out.exists():
        half.rename(out)
        return
    old = out.with_name(f".{out.name}.{os.getpid()}.old")
    out.rename(old)
    try:
        half.rename(out)
    except BaseException:
        old.rename(out)
        raise
    shutil.rmtree(old)


def _remove_abandoned(out: Path) -> None:
    """Folders that a killed conversion left; the process number in the name says whether it still runs."""
    for path in out.parent.glob(f".{out.name}.*.half"):
        number = path.name.removesuffix(".half").rpartition(".")[2]
        if number.isdigit() and not _is_running(int(number)):
            shutil.rmtree(path, ignore_errors=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
