"""What the published files are and what folder they become: files, tables, networks, configs, card.

Two layouts: StreamingT2V's one Lightning file, and the enhancer's three files. Each knows the networks it fills, so every
name and shape is known before a file is opened (the networks are built on the meta device: no memory, no time).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import CLIPTextConfig, CLIPTextModel

from st2v_stream.checkpoints.bases import PIPELINE
from st2v_stream.checkpoints.key_maps import ENHANCER_UNET, STREAMING_T2V, Row, latent_diffusion_vae, open_clip_text
from st2v_stream.checkpoints.published import ENHANCER, MODELSCOPE, STREAMING, Published
from st2v_stream.networks.cam import ControlBranch, ControlBranchConfig
from st2v_stream.networks.enhancer_unet import EnhancerUNet, EnhancerUNetConfig
from st2v_stream.networks.folder import WEIGHTS_FILE, FolderModule
from st2v_stream.networks.resampler import (
    ImageResampler,
    ImageResamplerConfig,
    OpenClipImageEncoder,
    OpenClipImageEncoderConfig,
)
from st2v_stream.networks.unet import StreamingUNet, StreamingUNetConfig
from st2v_stream.networks.vae import FrameAutoencoder, FrameAutoencoderConfig

Shapes = dict[str, tuple[int, ...]]

PUBLISHED_TEXT: Mapping[str, Any] = {
    "architectures": ["CLIPTextModel"],
    "vocab_size": 49408,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "projection_dim": 512,
    "num_hidden_layers": 23,  # all but the last: OpenCLIP's penultimate layer, then the final norm
    "num_attention_heads": 16,
    "max_position_embeddings": 77,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-5,
    "bos_token_id": 49406,
    "eos_token_id": 49407,
    "pad_token_id": 0,
}
"""Settings of the text encoder of text-to-video-ms-1.7b (340 M parameters)."""

PUBLISHED_SCHEDULER: Mapping[str, Any] = {
    "_class_name": "DDIMScheduler",
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "prediction_type": "epsilon",
}
"""Scheduler of text-to-video-ms-1.7b; stage 2 samples with DDIM."""

EXAMPLE_PROMPTS = (
    "a cat running on the street",
    "a jellyfish floating through the dark sea",
    "sunset over the sea, a boat drifting slowly",
)

_PUBLISHED_STEPS = {
    "num_inference_steps": 50,
    "guidance_scale": 7.5,
    "first_chunk_num_inference_steps": 50,
    "first_chunk_guidance_scale": 9.0,
}


@dataclass(frozen=True)
class Part:
    """One network of a layout: its sub-folder, its config.json, and every tensor it has."""

    folder: str
    library: str
    class_name: str
    settings: Mapping[str, Any]
    shapes: Shapes = field(repr=False)
    weights_file: str = WEIGHTS_FILE


@dataclass(frozen=True)
class SourceFile:
    """One published file: its name, the table that maps it, and a tensor by which it is known whatever it is called."""

    name: str
    table: tuple[Row, ...] = field(repr=False)
    mark: str


@dataclass(frozen=True)
class Layout:
    """A published set of files and the folder it becomes. card: None for weights that make no films by themselves."""

    published: Published
    files: tuple[SourceFile, ...]
    parts: tuple[Part, ...]
    pipeline: str
    card: Mapping[str, Any] | None = None
    scheduler: Mapping[str, Any] | None = None
    still_needed: str = ""

    @property
    def model_index(self) -> dict[str, Any]:
        """model_index.json."""
        index: dict[str, Any] = {"_class_name": self.pipeline}
        index |= {part.folder: [part.library, part.class_name] for part in self.parts}
        if self.scheduler is not None:
            index["scheduler"] = ["diffusers", self.scheduler["_class_name"]]
        return index | {"tokenizer": ["transformers", "CLIPTokenizer"]}


@dataclass(frozen=True)
class StreamingSizes:
    """Configs of StreamingT2V's parts; the defaults are the published ones."""

    unet: StreamingUNetConfig = field(default_factory=StreamingUNetConfig)
    cam: ControlBranchConfig = field(default_factory=ControlBranchConfig)
    image_encoder: OpenClipImageEncoderConfig = field(default_factory=OpenClipImageEncoderConfig)
    resampler: ImageResamplerConfig = field(default_factory=ImageResamplerConfig)
    vae: FrameAutoencoderConfig = field(default_factory=FrameAutoencoderConfig)
    text: Mapping[str, Any] = field(default_factory=lambda: PUBLISHED_TEXT)
    size: int = 256
    """Width and height of its films in pixels."""


@dataclass(frozen=True)
class EnhancerSizes:
    """Configs of the enhancer's parts; the defaults are the published ones."""

    unet: EnhancerUNetConfig = field(default_factory=EnhancerUNetConfig)
    vae: FrameAutoencoderConfig = field(default_factory=FrameAutoencoderConfig)
    text: Mapping[str, Any] = field(default_factory=lambda: PUBLISHED_TEXT)


def streaming_t2v(sizes: StreamingSizes | None = None) -> Layout:
    """`streaming_t2v.ckpt`: everything but the tokenizer, and but what makes the first chunk."""
    sizes = sizes or StreamingSizes()
    return Layout(
        published=STREAMING,
        files=(SourceFile("streaming_t2v.ckpt", STREAMING_T2V, "base_model.conv_in.weight"),),
        parts=(
            _network("unet", StreamingUNet, sizes.unet),
            _network("cam", ControlBranch, sizes.cam),
            _network("image_encoder", OpenClipImageEncoder, sizes.image_encoder),
            _network("resampler", ImageResampler, sizes.resampler),
            _network("vae", FrameAutoencoder, sizes.vae),
            _text(sizes.text),
        ),
        pipeline=PIPELINE,
        card=_streaming_card(sizes.size),
        scheduler=PUBLISHED_SCHEDULER,
        still_needed=f"the first chunk comes from a model of its own; published: st2v pull {MODELSCOPE.name}",
    )


def enhancer(sizes: EnhancerSizes | None = None) -> Layout:
    """The enhancer's three files: UNet, text tower, autoencoder."""
    sizes = sizes or EnhancerSizes()
    text_table = open_clip_text(int(sizes.text["num_hidden_layers"]))
    vae_table = latent_diffusion_vae(len(sizes.vae.block_out_channels))
    unet_file, text_file, vae_file = ENHANCER.files
    return Layout(
        published=ENHANCER,
        files=(
            SourceFile(unet_file, ENHANCER_UNET, "input_blocks.0.0.weight"),
            SourceFile(text_file, text_table, "token_embedding.weight"),
            SourceFile(vae_file, vae_table, "first_stage_model.quant_conv.weight"),
        ),
        parts=(
            _network("unet", EnhancerUNet, sizes.unet),
            _network("vae", FrameAutoencoder, sizes.vae),
            _text(sizes.text),
        ),
        pipeline="VideoToVideoPipeline",
    )


def _network(folder: str, network_class: type[FolderModule[Any]], config: Any) -> Part:
    with torch.device("meta"):
        network = network_class(config)
    settings = {"_class_name": network_class.__name__} | _plain(config)
    return Part(folder, network_class.__module__, network_class.__name__, settings, _shapes(network))


def _text(settings: Mapping[str, Any]) -> Part:
    config = CLIPTextConfig(**settings)
    with torch.device("meta"):
        network = CLIPTextModel(config)
    # the prefix comes and goes with the version of transformers; files have always carried it
    shapes = {f"text_model.{name.removeprefix('text_model.')}": shape for name, shape in _shapes(network).items()}
    shapes = {name: shape for name, shape in shapes.items() if not name.endswith("position_ids")}
    written = json.loads(config.to_json_string())
    return Part("text_encoder", "transformers", "CLIPTextModel", written, shapes, "model.safetensors")


def _shapes(network: torch.nn.Module) -> Shapes:
    return {name: tuple(value.shape) for name, value in network.state_dict().items()}


def _plain(config: Any) -> dict[str, Any]:
    return dataclasses.asdict(config)


def _streaming_card(size: int) -> dict[str, Any]:
    """card.json; its name is the folder's, so that `--model NAME` finds it."""
    return {
        "title": "StreamingT2V",
        "version": "published",
        "description": "The paper's model: text to long video, sixteen frames at first, then eight at a time.",
        "licence": STREAMING.licence,
        "width": size,
        "height": size,
        "fps": 8,
        "first_chunk_frames": 16,
        "chunk_frames": 8,
        "example_prompts": list(EXAMPLE_PROMPTS),
        "presets": {
            "published": dict(_PUBLISHED_STEPS),
            "default": dict(_PUBLISHED_STEPS),
            "live": _PUBLISHED_STEPS | {"num_inference_steps": 25, "first_chunk_num_inference_steps": 25},
        },
    }
