"""How visible are the seams where the enhancer's windows meet? One table, a minute or two on a CPU; last line JSON.

    python bench/seams.py [--films 4] [--windows 10] [--held 1 2 4 8]

Films are denoised from t = 599 in windows of 24 frames, in every way there is: side by side, averaged, with shared noise, with
a growing film's randomized blending holding W windows, and over the whole film as published. Solver, time grid, noise, cuts and
blending are the product's own (30 steps). **The network is a stand-in**, because the published weights were not at hand: each
film is a camera moving over a scene, one pixel per frame, of which the stand-in knows the blurred picture and the motion; what
it must invent, as an enhancer must, is detail. In each of 64 cells of the scene one of four fine patterns fits, and the
stand-in gives the mean of the patterns under their exact probability (softened: a network is less sure), given all noisy
frames of the window. So windows that see other noise choose other patterns, and where they meet detail jumps. It says how the
ways compare, not how large a seam of the real network is; the paper's numbers (RAFT, real network) stand beside.

Flow: OpenCV's dense inverse search on frames enlarged to 256 x 256. Deviation: standard deviation over the film of the mean
length of flow per pair of frames, x 100 pixels. Jump: the largest change between two frames over the median one. Detail: how
strong detail is in frames that two windows share, over the others: what averages two patterns shows neither.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from torch import Tensor

from st2v_stream.chunk import Frames
from st2v_stream.evaluation.flow import dis_flow
from st2v_stream.evaluation.seams import difference
from st2v_stream.media.scaling import enlarge
from st2v_stream.networks.blending import Windows, average_together, cut_together, denoise_joined, draw_cuts_as_coded
from st2v_stream.networks.enhancer_film import GrowingBlend, GrowingFilm, len_of
from st2v_stream.networks.enhancer_sampling import VideoToVideoSampler, WholeFilmSampler
from st2v_stream.networks.sampling import noise_at

SIDE, CELL, PATTERNS, FPS = 64, 8, 4, 8
SIZE, OVERLAP, STEPS = 24, 8, 30
DETAIL, SOFTNESS = 0.35, 3.0
"""Standard deviation of the detail (of the blurred picture: 1), and by how much the stand-in is less sure than it could be."""

PAPER = {"side by side": 8.72, "shared noise": 6.01, "whole film": 3.32}


@dataclass(frozen=True)
class Scene:
    """A panorama that closes on itself: blurred (H, W), and what detail each cell may have, (patterns, H, W)."""

    blurred: Tensor
    patterns: Tensor

    @staticmethod
    def drawn(seed: int) -> Scene:
        blurred, details = noise_at(seed, 0, "scene", (SIDE, SIDE)), noise_at(seed, 0, "detail", (PATTERNS, SIDE, SIDE))
        spectrum = torch.fft.fftfreq(SIDE)[:, None] ** 2 + torch.fft.fftfreq(SIDE)[None] ** 2
        smooth = torch.fft.ifft2(torch.fft.fft2(blurred) * torch.exp(-spectrum / 0.003)).real
        fine = torch.fft.ifft2(torch.fft.fft2(details) * torch.exp(-((spectrum.sqrt() - 0.2) ** 2) / 0.004)).real
        return Scene(smooth / smooth.std(), DETAIL * fine / fine.std())


def panned(picture: Tensor, first: int, count: int) -> Tensor:
    """(H, W), or one for each frame, seen by the camera in frames first .. first + count - 1: (count, H, W)."""
    frames = picture.expand(count, SIDE, SIDE)
    return torch.stack([frames[i].roll(first + i, dims=1) for i in range(count)])


class StandIn:
    """The network, and what a growing film needs besides: solver, noise, cuts. Latents are pixels, (1, 1, F, H, W)."""

    def __init__(self, seed: int, sampler: VideoToVideoSampler) -> None:
        self.seed, self.sampler, self.scene = seed, sampler, Scene.drawn(seed)
        self.steps = sampler.steps

    def blurred(self, first: int, count: int) -> Tensor:
        """The low-quality film."""
        return panned(self.scene.blurred, first, count)[None, None]

    def predict(self, start: int, k: int, latents: Tensor) -> Tensor:
        """The mean of all sharp films, each as likely as the noisy window makes it."""
        count = len_of(latents)
        alpha, sigma = self.level(k)
        noisy = self.sampler.network_input(k, latents) - alpha * self.blurred(start, count)
        held_still = torch.stack([noisy[0, 0, i].roll(-(start + i), dims=1) for i in range(count)]).sum(0)
        fits = alpha * held_still * self.scene.patterns - 0.5 * count * alpha**2 * self.scene.patterns**2
        per_cell = torch.nn.functional.avg_pool2d(fits[None], CELL, divisor_override=1)[0] / (SOFTNESS * sigma**2)
        shares = per_cell.softmax(dim=0).repeat_interleave(CELL, 1).repeat_interleave(CELL, 2)
        detail = (shares * self.scene.patterns).sum(0)
        return self.blurred(start, count) + panned(detail, start, count)[None, None]

    def level(self, k: int) -> tuple[float, float]:
        """alpha and sigma of step k."""
        level = self.sampler.levels[k]
        return 1 / (1 + level**2) ** 0.5, level / (1 + level**2) ** 0.5

    def advance(self, start: int, k: int, clean: Tensor, latents: Tensor, before: Tensor | None) -> Tensor:
        return self.sampler.advance(k, clean, latents, before, self.noise(start, len_of(latents), str(k)))

    def cut(self, start: int, k: int) -> int:
        return random.Random(f"{self.seed}/{start}/{k}").randrange(OVERLAP)

    def noise(self, first: int, count: int, purpose: str, window: int = 0) -> Tensor:
        """Per frame; `window` 0: shared by all windows."""
        draws = [
            noise_at(self.seed, window, f"enhance:{frame}:{purpose}", (SIDE, SIDE)) for frame in range(first, first + count)
        ]
        return torch.stack(draws)[None, None]

    def start(self, first: int, count: int, window: int = 0) -> Tensor:
        """Where the solver begins."""
        return self.sampler.start(self.blurred(first, count), self.noise(first, count, "init", window))


# ---------------------------------------------------------------- the ways


def alone(network: StandIn, first: int, count: int, window: int) -> Tensor:
    """One window by itself; window 0: with the noise that all windows share."""
    return denoise_joined(
        lambda k, part: network.predict(first, k, part),
        WholeFilmSampler(network.sampler),
        network.start(first, count, window),
        Windows(count, count, 0),
        lambda k, parts: parts[0],
        lambda k: network.noise(first, count, str(k), window),
    )


def side_by_side(network: StandIn, windows: Windows) -> Tensor:
    """Windows that share nothing."""
    apart = Windows(windows.num_frames, SIZE, 0, short_last=True)
    parts = [alone(network, s, min(SIZE, windows.num_frames - s), 1 + s) for s in apart.starts]
    return torch.cat(parts, dim=2)


def shared_noise(network: StandIn, windows: Windows) -> Tensor:
    """Windows that overlap and see the same noise there, cut in the middle when they are done."""
    parts = [alone(network, start, SIZE, 0) for start in windows.starts]
    return cut_together(parts, windows, [OVERLAP // 2] * (len(parts) - 1))


def together(network: StandIn, windows: Windows, join: Callable[[int, Sequence[Tensor]], Tensor]) -> Tensor:
    """Every window takes step k, then the film does."""
    starts: list[int] = []

    def predict(k: int, part: Tensor) -> Tensor:
        starts.append(windows.starts[len(starts) % len(windows.starts)])
        return network.predict(starts[-1], k, part)

    frames = windows.num_frames
    sampler, start = WholeFilmSampler(network.sampler), network.start(0, frames)
    return denoise_joined(predict, sampler, start, windows, join, lambda k: network.noise(0, frames, str(k)))


def averaging(network: StandIn, windows: Windows) -> Tensor:
    """Predictions of the frames that two windows share are averaged in every step."""
    return together(network, windows, lambda k, parts: average_together(parts, windows))


def whole_film(network: StandIn, windows: Windows) -> Tensor:
    """Randomized blending as published: every step over all windows."""
    rng = random.Random(network.seed)
    cuts = [draw_cuts_as_coded(rng, windows) for _ in range(network.steps)]
    return together(network, windows, lambda k, parts: cut_together(parts, windows, cuts[k]))


def growing(held: int) -> Callable[[StandIn, Windows], Tensor]:
    """Randomized blending of a film that comes eight frames at a time."""

    def way(network: StandIn, windows: Windows) -> Tensor:
        blend, film, finished = GrowingBlend(network, size=SIZE, overlap=OVERLAP, together=held), GrowingFilm(), []
        for first in range(0, windows.num_frames, 8):
            film, more = blend.add(film, network.start(first, 8), lambda k, n: None)
            finished += [] if more is None else [more]
        rest = blend.finish(film, lambda k, n: None)
        return torch.cat([*finished, *([] if rest is None else [rest])], dim=2)

    return way


# ---------------------------------------------------------------- what is measured


def to_frames(film: Tensor) -> Frames:
    """(1, 1, F, H, W) -> (F, 256, 256, 3) uint8."""
    grey = (film[0, 0] * 40 + 128).round().clamp(0, 255).to(torch.uint8).numpy()
    return enlarge(np.repeat(grey[..., None], 3, axis=-1), 4)


def flow_lengths(frames: Frames) -> list[float]:
    """Mean length of flow per pair of frames, in pixels."""
    estimate = dis_flow().estimate
    pairs = zip(frames[:-1], frames[1:], strict=True)
    return [float(np.linalg.norm(estimate(frame, following), axis=-1).mean()) for frame, following in pairs]


def detail_ratio(network: StandIn, film: Tensor, windows: Windows) -> float:
    """Standard deviation of what was invented: in frames that two windows share, over that in the others."""
    strength = (film - network.blurred(0, windows.num_frames))[0, 0].std(dim=(1, 2))
    is_shared = torch.zeros(windows.num_frames, dtype=torch.bool)
    for start in windows.starts[1:]:
        is_shared[start : start + OVERLAP] = True
    return float(strength[is_shared].mean() / strength[~is_shared].mean())


def measure(films: Sequence[Frames]) -> dict[str, float]:
    deviations, jumps = [], []
    for frames in films:
        deviations.append(100 * statistics.pstdev(flow_lengths(frames)))
        changes = [difference(frame, following) for frame, following in zip(frames[:-1], frames[1:], strict=True)]
        jumps.append(max(changes) / statistics.median(changes))
    spread = statistics.stdev(deviations) if len(deviations) > 1 else 0.0
    return {"deviation": statistics.mean(deviations), "deviation_spread": spread, "jump": statistics.mean(jumps)}


def lag_s(held: int) -> float:
    """Seconds of film that must exist from a frame on until it is sharp, at most."""
    return (SIZE + (held - 1) * (SIZE - OVERLAP)) / FPS


def run(films: int, count: int, held: Sequence[int]) -> list[dict[str, Any]]:
    sampler = VideoToVideoSampler(STEPS)
    windows = Windows(SIZE + (count - 1) * (SIZE - OVERLAP), SIZE, OVERLAP)
    ways: dict[str, Callable[[StandIn, Windows], Tensor]] = {
        "side by side": side_by_side,
        "averaging": averaging,
        "shared noise": shared_noise,
        **{f"growing, W = {number}": growing(number) for number in held},
        "whole film": whole_film,
    }
    rows = []
    for name, way in ways.items():
        networks = [StandIn(seed, sampler) for seed in range(films)]
        made = [way(network, windows) for network in networks]
        row = {"way": name, "lag_s": windows.num_frames / FPS} | measure([to_frames(film) for film in made])
        details = [detail_ratio(network, film, windows) for network, film in zip(networks, made, strict=True)]
        row |= {"detail": statistics.mean(details), "paper": PAPER.get(name)}
        if name.startswith("growing"):
            row["lag_s"] = lag_s(int(name.rpartition(" ")[2]))
        rows.append(row)
        show(row)
    return rows


def show(row: dict[str, Any]) -> None:
    paper = "-" if row["paper"] is None else f"{row['paper']:.2f}"
    deviation = f"{row['deviation']:6.2f} ± {row['deviation_spread']:4.2f}"
    print(f"{row['way']:18} {deviation:>15} {row['jump']:8.2f} {row['detail']:8.3f} {row['lag_s']:8.1f} {paper:>8}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--films", type=int, default=4)
    parser.add_argument("--windows", type=int, default=10, help="per film")
    parser.add_argument("--held", type=int, nargs="+", default=[1, 2, 4, 8], help="W of the growing film")
    args = parser.parse_args()
    began = time.perf_counter()
    print(f"{'way':18} {'deviation':>15} {'jump':>8} {'detail':>8} {'lag, s':>8} {'paper':>8}")
    with torch.inference_mode():
        rows = run(args.films, args.windows, args.held)
    took = time.perf_counter() - began
    print(json.dumps({"bench": "seams", "films": args.films, "windows": args.windows, "seconds": round(took, 1), "rows": rows}))


if __name__ == "__main__":
    main()
