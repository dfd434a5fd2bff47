"""Pictures for the eye: contact sheets of films and loss curves."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

ENLARGE = 2


def contact_sheet(films: list[np.ndarray], titles: list[str], path: Path, columns: int = 12, enlarge: int = ENLARGE) -> None:
    """One row per film `(T, H, W, 3)` uint8, `columns` frames spread over its length, the title written on the first."""
    rows = [_row(film, title, columns, enlarge) for film, title in zip(films, titles, strict=True)]
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.concatenate(rows)[:, :, ::-1])


def _row(film: np.ndarray, title: str, columns: int, enlarge: int) -> np.ndarray:
    shown = np.linspace(0, len(film) - 1, columns).round().astype(int)
    row = np.concatenate([film[number] for number in shown], axis=1)
    row = cv2.resize(row, None, fx=enlarge, fy=enlarge, interpolation=cv2.INTER_CUBIC)
    text_width = cv2.getTextSize(title, cv2.FONT_HERSHEY_SIMPLEX, 0.4, 1)[0][0]
    cv2.rectangle(row, (0, 0), (text_width + 8, 17), (0, 0, 0), -1)
    cv2.putText(row, title, (4, 12), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (255, 255, 255), 1, cv2.LINE_AA)
    return row


def plot_losses(log: Path, path: Path) -> None:
    """Every number of a stage's log.jsonl against minutes."""
    from matplotlib.figure import Figure

    rows = [json.loads(line) for line in log.read_text().splitlines()]
    names = [name for name in rows[-1] if name not in ("stage", "step", "elapsed_s", "rate")]
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for name in names:
        known = [(row["elapsed_s"] / 60, row[name]) for row in rows if name in row]
        axes.plot(*zip(*known, strict=True), label=name)
    axes.set(xlabel="minutes", yscale="log", title=f"{rows[-1]['stage']}: {rows[-1]['step']} steps")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=90)
