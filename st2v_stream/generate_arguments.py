"""The options of `st2v generate`: ours, and those of the published scripts in their spelling and with their values.

Every one has an effect or is refused in a sentence; none is taken and forgotten. What the user gives wins over the preset
and is written into the film (`recorded`).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from st2v_stream import __version__
from st2v_stream.config import Config
from st2v_stream.direction import PRESETS, Direction
from st2v_stream.enhancers.choice import WITHOUT_WEIGHTS
from st2v_stream.errors import InvalidRequest, UnknownModel
from st2v_stream.types import CreateVideo, ModelCard, Reference

if TYPE_CHECKING:
    from st2v_stream.generate import FilmFile, Sharpening
    from st2v_stream.types import Enhancer

PUBLISHED_MODEL = "streaming-t2v"
"""The folder that `st2v convert` is told to make of the published weights; what `--base_model` means if no model is named."""

PUBLISHED_ENHANCER = "video-to-video"
"""The same for the enhancer: what `--enhance` alone means."""

_PUBLISHED_KIND = "sdedit"
_OF_THE_ENHANCER = ("negative_prompt_enhancer", "chunk", "overlap", "use_randomized_blending")
_WINDOW_FRAMES, _OVERLAP_FRAMES = 24, 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Everything `st2v generate` understands."""
    _add_content(parser)
    _add_model(parser)
    _add_output(parser)
    _add_enhancer(parser)


def _add_content(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--prompt", required=True, help="what the film shows")
    _add(parser, "negative_prompt", default="", help="what it should not show")
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--image", type=_path_or_none, metavar="FILE", help="an image the film starts from")
    start.add_argument("--video", type=_path_or_none, metavar="FILE", help="a clip the film continues")
    _add(parser, "num_frames", type=int, default=120, help="frames of the film (120)")
    parser.add_argument("--seed", type=int, help="the same seed gives the same film (33)")
    parser.add_argument("--width", type=int, help="pixels, a multiple of 64, for published models (the model's own)")
    parser.add_argument("--height", type=int, help="the same")
    parser.add_argument("--preset", choices=PRESETS, help="published, default or live (live)")
    _add(
        parser, "num_inference_steps", "num_steps", type=int, metavar="N", help="denoising steps of every chunk (the preset's)"
    )
    _add(
        parser,
        "guidance_scale",
        "image_guidance",
        type=float,
        metavar="SCALE",
        help="classifier-free guidance of every chunk (the preset's)",
    )


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", help="name of a known model, or a folder (storybook)")
    add_base_model(parser)
    parser.add_argument("--device", help="auto, cpu, cuda ... (auto)")


def add_base_model(parser: argparse.ArgumentParser) -> None:
    """What `serve` takes too."""
    _add(parser, "base_model", metavar="NAME", help="ModelscopeT2V, AnimateDiff or SVD begins a published model's films")
    _add(parser, "offload_models", action="store_true", help="keep weights on the GPU only while they are needed: less memory")


def _add_enhancer(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--enhance",
        nargs="?",
        const=PUBLISHED_ENHANCER,
        metavar="NAME",
        help="make the film sharp: storybook, lanczos, or the published one in the folder st2v convert made (video-to-video)",
    )
    _add(parser, "negative_prompt_enhancer", metavar="TEXT", help="what sharpening should not show (--negative-prompt)")
    parser.add_argument("--chunk", type=int, metavar="N", help=f"frames that are sharpened together ({_WINDOW_FRAMES})")
    parser.add_argument("--overlap", type=int, metavar="N", help=f"frames that two such windows share ({_OVERLAP_FRAMES})")
    _add(parser, "use_randomized_blending", action="store_true", help="what the enhancer always does where windows overlap")


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--overwrite", action="store_true", help="replace FILE if it exists")
    output = parser.add_mutually_exclusive_group()
    output.add_argument("-o", "--output", type=Path, metavar="FILE", help="an MP4 (film.mp4)")
    output.add_argument(
        *_spellings("output_dir"), type=Path, metavar="FOLDER", help="put it there, named after the prompt, numbered if need be"
    )


def _add(parser: argparse.ArgumentParser, *names: str, **options: Any) -> None:
    parser.add_argument(*(spelling for name in names for spelling in _spellings(name)), dest=names[0], **options)


def _spellings(name: str) -> tuple[str, ...]:
    """--num-frames and the published --num_frames."""
    dashes = "--" + name.replace("_", "-")
    return (dashes,) if "_" not in name else (dashes, f"--{name}")


def _path_or_none(text: str) -> Path | None:
    """The published scripts say "" for no image."""
    return Path(text) if text else None


# ---------------------------------------------------------------- what they ask for


def check(args: argparse.Namespace) -> None:
    """Raise `InvalidRequest` for what this version does not do, and for a prompt that is no text."""
    _check_enhancer(args)
    for name in ("prompt", "negative_prompt", "negative_prompt_enhancer"):
        try:
            (getattr(args, name) or "").encode()
        except UnicodeEncodeError as error:
            raise InvalidRequest(
                f"{name} is no text", expected="UTF-8", received=ascii(error.object[:40]), param=name
            ) from None


def _check_enhancer(args: argparse.Namespace) -> None:
    if args.enhance is None or args.enhance in WITHOUT_WEIGHTS:
        _require_no_flags(args)
    window, overlap = _window(args)
    if window < 1:
        raise InvalidRequest("chunk is out of range", expected="1 frame or more", received=window, param="chunk")
    if not 0 <= 2 * overlap <= window:
        expected = f"0 to {window // 2} frames, at most half of --chunk"
        raise InvalidRequest("overlap is out of range", expected=expected, received=overlap, param="overlap")


def _require_no_flags(args: argparse.Namespace) -> None:
    """Raise `InvalidRequest` for what only the published enhancer can be told."""
    given = [name for name in _OF_THE_ENHANCER if getattr(args, name) not in (None, False)]
    if given:
        flag = f"--{given[0].replace('_', '-')}"
        raise InvalidRequest(
            f"{flag} is for the enhancer of the published film",
            expected=f"--enhance (alone, or with its folder), or no {flag}",
            received=f"--enhance {args.enhance}" if args.enhance else "no --enhance",
            param=given[0],
        )


def _window(args: argparse.Namespace) -> tuple[int, int]:
    """(frames, overlap) of the enhancer's windows."""
    window = _WINDOW_FRAMES if args.chunk is None else args.chunk
    return window, _OVERLAP_FRAMES if args.overlap is None else args.overlap


def sharpening(args: argparse.Namespace, device: str) -> Sharpening | None:
    """How the film is made sharp, if it is. Raises `UnknownModel`; loading it raises what `load_enhancer` raises."""
    from st2v_stream.generate import Sharpening

    if args.enhance is None:
        return None
    place = args.enhance if args.enhance in WITHOUT_WEIGHTS else _enhancer_folder(args.enhance)
    window, overlap = _window(args)

    def load() -> Enhancer:
        from st2v_stream.enhancers.load import load_enhancer
        from st2v_stream.enhancers.sdedit import SdEditSettings

        enhancer = load_enhancer(place, device, SdEditSettings(window_frames=window, overlap_frames=overlap))
        if enhancer.name != _PUBLISHED_KIND:
            _require_no_flags(args)
        return enhancer

    return Sharpening(load, args.negative_prompt_enhancer)


def _enhancer_folder(name: str) -> Path:
    from st2v_stream.checkpoints.models import find_published

    folder = Path(name) if os.path.isdir(name) else find_published(name)
    if folder is None:
        expected = f"{', '.join(WITHOUT_WEIGHTS)}, or a folder that st2v convert made (docs/checkpoints.md says how)"
        raise UnknownModel("no such enhancer is here", expected=expected, received=name, param="enhance")
    return folder


def model_name(args: argparse.Namespace, configured: str, *, by_default: str) -> str:
    """The model to load: a base model alone asks for the published one, as the published command line does."""
    if args.base_model is not None and args.model is None and configured == by_default:
        return PUBLISHED_MODEL
    return configured


def request(args: argparse.Namespace, configured_preset: str) -> CreateVideo:
    """What is asked for, without the picture it starts from."""
    names = ("prompt", "negative_prompt", "num_frames", "seed", "guidance_scale", "num_inference_steps")
    return CreateVideo(preset=_preset(args, configured_preset), **{name: getattr(args, name) for name in names})


def _preset(args: argparse.Namespace, configured: str) -> str:
    """A base model alone asks for the published numbers of steps; `live` halves them for people who watch meanwhile."""
    published = args.base_model is not None and args.preset is None and configured == Config().preset
    return "default" if published else configured


def reference(args: argparse.Namespace, card: ModelCard) -> Reference | None:
    """The image or clip, decoded within bounds. Raises `InvalidRequest`."""
    from st2v_stream.media.reference import read_reference_file

    if args.image is None and args.video is None:
        return None
    path, param = (args.image, "image") if args.video is None else (args.video, "video")
    given = read_reference_file(path, card.spec, param=param)
    if param == "image" and len(given.frames) > 1:
        raise InvalidRequest(f"{path} is a clip", expected="an image, or --video", received="a clip", param=param)
    if param == "video" and len(given.frames) == 1:
        raise InvalidRequest(f"{path} is no clip", expected="two frames or more, or --image", received="one frame", param=param)
    return given


def film_file(args: argparse.Namespace, card: ModelCard, direction: Direction) -> FilmFile:
    """Where the film goes. Raises `InvalidRequest` before anything is computed."""
    from st2v_stream.generate import FilmFile, file_stem

    in_folder = args.output_dir is not None
    path = args.output_dir / f"{file_stem(args.prompt)}.mp4" if in_folder else args.output or Path("film.mp4")
    return FilmFile(
        path,
        card.spec,
        title=direction.prompt,
        overwrite=args.overwrite,
        num_frames=args.num_frames,
        metadata={"comment": recorded(args, card, direction)},
        numbered=in_folder and not args.overwrite,
        rendition="preview" if args.enhance is None else "enhanced",
    )


_GIVEN = (
    "base_model",
    "chunk",
    "device",
    "enhance",
    "guidance_scale",
    "height",
    "image",
    "model",
    "negative_prompt",
    "negative_prompt_enhancer",
    "num_inference_steps",
    "offload_models",
    "overlap",
    "preset",
    "seed",
    "use_randomized_blending",
    "video",
    "width",
)


def recorded(args: argparse.Namespace, card: ModelCard, direction: Direction) -> str:
    """What the film is made with, as JSON: enough to make it again. Of a file its name and hash, not its place."""
    flags = {name: getattr(args, name) for name in _GIVEN}
    given = {name: _plain(value) for name, value in flags.items() if value is not None and value is not False and value != ""}
    for name in ("model", "enhance"):
        if name in given and os.path.isdir(given[name]):
            given[name] = Path(given[name]).resolve().name
    made_with = {
        "st2v_stream": __version__,
        "model": card.name,
        "model_version": card.version,
        "width": card.spec.width,
        "height": card.spec.height,
        "num_frames": args.num_frames,
        "direction": direction.to_json(),
        "given": given,
    }
    return json.dumps(made_with, ensure_ascii=False, sort_keys=True)


def _plain(value: Any) -> Any:
    if not isinstance(value, Path):
        return value
    return {"name": value.name, "sha256": hashlib.sha256(value.read_bytes()).hexdigest()}


def warnings(args: argparse.Namespace, card: ModelCard, direction: Direction, device: str) -> Sequence[str]:
    """Sentences for the person who asked: unknown words, and a flag that changes nothing here."""
    sentences = list(card.warnings(direction.prompt))
    if args.offload_models and _computes_on_cpu(device):
        sentences.append("the model runs on the CPU: --offload-models has nothing to move there")
    return sentences


def _computes_on_cpu(device: str) -> bool:
    from st2v_stream.checkpoints.load import choose_device

    return bool(choose_device(device).type == "cpu")
