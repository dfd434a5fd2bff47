"""`st2v train --clips FOLDER --base FOLDER`: the options, torch-free; the work is in finetune_run.py."""

from __future__ import annotations

import argparse
from pathlib import Path

from st2v_stream.errors import InvalidRequest

_ELSEWHERE = ("origin", "finish")  # options of the built-in model's training


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of a training on one's own clips; --stage, --budget, --out, --resume, --device, --seed are shared."""
    group = parser.add_argument_group("training CAM, APM and the resampler on your own clips (--stage cam-apm)")
    group.add_argument("--clips", type=Path, metavar="FOLDER", help="captioned clips: NAME.mp4 and NAME.txt, or captions.jsonl")
    group.add_argument("--base", type=Path, metavar="FOLDER", help="a text-to-video model as diffusers stores ModelScope's")
    group.add_argument("--image-encoder", type=Path, metavar="FOLDER", help="OpenCLIP ViT-H-14 (BASE/image_encoder)")
    group.add_argument("--clip-fps", type=float, default=8.0, help="frames per second taken from the clips (8; the paper: 3)")
    group.add_argument("--strict", action="store_true", help="end if any file in --clips cannot be used")
    group.add_argument("--held-out", type=int, default=0, help="clips that are not trained on; their loss is followed (0)")
    group.add_argument("--cam-steps", type=int, help="end the first stage after this many steps (paper: 400000)")
    group.add_argument("--apm-steps", type=int, help="end the second stage after this many steps (paper: 1000)")
    group.add_argument("--rate", type=float, default=5e-5, help="learning rate (5e-5, as the paper)")
    group.add_argument("--batch", type=int, default=1, help="windows that the networks see at once (1)")
    group.add_argument("--accumulate", type=int, default=8, help="batches per step (8)")
    group.add_argument(
        "--train-spatial", action="store_true", help="APM's stage trains the UNet's spatial layers too, as the paper"
    )
    group.add_argument("--checkpoint-activations", action="store_true", help="less memory, a third more time")
    group.add_argument("--preview-steps", type=int, default=25, help="denoising steps of the roll-outs at the end (25)")


def run(args: argparse.Namespace) -> int:
    """Train as asked. Returns the exit code: 0, or 3 when a signal ended it early (everything is saved)."""
    check(args)
    try:
        from st2v_stream.training.finetune_run import Finetuning
    except ImportError as error:
        expected = "pip install 'st2v_stream[eval]'"
        raise InvalidRequest("training needs more packages", expected=expected, received=str(error)) from error
    if args.threads:
        import torch

        torch.set_num_threads(args.threads)
    return Finetuning.from_arguments(args).run()


def check(args: argparse.Namespace) -> None:
    """Raises `InvalidRequest` for options that do not go together or are out of range."""
    if args.base is None or args.clips is None:
        missing = "--base" if args.base is None else "--clips"
        raise InvalidRequest(f"{missing} is missing", expected="--base FOLDER and --clips FOLDER", received="one of them")
    if args.stage not in ("all", "cam-apm"):
        raise InvalidRequest(
            "--stage does not go with --clips", expected="cam-apm: the rest is the base's", received=args.stage
        )
    for name in _ELSEWHERE:
        if getattr(args, name, None) is not None:
            flag = "--from" if name == "origin" else f"--{name}"
            raise InvalidRequest(f"{flag} does not go with --clips", expected="--base FOLDER", received=flag)
    for name in ("budget", "clip_fps", "rate", "batch", "accumulate", "preview_steps", "cam_steps", "apm_steps"):
        value = getattr(args, name)
        if value is not None and value <= 0:
            raise InvalidRequest(f"--{name.replace('_', '-')} is out of range", expected="a number above 0", received=value)
    if args.held_out < 0:
        raise InvalidRequest("--held-out is out of range", expected="0 or more", received=args.held_out)
