"""The published weights that st2v_stream can use: where they are, how large, on what terms (torch-free).

A revision is a commit of the repository, so that what is fetched today is what is fetched next year. Where no commit is
known to us, the revision is a branch and `is_pinned` is False: `st2v pull` says so and writes down which commit it got;
`--revision` pins it. Sizes are rounded, for planning; what is fetched is checked against the repository's own list.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from st2v_stream.errors import UnknownModel


@dataclass(frozen=True, slots=True)
class Published:
    """One repository, or the part of it that is used.

    name: its folder under checkpoints/. files: paths in the repository; `a|b` = the first of them that is there.
    use: what it is for. next_step: the command that makes it usable, where one is needed.
    """

    name: str
    repo: str
    revision: str
    size_bytes: int
    licence: str
    files: tuple[str, ...]
    use: str
    next_step: str = ""
    source: str = ""

    @property
    def is_pinned(self) -> bool:
        """Whether the revision is a commit, not a branch that moves."""
        return re.fullmatch(r"[0-9a-f]{40}", self.revision) is not None


_TOKENIZER = ("vocab.json", "merges.txt", "special_tokens_map.json", "tokenizer_config.json")


def _weights(folder: str, name: str = "diffusion_pytorch_model") -> tuple[str, str]:
    """The half-precision variant the published code asks for, or the only one there is."""
    return f"{folder}/config.json", f"{folder}/{name}.fp16.safetensors|{folder}/{name}.safetensors"


def _tokenizer(folder: str) -> tuple[str, ...]:
    return tuple(f"{folder}/{name}" for name in _TOKENIZER)


STREAMING = Published(
    name="StreamingT2V",
    repo="PAIR/StreamingT2V",
    revision="main",
    size_bytes=25_566_000_000,
    licence=(
        "non-commercial: fine-tuned from ModelScope's text-to-video weights, CC BY-NC 4.0; "
        "the authors' own terms are in their repository"
    ),
    files=("streaming_t2v.ckpt",),
    use="the paper's model: CAM, APM and the main UNet (half of the file is optimizer state)",
    next_step="st2v convert {folder}/streaming_t2v.ckpt {home}/streaming-t2v",
)

MODELSCOPE = Published(
    name="text-to-video-ms-1.7b",
    repo="ali-vilab/text-to-video-ms-1.7b",
    revision="8227dddca75a8561bf858d604cc5dae52b954d01",
    size_bytes=3_671_000_000,
    licence="CC BY-NC 4.0: non-commercial",
    files=(
        "model_index.json",
        "scheduler/scheduler_config.json",
        *_tokenizer("tokenizer"),
        *_weights("text_encoder", "model"),
        *_weights("unet"),
        *_weights("vae"),
    ),
    use="ModelScope text-to-video: makes the first chunk; StreamingT2V's tokenizer",
    source="formerly damo-vilab/text-to-video-ms-1.7b",
)

ANIMATEDIFF = Published(
    name="animatediff-motion-adapter-v1-5-2",
    repo="guoyww/animatediff-motion-adapter-v1-5-2",
    revision="6167b88ffe39b4441fdf2113e77b99a6f56b7906",
    size_bytes=910_000_000,
    licence="see its repository; AnimateDiff's code is Apache-2.0",
    files=("config.json", "diffusion_pytorch_model.fp16.safetensors|diffusion_pytorch_model.safetensors"),
    use="AnimateDiff's motion adapter: makes the first chunk together with Realistic_Vision_V5.1_noVAE",
)

REALISTIC_VISION = Published(
    name="Realistic_Vision_V5.1_noVAE",
    repo="SG161222/Realistic_Vision_V5.1_noVAE",
    revision="1e9f017a7b1eaefb63a1900ea6c5953d2739fd21",
    size_bytes=4_270_000_000,
    licence="CreativeML Open RAIL-M",
    files=(
        "model_index.json",
        "scheduler/scheduler_config.json",
        *_tokenizer("tokenizer"),
        *_weights("text_encoder", "model"),
        *_weights("unet"),
        *_weights("vae"),
    ),
    use="the Stable Diffusion 1.5 model that AnimateDiff animates",
)

SVD = Published(
    name="stable-video-diffusion-img2vid-xt",
    repo="stabilityai/stable-video-diffusion-img2vid-xt",
    revision="9e43909513c6714f1bc78bcb44d96e733cd242aa",
    size_bytes=4_510_000_000,
    licence="Stability AI community licence (accept it in the repository; commercial use on its terms)",
    files=(
        "model_index.json",
        "feature_extractor/preprocessor_config.json",
        "scheduler/scheduler_config.json",
        *_weights("image_encoder", "model"),
        *_weights("unet"),
        *_weights("vae"),
    ),
    use="Stable Video Diffusion: makes the first chunk from an image",
)

SDXL = Published(
    name="stable-diffusion-xl-base-1.0",
    repo="stabilityai/stable-diffusion-xl-base-1.0",
    revision="462165984030d82259a11f4367a4eed129e94a7b",
    size_bytes=6_940_000_000,
    licence="CreativeML Open RAIL++-M",
    files=(
        "model_index.json",
        "scheduler/scheduler_config.json",
        *_tokenizer("tokenizer"),
        *_tokenizer("tokenizer_2"),
        *_weights("text_encoder", "model"),
        *_weights("text_encoder_2", "model"),
        *_weights("unet"),
        *_weights("vae"),
    ),
    use="SDXL: makes the image for Stable Video Diffusion where there is only a prompt",
)

ENHANCER = Published(
    name="MS-Vid2Vid-XL",
    repo="ali-vilab/MS-Vid2Vid-XL",
    revision="main",
    size_bytes=14_800_000_000,
    licence="CC BY-NC-ND 4.0: non-commercial (Video-to-Video); the autoencoder is Stable Diffusion 2.1's, Open RAIL++-M",
    files=("non_ema_0035000.pth", "open_clip_pytorch_model.bin", "v2-1_512-ema-pruned.ckpt"),
    use="Video-to-Video, the enhancer",
    next_step="st2v convert {folder} {home}/video-to-video",
    source="the published code takes it from ModelScope's hub: damo/Video-to-Video, revision v1.1.0",
)

PUBLISHED: tuple[Published, ...] = (STREAMING, MODELSCOPE, ANIMATEDIFF, REALISTIC_VISION, SVD, SDXL, ENHANCER)
"""All of them."""


def published(name: str) -> Published:
    """By name or by repository, whatever the case. Raises `UnknownModel`."""
    for known in PUBLISHED:
        if name.casefold() in (known.name.casefold(), known.repo.casefold()):
            return known
    names = ", ".join(known.name for known in PUBLISHED)
    raise UnknownModel("nothing of this name is known to be published", expected=f"one of {names}", received=name, param="name")
