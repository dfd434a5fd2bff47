"""`st2v verify`, `replay`, `export`, `import`: films made again and compared, made anew, and carried (docs/provenance.md)."""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from st2v_stream.client import Client
from st2v_stream.config import Config, read_config
from st2v_stream.direction import PRESETS
from st2v_stream.errors import InvalidRequest, UnknownModel
from st2v_stream.types import ModelEntry

if TYPE_CHECKING:
    from st2v_stream.store.store import Store
    from st2v_stream.videos.verification import CheckedChunkJson

SAME, DIFFERENT, ANOTHER_CLASS = 0, 1, 3
"""Exit statuses of `st2v verify`; 2 is an error, as everywhere."""

_SETTINGS = ("title", "model", "preset", "seed", "num_frames", "guidance_scale", "num_inference_steps")


# ---------------------------------------------------------------- verify


def add_verify(parser: argparse.ArgumentParser) -> None:
    """`st2v verify`."""
    parser.add_argument("id", help="a video's id")
    parser.add_argument("--chunks", default="", metavar="3..9", help="which: 3..9, 3.., ..9 or 3 (all)")
    parser.add_argument("--server", help="have this server do it; else it is done here, and no server may use the data")
    parser.add_argument("--model", help="a folder with the film's model, where it is not known by its name")
    parser.add_argument("--json", action="store_true", help="a line of JSON per chunk")
    _add_data_dir(parser, device=True)
    parser.set_defaults(run=run_verify)


def run_verify(args: argparse.Namespace) -> int:
    """Exit status 0: all the same; 1: something is different, or could not be made; 3: made in another determinism class."""
    first, last = parse_chunks(args.chunks)
    config = read_config({"data_dir": args.data_dir, "device": args.device})
    if args.server is None:
        checked = _verify_here(config, args.id, first, last, args.model)
    else:
        checked = Client(args.server).verify(args.id, first, last)
    return asyncio.run(_report(checked, as_json=args.json))


def parse_chunks(text: str) -> tuple[int, int | None]:
    """First and last chunk, both included, of `3..9`, `3..`, `..9`, `3` or nothing. Raises `InvalidRequest`."""
    match = re.fullmatch(r"([0-9]{0,9})(\.\.)?([0-9]{0,9})", text)
    if match is None:
        raise InvalidRequest("these are no chunks", expected="3..9, 3.., ..9 or 3", received=text, param="chunks")
    first, dots, last = match.groups()
    if dots is None:
        return (int(first), int(first)) if first else (0, None)
    return int(first or 0), int(last) if last else None


async def _verify_here(
    config: Config, video_id: str, first: int, last: int | None, model: str | None
) -> AsyncGenerator[CheckedChunkJson, None]:
    from st2v_stream.streaming.worker import ThreadWorker
    from st2v_stream.videos.verification import check_chunks, check_range

    async with _opened(config) as store:
        view = await store.view(video_id)
        chunks, entry = check_range(first, last, view.chunks), _model(model or view.model, config)
        worker = ThreadWorker("verify")
        try:
            generator = await worker.run(entry.load)
            async with aclosing(check_chunks(store, generator, video_id, chunks, worker)) as checked:
                async for each in checked:
                    yield each.to_json()
        finally:
            await worker.aclose()


async def _report(checked: AsyncGenerator[CheckedChunkJson, None], *, as_json: bool) -> int:
    verdicts = list[str]()
    async with aclosing(checked):
        async for each in checked:
            verdicts.append(each["verdict"])
            print(json.dumps(each) if as_json else checked_line(each), flush=True)
    if not as_json:
        print(f"{verdicts.count('same')} of {len(verdicts)} chunks came out the same, bit for bit")
    if {"different", "unknown"} & set(verdicts):
        return DIFFERENT
    return ANOTHER_CLASS if "another class" in verdicts else SAME


def checked_line(checked: CheckedChunkJson) -> str:
    """For example: chunk 4: DIFFERENT: frames 3f0a… then, 9b12… now."""
    verdict, differing = checked["verdict"], checked["class_differences"]
    then, now = checked["frames_sha256"][:12], (checked["made_frames_sha256"] or "")[:12]
    made_with = "; ".join(f"{name} {pair[0]} then, {pair[1]} now" for name, pair in differing.items())
    said = {
        "same": "the same" + (f", although {made_with}" if made_with else ""),
        "different": f"DIFFERENT: frames {then}… then, {now}… now, and nothing that they were made with is different",
        "another class": f"other frames, as may be: {made_with or 'what it was made with was not written down'}",
        "unknown": "cannot be made: the memory before it is lost, and did not come out again",
    }
    return f"chunk {checked['index']}: {said[verdict]}"


# ---------------------------------------------------------------- replay


def add_replay(parser: argparse.ArgumentParser) -> None:
    """`st2v replay`."""
    parser.add_argument("screenplay", type=Path, help="what GET .../screenplay or .../manifest answered")
    parser.add_argument("-o", "--output", type=Path, help="make it here, into this file")
    parser.add_argument("--server", help="make it on this server instead, as a new film")
    parser.add_argument("--overwrite", action="store_true", help="replace the file if it exists")
    parser.add_argument("--title")
    parser.add_argument("--model", help="another model, by its name or folder")
    parser.add_argument("--preset", choices=PRESETS, help="another preset, with its own steps and guidance")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--num-frames", type=int)
    parser.add_argument("--guidance-scale", type=float)
    parser.add_argument("--num-inference-steps", type=int)
    _add_data_dir(parser, device=True)
    parser.set_defaults(run=run_replay)


def run_replay(args: argparse.Namespace) -> int:
    """Make the film that a screenplay writes down, or one like it."""
    if (args.output is None) == (args.server is None):
        received = "neither" if args.output is None else "both"
        raise InvalidRequest("where is the film to go", expected="-o FILE or --server URL", received=received, param="output")
    screenplay = with_settings(read_screenplay(args.screenplay), {name: getattr(args, name) for name in _SETTINGS})
    if args.server is not None:
        film = asyncio.run(Client(args.server).replay(screenplay))
        print(film["id"])
        return 0
    config = read_config({"data_dir": args.data_dir, "device": args.device})
    frames = asyncio.run(replay_here(screenplay, args.output, config, overwrite=args.overwrite))
    print(f"made {frames} frames: {args.output}", file=sys.stderr)
    return 0


def read_screenplay(path: Path) -> dict[str, Any]:
    """A screenplay, or the one in a manifest, whose chain is checked. Raises `InvalidRequest`."""
    from st2v_stream.videos.provenance import check_chain

    try:
        said = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidRequest(f"{path} is no screenplay", expected="a JSON file", received=str(error)) from error
    if isinstance(said, dict) and said.get("object") == "video.manifest":
        check_chain(said)
        said = said.get("screenplay")
    if not isinstance(said, dict):
        raise InvalidRequest(f"{path} is no screenplay", expected="a JSON object", received=said)
    return said


def with_settings(screenplay: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The same film at other settings (None: as it is). Another preset, or model, brings its own steps and guidance."""
    changes = {name: value for name, value in given.items() if value is not None}
    changed = dict(screenplay)
    names = ("guidance_scale", "num_inference_steps")
    if {"preset", "model"} & set(changes):
        changed |= {prefix + name: None for name in names for prefix in ("", "first_chunk_")}
    changed |= {f"first_chunk_{name}": None for name in names if name in changes}  # what is given holds for every chunk
    return changed | changes


async def replay_here(screenplay: dict[str, Any], path: Path, config: Config, *, overwrite: bool) -> int:
    """Make it into a file; returns its frames. Raises `InvalidRequest` for a screenplay without an end."""
    from st2v_stream.generate import FilmFile, save_film
    from st2v_stream.server.requests import create_request, screenplay_body
    from st2v_stream.streaming.autoregressive import StopSignal
    from st2v_stream.videos.cues import timeline_of

    entry = _model(screenplay.get("model") or config.model, config)
    body = screenplay_body({**screenplay, "model": entry.card.name})
    request = create_request(body, replace(config, model=entry.card.name), [entry.card])
    if request.num_frames is None:
        raise InvalidRequest("this film has no end", expected="--num-frames N", received="null", param="num_frames")
    timeline = timeline_of(request, entry.card, config)
    title = request.title or timeline.first.prompt
    film = FilmFile(path, entry.card.spec, title=title, overwrite=overwrite, num_frames=request.num_frames)
    return await save_film(
        entry.load, timeline, request.num_frames, film, stop=StopSignal(), report=_say, every_step=sys.stderr.isatty()
    )


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


# ---------------------------------------------------------------- export, import


def add_export(parser: argparse.ArgumentParser) -> None:
    """`st2v export`."""
    parser.add_argument("id", help="a video's id")
    parser.add_argument("file", type=Path, help="the bundle to write, for example film.st2v")
    parser.add_argument("--overwrite", action="store_true", help="replace the file if it exists")
    _add_data_dir(parser)
    parser.set_defaults(run=run_export)


def run_export(args: argparse.Namespace) -> int:
    """Write a film as one bundle."""
    from st2v_stream.videos.bundles import export_film

    async def export() -> int:
        async with _opened(read_config({"data_dir": args.data_dir})) as store:
            return await export_film(store, args.id, args.file, overwrite=args.overwrite)

    try:
        print(f"wrote {asyncio.run(export())} bytes: {args.file}", file=sys.stderr)
    except OSError as error:
        raise InvalidRequest(f"{args.file} cannot be written", expected="a folder with space", received=str(error)) from error
    return 0


def add_import(parser: argparse.ArgumentParser) -> None:
    """`st2v import`."""
    parser.add_argument("file", type=Path, help="a bundle that st2v export wrote")
    _add_data_dir(parser)
    parser.set_defaults(run=run_import)


def run_import(args: argparse.Namespace) -> int:
    """Take the film of a bundle in, and print its id."""
    from st2v_stream.videos.bundles import import_film

    async def take_in() -> str:
        async with _opened(read_config({"data_dir": args.data_dir}), must_exist=False) as store:
            return (await import_film(store, args.file)).id

    print(asyncio.run(take_in()))
    return 0


# ---------------------------------------------------------------- what they share


def _add_data_dir(parser: argparse.ArgumentParser, *, device: bool = False) -> None:
    parser.add_argument("--data-dir", help="where videos are kept (./data)")
    if device:
        parser.add_argument("--device", help="auto, cpu, cuda, cuda:1 ... (auto)")


@asynccontextmanager
async def _opened(config: Config, *, must_exist: bool = True) -> AsyncIterator[Store]:
    """The store, for this process alone. Raises `StoreError` where a server has it."""
    from st2v_stream.store.store import Store

    if must_exist and not (config.data_dir / "VERSION").exists():
        raise InvalidRequest("there are no films", expected="--data-dir DIR", received=str(config.data_dir), param="data_dir")
    store = await Store.open(config.data_dir, grace_s=config.grace_s)
    try:
        yield store
    finally:
        await store.close()


def _model(name: str, config: Config) -> ModelEntry:
    """A model by its name, or in a folder. Raises `UnknownModel`."""
    from st2v_stream.checkpoints.models import folder_entry, known_models

    known = known_models(device=config.device)
    if name in known:
        return known[name]
    if Path(name).is_dir():
        return folder_entry(Path(name), device=config.device)
    expected = "--model FOLDER, or one of " + ", ".join(sorted(known))
    raise UnknownModel("no such model", expected=expected, received=name, param="model")
