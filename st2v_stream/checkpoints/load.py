"""A model folder (diffusers layout, safetensors only) -> a `Generator` on a device.

model_index.json  card.json  scheduler/scheduler_config.json
unet/  cam/  image_encoder/  resampler/ (published models only)  vae/     config.json + diffusion_pytorch_model.safetensors
text_encoder/  tokenizer/                                                 as transformers writes them
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import CLIPTextConfig, CLIPTextModel

from st2v_stream.checkpoints.bases import MODELSCOPE_T2V, PIPELINE, base_named, find_base, with_base
from st2v_stream.checkpoints.models import find_folder, read_card, weights_digest
from st2v_stream.checkpoints.offload import Stages, offload_first_chunk, offload_networks
from st2v_stream.checkpoints.parts import checkpoint_errors, existing, read, read_json, read_tokenizer
from st2v_stream.checkpoints.sizes import at_size
from st2v_stream.errors import CheckpointError, InvalidRequest
from st2v_stream.generators.conditioning import AnchorEncoder, ClipText, LatentAnchor, OpenClipAnchor
from st2v_stream.generators.firstchunk.storybook import StorybookFirstChunk
from st2v_stream.generators.streamingt2v import FirstChunkMaker, Networks, StreamingT2V
from st2v_stream.networks.cam import ControlBranch
from st2v_stream.networks.folder import FolderModule, load_weights, read_weights
from st2v_stream.networks.resampler import ImageResampler, LatentImageEncoder, OpenClipImageEncoder
from st2v_stream.networks.sampling import make_sampler
from st2v_stream.networks.unet import StreamingUNet
from st2v_stream.networks.vae import FrameAutoencoder
from st2v_stream.types import ModelCard

__all__ = ["checkpoint_errors", "choose_device", "load_generator", "load_networks"]

NetworkT = TypeVar("NetworkT", bound=FolderModule[Any])


def load_generator(
    name_or_folder: str | Path,
    device: str = "auto",
    *,
    base_model: str | None = None,
    base_folders: Mapping[str, str | Path] | None = None,
    offload_models: bool = False,
    width: int | None = None,
    height: int | None = None,
) -> StreamingT2V:
    """Load a model by name or from a folder.

    base_model: ModelscopeT2V, AnimateDiff or SVD, for a model that needs one (None: ModelscopeT2V if it is here; if it is not,
    films can only continue clips). base_folders: where the base's folders are (see `BASES`), if not beside the model's
    or under checkpoints/. offload_models: weights are on the device only while their stage runs (`checkpoints.offload`); the
    frames are the same. width, height: of the films in pixels, for published models, multiples of 64 (None: the model's own).

    Raises `UnknownModel`, `InvalidRequest` (a base for a model that has none), or `CheckpointError` naming file and fault.
    """
    folder = Path(name_or_folder) if os.path.isdir(name_or_folder) else find_folder(str(name_or_folder))
    place = choose_device(device)
    stages = Stages(place) if offload_models else None
    card = at_size(read_card(folder), folder, width, height)
    if _pipeline(folder) == PIPELINE:
        card, first_chunk = _with_base(card, folder, place, base_model, base_folders, stages)
        networks = _load(folder, place, stages)
        return _known(StreamingT2V(card, networks, first_chunk), networks, folder, place)
    if base_model is not None:
        raise InvalidRequest(
            f"{card.name} begins its films by itself", expected="no base model", received=base_model, param="base_model"
        )
    networks = _load(folder, place, stages)
    first_chunk = StorybookFirstChunk(card, _base_networks(folder, place, networks))
    return _known(StreamingT2V(card, networks, first_chunk), networks, folder, place)


def _known(generator: StreamingT2V, networks: Networks, folder: Path, device: torch.device) -> StreamingT2V:
    """With its part of the determinism class: its weights, where and in what they run."""
    dtype = str(networks.unet.dtype)
    generator.made_with = {"weights_sha256": weights_digest(folder), "device": str(device), "dtype": dtype}
    return generator


def _base_networks(folder: Path, device: torch.device, networks: Networks) -> Networks:
    """What paints the first picture: the folder's base_unet and base_text_encoder if it has them, else the same networks."""
    if not (folder / "base_unet").is_dir():
        return networks
    unet = _network(StreamingUNet, folder / "base_unet", device)
    text = _text(folder, unet.config.text_tokens, device, encoder="base_text_encoder")
    return replace(networks, unet=unet, text=text)


def _load(folder: Path, device: torch.device, stages: Stages | None) -> Networks:
    """On the device; or, to be moved there stage by stage, in the computer's memory: all at once might not fit."""
    if stages is None:
        return load_networks(folder, device)
    return offload_networks(load_networks(folder, torch.device("cpu")), stages)


def _pipeline(folder: Path) -> Any:
    return read(folder / "model_index.json", read_json).get("_class_name")


def _with_base(
    card: ModelCard,
    folder: Path,
    device: torch.device,
    base_model: str | None,
    base_folders: Mapping[str, str | Path] | None,
    stages: Stages | None,
) -> tuple[ModelCard, FirstChunkMaker]:
    from st2v_stream.checkpoints.first_chunk import MissingBase, dtype_on, load_first_chunk

    base = MODELSCOPE_T2V if base_model is None else base_named(base_model)
    try:
        folders = find_base(base, folder, {role: Path(path) for role, path in (base_folders or {}).items()})
    except CheckpointError as error:
        if base_model is not None or base_folders:
            raise
        return card, MissingBase(error)
    card = with_base(card, base)
    if stages is None:
        return card, load_first_chunk(base, folders, card, device)
    waiting = load_first_chunk(base, folders, card, torch.device("cpu"), dtype_on(device))
    return card, offload_first_chunk(waiting, card, stages)


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
    read(folder / "model_index.json", read_json)
    unet = _network(StreamingUNet, folder / "unet", device)
    vae = _network(FrameAutoencoder, folder / "vae", device)
    return Networks(
        unet=unet,
        cam=_network(ControlBranch, folder / "cam", device),
        vae=vae,
        anchor=_anchor(folder, vae, device),
        text=_text(folder, unet.config.text_tokens, device),
        scheduler=read(folder / "scheduler" / "scheduler_config.json", _scheduler),
    )


def _network(network_class: type[NetworkT], folder: Path, device: torch.device) -> NetworkT:
    network: NetworkT = read(folder, network_class.from_pretrained).to(device)
    return network


def _anchor(folder: Path, vae: FrameAutoencoder, device: torch.device) -> AnchorEncoder:
    kind = read(folder / "image_encoder" / "config.json", read_json).get("_class_name")
    if kind == "LatentImageEncoder":
        return LatentAnchor(_network(LatentImageEncoder, folder / "image_encoder", device), vae)
    encoder = _network(OpenClipImageEncoder, folder / "image_encoder", device)
    return OpenClipAnchor(encoder, _network(ImageResampler, folder / "resampler", device))


def _text(folder: Path, max_tokens: int, device: torch.device, encoder: str = "text_encoder") -> ClipText:
    model = read(folder / encoder, _text_model).to(device)
    return ClipText(read(folder / "tokenizer", read_tokenizer), model, max_tokens)


def _text_model(folder: Path) -> Any:
    """Filled strictly by us: transformers would replace missing tensors by random numbers and only warn."""
    model = CLIPTextModel(CLIPTextConfig.from_pretrained(existing(folder, "config.json")))
    prefix = "text_model." if any(name.startswith("text_model.") for name in model.state_dict()) else ""
    tensors = read_weights(folder, "model.safetensors")
    # the prefix comes and goes with the version of transformers; position_ids was a stored buffer once
    named = {prefix + name.removeprefix("text_model."): value for name, value in tensors.items()}
    load_weights(model, {name: value for name, value in named.items() if not name.endswith("position_ids")})
    return model.eval()


def _scheduler(path: Path) -> dict[str, Any]:
    settings = read_json(path)
    make_sampler(settings, 1)  # says at once what it does not know
    return settings
