"""A text-to-video model as diffusers stores ModelScope's, tiny and random, and a few clips of the story-book world."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet3DConditionModel
from small_model import _text_model, _tokenizer
from small_networks import randomize

from st2v_stream.networks.resampler import OpenClipImageEncoder, OpenClipImageEncoderConfig
from st2v_stream.worlds import storybook

SIDE = 32  # pixels; latents are 4 x 4


def tiny_unet() -> UNet3DConditionModel:
    torch.manual_seed(0)
    return UNet3DConditionModel(
        sample_size=SIDE // 8,
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
        block_out_channels=(16, 16),
        layers_per_block=1,
        norm_num_groups=8,
        cross_attention_dim=16,
        attention_head_dim=8,
    ).eval()


def tiny_vae() -> AutoencoderKL:
    torch.manual_seed(1)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 8, 16),
        layers_per_block=1,
        norm_num_groups=4,
    ).eval()


def tiny_image_encoder() -> OpenClipImageEncoder:
    torch.manual_seed(2)
    return OpenClipImageEncoder(OpenClipImageEncoderConfig(28, 14, width=16, layers=1, heads=2, output_dim=8)).eval()


def write_base(folder: Path) -> Path:
    """Written by diffusers and transformers themselves, except the image encoder."""
    tiny_unet().save_pretrained(folder / "unet")
    tiny_vae().save_pretrained(folder / "vae")
    randomize(_text_model(), seed=3).save_pretrained(folder / "text_encoder")  # type: ignore[operator]
    _tokenizer().save_pretrained(folder / "tokenizer")
    schedule = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
    DDIMScheduler(**schedule, clip_sample=False, set_alpha_to_one=False).save_pretrained(folder / "scheduler")
    tiny_image_encoder().save_pretrained(folder / "image_encoder")
    return folder


def write_clips(folder: Path, count: int, frames: int = 40) -> Path:
    """Films of the story-book world, 64 x 64 at 8 frames per second, each with its caption beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for number in range(count):
        spec = storybook.sample_spec(rng)
        write_film(folder / f"{number}.mp4", storybook.clip(spec, range(frames), 64))
        (folder / f"{number}.txt").write_text(spec.caption + "\n")
    return folder


def write_film(path: Path, frames: np.ndarray, fps: int = 8, rotation: int = 0) -> Path:
    """Frames (T, H, W, 3) uint8 as H.264, BT.709, nearly without loss."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps), options={"crf": "4"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.colorspace, stream.codec_context.color_range = 1, 1
        if rotation:
            stream.set_display_rotation(rotation)
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame = frame.reformat(format="yuv420p", dst_colorspace=1, dst_color_range=1)
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path
