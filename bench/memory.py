"""Which card holds the published model, and does memory grow with the film? Tables; last line JSON.

    python bench/memory.py [--frames 24 240 1200] [--no-films]

First table, **computed**: bytes of weights per part from their shapes; the most that activations of a denoising step hold at
once, counted on the meta device while every operation runs without numbers (not what libraries take beside that); what a card
needs with everything on it and with `--offload-models`. AnimateDiff, SVD and SDXL work at larger sizes: not counted.

Second table, **measured**: the largest resident set of a process that makes a film into a file, with the reduced
configuration, random weights and one step per chunk, on this machine's CPU.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from weakref import finalize

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from published_step import PUBLISHED, SMALL, Size, bytes_per_part, make_step, peak_resident_bytes, random_network
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from st2v_stream.checkpoints.layouts import PUBLISHED_SCHEDULER
from st2v_stream.checkpoints.published import MODELSCOPE
from st2v_stream.chunk import StreamSpec
from st2v_stream.direction import Direction, Timeline
from st2v_stream.generate import FilmFile, save_film
from st2v_stream.generators.conditioning import OpenClipAnchor
from st2v_stream.generators.firstchunk.storybook import StorybookFirstChunk
from st2v_stream.generators.streamingt2v import Networks, StreamingT2V, decode_window
from st2v_stream.networks.unet import StreamingUNet, StreamingUNetConfig
from st2v_stream.streaming.autoregressive import StopSignal
from st2v_stream.types import ModelCard

CARDS_GB = (12, 16, 24, 80)
GB = 2**30
"""Cards are sold in these."""

RESERVED = int(0.7 * GB)
"""CUDA's own context and the libraries' workspaces. An assumption, not a measurement: no GPU was here."""

# ---------------------------------------------------------------- computed


class LiveBytes(TorchDispatchMode):
    """Counts storages that operations make and that are still held; `peak` is the most at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {id(leaf.untyped_storage()) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and id(leaf.untyped_storage()) not in given | self._known:
                self._count(leaf.untyped_storage())
        return result

    def _count(self, storage: Any) -> None:
        key, size = id(storage), storage.nbytes()
        self._known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        finalize(storage, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def activation_bytes(size: Size) -> dict[str, int]:
    """The most that a denoising step, and decoding a chunk, hold at once besides the weights, in float32."""
    meta, side = torch.device("meta"), size.side // 8
    step, vae = make_step(size, meta, torch.float32), random_network(size.parts()["vae"], meta)
    with LiveBytes() as denoising:
        step(0)
    with LiveBytes() as decoding:
        decode_window(vae, torch.empty(1, size.vae.latent_channels, 8, side, side, device=meta))
    return {"denoising": denoising.peak, "decoding": decoding.peak}


def first_chunk_bytes() -> dict[str, int]:
    """ModelScope in half precision: all of it, about, as `st2v models` says it; and its UNet, ours without CAM and APM."""
    with torch.device("meta"):
        unet = StreamingUNet(StreamingUNetConfig(image_tokens=0, num_control_frames=0))
    return {"all": MODELSCOPE.size_bytes, "unet": 2 * sum(value.numel() for value in unet.parameters())}


def needs(parts: dict[str, int], activations: dict[str, int], base: dict[str, int]) -> dict[str, int]:
    """Bytes a card needs: everything there, or one stage at a time. StreamingT2V in float32, ModelScope in half."""
    stages = (
        parts["unet"] + parts["cam"] + activations["denoising"],
        parts["vae"] + activations["decoding"],
        parts["image_encoder"] + parts["resampler"],
        parts["text_encoder"],
        base["unet"] + activations["denoising"],
    )
    everything = sum(parts.values()) + base["all"] + max(activations.values())
    return {"all": everything + RESERVED, "offload": max(stages) + RESERVED}


def verdict(needed: dict[str, int], card_gb: int) -> str:
    card = card_gb * GB
    return "whole" if needed["all"] <= card else "with --offload-models" if needed["offload"] <= card else "too small"


# ---------------------------------------------------------------- measured


class HashedText:
    """A text encoder without a vocabulary: random tokens that the text seeds."""

    def __init__(self, tokens: int, width: int) -> None:
        self._shape = (tokens, width)

    def __call__(self, texts: Sequence[str]) -> Tensor:
        return torch.stack([torch.randn(self._shape, generator=torch.Generator().manual_seed(len(text))) for text in texts])


def reduced_generator() -> StreamingT2V:
    """The published kind of model at the reduced size; it draws its first picture with its own UNet."""
    cpu = torch.device("cpu")
    made = {name: random_network(build, cpu) for name, build in SMALL.parts().items() if name != "text_encoder"}
    networks = Networks(
        unet=made["unet"],
        cam=made["cam"],
        vae=made["vae"],
        anchor=OpenClipAnchor(made["image_encoder"], made["resampler"]),
        text=HashedText(SMALL.unet.text_tokens, SMALL.unet.cross_attention_dim),
        scheduler=PUBLISHED_SCHEDULER,
    )
    card = ModelCard("reduced", "Reduced", "1", "Apache-2.0", StreamSpec(SMALL.side, SMALL.side, 8, 16, 8))
    return StreamingT2V(card, networks, StorybookFirstChunk(card, networks))


def make_film(frames: int, steps: int) -> dict[str, int]:
    """What `st2v generate` does, in this process."""
    torch.set_num_threads(1)
    generator = reduced_generator()
    timeline = Timeline(Direction((("anything", 1.0),), guidance_scale=1.0, num_inference_steps=steps))
    with tempfile.TemporaryDirectory() as folder:
        film = FilmFile(Path(folder) / "film.mp4", generator.spec, title="film", num_frames=frames)
        stop = StopSignal()
        making = save_film(lambda: generator, timeline, frames, film, stop=stop, report=lambda _: None, every_step=False)
        made = asyncio.run(making)
    return {"frames": made, "peak_bytes": peak_resident_bytes()}


def measure_film(frames: int, steps: int) -> dict[str, int]:
    """The same in a process of its own, whose peak is that of this film alone."""
    command = [sys.executable, __file__, "--child", str(frames), "--steps", str(steps)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    answer: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return answer


# ---------------------------------------------------------------- tables


def computed() -> dict[str, Any]:
    parts, activations, base = bytes_per_part(PUBLISHED), activation_bytes(PUBLISHED), first_chunk_bytes()
    needed = needs(parts, activations, base)
    rows = {
        **parts,
        "StreamingT2V, float32": sum(parts.values()),
        "ModelScope, half": base["all"],
        "activations, a step": activations["denoising"],
        "activations, decoding": activations["decoding"],
        "needed, whole": needed["all"],
        "needed, offload": needed["offload"],
    }
    print("published size, 256x256, ModelscopeT2V begins (computed)")
    for name, count in rows.items():
        print(f"  {name:22} {count / GB:7.2f} GiB")
    cards = {card: verdict(needed, card) for card in CARDS_GB}
    for card, words in cards.items():
        print(f"  {card:>3} GB card            {words}")
    return {"part_bytes": parts, "activation_bytes": activations, "base_bytes": base, "needed_bytes": needed, "cards": cards}


def measured(lengths: Sequence[int], steps: int) -> list[dict[str, int]]:
    print(f"\nreduced configuration, steps per chunk: {steps} (measured)")
    rows = []
    for frames in lengths:
        rows.append(measure_film(frames, steps))
        print(f"  {rows[-1]['frames']:>6} frames {rows[-1]['peak_bytes'] / 1e6:>9.1f} MB at most", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, nargs="+", default=[24, 240, 1200])
    parser.add_argument("--steps", type=int, default=1, help="denoising steps per chunk of the measured films")
    parser.add_argument("--no-films", action="store_true", help="the computed table only")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child is not None:
        print(json.dumps(make_film(args.child, args.steps)))
        return
    with torch.inference_mode():
        result = computed()
    result["films"] = [] if args.no_films else measured(args.frames, args.steps)
    print(json.dumps({"bench": "memory"} | result))


if __name__ == "__main__":
    main()
