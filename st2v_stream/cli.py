"""The command line: `st2v serve`, `generate`, `watch`, `link`, `models`, `pull`, `convert`, `train`, `evaluate`.

Flags, then `ST2V_*` environment, then `st2v.toml` (see config.py). Errors are one sentence on stderr and exit status 2.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from st2v_stream import __version__, watch
from st2v_stream import generate_arguments as arguments
from st2v_stream import provenance_commands as provenance
from st2v_stream.checkpoints import command as weights
from st2v_stream.config import POLICIES, Config, read_config
from st2v_stream.direction import PRESETS, Timeline
from st2v_stream.errors import InvalidRequest, St2vError, UnknownModel
from st2v_stream.types import ModelEntry

if TYPE_CHECKING:
    from st2v_stream.streaming.autoregressive import StopSignal
    from st2v_stream.types import Generator

TESTCARD = "testcard"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    parser = build_parser()
    args = parser.parse_args(argv)
    _quiet_threads()
    try:
        status: int = args.run(args)
    except St2vError as error:
        print(f"st2v: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return status


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(prog="st2v", description="Long generated video that you watch while it is being made.")
    parser.add_argument("--version", action="version", version=f"st2v_stream {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_serve(commands.add_parser("serve", help="run the server and its page"))
    _add_generate(commands.add_parser("generate", help="make a film into a file that plays while it grows"))
    watch.add_watch(commands.add_parser("watch", help="follow a film of a server in the terminal or a window"))
    watch.add_link(commands.add_parser("link", help="a link that shows a film to others, or takes that back"))
    _add_fsck(commands.add_parser("fsck", help="check that every film is whole; make the database anew"))
    provenance.add_verify(commands.add_parser("verify", help="make chunks of a film again: do they come out the same?"))
    provenance.add_replay(commands.add_parser("replay", help="make the film that a screenplay writes down, or one like it"))
    provenance.add_export(commands.add_parser("export", help="a film as one file, to carry it to another machine"))
    provenance.add_import(commands.add_parser("import", help="take in a film that was exported"))
    weights.add_models(commands.add_parser("models", help="what makes films here, which published weights are known"))
    weights.add_pull(commands.add_parser("pull", help="fetch published weights"))
    weights.add_convert(commands.add_parser("convert", help="published torch files to a model folder"))
    _add_train(commands.add_parser("train", help="train the built-in model family, or its parts on your own clips"))
    # its options depend on what is evaluated and it reads them itself: here nothing begins an option, everything is handed on
    _add_evaluate(commands.add_parser("evaluate", help="measure films and models", prefix_chars="\0", add_help=False))
    return parser


# ---------------------------------------------------------------- serve


def _add_serve(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", help="address to listen on (127.0.0.1)")
    parser.add_argument("--port", type=int, help="port to listen on (8000; 0 takes a free one)")
    parser.add_argument("--model", help="name of a known model, or a folder in the diffusers layout (storybook)")
    parser.add_argument("--data-dir", help="where videos are kept (./data)")
    parser.add_argument("--device", help="auto, cpu, cuda, cuda:1 ... (auto)")
    parser.add_argument("--preset", choices=PRESETS, help="default preset of new videos (live)")
    parser.add_argument("--enhancer", help="what makes films sharp: auto, none, passthrough, lanczos, or a folder (auto)")
    parser.add_argument("--enhance", choices=POLICIES, help="when, if a film does not say: all, watched, idle, none (watched)")
    parser.add_argument("--grace-s", type=int, help="seconds for which a deleted film can be had back (86400)")
    parser.add_argument("--allowed-host", dest="allowed_hosts", action="append", help="a further host name to answer to")
    arguments.add_base_model(parser)
    parser.set_defaults(run=_serve)


def _serve(args: argparse.Namespace) -> int:
    from st2v_stream.checkpoints.models import known_models
    from st2v_stream.enhancers.choice import equipped
    from st2v_stream.server.app import serve

    names = ("host", "port", "model", "data_dir", "device", "preset", "enhancer", "enhance", "grace_s", "allowed_hosts")
    config = read_config({name: getattr(args, name) for name in names})
    models = known_models(device=config.device)
    entry = resolve_model(
        arguments.model_name(args, config.model, by_default=Config().model),
        config.device,
        base_model=args.base_model,
        offload_models=args.offload_models,
    )
    models[entry.card.name] = entry
    folder = Path(config.model) if os.path.isdir(config.model) else None
    for name in models:
        own = folder if name == entry.card.name else None
        models[name] = equipped(models[name], config.enhancer, config.device, own)
    asyncio.run(serve(replace(config, model=entry.card.name), models))
    return 0


def resolve_model(
    name: str,
    device: str,
    *,
    base_model: str | None = None,
    offload_models: bool = False,
    width: int | None = None,
    height: int | None = None,
) -> ModelEntry:
    """A known model by name, or a folder with a card.json; with a base, moved stage by stage, or at a size where asked.

    Raises `UnknownModel`, `CheckpointError`, or `InvalidRequest` for what this model does not have.
    """
    from st2v_stream.checkpoints.models import find_folder, folder_entry, known_models
    from st2v_stream.checkpoints.sizes import at_size

    known, plain = known_models(device=device), (base_model, width, height) == (None, None, None) and not offload_models
    if name in known and plain:
        return known[name]
    if name == TESTCARD:
        raise InvalidRequest("the test card has one size and no networks", expected="no option for a model", param="model")
    folder = Path(name) if name not in known and os.path.isdir(name) else _published_or(find_folder, name)
    entry = folder_entry(folder, device=device, base_model=base_model)
    if plain:
        return entry
    card = at_size(entry.card, folder, width, height)

    def load() -> Generator:
        from st2v_stream.checkpoints.load import load_generator

        return load_generator(folder, device, base_model=base_model, offload_models=offload_models, width=width, height=height)

    return ModelEntry(card, load)


def _published_or(find_folder: Callable[[str], Path], name: str) -> Path:
    """Its folder. Raises `UnknownModel`, saying for the published model how it gets here."""
    try:
        return find_folder(name)
    except UnknownModel as error:
        if name != arguments.PUBLISHED_MODEL:
            raise
        expected = f"checkpoints/{name} (docs/checkpoints.md says how), or --model FOLDER"
        raise UnknownModel("the published weights are not here", expected=expected, received=name, param="model") from error


# ---------------------------------------------------------------- generate


def _add_generate(parser: argparse.ArgumentParser) -> None:
    arguments.add_arguments(parser)
    parser.set_defaults(run=_generate)


def _generate(args: argparse.Namespace) -> int:
    from st2v_stream.generate import save_film
    from st2v_stream.streaming.autoregressive import StopSignal
    from st2v_stream.videos.requests import check_num_frames, direction_of

    arguments.check(args)
    config = read_config({name: getattr(args, name) for name in ("model", "device", "preset")})
    entry = resolve_model(
        arguments.model_name(args, config.model, by_default=Config().model),
        config.device,
        base_model=args.base_model,
        offload_models=args.offload_models,
        width=args.width,
        height=args.height,
    )
    card = entry.card
    direction = direction_of(arguments.request(args, config.preset), card, config)
    check_num_frames(args.num_frames, card, config)
    reference = arguments.reference(args, card)
    sharpening = arguments.sharpening(args, config.device)
    film = arguments.film_file(args, card, direction)
    for warning in arguments.warnings(args, card, direction, config.device):
        print(f"st2v: {warning}", file=sys.stderr)
    stop, live = StopSignal(), sys.stderr.isatty()
    with _interrupt_stops(stop):
        making = save_film(
            entry.load,
            Timeline(direction),
            args.num_frames,
            film,
            stop=stop,
            report=_progress,
            every_step=live,
            reference=reference,
            sharpening=sharpening,
        )
        frames = asyncio.run(making)
    word = "stopped, kept" if stop.is_set else "made"
    print(f"\n{word} {frames} frames ({frames / card.spec.fps:.1f} s): {film.path}", file=sys.stderr)
    return 0


def _progress(line: str) -> None:
    end = "" if sys.stderr.isatty() else "\n"
    start = "\r\x1b[2K" if sys.stderr.isatty() else ""
    print(f"{start}{line}", end=end, file=sys.stderr, flush=True)


@contextlib.contextmanager
def _interrupt_stops(stop: StopSignal) -> Iterator[None]:
    """Ctrl-C once: stop after the running denoising step and keep the file; a second time: leave at once."""

    def on_interrupt(*_: object) -> None:
        stop.stop()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


# ---------------------------------------------------------------- fsck


def _add_fsck(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data-dir", help="where videos are kept (./data)")
    parser.add_argument("--rebuild", action="store_true", help="first make the database anew from videos/*.jsonl")
    parser.add_argument("--json", action="store_true", help="the report as one line of JSON")
    parser.set_defaults(run=_fsck)


def _fsck(args: argparse.Namespace) -> int:
    """Exit status 0: whole; 1: something is damaged or lost; 2: it could not be looked at."""
    from st2v_stream.store import fsck

    data_dir, lost = read_config({"data_dir": args.data_dir}).data_dir, False
    if args.rebuild:
        from st2v_stream.store.rebuild import rebuild

        rebuilt = rebuild(data_dir)
        aside = "" if rebuilt.put_aside is None else f"; the old database is {rebuilt.put_aside.name}"
        print(
            "\n".join((*(f"lost: {text}" for text in rebuilt.lost), f"rebuilt {rebuilt.films} films{aside}")), file=sys.stderr
        )
        lost = bool(rebuilt.lost)
    report = fsck.check(data_dir)
    print(fsck.as_json(report) if args.json else "\n".join((*map(str, report.findings), fsck.summary(report))))
    return int(report.is_damaged or lost)


# ---------------------------------------------------------------- train, evaluate


def _add_train(parser: argparse.ArgumentParser) -> None:
    from st2v_stream.training import command

    command.add_arguments(parser)
    parser.set_defaults(run=command.run)


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("arguments", nargs="*")
    parser.set_defaults(run=_evaluate)


def _evaluate(args: argparse.Namespace) -> int:
    from st2v_stream.evaluation.command import main as evaluate

    return evaluate(args.arguments)


def _quiet_threads() -> None:
    """OpenMP's waiting threads must sleep, not spin: on a busy 2-core host spinning was 8 to 15 times slower."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
