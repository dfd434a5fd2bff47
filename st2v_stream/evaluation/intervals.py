"""How sure a mean over films is: percentile bootstrap (Efron 1979), and the paired difference of two rows of a table.

Films are the unit: windows and frames of one film are not independent of each other. Rows are compared film by film (same
prompt, same noise), so what is common to a film cancels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 10_000
LEAST_FILMS = 6
"""With fewer, all differences have one sign by chance more often than once in 20 (2 / 2^n), whatever a bootstrap says."""


@dataclass(frozen=True)
class Interval:
    """A mean over n films and the interval that holds it with 95 %; all NaN without any film."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def excludes_zero(self) -> bool:
        """Whether a difference is shown: zero lies outside, and there are films enough to say so."""
        return self.n >= LEAST_FILMS and (self.low > 0 or self.high < 0)


def mean_interval(values: Sequence[float], *, coverage: float = 0.95, seed: int = 0) -> Interval:
    """The mean of one number per film; films without one (NaN, infinity) are left out, as `n` says."""
    known = np.array([value for value in values if math.isfinite(value)], np.float64)
    if not len(known):
        return Interval(math.nan, math.nan, math.nan, 0)
    rng = np.random.default_rng(seed)
    means = known[rng.integers(len(known), size=(RESAMPLES, len(known)))].mean(axis=1)
    tail = (1 - coverage) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(float(known.mean()), float(low), float(high), len(known))


def paired_difference(row: Sequence[float], control: Sequence[float], *, seed: int = 0) -> Interval:
    """Row less control, film by film; both name the same films in the same order. Raises ValueError if they do not."""
    if len(row) != len(control):
        raise ValueError(f"expected {len(control)} films as in the control, received {len(row)}")
    return mean_interval([mine - theirs for mine, theirs in zip(row, control, strict=True)], seed=seed)
