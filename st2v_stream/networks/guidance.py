"""Classifier-free guidance, two passes in one batch, [unconditional, conditional].

The paper's three-pass formula with w_text = w_anchor (eq. 9) telescopes to this one, and the published code computes
just that: the unconditional half has the negative prompt and the image tokens of "no anchor", but keeps the 8 control
frames.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Guidance:
    """scale: published 7.5 for extensions, 9 for the first chunk; 1 needs one pass only. rescale: 0 as published."""

    scale: float = 7.5
    rescale: float = 0.0

    @property
    def passes(self) -> int:
        """Rows that the network evaluates per sample."""
        return 1 if self.scale == 1 else 2

    def __call__(self, predictions: Tensor) -> Tensor:
        """(passes * B, ...) -> (B, ...)."""
        if self.passes == 1:
            return predictions
        uncond, cond = predictions.chunk(2)
        guided = uncond + self.scale * (cond - uncond)
        return rescale_std(guided, cond, self.rescale) if self.rescale > 0 else guided


def rescale_std(guided: Tensor, cond: Tensor, strength: float) -> Tensor:
    """Pull the standard deviation of each sample towards that of the conditional prediction (arXiv 2305.08891 sec. 3.4)."""
    dims = tuple(range(1, guided.ndim))
    ratio = cond.std(dims, keepdim=True) / (guided.std(dims, keepdim=True) + 1e-12)
    return guided * (strength * ratio + (1 - strength))


def pair(uncond: Tensor | None, cond: Tensor | None, guidance: Guidance) -> Tensor | None:
    """The rows the network sees: [uncond, cond], or cond alone when guidance needs one pass. Both None: None."""
    if cond is None or uncond is None or guidance.passes == 1:
        return cond
    return torch.cat([uncond, cond])
