"""What does it cost to encode a chunk of 8 frames? Milliseconds and bytes per chunk; last line JSON.

    python bench/encode.py [--repeats 10]

Content: a panning texture (blurred noise at four scales) with a little grain, harder than flat drawings. One core per call.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from st2v_stream.chunk import Chunk, Frames, Memory, StreamSpec
from st2v_stream.direction import Direction
from st2v_stream.media.encode import encode_segment
from st2v_stream.media.segment import EncodeSpec
from st2v_stream.types import Rendition

FRAMES, FPS = 8, 10
CASES: tuple[tuple[int, Rendition], ...] = (
    (64, "preview"),
    (256, "preview"),
    (256, "enhanced"),
    (720, "preview"),
    (720, "enhanced"),
)


def panning_texture(size: int) -> Frames:
    """(8, size, size, 3) uint8; moves by 1/64 of the width per frame."""
    rng = np.random.default_rng(0)
    wide = size + FRAMES * max(1, size // 64)
    texture = np.zeros((size, wide, 3))
    for cells in (4, 8, 16, 32):
        noise = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        texture += np.asarray(noise.resize((wide, size), Image.Resampling.BICUBIC)) * (4 / cells)
    texture *= 235 / texture.max()
    views = [texture[:, t * (wide - size) // FRAMES :][:, :size] + rng.normal(0, 3, (size, size, 3)) for t in range(FRAMES)]
    return np.clip(np.stack(views), 0, 255).astype(np.uint8)


def measure(size: int, rendition: Rendition, repeats: int) -> dict[str, Any]:
    stream = StreamSpec(size, size, FPS, 2 * FRAMES, FRAMES)
    spec = EncodeSpec.for_stream(stream, rendition)
    chunk = Chunk(1, 16, panning_texture(size), Direction((("texture", 1.0),)), Memory("bench", 1, 2, 24, {}))
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        segment = encode_segment(chunk, spec)
        times.append(1000 * (time.perf_counter() - begin))
    return {
        "size": size,
        "encoded": segment.width,
        "rendition": rendition,
        "ms_best": round(min(times), 1),
        "ms_median": round(statistics.median(times), 1),
        "segment_bytes": len(segment.data),
        "codec": segment.codec,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=10)
    repeats = parser.parse_args().repeats
    print(f"{'size':>4} {'encoded':>7} {'rendition':>9} {'ms best':>8} {'ms median':>9} {'KiB':>6} {'kbit/s':>7}  codec")
    rows = []
    for size, rendition in CASES:
        row = measure(size, rendition, repeats)
        rows.append(row)
        kib = row["segment_bytes"] / 1024
        kbit_per_s = row["segment_bytes"] * 8 * FPS / FRAMES / 1000
        head = f"{size:4} {row['encoded']:7} {rendition:>9} {row['ms_best']:8} {row['ms_median']:9}"
        print(f"{head} {kib:6.1f} {kbit_per_s:7.0f}  {row['codec']}")
    print(json.dumps({"bench": "encode", "frames": FRAMES, "repeats": repeats, "load_1min": os.getloadavg()[0], "rows": rows}))


if __name__ == "__main__":
    main()
