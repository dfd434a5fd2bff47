"""Muon for the hidden matrices, Adam for everything else, one learning rate for both.

Muon: K. Jordan, "Muon: an optimizer for hidden layers" (2024); scale .2 sqrt(max(m, n)) from Moonshot AI, arXiv 2502.16982.
Here it needed two thirds of AdamW's time for the same loss (docs/storybook.md).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

# Coefficients of the quintic iteration that pushes all singular values towards 1 (Jordan 2024).
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_STEPS = 5


def orthogonalized(matrices: Tensor) -> Tensor:
    """The nearest (semi-)orthogonal matrices, roughly; `(N, rows, columns)` with rows <= columns.

    The iteration X <- (a + b G + c G^2) X with G = X X^T needs X only at the end: all its factors are polynomials of the
    first G. So it runs on the small G, which for a 3 x 3 convolution (columns = 9 rows) is a third of the arithmetic.
    """
    a, b, c = NEWTON_SCHULZ
    x = matrices / (matrices.norm(dim=(1, 2), keepdim=True) + 1e-7)
    gram = x @ x.mT  # (N, rows, rows)
    product = identity = torch.eye(gram.shape[-1], device=gram.device, dtype=gram.dtype)
    for _ in range(NEWTON_SCHULZ_STEPS):
        factor = a * identity + b * gram + c * (gram @ gram)
        product = factor @ product
        gram = factor @ (factor @ gram)
    return product @ x


class MuonWithAdam(torch.optim.Optimizer):
    """Parameter groups carry `kind` ("muon" or "adam") and `rate_factor` (a multiple of the learning rate)."""

    def __init__(self, groups: Iterable[dict[str, Any]], *, momentum: float = 0.95, weight_decay: float = 0.01) -> None:
        super().__init__(groups, {"lr": 0.0, "momentum": momentum, "weight_decay": weight_decay, "betas": (0.9, 0.98)})

    def set_rate(self, rate: float) -> None:
        for group in self.param_groups:
            group["lr"] = rate * group["rate_factor"]

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            (self._muon if group["kind"] == "muon" else self._adam)(group, parameters)

    def _muon(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        """Matrices of one shape are orthogonalised together; convolutions count as (out, in x kernel)."""
        by_shape: dict[tuple[int, int], list[Tensor]] = defaultdict(list)
        for parameter in parameters:
            by_shape[(parameter.shape[0], parameter[0].numel())].append(parameter)
        for (rows, columns), same in by_shape.items():
            updates = torch.stack([self._with_momentum(group, p).reshape(rows, columns) for p in same])
            updates = orthogonalized(updates.mT).mT if rows > columns else orthogonalized(updates)
            for parameter, update in zip(same, updates, strict=True):
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(update.reshape(parameter.shape), alpha=-group["lr"] * 0.2 * math.sqrt(max(rows, columns)))

    def _with_momentum(self, group: dict[str, Any], parameter: Tensor) -> Tensor:
        """The Nesterov-averaged gradient."""
        state = self.state[parameter]
        if "average" not in state:
            state["average"] = torch.zeros_like(parameter)
        state["average"].mul_(group["momentum"]).add_(parameter.grad)
        return parameter.grad + group["momentum"] * state["average"]

    def _adam(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        first, second = group["betas"]
        for parameter in parameters:
            state = self.state[parameter]
            if "mean" not in state:
                state.update(mean=torch.zeros_like(parameter), square=torch.zeros_like(parameter), count=0)
            state["count"] += 1
            state["mean"].lerp_(parameter.grad, 1 - first)
            state["square"].lerp_(parameter.grad**2, 1 - second)
            mean = state["mean"] / (1 - first ** state["count"])
            deviation = (state["square"] / (1 - second ** state["count"])).sqrt()
            parameter.addcdiv_(mean, deviation + 1e-8, value=-group["lr"])


# Parts of parameter names. First match decides; anything of two or more dimensions that matches nothing is a hidden matrix.
ADAM_NAMES = ("text_encoder.", "conv_in.", "conv_out.", "embedding", "position", "null", "attn2.conv", "alpha")
NEW_IN_VIDEO_NAMES = ("temp_", "transformer_in", "frame_position", "merger", "cam.", "image_encoder.", "attn2.conv", "alpha")


def parameter_groups(network: nn.Module, *, spatial_rate: float = 1.0) -> list[dict[str, Any]]:
    """Four groups: (image model | what video adds) x (Muon | Adam); the image model learns at `spatial_rate` times the rate."""
    groups = {
        (is_new, kind): {"params": [], "kind": kind, "rate_factor": 1.0 if is_new else spatial_rate}
        for is_new in (False, True)
        for kind in ("muon", "adam")
    }
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            is_new = any(part in name for part in NEW_IN_VIDEO_NAMES)
            is_matrix = parameter.ndim >= 2 and not any(part in name for part in ADAM_NAMES)
            groups[is_new, "muon" if is_matrix else "adam"]["params"].append(parameter)
    return [group for group in groups.values() if group["params"]]
