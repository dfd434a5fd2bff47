"""Reads a story-book film back: which scene, variant, colour, subject and motion does it show? No network, nothing trained.

The renderer itself is the judge: backgrounds and subjects are drawn and compared with the frames. A picture that nobody
could name still gets the nearest name, so the error of the best match says how good the drawing is (truth: about 0.11 of
the value range, because sizes vary).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import cv2
import numpy as np

from st2v_stream.worlds import captions, storybook

_SIZE = 64
_MARGIN = 16  # frames are padded by this much: subjects cut by an edge are still found
_RADIUS = 0.21
_TEMPLATE = 34  # side of a subject template in pixels
_SEEN_BELOW = 0.20  # a subject counts as seen when its best match is at least this close (root mean square, of 1)


@dataclass(frozen=True)
class Reading:
    """What a window of frames shows. `positions` is `(T, 2)`, NaN where no subject is seen."""

    scene: str
    variant: int
    colour: str
    subject: str
    motion: str
    match_error: float  # root mean square under the subject, of 1, over the frames where it is seen
    seen_share: float
    positions: np.ndarray


def read_film(frames: np.ndarray) -> Reading:
    """Read `(T, 64, 64, 3)` uint8."""
    scene, variant = _read_background(frames)
    matches = np.array([_match_frame(frame) for frame in frames])  # (T, templates, 3): error, x, y
    is_seen = matches[:, :, 0].min(1) < _SEEN_BELOW
    weigh = is_seen if is_seen.any() else np.ones(len(frames), bool)
    best = int(matches[weigh, :, 0].mean(0).argmin())
    positions = np.where(is_seen[:, None], matches[:, best, 1:], np.nan)
    return Reading(
        scene=scene,
        variant=variant,
        colour=_templates()[best].colour,
        subject=_templates()[best].subject,
        motion=read_motion(positions),
        match_error=float(matches[weigh, best, 0].mean()),
        seen_share=float(is_seen.mean()),
        positions=positions,
    )


def read_motion(positions: np.ndarray) -> str:
    """The motion whose track these 16 positions `(T, 2)` look most like."""
    seen = positions[~np.isnan(positions[:, 0])]
    if len(seen) < 4:
        return "unseen"
    top, bottom = np.percentile(seen[:, 1], [5, 95])
    quarter = max(1, len(seen) // 4)
    dx, dy = seen[-quarter:].mean(0) - seen[:quarter].mean(0)
    if abs(dx) > 0.10 and abs(dx) > abs(dy):
        return "drifts left" if dx < 0 else "drifts right"
    if dy < -0.10 and np.corrcoef(np.arange(len(seen)), seen[:, 1])[0, 1] < -0.97:  # steadily, unlike half a bounce
        return "flies up"
    return "bounces" if bottom - top > 0.12 else "hovers"


def _read_background(frames: np.ndarray) -> tuple[str, int]:
    """The scene and variant whose still picture is nearest; differences are clipped, since subject and waves fit none."""
    middle = np.median(frames, axis=0).astype(np.float32)  # (64, 64, 3)
    errors = {}
    for scene in captions.SCENES:
        for variant in range(storybook.VARIANTS):
            difference = np.abs(middle - storybook.empty_scene(scene, variant, _SIZE)).mean(2)  # (64, 64)
            errors[scene, variant] = np.minimum(difference, 30).mean()
    return min(errors, key=errors.__getitem__)


@dataclass(frozen=True)
class _Template:
    subject: str
    colour: str
    picture: np.ndarray  # (34, 34, 3) float32
    mask: np.ndarray  # the same, 0 or 1


@functools.cache
def _templates() -> list[_Template]:
    return [
        _draw_template(subject, colour, mirrored)
        for subject in captions.SUBJECTS
        for colour in captions.COLOURS
        for mirrored in ((False, True) if subject in ("boat", "fish", "car") else (False,))
    ]


def _draw_template(subject: str, colour: str, mirrored: bool) -> _Template:
    """The subject on grey and on white: where both agree is the subject."""
    side = _TEMPLATE * storybook.SUPERSAMPLING
    pictures = []
    for ground in (110, 255):
        canvas = np.full((side, side, 3), ground, np.uint8)
        unit = _RADIUS * _SIZE * storybook.SUPERSAMPLING
        brush = storybook.Brush(canvas, (side / 2, side / 2), unit, mirrored=mirrored)
        storybook.SUBJECT_PAINTERS[subject](brush, storybook.PALETTE[colour], 0)
        pictures.append(cv2.resize(canvas, (_TEMPLATE, _TEMPLATE), interpolation=cv2.INTER_AREA).astype(np.float32))
    mask = (np.abs(pictures[0] - pictures[1]).sum(2, keepdims=True) < 30).astype(np.float32)
    return _Template(subject, colour, pictures[0], np.repeat(mask, 3, axis=2))


def _match_frame(frame: np.ndarray) -> np.ndarray:
    """Error and place of every template's best match, `(templates, 3)`."""
    padded = cv2.copyMakeBorder(frame, _MARGIN, _MARGIN, _MARGIN, _MARGIN, cv2.BORDER_REPLICATE).astype(np.float32)
    rows = []
    for template in _templates():
        squares = cv2.matchTemplate(padded, template.picture, cv2.TM_SQDIFF, mask=template.mask)
        least, _, (column, row), _ = cv2.minMaxLoc(squares)
        error = np.sqrt(max(least, 0.0) / template.mask.sum()) / 255
        centre = np.array([column, row]) + _TEMPLATE / 2 - _MARGIN
        rows.append((error, *(centre / _SIZE)))
    return np.array(rows)
