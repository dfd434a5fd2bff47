"""The command line of the training: `st2v train --stage all --budget 25m --device cuda --out DIR`."""

from __future__ import annotations

import argparse
from pathlib import Path

from st2v_stream.errors import InvalidRequest
from st2v_stream.training import finetune
from st2v_stream.training.recipe import STAGES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `st2v train`."""
    parser.add_argument(
        "--stage",
        choices=("all", *STAGES),
        default="all",
        help="what to train (default: all of the model, in order; judge and enhancer only if asked)",
    )
    parser.add_argument("--budget", type=seconds, default=seconds("25m"), help="wall-clock time, for instance 90s, 25m, 2h")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints, logs, pictures and the export")
    parser.add_argument("--resume", action="store_true", help="continue from the checkpoints in --out")
    parser.add_argument(
        "--from",
        dest="origin",
        type=Path,
        metavar="FOLDER",
        help="start from the weights of an exported model, its VAE included (any stage after vae)",
    )
    parser.add_argument(
        "--finish",
        type=seconds,
        help="let the rate of the cam-apm checkpoint fall to the end in this time; writes OUT/finished, the trunk stays",
    )
    parser.add_argument(
        "--steps",
        type=int,
        help="end each stage after that many steps (if its budget lasts), the learning rate following them and not the clock",
    )
    parser.add_argument("--workers", type=int, default=0, help="processes that render (default: none, render in place)")
    parser.add_argument("--threads", type=int, default=None, help="CPU threads")
    parser.add_argument("--seed", type=int, default=0)
    finetune.add_arguments(parser)


def seconds(text: str) -> float:
    """Parse a duration: '90', '90s', '25m' or '1.5h'."""
    units = {"s": 1.0, "m": 60.0, "h": 3600.0}
    number, unit = (text[:-1], text[-1]) if text[-1:] in units else (text, "s")
    try:
        return float(number) * units[unit]
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a duration such as 90s, 25m or 2h, got {text!r}") from None


def run(args: argparse.Namespace) -> int:
    """Train as asked. Returns the exit code."""
    import torch

    if args.clips is not None or args.base is not None:
        return finetune.run(args)
    if args.budget <= 0 or (args.finish is not None and args.finish <= 0):
        raise InvalidRequest("--budget is out of range", expected="a duration above 0", received=args.finish or args.budget)
    if args.steps is not None and args.steps <= 0:
        raise InvalidRequest("--steps is out of range", expected="1 or more", received=args.steps)
    if args.origin is not None and not (args.origin / "model_index.json").is_file():
        raise InvalidRequest("--from is no model folder", expected="a folder with model_index.json", received=args.origin)
    try:
        from st2v_stream.training.run import Training
    except ImportError as error:
        expected = "pip install 'st2v_stream[eval]'"
        raise InvalidRequest("training needs more packages", expected=expected, received=str(error)) from error
    if args.threads:
        torch.set_num_threads(args.threads)
    return Training.from_arguments(args).run()
