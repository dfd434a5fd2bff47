"""The ablation table from the command line: `st2v evaluate storybook --table [--quick] [--rows ROW...] [--out DIR]`."""

from __future__ import annotations

import argparse
from pathlib import Path

from st2v_stream.errors import InvalidRequest


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the table."""
    parser.add_argument("--model", help="a storybook model by name, or its folder (storybook)")
    parser.add_argument(
        "--quick", action="store_true", help="a small table in minutes: it shows that the rows run, not who wins"
    )
    parser.add_argument("--rows", nargs="+", metavar="ROW", help="rows or groups: conditioning, apm, anchor, blending (all)")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="work is kept here and continued (runs/ablation or runs/ablation-quick)"
    )


def run(args: argparse.Namespace) -> int:
    """Make the table of model `args.model`. Returns the exit status. Raises `InvalidRequest`, `CheckpointError`."""
    try:
        from st2v_stream.evaluation.ablation_study import FULL, QUICK, Study
    except ImportError as error:
        expected = "pip install 'st2v_stream[eval]'"
        raise InvalidRequest("the table needs more packages", expected=expected, received=str(error)) from error
    from st2v_stream.checkpoints.models import find_folder
    from st2v_stream.evaluation.ablation_rows import chosen_rows
    from st2v_stream.worlds.judge import Judge, judge_digest

    model = Path(args.model) if Path(args.model).is_dir() else find_folder(args.model)
    rows, plan = chosen_rows(args.rows), QUICK if args.quick else FULL
    out = args.out or Path("runs") / ("ablation-quick" if args.quick else "ablation")
    Study(plan, model, out, judge=Judge.load(), judge_digest=judge_digest()).run(rows)
    return 0
