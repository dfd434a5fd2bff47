"""The command line of the evaluation: `st2v evaluate VIDEO...`, `--model NAME --prompts FILE`, `storybook` or `enhancer`.

The storybook has judges of its own (its renderer knows the truth), so its name as the only target means those.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from st2v_stream.direction import DEFAULT_SEED, PRESETS
from st2v_stream.errors import InvalidRequest

_STORYBOOK = "storybook"
_TABLE = "--table"
_ENHANCER = "enhancer"
"""As the only target: the small enhancer's scores."""


def main(arguments: Sequence[str]) -> int:
    """Evaluate as asked; returns the exit status. Raises `InvalidRequest` for what cannot be done."""
    try:
        if arguments and is_storybook(arguments[0]):
            return _evaluate_storybook(arguments[0], arguments[1:])
        if arguments and arguments[0] == _ENHANCER and not Path(_ENHANCER).is_file():
            return _evaluate_enhancer(arguments[1:])
        args = build_parser().parse_args(arguments)
        module = import_module("st2v_stream.evaluation.run")
    except ImportError as error:
        expected = "pip install 'st2v_stream[eval]'"
        raise InvalidRequest("evaluation needs more packages", expected=expected, received=str(error)) from error
    status: int = module.run(args)
    return status


def is_storybook(target: str) -> bool:
    """Whether a target means the storybook's own evaluation: a known model of that family, and no file."""
    from st2v_stream.checkpoints.models import known_models

    return target.startswith(_STORYBOOK) and not Path(target).is_file() and target in known_models()


def _evaluate_storybook(name: str, arguments: Sequence[str]) -> int:
    """Hand over to the judges (`storybook`) or, with --table, to the ablations (`ablation`)."""
    is_table = _TABLE in arguments
    module = import_module(f"st2v_stream.evaluation.{'ablation' if is_table else 'storybook'}")
    parser = argparse.ArgumentParser(prog=f"st2v evaluate {name}" + (f" {_TABLE}" if is_table else ""))
    module.add_arguments(parser)
    args = parser.parse_args([argument for argument in arguments if argument != _TABLE])
    if getattr(args, "model", name) is None:  # another member of the family, by its name
        args.model = name
    status: int = module.run(args)
    return status


def _evaluate_enhancer(arguments: Sequence[str]) -> int:
    module = import_module("st2v_stream.evaluation.enhancer")
    parser = argparse.ArgumentParser(prog=f"st2v evaluate {_ENHANCER}", description="Scores of the small enhancer.")
    module.add_arguments(parser)
    status: int = module.run(parser.parse_args(arguments))
    return status


def build_parser() -> argparse.ArgumentParser:
    """The options for films and models."""
    parser = argparse.ArgumentParser(
        prog="st2v evaluate",
        description="Measure films: cuts, warp error, CLIP score, jerks, seams between chunks, drift.",
        epilog=f"`st2v evaluate {_STORYBOOK}` runs the built-in model's own judges, with {_TABLE} its ablation table.",
    )
    add_arguments(parser)
    return parser


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is measured, how, and where the results go."""
    what = parser.add_argument_group("what is measured")
    what.add_argument("videos", nargs="*", type=Path, metavar="VIDEO", help="video files")
    what.add_argument(
        "--model", dest="models", action="append", default=[], metavar="NAME", help="a model, or a folder; repeatable"
    )
    what.add_argument(
        "--prompts", type=Path, metavar="FILE", help="one prompt per line; for videos one per video, in their order"
    )
    what.add_argument(
        "--protocol", choices=("plain", "paper"), default="plain", help="paper: 240 frames, 720x720, our 50 prompts"
    )
    what.add_argument(
        "--num-frames", "--num_frames", type=int, help="frames per film, made or looked at (made: 120, paper: 240)"
    )
    what.add_argument("--seed", type=int, default=DEFAULT_SEED, help=f"of every film that is made ({DEFAULT_SEED})")
    what.add_argument("--preset", choices=PRESETS, help="of the films that are made (live)")
    what.add_argument(
        "--first-chunk-frames", type=int, help="frames of the first chunk of the videos, where the file does not say"
    )
    what.add_argument("--chunk-frames", type=int, help="frames of every further chunk")
    how = parser.add_argument_group("how")
    how.add_argument("--clip", type=Path, metavar="FOLDER", help="a CLIP in a local folder, for the CLIP score")
    how.add_argument("--raft", type=Path, metavar="FILE", help="torchvision's weights of RAFT large, instead of OpenCV's flow")
    how.add_argument("--device", help="auto, cpu, cuda ... for models, CLIP and RAFT (auto)")
    where = parser.add_argument_group("where results go")
    where.add_argument(
        "--out", type=Path, metavar="DIR", help="films made, report.html, report.json, plots; continues what is there"
    )
    where.add_argument("--json", type=Path, metavar="FILE", help="the results as JSON")
