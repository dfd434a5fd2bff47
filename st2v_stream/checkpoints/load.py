"""A model folder (diffusers layout, safetensors only) -> a `Generator` on a device.

model_index.json  card.json  scheduler/scheduler_config.json
unet/  cam/  image_encoder/  resampler/ (published models only)  vae/     config.json + diffusion_pytorch_model.safetensors
text_encoder/  tokenizer/                                                 as transformers writes them
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import AutoTokenizer, CLIPTextConfig, CLIPTextModel

from st2v_stream.checkpoints.models import find_folder, read_card
from st2v_stream.errors import CheckpointError, InvalidRequest
from st2v_stream.generators.conditioning import AnchorEncoder, ClipText, LatentAnchor, OpenClipAnchor
from st2v_stream.generators.firstchunk.storybook import StorybookFirstChunk
from st2v_stream.generators.streamingt2v import Networks, StreamingT2V
from st2v_stream.networks.cam import ControlBranch
from st2v_stream.networks.folder import FolderModule, load_weights
from st2v_stream.networks.resampler import ImageResampler, LatentImageEncoder, OpenClipImageEncoder
from st2v_stream.networks.sampling import make_sampler
from st2v_stream.networks.unet import StreamingUNet
from st2v_stream.networks.vae import FrameAutoencoder

T = TypeVar("T")
NetworkT = TypeVar("NetworkT", bound=FolderModule[Any])


def load_generator(name_or_folder: str | Path, device: str = "auto") -> StreamingT2V:
    """Load a model by name or from a folder. Raises `UnknownModel`, or `CheckpointError` naming file and fault."""
    folder = Path(name_or_folder)
    if not folder.is_dir():
        folder = find_folder(str(name_or_folder))
    card = read_card(folder)
    networks = load_networks(folder, choose_device(device))
    return StreamingT2V(card, networks, StorybookFirstChunk(card, networks))


def choose_device(device: str) -> torch.device:
    """`auto`: the first GPU if there is one. Raises `InvalidRequest`."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:  # an unknown name; a GPU that is not there
        reason = str(error).partition("\n")[0]
        raise InvalidRequest(
            "this device cannot be used", expected="auto, cpu, or a GPU that torch sees", received=f"{device} ({reason})"
        ) from error
    return chosen


def load_networks(folder: Path, device: torch.device) -> Networks:
    """Everything in the folder that has weights. Raises `CheckpointError`."""
    _read(folder / "model_index.json", _json)
    unet = _network(StreamingUNet, folder / "unet", device)
    vae = _network(FrameAutoencoder, folder / "vae", device)
    return Networks(
        unet=unet,
        cam=_network(ControlBranch, folder / "cam", device),
        vae=vae,
        anchor=_anchor(folder, vae, device),
        text=_text(folder, unet.config.text_tokens, device),
        scheduler=_read(folder / "scheduler" / "scheduler_config.json", _scheduler),
    )


def _network(network_class: type[NetworkT], folder: Path, device: torch.device) -> NetworkT:
    return _read(folder, network_class.from_pretrained).to(device)


def _anchor(folder: Path, vae: FrameAutoencoder, device: torch.device) -> AnchorEncoder:
    kind = _read(folder / "image_encoder" / "config.json", _json).get("_class_name")
    if kind == "LatentImageEncoder":
        return LatentAnchor(_network(LatentImageEncoder, folder / "image_encoder", device), vae)
    encoder = _network(OpenClipImageEncoder, folder / "image_encoder", device)
    return OpenClipAnchor(encoder, _network(ImageResampler, folder / "resampler", device))


def _text(folder: Path, max_tokens: int, device: torch.device) -> ClipText:
    model = _read(folder / "text_encoder", _text_model).to(device)
    return ClipText(_read(folder / "tokenizer", _tokenizer), model, max_tokens)


def _text_model(folder: Path) -> Any:
    """Filled strictly by us: transformers would replace missing tensors by random numbers and only warn."""
    model = CLIPTextModel(CLIPTextConfig.from_pretrained(_existing(folder, "config.json")))
    prefix = "text_model." if any(name.startswith("text_model.") for name in model.state_dict()) else ""
    tensors = load_file(_existing(folder, "model.safetensors") / "model.safetensors")
    # the prefix comes and goes with the version of transformers; position_ids was a stored buffer once
    named = {prefix + name.removeprefix("text_model."): value for name, value in tensors.items()}
    load_weights(model, {name: value for name, value in named.items() if not name.endswith("position_ids")})
    return model.eval()


def _tokenizer(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(_existing(folder, "tokenizer_config.json"), local_files_only=True)


def _existing(folder: Path, *names: str) -> Path:
    for name in names:
        if not (folder / name).is_file():
            raise FileNotFoundError(f"expected {folder / name}, received no such file")
    return folder


def _scheduler(path: Path) -> dict[str, Any]:
    settings = _json(path)
    make_sampler(settings, 1)  # says at once what it does not know
    return settings


def _json(path: Path) -> dict[str, Any]:
    settings = json.loads(path.read_text())
    if not isinstance(settings, dict):
        raise ValueError(f"expected a JSON object, received {type(settings).__name__}")
    return settings


def _read(path: Path, reader: Callable[[Path], T]) -> T:
    with checkpoint_errors(path):
        return reader(path)


@contextmanager
def checkpoint_errors(path: Path) -> Iterator[None]:
    """Every way in which reading `path` can fail becomes a `CheckpointError` that names it."""
    try:
        yield
    except FileNotFoundError as error:
        raise CheckpointError(f"the checkpoint lacks {path}: {error}") from error
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"{path} is damaged: {type(error).__name__}: {error}") from error
