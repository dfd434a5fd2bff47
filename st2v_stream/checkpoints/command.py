"""`st2v models`, `st2v pull NAME` and `st2v convert SOURCE OUT`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from st2v_stream.errors import InvalidRequest

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "KI": 2**10, "MI": 2**20, "GI": 2**30}


# ---------------------------------------------------------------- convert


def add_convert(parser: argparse.ArgumentParser) -> None:
    """The options of `st2v convert`."""
    parser.add_argument("source", type=Path, help="streaming_t2v.ckpt, or the folder with the enhancer's three files")
    parser.add_argument("out", type=Path, metavar="OUT", help="the model folder to write")
    parser.add_argument(
        "--dtype", choices=("fp32", "bf16"), default="fp32", help="fp32: as published; bf16: half the disk (fp32)"
    )
    parser.add_argument("--shard-size", type=size, default="2GB", help="largest file, for instance 2GB or 500MB (2GB)")
    parser.add_argument(
        "--base", type=Path, metavar="FOLDER", help="where the tokenizer is (checkpoints/text-to-video-ms-1.7b, if pulled)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it is a model folder")
    parser.set_defaults(run=run_convert)


def size(text: str) -> int:
    """Parse a number of bytes: '2GB', '500MB', '1GiB', '4096'."""
    number = text.strip().upper().removesuffix("B")
    digits = number.rstrip("KMGI")
    try:
        return int(float(digits) * _UNITS[number[len(digits) :]])
    except (ValueError, KeyError, OverflowError):
        raise argparse.ArgumentTypeError(f"expected a size such as 2GB or 500MB, received {text!r}") from None


def run_convert(args: argparse.Namespace) -> int:
    """Convert as asked. Returns the exit status; raises what `convert` raises."""
    from st2v_stream.checkpoints.convert import convert

    done = convert(
        args.source,
        args.out,
        dtype=args.dtype,
        shard_bytes=args.shard_size,
        base=args.base,
        overwrite=args.overwrite,
        report=_say,
    )
    total = sum(done.part_bytes.values()) / 1e9
    _say(f"{done.folder}: {total:.2f} GB, {len(done.left_out)} published tensors left out because nothing uses them")
    _say(f"licence: {done.layout.published.licence}")
    if done.layout.still_needed:
        _say(done.layout.still_needed)
    return 0


# ---------------------------------------------------------------- pull


def add_pull(parser: argparse.ArgumentParser) -> None:
    """The options of `st2v pull`."""
    parser.add_argument("name", help="what to fetch; st2v models lists it")
    parser.add_argument("--revision", help="a commit or branch of the repository instead of the known one")
    parser.add_argument("--from", dest="source", type=Path, metavar="FOLDER", help="take the files from here, download nothing")
    parser.add_argument("--to", type=Path, metavar="FOLDER", help="put NAME under this folder (checkpoints)")
    parser.set_defaults(run=run_pull)


def run_pull(args: argparse.Namespace) -> int:
    """Fetch as asked. Returns the exit status; raises what `pull` raises."""
    from st2v_stream.checkpoints.models import download_home
    from st2v_stream.checkpoints.published import published
    from st2v_stream.checkpoints.pull import pull

    if args.source is not None and args.revision is not None:
        raise InvalidRequest("--revision has no meaning with --from", expected="one of them", received=args.revision)
    wanted, home = published(args.name), args.to or download_home()
    _say(f"licence: {wanted.licence}")
    if args.source is None and not wanted.is_pinned and args.revision is None:
        _say(f"no commit of {wanted.repo} is known to us: this takes {wanted.revision!r} as it is now (--revision pins it)")
    folder = pull(wanted, home, revision=args.revision, source=args.source, report=_say)
    _say(f"here: {folder}")
    if wanted.next_step:
        _say(f"next: {wanted.next_step.format(folder=folder, home=home)}")
    return 0


# ---------------------------------------------------------------- models


def add_models(parser: argparse.ArgumentParser) -> None:
    """The options of `st2v models`: none."""
    parser.set_defaults(run=run_models)


def run_models(args: argparse.Namespace) -> int:
    """Print which models make films here, and which published weights are known and here. Returns the exit status."""
    print("\n".join(listing()))
    return 0


def listing() -> Iterator[str]:
    """The lines of `st2v models`."""
    from st2v_stream.checkpoints.models import find_folder, find_published, known_models
    from st2v_stream.checkpoints.published import PUBLISHED

    yield "Make films here (--model NAME):"
    for name, entry in known_models().items():
        card, spec = entry.card, entry.card.spec
        folder = None if name == "testcard" else find_folder(name)
        held, where = (_held(folder), str(folder)) if folder else ("", "built in")
        yield f"  {name:36} {spec.width}x{spec.height}, {spec.fps} frames/s   {held:>9}   {where}"
        yield f"  {'':36} {card.version}; {card.licence}. {card.description}".rstrip()
    yield ""
    yield "Published weights (st2v pull NAME):"
    for wanted in PUBLISHED:
        folder = find_published(wanted.name)
        where = f"{folder} ({_held(folder)})" if folder else "not here"
        yield f"  {wanted.name:36} about {_bytes(wanted.size_bytes)}   {where}"
        yield f"  {'':36} {wanted.use}"
        yield f"  {'':36} {wanted.licence}"
        pinned = f"commit {wanted.revision[:12]}" if wanted.is_pinned else f"{wanted.revision}: no commit is known to us"
        yield f"  {'':36} {wanted.repo}, {pinned}{'; ' + wanted.source if wanted.source else ''}"


def _held(folder: Path) -> str:
    return _bytes(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()))


def _bytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.0f} MB"


def _say(line: str) -> None:
    print(f"st2v: {line}", file=sys.stderr)
