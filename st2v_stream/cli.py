"""The command line: `st2v serve`, `generate`, `models`, `pull`, `convert`, `train`, `evaluate`.

Flags, then `ST2V_*` environment, then `st2v.toml` (see config.py). Errors are one sentence on stderr and exit status 2.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from st2v_stream import __version__
from st2v_stream.checkpoints import command as weights
from st2v_stream.config import read_config
from st2v_stream.direction import PRESETS, Timeline
from st2v_stream.errors import St2vError
from st2v_stream.types import CreateVideo

if TYPE_CHECKING:
    from st2v_stream.streaming.autoregressive import StopSignal
    from st2v_stream.types import ModelEntry


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
    parser.add_argument("--allowed-host", dest="allowed_hosts", action="append", help="a further host name to answer to")
    parser.set_defaults(run=_serve)


def _serve(args: argparse.Namespace) -> int:
    from st2v_stream.checkpoints.models import known_models
    from st2v_stream.server.app import serve

    names = ("host", "port", "model", "data_dir", "device", "preset", "allowed_hosts")
    config = read_config({name: getattr(args, name) for name in names})
    models = known_models(device=config.device)
    entry = resolve_model(config.model, config.device)
    models[entry.card.name] = entry
    asyncio.run(serve(replace(config, model=entry.card.name), models))
    return 0


def resolve_model(name: str, device: str) -> ModelEntry:
    """A known model by name, or a folder with a card.json. Raises `UnknownModel` or `CheckpointError`."""
    from st2v_stream.checkpoints.models import find_folder, folder_entry, known_models

    known = known_models(device=device)
    if name in known:
        return known[name]
    if Path(name).is_dir():
        return folder_entry(Path(name), device=device)
    return folder_entry(find_folder(name), device=device)  # raises, naming what is known


# ---------------------------------------------------------------- generate


def _add_generate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--prompt", required=True, help="what the film shows")
    parser.add_argument("--negative-prompt", default="", help="what it should not show")
    parser.add_argument("--model", help="name of a known model, or a folder (storybook)")
    parser.add_argument("--num-frames", "--num_frames", type=int, default=120, help="frames; rounded up to whole chunks (120)")
    parser.add_argument("--seed", type=int, default=33, help="the same seed gives the same film (33)")
    parser.add_argument("--preset", choices=PRESETS, help="published, default or live (live)")
    parser.add_argument("--num-inference-steps", "--num_steps", type=int, help="denoising steps per chunk (the preset's)")
    parser.add_argument("--guidance-scale", type=float, help="classifier-free guidance (the preset's)")
    parser.add_argument("--device", help="auto, cpu, cuda ... (auto)")
    parser.add_argument("--overwrite", action="store_true", help="replace FILE if it exists")
    parser.add_argument("-o", "--output", type=Path, default=Path("film.mp4"), metavar="FILE", help="an MP4 (film.mp4)")
    parser.set_defaults(run=_generate)


def _generate(args: argparse.Namespace) -> int:
    from st2v_stream.generate import FilmFile, save_film
    from st2v_stream.streaming.autoregressive import StopSignal
    from st2v_stream.videos.requests import new_view

    config = read_config({name: getattr(args, name) for name in ("model", "device", "preset")})
    entry = resolve_model(config.model, config.device)
    card = entry.card
    fields = ("prompt", "negative_prompt", "num_frames", "seed", "guidance_scale", "num_inference_steps")
    request = CreateVideo(preset=config.preset, **{name: getattr(args, name) for name in fields})
    view = new_view(request, card, config, video_id="", created_at_s=0)
    assert view.direction is not None
    for warning in view.warnings:
        print(f"st2v: {warning}", file=sys.stderr)
    film = FilmFile(args.output, card.spec, title=args.prompt, overwrite=args.overwrite)
    stop = StopSignal()
    timeline, live = Timeline(view.direction), sys.stderr.isatty()
    with _interrupt_stops(stop):
        making = save_film(entry.load, timeline, args.num_frames, film, stop=stop, report=_progress, every_step=live)
        frames = asyncio.run(making)
    word = "stopped, kept" if stop.is_set else "made"
    print(f"\n{word} {frames} frames ({frames / card.spec.fps:.1f} s): {args.output}", file=sys.stderr)
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
