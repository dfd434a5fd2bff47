"""The small enhancer's scores: `st2v evaluate enhancer`. Needs the storybook's renderer, which knows the truth, and its model.

First table, on degraded renders of unseen films: PSNR near edges and of whole frames against the renderer's own picture of the
result's size, flicker where that stands still, width of edges; beside bicubic and Lanczos. Second, on generated films, where
no truth is known: how wide edges are, and whether the sharp film, made small again, is still the preview. Then the targets, and
last a line of JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from st2v_stream.checkpoints.models import find_folder
from st2v_stream.chunk import Chunk, Frames, Memory
from st2v_stream.direction import Direction
from st2v_stream.enhancers.lanczos import Lanczos
from st2v_stream.enhancers.load import load_enhancer
from st2v_stream.evaluation.storybook_films import Studio, long_films
from st2v_stream.media.scaling import enlarge
from st2v_stream.training.enhancer_measures import edge_widths, flicker, near_edges, psnr_db, squared_error
from st2v_stream.training.enhancer_pairs import LAST_STEPS, SCALE, SHARP_SIDE, PreviewModel, Window, draw_window, shrunk
from st2v_stream.training.export import load_export
from st2v_stream.training.randomness import address
from st2v_stream.training.sheets import contact_sheet
from st2v_stream.types import Enhancer
from st2v_stream.worlds import storybook

Way = Callable[[Frames], Frames]
"""A preview (T, h, w, 3) -> the same, enlarged."""

LATENT_NOISE = 0.15
BLUR_PIXELS, PIXEL_NOISE = 0.5, 3.0
DEGRADED = ("decoded", "decoded, blurred, noisy")
"""What the targets are held against; "shrunk" is easier, "last step" has the model's own blunders, which are no degradation."""

EDGE_GAIN_DB, WHOLE_GAIN_DB, FLICKER_RATIO = 2.0, 0.0, 1.0
PURPOSE = "enhancer evaluation"
MEASURED = slice(4, 12)
"""Frames of a window of 16 that are compared: they have neighbours."""

SHEET_FILMS = 4
WIDTHS_EVERY = 4
"""Edges are measured in every so-manieth frame."""


@dataclass
class Tally:
    """Errors of one way, summed over films."""

    errors: list[tuple[float, int]] = field(default_factory=list)
    edge_errors: list[tuple[float, int]] = field(default_factory=list)
    changes: list[tuple[float, int]] = field(default_factory=list)
    widths: list[NDArray[np.float64]] = field(default_factory=list)

    def add(self, made: Frames, truth: Frames, mask: NDArray[np.bool_]) -> None:
        """A film, what it should be, and where that has edges."""
        error = squared_error(made, truth)
        self.errors.append((float(error.sum()), error.size))
        self.edge_errors.append((float(error[mask].sum()), int(mask.sum())))
        self.changes.append(flicker(made, truth))
        self.widths.append(edge_widths(made[::WIDTHS_EVERY]))

    def scores(self) -> dict[str, float]:
        """PSNR in dB, flicker of 255, edges in pixels."""
        return {
            "edge_psnr_db": psnr_db(_mean(self.edge_errors)),
            "psnr_db": psnr_db(_mean(self.errors)),
            "flicker": _mean(self.changes),
            "edge_width": float(np.median(np.concatenate(self.widths))),
        }


def _mean(sums: Sequence[tuple[float, int]]) -> float:
    return sum(total for total, _ in sums) / max(1, sum(count for _, count in sums))


def ways(enhancer: Enhancer) -> dict[str, Way]:
    """The enhancer and what it must beat."""
    return {
        "bicubic": lambda preview: enlarge(preview, SCALE),
        "lanczos": lambda preview: made_sharp(Lanczos(SCALE), preview),
        "enhancer": lambda preview: made_sharp(enhancer, preview),
    }


def made_sharp(enhancer: Enhancer, preview: Frames) -> Frames:
    """A film in one chunk."""
    chunk = Chunk(0, 0, preview, Direction((("", 1.0),)), Memory("evaluation", 1, 1, len(preview), {}))
    sharp, carry = enhancer.enhance(chunk, None, lambda k, n: None)
    (each,) = [*sharp, *enhancer.finish(carry, lambda k, n: None)[0]]
    return each.chunk.frames


# ---------------------------------------------------------------- degraded renders


def degraded(model: PreviewModel, window: Window, number: int) -> dict[str, Frames]:
    """Previews of the window, each worse than the one before: (16, 64, 64, 3)."""

    def noise(like: torch.Tensor) -> torch.Tensor:
        return torch.randn(like.shape, generator=torch.Generator().manual_seed(address(0, f"{PURPOSE} noise", number)))

    decoded = model.decoded(window, LATENT_NOISE, noise)
    blurred = np.stack([cv2.GaussianBlur(frame, (0, 0), BLUR_PIXELS) for frame in decoded])
    rng = np.random.default_rng(address(0, f"{PURPOSE} pixels", number))
    noisy = (blurred + rng.normal(0, PIXEL_NOISE, blurred.shape)).round().clip(0, 255).astype(np.uint8)
    return {
        "shrunk": shrunk(window.truth(window.numbers)),
        DEGRADED[0]: decoded,
        DEGRADED[1]: noisy,
        "last step": model.predicted(window, LAST_STEPS[number % 2], noise),
    }


def on_renders(enhancer: Enhancer, model: PreviewModel, films: int) -> dict[str, dict[str, dict[str, float]]]:
    """Kind of degradation -> way -> scores; half of the films show what training never drew."""
    tallies: dict[str, dict[str, Tally]] = {}
    for number in range(films):
        window = draw_window(0, PURPOSE, number, ("held_out", "any")[number % 2], last_frame=1200)
        truth = window.truth(window.numbers[MEASURED])
        mask = near_edges(truth)
        for kind, preview in degraded(model, window, number).items():
            for name, way in ways(enhancer).items():
                tally = tallies.setdefault(kind, {}).setdefault(name, Tally())
                tally.add(way(preview[: MEASURED.stop])[MEASURED], truth, mask)
    return {kind: {name: tally.scores() for name, tally in by_way.items()} for kind, by_way in tallies.items()}


# ---------------------------------------------------------------- generated films


def on_films(enhancer: Enhancer, films: Sequence[Frames], real: Sequence[Frames]) -> dict[str, dict[str, float]]:
    """Way -> width of edges, and how far the sharp film, made small again, is from its preview (dB; of 255 in colour).

    real: what the renderer draws for the same words, for the width of its edges.
    """
    scores = {}
    for name, way in ways(enhancer).items():
        made = [way(film) for film in films]
        pairs = [(shrunk(sharp), film) for sharp, film in zip(made, films, strict=True)]
        scores[name] = {
            "edge_width": _edge_width(made),
            "shrunk_psnr_db": psnr_db(float(np.mean([squared_error(*pair).mean() for pair in pairs]))),
            "colour_shift": float(max(np.abs((small.astype(float) - film).mean((0, 1, 2))).max() for small, film in pairs)),
        }
    return scores | {"renderer": {"edge_width": _edge_width(real)}}


def _edge_width(films: Sequence[Frames]) -> float:
    return float(np.median(np.concatenate([edge_widths(film[::WIDTHS_EVERY]) for film in films])))


def frames_per_s(enhancer: Enhancer, preview: Frames) -> float:
    """Alone on this machine as it is, with torch's threads as they are."""
    made_sharp(enhancer, preview[:2])
    began = time.perf_counter()
    made_sharp(enhancer, preview)
    return len(preview) / (time.perf_counter() - began)


# ---------------------------------------------------------------- the command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is measured, and on how much."""
    parser.add_argument("--enhancer", default="storybook", help="a name or a folder (storybook)")
    parser.add_argument("--model", default="storybook", help="whose previews it makes sharp (storybook)")
    parser.add_argument("--renders", type=int, default=16, help="degraded renders, 8 frames each (16)")
    parser.add_argument("--films", type=int, default=6, help="generated films (6)")
    parser.add_argument("--frames", type=int, default=40, help="of each generated film (40)")
    parser.add_argument("--out", type=Path, default=Path("runs/evaluate-enhancer"), metavar="DIR", help="films, contact sheets")
    parser.add_argument("--json", type=Path, metavar="FILE", help="the scores as JSON")


def run(args: argparse.Namespace) -> int:
    """Measure and print. Returns 0 when every target holds."""
    cv2.setNumThreads(1)
    enhancer, folder = load_enhancer(args.enhancer, "cpu"), find_folder(args.model)
    parts, vae = load_export(folder)
    renders = on_renders(enhancer, PreviewModel(parts.requires_grad_(False), vae.requires_grad_(False)), args.renders)
    orders = long_films(args.films, args.frames)
    studio = Studio(folder, args.out, preset="live", device="cpu")
    films = [studio.film(order).frames for order in orders]
    real = [storybook.clip(order.spec, range(order.num_frames), SHARP_SIDE) for order in orders]
    on_generated, speed = on_films(enhancer, films, real), frames_per_s(enhancer, films[0])
    verdicts = held(renders)
    print("\n".join([*table(renders, on_generated), f"alone: {speed:.1f} frames/s", *verdicts]))
    drawn = list(zip(films, (order.spec.caption for order in orders)))[:SHEET_FILMS]
    draw(enhancer, drawn, args.out / "enhanced.png")
    scores = {"renders": renders, "films": on_generated, "frames_per_s": speed}
    if args.json:
        args.json.write_text(json.dumps(scores, indent=2) + "\n")
    print(json.dumps({"evaluate": "enhancer", **scores}))
    return 0 if all(verdict.endswith("held") for verdict in verdicts) else 1


def table(renders: dict[str, dict[str, dict[str, float]]], films: dict[str, dict[str, float]]) -> list[str]:
    """Both tables, a line each."""
    lines = [f"{'degraded renders':26}{'':10}{'near edges':>12}{'whole':>10}{'flicker':>9}{'edges':>9}"]
    for kind, by_way in renders.items():
        for name, row in by_way.items():
            figures = f"{row['edge_psnr_db']:9.2f} dB{row['psnr_db']:7.2f} dB{row['flicker']:9.2f}{row['edge_width']:6.2f} px"
            lines.append(f"{kind:26}{name:10}{figures}")
    lines.append(f"{'generated films':26}{'':10}{'made small again':>22}{'colour':>9}{'edges':>9}")
    for name, row in films.items():
        again = f"{row['shrunk_psnr_db']:19.2f} dB{row['colour_shift']:9.2f}" if "shrunk_psnr_db" in row else " " * 31
        lines.append(f"{'':26}{name:10}{again}{row['edge_width']:6.2f} px")
    return lines


def held(renders: dict[str, dict[str, dict[str, float]]]) -> list[str]:
    """Each target with what was measured, the worst kind of degradation: "... held" or "... MISSED"."""
    pairs = [(renders[kind]["enhancer"], renders[kind]["bicubic"]) for kind in DEGRADED]
    edges = min(ours["edge_psnr_db"] - theirs["edge_psnr_db"] for ours, theirs in pairs)
    whole = min(ours["psnr_db"] - theirs["psnr_db"] for ours, theirs in pairs)
    ratio = max(ours["flicker"] / theirs["flicker"] for ours, theirs in pairs)
    return [
        f"PSNR near edges over bicubic: {edges:+.2f} dB, required {EDGE_GAIN_DB:+.1f}: {_verdict(edges >= EDGE_GAIN_DB)}",
        f"PSNR of frames over bicubic: {whole:+.2f} dB, required {WHOLE_GAIN_DB:+.1f}: {_verdict(whole >= WHOLE_GAIN_DB)}",
        f"flicker, of the input's: {ratio:.2f} x, required at most {FLICKER_RATIO:.1f}: {_verdict(ratio <= FLICKER_RATIO)}",
    ]


def _verdict(is_held: bool) -> str:
    return "held" if is_held else "MISSED"


def draw(enhancer: Enhancer, films: Sequence[tuple[Frames, str]], path: Path, *, columns: int = 5) -> None:
    """A contact sheet: of every film, with its caption, the preview as players enlarge it, and the sharp one."""
    rows, titles = [], []
    for film, caption in films:
        made = ways(enhancer)
        rows += [made["bicubic"](film), made["enhancer"](film)]
        titles += [f"{caption}: preview", "enhanced"]
    contact_sheet(rows, titles, path, columns=columns, enlarge=1)
