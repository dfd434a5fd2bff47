"""What does enhancing cost: seconds per frame, lag, memory over the film's length; FLOPs at the published size. Last line JSON.

    python bench/enhance.py [--frames 24 240 1200] [--steps 2] [--held 1] [--no-films] [--no-flops]
    python bench/enhance.py --beside [--frames 160]

First table, **measured**: films of a moving pattern, enhanced chunk by chunk with the reduced configuration (published classes,
random weights: neither time nor memory depends on them), each in a process of its own, on this machine's CPU. Lag: frames that
had to exist, from a frame on, until it was sharp. Memory: the carry's bytes; the process's resident set before the
first chunk (libraries and weights) and at its largest.

Second table, **counted** on the meta device, which computes nothing: FLOPs (two per multiplication with addition) of one
evaluation of the published network on 24 frames, on the canvas of square films and on the published one, and what the published
code's hooks on temporal attention compute a second time and throw away.

With --beside instead, **measured**: the built-in model's films, and its own enhancer beside it on the same worker and the same
cores. Frames per second of the preview alone, of the enhancer alone, and of films both made and made sharp.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from memory import HashedText
from published_step import held_bytes, peak_resident_bytes, random_network
from torch.utils.flop_counter import FlopCounterMode

from st2v_stream.chunk import Chunk, Memory, StreamSpec
from st2v_stream.direction import Direction, Timeline
from st2v_stream.enhancers.sdedit import EnhancerNetworks, SdEdit, SdEditSettings
from st2v_stream.networks.enhancer_unet import EnhancerUNet, EnhancerUNetConfig
from st2v_stream.networks.vae import FrameAutoencoder, FrameAutoencoderConfig
from st2v_stream.streaming.autoregressive import stream_chunks
from st2v_stream.streaming.enhance import enhance_chunks
from st2v_stream.streaming.worker import ThreadWorker
from st2v_stream.types import EnhancedChunk, Enhancer, Generator

SPEC = StreamSpec(width=32, height=32, fps=8, first_chunk_frames=16, chunk_frames=8)
SHARP_SIDE = 64
UNET = EnhancerUNetConfig(
    dim=32, dim_mult=(1, 2), num_res_blocks=1, attn_scales=(1.0, 0.5), num_heads=1, head_dim=32, context_dim=64
)
VAE = FrameAutoencoderConfig(block_out_channels=(16, 16, 32, 32), layers_per_block=1, norm_num_groups=8)
TEXT_TOKENS, CANVASES = 77, {"720x768": (90, 96), "1280x720, published": (90, 160)}
STEPS, PASSES, WINDOW_FRAMES, NEW_FRAMES = 30, 2, 24, 16
MB = 1e6


# ---------------------------------------------------------------- measured


def reduced_enhancer(steps: int, held: int) -> SdEdit:
    """The published classes, small."""
    cpu = torch.device("cpu")
    unet, vae = random_network(lambda: EnhancerUNet(UNET), cpu), random_network(lambda: FrameAutoencoder(VAE), cpu)
    settings = SdEditSettings(width=SHARP_SIDE, height=SHARP_SIDE, num_inference_steps=steps, windows_together=held)
    return SdEdit(EnhancerNetworks(unet, vae, HashedText(TEXT_TOKENS, UNET.context_dim)), settings)


def preview_chunk(index: int) -> Chunk:
    """A ramp that moves on by one pixel per frame."""
    start, count = SPEC.start_of(index), SPEC.frames_of(index)
    ramp = (np.arange(SPEC.width) - np.arange(start, start + count)[:, None]) * 8 % 256
    frames = np.broadcast_to(ramp[:, None, :, None], (count, SPEC.height, SPEC.width, 3)).astype(np.uint8)
    return Chunk(index, start, frames, Direction((("anything", 1.0),)), Memory("bench", 1, index + 1, start + count, {}))


def enhance_film(frames: int, steps: int, held: int) -> dict[str, float]:
    """All chunks of a film in this process, none kept."""
    torch.set_num_threads(1)
    enhancer, carry, made, lag, carry_bytes = reduced_enhancer(steps, held), None, 0, 0, 0
    before, began = held_bytes(torch.device("cpu")), time.perf_counter()
    for index in range(SPEC.chunks_for(frames)):
        chunk = preview_chunk(index)
        sharp, carry = enhancer.enhance(chunk, carry, lambda k, n: None)
        made += frames_of(sharp)
        lag = max([lag, *(chunk.start + len(chunk.frames) - each.chunk.start for each in sharp)])
        carry_bytes = max(carry_bytes, sum(part.nbytes for part in carry.parts.values()))
    assert carry is not None
    made += frames_of(enhancer.finish(carry, lambda k, n: None)[0])
    seconds = time.perf_counter() - began
    return {
        "frames": made,
        "s_per_frame": seconds / made,
        "lag_frames": lag,
        "carry_bytes": carry_bytes,
        "before_bytes": before,
        "peak_bytes": peak_resident_bytes(),
    }


def frames_of(chunks: Sequence[EnhancedChunk]) -> int:
    return sum(len(each.chunk.frames) for each in chunks)


def in_its_own_process(frames: int, steps: int, held: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--child", str(frames), "--steps", str(steps), "--held", str(held)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    answer: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return answer


def measured(lengths: Sequence[int], steps: int, held: int) -> list[dict[str, float]]:
    print(f"reduced configuration, {SPEC.width} to {SHARP_SIDE} pixels, {steps} steps, W = {held} (measured)")
    print(f"{'frames':>8} {'s/frame':>9} {'lag':>5} {'carry':>10} {'before':>10} {'peak':>10}")
    rows = []
    for frames in lengths:
        row = in_its_own_process(frames, steps, held)
        rows.append(row)
        sizes = " ".join(f"{row[name] / MB:7.2f} MB" for name in ("carry_bytes", "before_bytes", "peak_bytes"))
        print(f"{row['frames']:>8} {row['s_per_frame']:>9.4f} {row['lag_frames']:>5} {sizes}", flush=True)
    print(f"largest memory over smallest: {ratio(rows):.3f}")
    return rows


def ratio(rows: Sequence[dict[str, float]]) -> float:
    """Of the resident sets of the films."""
    peaks = [row["peak_bytes"] for row in rows]
    return max(peaks) / min(peaks)


# ---------------------------------------------------------------- beside the preview


def beside(frames: int, model: str, name: str) -> dict[str, float]:
    """Frames per second after the first chunk, whose making costs more: preview alone, enhancer alone, both."""
    from st2v_stream.checkpoints.load import load_generator
    from st2v_stream.enhancers.load import load_enhancer

    generator, enhancer = load_generator(model, "cpu"), load_enhancer(name, "cpu")
    rates = asyncio.run(beside_rates(generator, enhancer, frames))
    fps = generator.card.spec.fps
    print(f"{model} beside its enhancer, {torch.get_num_threads()} threads, {frames} frames (measured)")
    for what, rate in rates.items():
        print(f"{what:18} {rate:6.1f} frames/s  {rate / fps:5.2f} times real time")
    return rates


async def beside_rates(generator: Generator, enhancer: Enhancer, frames: int) -> dict[str, float]:
    direction = generator.card.direction(generator.card.example_prompts[0], preset="live", seed=7)
    worker = ThreadWorker("bench")

    def film() -> Any:
        return stream_chunks(generator, Timeline(direction), num_frames=frames, worker=worker)

    try:
        async with aclosing(film()) as preview:
            chunks, alone = await timed(preview)
        async with aclosing(enhance_chunks(enhancer, listed(chunks), worker=worker)) as sharp:
            _, sharpening = await timed(sharp)
        async with aclosing(film()) as preview, aclosing(enhance_chunks(enhancer, preview, worker=worker)) as sharp:
            _, both = await timed(sharp)
    finally:
        await worker.aclose()
    return {"preview alone": alone, "enhancer alone": sharpening, "both": both}


async def timed(stream: Any) -> tuple[list[Any], float]:
    """All that comes, and frames per second from the first that came to the last."""
    arrived, began, after = [], 0.0, 0
    async for each in stream:
        arrived.append(each)
        if len(arrived) == 1:
            began = time.perf_counter()
        else:
            after += len(getattr(each, "chunk", each).frames)
    return arrived, after / (time.perf_counter() - began)


async def listed(chunks: Sequence[Chunk]) -> AsyncIterator[Chunk]:
    for chunk in chunks:
        yield chunk


# ---------------------------------------------------------------- counted


def count_flops(height: int, width: int) -> dict[str, int]:
    """One evaluation of the published network on 24 frames of these latents; and of temporal attention alone."""
    meta = torch.device("meta")
    unet = random_network(lambda: EnhancerUNet(EnhancerUNetConfig()), meta)
    with FlopCounterMode(display=False, depth=10) as counter:
        sample, text = (
            torch.empty(1, 4, WINDOW_FRAMES, height, width, device=meta),
            torch.empty(1, TEXT_TOKENS, 1024, device=meta),
        )
        unet(sample, torch.empty((), device=meta), text)
    return {"flops": int(counter.get_total_flops()), "temporal_attention_flops": temporal_attention(counter)}


def temporal_attention(counter: Any) -> int:
    """Of all attention layers in temporal transformers: with projections, which the hooks compute again as well."""
    counts = counter.get_flop_counts()
    blocks = {name.rpartition(".transformer_blocks")[0] for name in counts if ".transformer_blocks.0.attn1" in name}
    first = ["EnhancerUNet.input_blocks.0.1"]
    temporal = first + [name for name in blocks if name.endswith(".2")]
    attentions = [f"{name}.transformer_blocks.0.{attention}" for name in temporal for attention in ("attn1", "attn2")]
    return int(sum(sum(counts[name].values()) for name in attentions))


def counted() -> dict[str, dict[str, int]]:
    print("\npublished size, 24 frames, one evaluation (counted)")
    rows = {name: count_flops(*size) for name, size in CANVASES.items()}
    for name, row in rows.items():
        per_frame = row["flops"] * STEPS * PASSES / NEW_FRAMES
        wasted = row["temporal_attention_flops"] / 1e12
        print(f"{name:22} {row['flops'] / 1e12:7.1f} TFLOP  {per_frame / 1e12:7.1f} per new frame  twice: +{wasted:.1f}")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, nargs="+", help="of the films (24 240 1200; with --beside 160)")
    parser.add_argument(
        "--beside", action="store_true", help="the built-in model and its enhancer on the same cores, nothing else"
    )
    parser.add_argument("--model", default="storybook", help="with --beside")
    parser.add_argument("--enhancer", default="storybook", help="with --beside: a name or a folder")
    parser.add_argument("--steps", type=int, default=2, help="denoising steps of the measured films")
    parser.add_argument(
        "--held", type=int, default=SdEditSettings.windows_together, help="W, the windows that are held together"
    )
    parser.add_argument("--no-films", action="store_true", help="the counted table only")
    parser.add_argument("--no-flops", action="store_true", help="the measured table only")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child is not None:
        print(json.dumps(enhance_film(args.child, args.steps, args.held)))
        return
    if args.beside:
        rates = beside((args.frames or [160])[0], args.model, args.enhancer)
        print(json.dumps({"bench": "enhance", "beside": rates}))
        return
    films = [] if args.no_films else measured(args.frames or [24, 240, 1200], args.steps, args.held)
    with torch.inference_mode():
        flops = {} if args.no_flops else counted()
    result = {"bench": "enhance", "films": films, "memory_ratio": ratio(films) if films else None, "published": flops}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
