"""What does one denoising step cost at the published size? Seconds, FLOPs, peak memory, bytes per part; last line JSON.

    python bench/published_step.py [--small] [--device auto] [--dtype float32] [--repeats 3]

Random weights: neither time nor memory depends on their values. A step is what the autoregressive loop does 50 times per
chunk: control branch (8 frames) and UNet (16 frames) on two rows for guidance, guidance, DDIM. FLOPs (two per multiplication
with addition) are counted on the meta device, which computes nothing. --small: the same code at a thousandth of the size.
On a CPU the full size wants about 12 GB of memory and minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPTextConfig, CLIPTextModel

from st2v_stream.checkpoints.layouts import PUBLISHED_SCHEDULER, PUBLISHED_TEXT
from st2v_stream.checkpoints.load import choose_device
from st2v_stream.networks.ar_step import chunk_conditions, predictor
from st2v_stream.networks.cam import ControlBranch, ControlBranchConfig
from st2v_stream.networks.guidance import Guidance
from st2v_stream.networks.resampler import (
    ImageResampler,
    ImageResamplerConfig,
    OpenClipImageEncoder,
    OpenClipImageEncoderConfig,
)
from st2v_stream.networks.sampling import make_sampler
from st2v_stream.networks.unet import StreamingUNet, StreamingUNetConfig
from st2v_stream.networks.vae import FrameAutoencoder, FrameAutoencoderConfig

STEPS, SCALE = 50, 7.5
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Size:
    """A configuration of all parts, and the films it makes, in pixels."""

    side: int
    unet: StreamingUNetConfig
    cam: ControlBranchConfig
    vae: FrameAutoencoderConfig
    image_encoder: OpenClipImageEncoderConfig
    resampler: ImageResamplerConfig
    text: dict[str, Any]

    def parts(self) -> dict[str, Callable[[], nn.Module]]:
        """How each part is built."""
        return {
            "unet": lambda: StreamingUNet(self.unet),
            "cam": lambda: ControlBranch(self.cam),
            "image_encoder": lambda: OpenClipImageEncoder(self.image_encoder),
            "resampler": lambda: ImageResampler(self.resampler),
            "vae": lambda: FrameAutoencoder(self.vae),
            "text_encoder": lambda: CLIPTextModel(CLIPTextConfig(**self.text)),
        }


PUBLISHED = Size(
    256,
    StreamingUNetConfig(),
    ControlBranchConfig(),
    FrameAutoencoderConfig(),
    OpenClipImageEncoderConfig(),
    ImageResamplerConfig(),
    dict(PUBLISHED_TEXT),
)
_NARROW: dict[str, Any] = {
    "block_out_channels": (32, 64),
    "cross_attention_levels": (True, True),
    "layers_per_block": 1,
    "attention_head_dim": 16,
    "transformer_in_heads": 2,
    "norm_num_groups": 16,
    "cross_attention_dim": 64,
}
SMALL = Size(
    64,
    StreamingUNetConfig(**_NARROW, cam_head_dim=16),
    ControlBranchConfig(**_NARROW, condition_channels=(8, 8, 16, 16)),
    FrameAutoencoderConfig(block_out_channels=(16, 16, 32, 32), layers_per_block=1, norm_num_groups=8),
    OpenClipImageEncoderConfig(28, 14, width=32, layers=2, heads=2, output_dim=64),
    ImageResamplerConfig(64, 64, cross_attention_dim=64),
    {
        "vocab_size": 512,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
)


def bytes_per_part(size: Size, bytes_per_number: int = 4) -> dict[str, int]:
    """Bytes of weights, from the shapes alone."""
    with torch.device("meta"):
        return {
            name: bytes_per_number * sum(value.numel() for value in build().parameters())
            for name, build in size.parts().items()
        }


def random_network(build: Callable[[], nn.Module], device: torch.device, dtype: torch.dtype = torch.float32) -> Any:
    """With random numbers of a size that keeps activations in range: denormals and NaN have other speeds."""
    with torch.device("meta"):
        network = build().to(dtype).requires_grad_(False)
    if device.type == "meta":
        return network.eval()
    network.to_empty(device=device)
    for name, value in network.state_dict(keep_vars=True).items():
        if not value.is_floating_point():
            value.copy_(torch.arange(value.numel(), device=device).view(value.shape))  # positions
        elif value.ndim > 1:
            value.normal_(0, float(value.numel() / value.shape[0]) ** -0.5)
        else:
            value.fill_(1.0 if name.endswith("weight") else 0.0)
    return network.eval()


def make_step(size: Size, device: torch.device, dtype: torch.dtype) -> Callable[[int], Tensor]:
    """step(k) -> latents after step k of a chunk, all inputs random."""
    unet = random_network(size.parts()["unet"], device, dtype)
    cam = random_network(size.parts()["cam"], device, dtype)
    guidance, latent_side = Guidance(SCALE), size.side // 8

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, device=device, dtype=dtype)

    conditions = chunk_conditions(
        cam,
        draw(2, size.unet.text_tokens, size.unet.cross_attention_dim),
        draw(2, size.unet.image_tokens, size.unet.cross_attention_dim),
        control_frames=draw(1, size.unet.num_control_frames, 3, size.side, size.side),
    )
    predict, sampler = predictor(unet, cam, conditions), make_sampler(PUBLISHED_SCHEDULER, STEPS)
    latents = draw(1, size.unet.in_channels, size.unet.num_frames, latent_side, latent_side)
    noise = draw(*latents.shape)

    def step(k: int) -> Tensor:
        predictions = predict(latents, sampler.timesteps[k])
        if device.type == "meta":  # the sampler's table of noise levels has no place there, and costs nothing
            return guidance(predictions)
        return sampler.step(k, guidance(predictions), latents, noise)

    return step


def count_flops(size: Size) -> int:
    """Of one step, without computing it."""
    step = make_step(size, torch.device("meta"), torch.float32)
    with FlopCounterMode(display=False) as counter:
        step(0)
    return int(counter.get_total_flops())


def measure(size: Size, device: torch.device, dtype: torch.dtype, repeats: int) -> dict[str, Any]:
    """Seconds per step (the first apart: it warms caches up) and the most memory that was in use."""
    step, seconds = make_step(size, device, dtype), []
    weights = held_bytes(device)
    for k in range(repeats + 1):
        wait_for(device)
        begin = time.perf_counter()
        latents = step(k)
        wait_for(device)
        seconds.append(time.perf_counter() - begin)
    if not torch.isfinite(latents).all():
        raise RuntimeError("expected finite latents, received NaN or infinity: the times mean nothing")
    return {
        "first_s": seconds[0],
        "median_s": statistics.median(seconds[1:] or seconds),
        "before_bytes": weights,
        "peak_bytes": held_bytes(device, peak=True),
        "peak_is": "allocated on the GPU" if device.type == "cuda" else "largest resident set of the process",
    }


def held_bytes(device: torch.device, *, peak: bool = False) -> int:
    """In use now, or at most since the start."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) if peak else torch.cuda.memory_allocated(device)
    if peak:
        return peak_resident_bytes()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def peak_resident_bytes() -> int:
    """Of this process since its start."""
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def wait_for(device: torch.device) -> None:
    """Until the GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"


@torch.inference_mode()
def run(args: argparse.Namespace) -> dict[str, Any]:
    size, device, dtype = SMALL if args.small else PUBLISHED, choose_device(args.device), DTYPES[args.dtype]
    flops, parts = count_flops(size), bytes_per_part(size, dtype.itemsize)
    measured = measure(size, device, dtype, args.repeats)
    return {
        "bench": "published_step",
        "size": "small" if args.small else "published",
        "side": size.side,
        "device": device_name(device),
        "dtype": args.dtype,
        "torch": torch.__version__,
        "load_1min": os.getloadavg()[0],
        "flops": flops,
        "flops_per_s": flops / measured["median_s"],
        "chunk_s": STEPS * measured["median_s"],
        **measured,
        "part_bytes": parts,
    }


def show(result: dict[str, Any]) -> None:
    print(f"{result['size']}, {result['side']}x{result['side']}, 16 frames, {result['dtype']} on {result['device']}")
    rows = (
        ("one step", f"{result['median_s']:.3f} s", f"first {result['first_s']:.3f} s"),
        ("FLOPs of a step", f"{result['flops'] / 1e12:.4f} T", f"{result['flops_per_s'] / 1e12:.3f} TFLOP/s"),
        (f"{STEPS} steps (a chunk)", f"{result['chunk_s']:.1f} s", "computed"),
        ("peak memory", f"{result['peak_bytes'] / 1e9:.2f} GB", result["peak_is"]),
        ("before the step", f"{result['before_bytes'] / 1e9:.2f} GB", "UNet and CAM among it"),
    )
    for name, value, note in rows:
        print(f"{name:24} {value:>12}   {note}")
    for name, count in result["part_bytes"].items():
        print(f"{name:24} {count / 1e9:>9.4f} GB   weights in {result['dtype']}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="the same code at a thousandth of the size")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="float32, as published")
    parser.add_argument("--repeats", type=int, default=3, help="steps after the first; 0 times the first")
    result = run(parser.parse_args())
    show(result)
    print(json.dumps({name: round(value, 4) if isinstance(value, float) else value for name, value in result.items()}))


if __name__ == "__main__":
    main()
