"""Scores of a model folder: films are sampled and read back by the renderer itself (worlds/reading).

python -m st2v_stream.training.measure checkpoints/storybook --films 32 --sheets runs/measured
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from st2v_stream.networks.guidance import Guidance
from st2v_stream.networks.vae import FrameAutoencoder
from st2v_stream.training import randomness
from st2v_stream.training.export import EXAMPLE_PROMPTS, load_export
from st2v_stream.training.noise import GUIDANCE_RESCALE
from st2v_stream.training.parts import Parts
from st2v_stream.training.preview import Previewer, PreviewSettings
from st2v_stream.training.sheets import contact_sheet
from st2v_stream.worlds import reading, storybook


@dataclass(frozen=True)
class Scores:
    """Shares of the films whose scene, colour, subject and motion were read as the caption says."""

    films: int
    scene: float
    colour: float
    subject: float
    motion: float
    seen: float  # share of the frames in which a subject was found
    match_error: float  # real films: about 0.11
    frame_difference: float  # mean absolute change from frame to frame, of 255; real films: about 6


def score_openings(
    parts: Parts, vae: FrameAutoencoder, films: int, settings: PreviewSettings, *, split: str = "train", seed: int = 7
) -> tuple[Scores, list[storybook.FilmSpec], np.ndarray]:
    """First chunks from text alone: scores, what was asked for, and the films `(N, 16, H, W, 3)`."""
    rng = randomness.numpy_rng(seed, f"score {split}")
    specs = [storybook.sample_spec(rng, split) for _ in range(films)]
    made = []
    for start in range(0, films, 8):
        captions = [spec.caption for spec in specs[start : start + 8]]
        made.append(Previewer(parts, vae, captions, settings, seed=seed + start).films())
    pictures = np.concatenate(made)
    return score(specs, pictures), specs, pictures


def score(specs: list[storybook.FilmSpec], films: np.ndarray) -> Scores:
    """Compare what films `(N, T, H, W, 3)` show with what was asked for."""
    readings = [reading.read_film(film) for film in films]
    pairs = list(zip(specs, readings, strict=True))
    changes = np.abs(np.diff(films.astype(np.int16), axis=1)).mean()
    return Scores(
        films=len(pairs),
        scene=_share(spec.scene == read.scene for spec, read in pairs),
        colour=_share(spec.colour == read.colour for spec, read in pairs),
        subject=_share(spec.subject == read.subject for spec, read in pairs),
        motion=_share(spec.motion == read.motion for spec, read in pairs),
        seen=float(np.mean([read.seen_share for read in readings])),
        match_error=float(np.mean([read.match_error for read in readings])),
        frame_difference=float(changes),
    )


def boundary_ratio(film: np.ndarray, first_chunk_frames: int = 16, chunk_frames: int = 8) -> float:
    """Mean change where chunks meet over the mean change inside further chunks; a film without seams has about 1."""
    changes = np.abs(np.diff(film.astype(np.int16), axis=0)).mean((1, 2, 3))  # (T - 1,)
    numbers = np.arange(len(changes))
    is_seam = (numbers >= first_chunk_frames - 1) & ((numbers - first_chunk_frames + 1) % chunk_frames == 0)
    return float(changes[is_seam].mean() / changes[(numbers >= first_chunk_frames) & ~is_seam].mean())


def _share(outcomes: Iterable[bool]) -> float:
    return float(np.mean(list(outcomes)))


def long_films(parts: Parts, vae: FrameAutoencoder, chunks: int, settings: PreviewSettings, seed: int = 3) -> np.ndarray:
    """The example prompts rolled out, `(6, 16 + 8 (chunks - 1), H, W, 3)`."""
    return Previewer(parts, vae, list(EXAMPLE_PROMPTS), settings, seed=seed).films(chunks)


def roll_out_row(films: np.ndarray) -> dict[str, float]:
    """Seams, colour drift and kept background of long films."""
    first, last = films[:, :16], films[:, -16:]
    kept = [reading.read_film(a).variant == reading.read_film(b).variant for a, b in zip(first, last, strict=True)]
    return {
        "boundary_ratio": float(np.mean([boundary_ratio(film) for film in films])),
        "rgb_drift": float(np.abs(last.mean((1, 2, 3)) - first.mean((1, 2, 3))).mean()),
        "variant_kept": float(np.mean(kept)),
        "frame_difference": float(np.abs(np.diff(films.astype(np.int16), axis=1)).mean()),
    }


def main() -> None:
    """Print one JSON line per row; write contact sheets if asked."""
    parser = argparse.ArgumentParser(description="Score a storybook model folder.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--films", type=int, default=32)
    parser.add_argument("--chunks", type=int, default=20)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--guidance", type=float, default=2.0)
    parser.add_argument("--splits", nargs="*", default=["train", "held_out"])
    parser.add_argument("--sheets", type=Path)
    args = parser.parse_args()
    parts, vae = load_export(args.folder)
    settings = PreviewSettings(steps=args.steps, guidance=Guidance(args.guidance, GUIDANCE_RESCALE))
    row = {"steps": args.steps, "guidance": args.guidance, "threads": torch.get_num_threads()}
    for split in args.splits:
        scores, specs, films = score_openings(parts, vae, args.films, settings, split=split)
        print(json.dumps({"openings": split, **row, **_rounded(dataclasses.asdict(scores))}), flush=True)
        if args.sheets:
            contact_sheet(list(films), [spec.caption for spec in specs], args.sheets / f"{split}.png", columns=8)
    if args.chunks > 1:
        started = time.monotonic()
        films = long_films(parts, vae, args.chunks, settings)
        row["s_per_chunk"] = (time.monotonic() - started) / args.chunks / len(films)
        print(json.dumps({"roll_outs": films.shape[1], **_rounded(row | roll_out_row(films))}), flush=True)
        if args.sheets:
            contact_sheet(list(films), list(EXAMPLE_PROMPTS), args.sheets / "long.png", columns=14)


def _rounded(row: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 3) for name, value in row.items()}


if __name__ == "__main__":
    main()
