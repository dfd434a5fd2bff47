"""The story-book world: one thick-rimmed subject moves through one flat scene.

A film is a `FilmSpec`; its frame number t is a pure function of the two, so any window of an endless film is drawn by
random access: first chunks, later windows, long-term anchors and the truth after 1,200 frames all cost the same. Frame 0
always is a good first frame (subject wholly inside, room for 16 frames of travel, bounces just taking off); drifters and
flyers leave and re-enter only later.

Lengths are fractions of the frame's side, y points down, frames are square `(S, S, 3)` uint8 RGB.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from st2v_stream.worlds import captions

Colour = tuple[int, int, int]
Point = tuple[float, float]

PALETTE: dict[str, Colour] = {
    "red": (225, 40, 45),
    "orange": (250, 140, 20),
    "yellow": (255, 222, 50),
    "green": (30, 165, 70),
    "blue": (35, 90, 230),
    "purple": (150, 60, 200),
}
VARIANTS = 6  # backgrounds per scene that no caption names: only the anchor frame (APM) can keep them
RIM: Colour = (22, 22, 32)
WHITE: Colour = (255, 255, 255)
SUPERSAMPLING = 2  # drawn at twice the size and area-averaged: edges move smoothly at 64 pixels
SUBPIXEL_BITS = 4  # OpenCV coordinates in 1/16 pixel

# A traveller's track is this many frame sides long. A subject is .4 to .5 wide, so it has hardly left when it comes back on
# the other side: the 8-frame tail that the model continues from always shows where it is. At 1.7 it was out of sight for 8 to
# 14 frames, which no tail of 8 can count; films went empty and stayed so (docs/log.md).
TRACK_LENGTH = 1.45

TRAVELS = ("drifts left", "drifts right", "flies up")

# Bobbing and bouncing begin near zero: a picture and the caption together say what comes next, so that a film can be
# started from a picture. Later windows meet every phase.
START_PHASE = (0.0, 0.4)


@dataclass(frozen=True)
class FilmSpec:
    """Everything that decides a film. Words first, then the numbers that no caption names."""

    subject: str
    colour: str
    scene: str
    motion: str
    variant: int
    start_x: float
    start_y: float
    radius: float  # half the subject's size
    speed: float  # sides per frame; bouncing and hovering keep time with it
    phase: float  # radians

    @property
    def caption(self) -> str:
        return captions.caption(self.colour, self.subject, self.motion, self.scene)


def sample_spec(rng: np.random.Generator, split: str = "train") -> FilmSpec:
    """Draw a film. `split`: "train" (never a held-out pair), "held_out" (always one) or "any"."""
    if split not in ("train", "held_out", "any"):
        raise ValueError(f"split must be 'train', 'held_out' or 'any', got {split!r}")
    while True:
        colour, subject = rng.choice(captions.COLOURS), rng.choice(captions.SUBJECTS)
        scene, motion = rng.choice(captions.SCENES), rng.choice(captions.MOTIONS)
        if split == "any" or captions.is_held_out(colour, subject, scene, motion) == (split == "held_out"):
            return spec_for_words(rng, str(colour), str(subject), str(scene), str(motion))


def spec_for_words(rng: np.random.Generator, colour: str, subject: str, scene: str, motion: str) -> FilmSpec:
    """Draw the unnamed numbers of a film whose words are given."""
    (x_low, x_high), (y_low, y_high) = _start_ranges(motion)
    return FilmSpec(
        subject=subject,
        colour=colour,
        scene=scene,
        motion=motion,
        variant=int(rng.integers(VARIANTS)),
        start_x=float(rng.uniform(x_low, x_high)),
        start_y=float(rng.uniform(y_low, y_high)),
        radius=float(rng.uniform(0.20, 0.22)),
        speed=float(rng.uniform(0.022, 0.026)),
        phase=float(rng.uniform(*START_PHASE)),
    )


def _start_ranges(motion: str) -> tuple[Point, Point]:
    """Where a subject may be at frame 0: wholly inside, and in the rear part if it is going somewhere."""
    if motion == "drifts right":
        return (0.27, 0.42), (0.38, 0.62)
    if motion == "drifts left":
        return (0.58, 0.73), (0.38, 0.62)
    if motion == "flies up":
        return (0.30, 0.70), (0.60, 0.72)
    return (0.30, 0.70), (0.38, 0.62)


# --- motion


def position(spec: FilmSpec, t: float) -> Point:
    """Centre of the subject at frame t; outside 0..1 it is (partly) out of sight."""
    bob = 0.02 * math.sin(0.25 * t + spec.phase)
    travelled = spec.speed * t
    if spec.motion == "drifts left":
        return _on_track(spec.start_x - travelled), spec.start_y + bob
    if spec.motion == "drifts right":
        return _on_track(spec.start_x + travelled), spec.start_y + bob
    if spec.motion == "flies up":
        return spec.start_x, _on_track(spec.start_y - travelled)
    if spec.motion == "bounces":
        return spec.start_x, 0.70 - 0.38 * abs(math.sin(8.3 * travelled + spec.phase))
    return spec.start_x, spec.start_y + 1.25 * bob


def next_re_entry(spec: FilmSpec, t: int) -> int | None:
    """The first frame after t in which the subject is on the other side of its track; None if it never goes there."""
    if spec.motion not in TRAVELS:
        return None
    places = [position(spec, number) for number in range(t, t + math.ceil(TRACK_LENGTH / spec.speed) + 2)]
    jumps = (n for n, (a, b) in enumerate(itertools.pairwise(places), start=t + 1) if math.dist(a, b) > TRACK_LENGTH / 2)
    return next(jumps)


def _on_track(distance: float) -> float:
    margin = (TRACK_LENGTH - 1) / 2
    return (distance + margin) % TRACK_LENGTH - margin


# --- frames


def frame(spec: FilmSpec, t: int, size: int = 64) -> np.ndarray:
    """Frame t of the film, `(size, size, 3)` uint8."""
    return _shrink(_painted(spec, t, size, with_subject=True), size)


def clip(spec: FilmSpec, frame_numbers: Iterable[int], size: int = 64) -> np.ndarray:
    """The named frames, `(T, size, size, 3)` uint8."""
    return np.stack([frame(spec, t, size) for t in frame_numbers])


def subject_mask(spec: FilmSpec, t: int, size: int = 64) -> np.ndarray:
    """Where the subject is seen in frame t, `(size, size)` bool."""
    return frame_and_mask(spec, t, size)[1]


def frame_and_mask(spec: FilmSpec, t: int, size: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Frame t and its subject mask, drawn together."""
    seen = frame(spec, t, size)
    empty = _shrink(_painted(spec, t, size, with_subject=False), size)
    return seen, np.abs(seen.astype(np.int16) - empty).sum(2) > 12


def empty_scene(scene: str, variant: int, size: int = 64) -> np.ndarray:
    """The scene without subject or waves, `(size, size, 3)` uint8."""
    return _shrink(_background(scene, variant, size * SUPERSAMPLING), size)


def _painted(spec: FilmSpec, t: int, size: int, *, with_subject: bool) -> np.ndarray:
    side = size * SUPERSAMPLING
    image = _background(spec.scene, spec.variant, side).copy()
    if spec.scene == "sea":
        _paint_waves(image, t)
    if with_subject:
        x, y = position(spec, t)
        brush = Brush(image, (x * side, y * side), spec.radius * side, mirrored=spec.motion == "drifts left")
        SUBJECT_PAINTERS[spec.subject](brush, PALETTE[spec.colour], t)
    return image


def _shrink(image: np.ndarray, size: int) -> np.ndarray:
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)


# --- brushes


@dataclass(frozen=True)
class Brush:
    """Draws shapes given in a subject's own units: (0, 0) is its centre, 1 its radius."""

    image: np.ndarray
    origin: Point  # pixels
    unit: float  # pixels
    mirrored: bool = False

    def polygon(self, points: Sequence[Point], colour: Colour, rim: float = 0.0) -> None:
        """A filled polygon; `rim` is the width of its dark outline."""
        fixed = [self._fixed_points(points)]
        if rim:
            width = max(1, round(2 * rim * self.unit))
            cv2.polylines(self.image, fixed, True, RIM, width, cv2.LINE_AA, SUBPIXEL_BITS)
        cv2.fillPoly(self.image, fixed, colour, cv2.LINE_AA, SUBPIXEL_BITS)

    def ellipse(self, centre: Point, half_axes: Point, colour: Colour, rim: float = 0.0, angle: float = 0.0) -> None:
        if rim:
            self.ellipse(centre, (half_axes[0] + rim, half_axes[1] + rim), RIM, angle=angle)
        fixed_centre = tuple(int(v) for v in self._fixed_points([centre])[0])
        fixed_axes = tuple(round(a * self.unit * 2**SUBPIXEL_BITS) for a in half_axes)
        cv2.ellipse(self.image, fixed_centre, fixed_axes, angle, 0, 360, colour, -1, cv2.LINE_AA, SUBPIXEL_BITS)

    def line(self, points: Sequence[Point], colour: Colour, width: float) -> None:
        pixels = max(1, round(width * self.unit))
        cv2.polylines(self.image, [self._fixed_points(points)], False, colour, pixels, cv2.LINE_AA, SUBPIXEL_BITS)

    def _fixed_points(self, points: Sequence[Point]) -> np.ndarray:
        scale = np.array([-self.unit if self.mirrored else self.unit, self.unit])
        pixels = np.asarray(points, dtype=np.float64) * scale + np.array(self.origin)
        return np.round(pixels * 2**SUBPIXEL_BITS).astype(np.int32)


def _tint(colour: Colour, amount: float) -> Colour:
    """The colour mixed with white."""
    return tuple(round(value + (255 - value) * amount) for value in colour)


# --- subjects: painters take the brush, the named colour and the frame number (tails and flames move)


def _paint_ball(brush: Brush, colour: Colour, t: int) -> None:
    brush.ellipse((0, 0), (0.86, 0.86), colour, rim=0.16)
    brush.ellipse((0, 0.05), (0.84, 0.25), WHITE, angle=-20)
    brush.ellipse((-0.32, -0.47), (0.18, 0.13), _tint(colour, 0.75), angle=-30)


def _paint_boat(brush: Brush, colour: Colour, t: int) -> None:
    brush.polygon([(-1.05, 0.30), (1.05, 0.30), (0.68, 0.88), (-0.68, 0.88)], colour, rim=0.16)
    brush.line([(0, -1.05), (0, 0.25)], RIM, 0.16)
    brush.polygon([(0.16, -0.80), (0.85, 0.06), (0.16, 0.06)], _tint(colour, 0.55), rim=0.08)
    brush.polygon([(-0.16, -0.98), (-0.16, 0.06), (-0.90, 0.06)], WHITE, rim=0.08)


def _paint_fish(brush: Brush, colour: Colour, t: int) -> None:
    sway = 0.12 * math.sin(1.2 * t)
    brush.polygon([(-0.50, 0), (-1.10, -0.56 + sway), (-1.10, 0.56 + sway)], colour, rim=0.14)
    brush.polygon([(-0.15, -0.5), (0.15, -0.88), (0.45, -0.5)], colour, rim=0.14)
    brush.ellipse((0.15, 0), (0.85, 0.62), colour, rim=0.15)
    brush.polygon([(-0.20, -0.05), (-0.20, 0.38), (0.22, 0.16)], _tint(colour, 0.6))
    brush.ellipse((0.58, -0.14), (0.21, 0.21), WHITE)
    brush.ellipse((0.64, -0.14), (0.11, 0.11), RIM)


def _paint_car(brush: Brush, colour: Colour, t: int) -> None:
    glass: Colour = (215, 240, 250)
    brush.polygon([(-0.62, -0.08), (-0.42, -0.72), (0.34, -0.72), (0.66, -0.08)], colour, rim=0.15)
    brush.polygon([(-1.08, -0.10), (1.00, -0.10), (1.08, 0.10), (1.08, 0.42), (-1.08, 0.42)], colour, rim=0.15)
    brush.polygon([(-0.44, -0.10), (-0.32, -0.56), (-0.06, -0.56), (-0.06, -0.10)], glass)
    brush.polygon([(0.10, -0.10), (0.10, -0.56), (0.28, -0.56), (0.50, -0.10)], glass)
    brush.ellipse((0.98, 0.12), (0.10, 0.10), (255, 245, 190))
    for wheel in (-0.60, 0.60):
        brush.ellipse((wheel, 0.48), (0.36, 0.36), RIM)
        brush.ellipse((wheel, 0.48), (0.16, 0.16), (220, 220, 226))


def _paint_rocket(brush: Brush, colour: Colour, t: int) -> None:
    flame = 0.18 * math.sin(2.0 * t)
    brush.polygon([(-0.28, 0.72), (0.28, 0.72), (0, 1.25 + flame)], (255, 175, 40), rim=0.06)
    brush.polygon([(-0.30, 0.15), (-0.82, 0.85), (-0.30, 0.70)], _tint(colour, 0.6), rim=0.12)
    brush.polygon([(0.30, 0.15), (0.82, 0.85), (0.30, 0.70)], _tint(colour, 0.6), rim=0.12)
    hull = [(-0.36, 0.72), (-0.42, -0.20), (-0.26, -0.70), (0, -1.05), (0.26, -0.70), (0.42, -0.20), (0.36, 0.72)]
    brush.polygon(hull, colour, rim=0.15)
    brush.ellipse((0, -0.12), (0.18, 0.18), (190, 235, 250), rim=0.09)


def _paint_cat(brush: Brush, colour: Colour, t: int) -> None:
    nose: Colour = (255, 140, 160) if colour[0] < 200 else (120, 40, 60)
    for side in (-1, 1):
        brush.polygon([(0.80 * side, -0.05), (0.76 * side, -1.0), (0.15 * side, -0.55)], colour, rim=0.15)
    brush.ellipse((0, 0.10), (0.88, 0.74), colour, rim=0.15)
    for side in (-1, 1):
        brush.ellipse((0.36 * side, -0.02), (0.19, 0.23), WHITE)
        brush.ellipse((0.36 * side + 0.03, 0.0), (0.10, 0.15), RIM)
    brush.polygon([(-0.15, 0.30), (0.15, 0.30), (0, 0.46)], nose)
    brush.line([(0, 0.44), (0, 0.62)], RIM, 0.07)


SUBJECT_PAINTERS: dict[str, Callable[[Brush, Colour, int], None]] = {
    "ball": _paint_ball,
    "boat": _paint_boat,
    "fish": _paint_fish,
    "car": _paint_car,
    "rocket": _paint_rocket,
    "cat": _paint_cat,
}


# --- scenes: painters fill a canvas whose unit is the frame's side


# Where the sun, moon, cloud, cactus or fir stands in each variant, and how high.
_LANDMARK_X = (0.14, 0.32, 0.50, 0.68, 0.86, 0.24)
_LANDMARK_LIFT = (0.0, 0.05, 0.02, 0.07, 0.03, 0.06)


@functools.lru_cache(maxsize=256)
def _background(scene: str, variant: int, side: int) -> np.ndarray:
    """The still part of a scene, `(side, side, 3)` uint8. Shared: copy before painting on it."""
    big = np.zeros((2 * side, 2 * side, 3), np.uint8)
    SCENE_PAINTERS[scene](Brush(big, (0.0, 0.0), 2.0 * side), variant)
    return _shrink(big, side)


def _fill_gradient(brush: Brush, top: Colour, bottom: Colour, from_y: float = 0.0) -> None:
    """Fill downwards from `from_y` with a vertical gradient."""
    rows = brush.image[round(from_y * brush.unit) :]
    mix = np.linspace(0, 1, len(rows))[:, None, None]  # (rows, 1, 1)
    rows[:] = np.asarray(top) * (1 - mix) + np.asarray(bottom) * mix


def _hill(brush: Brush, height: float, swing: float, phase: float, colour: Colour) -> None:
    x = np.linspace(-0.05, 1.05, 60)
    ridge = np.stack([x, height + swing * np.sin(2 * math.pi * x + phase)], axis=1)  # (60, 2)
    brush.polygon([*map(tuple, ridge), (1.05, 1.05), (-0.05, 1.05)], colour)


def _cloud(brush: Brush, x: float, y: float, scale: float = 1.0) -> None:
    for dx, dy, size in ((-0.09, 0.01, 0.055), (0.0, -0.015, 0.075), (0.09, 0.01, 0.055)):
        brush.ellipse((x + dx * scale, y + dy * scale), (1.25 * size * scale, size * scale), WHITE)


def _paint_sea(brush: Brush, variant: int) -> None:
    x = _LANDMARK_X[variant]
    _fill_gradient(brush, (145, 205, 242), (216, 238, 250))
    brush.ellipse((x, 0.15), (0.085, 0.085), (255, 230, 115))
    _cloud(brush, (x + 0.48) % 1.0, 0.16 + _LANDMARK_LIFT[variant], 0.8)
    _fill_gradient(brush, (45, 140, 195), (20, 80, 150), from_y=0.62)


def _paint_waves(image: np.ndarray, t: int) -> None:
    """The sea's moving lines, drawn for every frame."""
    side = image.shape[0]
    brush = Brush(image, (0.0, 0.0), float(side))
    x = np.linspace(-0.05, 1.05, 45)
    for line, height in enumerate((0.70, 0.81, 0.92)):
        drift = 0.2 * t * (1 if line % 2 else -1)
        y = height + 0.015 * np.sin(4 * math.pi * x + drift + line)
        brush.line(list(zip(x, y, strict=True)), (140, 200, 230), 0.024)


def _paint_night_sky(brush: Brush, variant: int) -> None:
    # Lighter than a real night: the dark rims of the subjects must stay visible.
    x = _LANDMARK_X[variant]
    _fill_gradient(brush, (30, 34, 98), (82, 74, 150))
    for star in range(9):
        centre = ((0.13 + 0.31 * star + 0.07 * variant) % 1.0, (0.07 + 0.23 * star) % 0.75)
        brush.ellipse(centre, (0.012, 0.012), (240, 238, 210))
    brush.ellipse((x, 0.17), (0.095, 0.095), (248, 242, 200))
    brush.ellipse((x + 0.045, 0.15), (0.078, 0.078), (38, 41, 105))
    _hill(brush, 0.89, 0.03, float(variant), (24, 24, 66))


def _paint_meadow(brush: Brush, variant: int) -> None:
    x = _LANDMARK_X[variant]
    _fill_gradient(brush, (125, 195, 250), (208, 234, 250))
    _cloud(brush, x, 0.14 + _LANDMARK_LIFT[variant] / 2)
    _cloud(brush, (x + 0.45) % 1.0, 0.30 - _LANDMARK_LIFT[variant], 0.7)
    _hill(brush, 0.70, 0.05, 1.1 * variant, (125, 200, 90))
    _hill(brush, 0.84, 0.03, 2.0 + 1.3 * variant, (82, 168, 65))
    for flower in range(7):
        centre = ((0.08 + 0.29 * flower + 0.11 * variant) % 1.0, 0.91 + 0.03 * (flower % 3))
        brush.ellipse(centre, (0.014, 0.014), (255, 240, 200))


def _paint_desert(brush: Brush, variant: int) -> None:
    x = _LANDMARK_X[variant]
    _fill_gradient(brush, (140, 208, 235), (250, 234, 192))
    brush.ellipse(((x + 0.45) % 1.0 * 0.8 + 0.1, 0.14), (0.085, 0.085), (255, 205, 85))
    _hill(brush, 0.72, 0.05, 1.1 * variant, (238, 194, 118))
    _hill(brush, 0.86, 0.03, 2.0 + variant, (216, 162, 92))
    cactus: Colour = (50, 125, 70)
    brush.line([(x, 0.88), (x, 0.64)], cactus, 0.055)
    brush.line([(x, 0.80), (x + 0.08, 0.80), (x + 0.08, 0.71)], cactus, 0.042)
    brush.line([(x, 0.76), (x - 0.07, 0.76), (x - 0.07, 0.69)], cactus, 0.042)


def _paint_snow_field(brush: Brush, variant: int) -> None:
    x = _LANDMARK_X[variant]
    _fill_gradient(brush, (158, 182, 218), (216, 227, 242))
    _hill(brush, 0.70, 0.05, 1.1 * variant, (228, 235, 246))
    _hill(brush, 0.85, 0.03, 2.0 + variant, (250, 252, 255))
    brush.line([(x, 0.92), (x, 0.84)], (110, 80, 60), 0.04)
    for tier in range(3):
        foot, width = 0.87 - 0.075 * tier, 0.09 - 0.02 * tier
        brush.polygon([(x - width, foot), (x + width, foot), (x, foot - 0.12)], (40, 98, 82))


SCENE_PAINTERS: dict[str, Callable[[Brush, int], None]] = {
    "sea": _paint_sea,
    "night sky": _paint_night_sky,
    "meadow": _paint_meadow,
    "desert": _paint_desert,
    "snow field": _paint_snow_field,
}
