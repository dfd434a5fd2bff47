"""Guidance distilled into one pass, and many steps into two or three.

The teacher is the model as it was: guided, several sub-steps of DPM-Solver++ per step of the student. The student, its copy,
makes one DDIM step without guidance where the teacher made several; what it should have predicted to land where the teacher
landed is its target (progressive distillation, arXiv 2202.00512 sec. 3 and appendix G; guidance into one pass, arXiv
2210.03142). In v the squared error is that of the clean latents divided by s^2.

Two differences from those papers. The student learns at the times of its own few steps only, all from the first weights: no
halving in rounds. And it meets what it will meet: half of its noisy inputs are its own roll-outs from pure noise, and a
share of the conditions are the ends of chunks it has itself made, in chains of many chunks, decoded and rounded to 8 bits.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from st2v_stream.networks.guidance import Guidance, pair
from st2v_stream.networks.sampling import alpha_sigma, clean_latents, shifted_time
from st2v_stream.networks.vae import FrameAutoencoder
from st2v_stream.training import randomness
from st2v_stream.training.compiling import compile_on_gpu
from st2v_stream.training.denoising import DenoisingStage, window_of, windows_of
from st2v_stream.training.noise import GUIDANCE_RESCALE, SAMPLING_SHIFT, TIMESTEPS_PER_TIME
from st2v_stream.training.parts import TAIL_FRAMES, Parts
from st2v_stream.training.pool import LatentPool, through_memory
from st2v_stream.training.recipe import DiffusionRecipe, DistilRecipe

VALIDATION_WINDOWS = 6
VALIDATION_PICTURES = 12
VALIDATION_TEACHER_STEPS = 8

CleanAt = Callable[[Tensor, float], Tensor]
"""(noisy latents (B, C, F, h, w), their time) -> predicted clean latents."""


# --- times and steps


def grid(steps: int) -> list[float]:
    """The sampler's times for that many steps, from 1 to 0; `steps + 1` numbers."""
    return [shifted_time(1 - k / steps, SAMPLING_SHIFT) for k in range(steps + 1)]


def sub_grid(steps: int, step: int, sub_steps: int) -> list[float]:
    """Times that cut one step of `grid(steps)` into `sub_steps`: those of `grid(steps * sub_steps)`."""
    return grid(steps * sub_steps)[step * sub_steps : (step + 1) * sub_steps + 1]


def travelled(latents: Tensor, clean: Tensor, time: float, next_time: float) -> Tensor:
    """One DDIM step with this prediction (arXiv 2010.02502 eq. 12, eta 0)."""
    (a, s), (next_a, next_s) = alpha_sigma(time), alpha_sigma(next_time)
    shrink = next_s / s
    return shrink * latents + (next_a - a * shrink) * clean


def needed_clean(latents: Tensor, landed: Tensor, time: float, next_time: float) -> Tensor:
    """The prediction with which `travelled` leads from `latents` to `landed`."""
    (a, s), (next_a, next_s) = alpha_sigma(time), alpha_sigma(next_time)
    shrink = next_s / s
    return (landed - shrink * latents) / (next_a - a * shrink)


def solve(clean_at: CleanAt, latents: Tensor, times: Iterable[float], *, order: int) -> Tensor:
    """Latents at the last of the times. Order 1: DDIM; 2: DPM-Solver++ 2M (arXiv 2211.01095), first and last step order 1."""
    before: tuple[float, Tensor] | None = None
    for time, next_time in itertools.pairwise(times):
        clean = clean_at(latents, time)
        direction = clean
        if order == 2 and before is not None and next_time > 0:
            ratio = (_log_snr(time) - before[0]) / (_log_snr(next_time) - _log_snr(time))
            direction = clean + (clean - before[1]) / (2 * ratio)
        before = (_log_snr(time), clean)
        latents = travelled(latents, direction, time, next_time)
    return latents


def _log_snr(time: float) -> float:
    alpha, sigma = alpha_sigma(time)
    return math.log(max(alpha, 1e-3) / sigma)


# --- teacher and student


@dataclass(frozen=True)
class Conditions:
    """What a window continues, or a picture (tail and anchor None) is made from.

    text, no_text: `(B, 12, 64)`. anchor, no_anchor: image tokens `(B, 16, 64)`. tail: `(B, 12, 8, h, w)`.
    """

    text: Tensor
    no_text: Tensor
    anchor: Tensor | None = None
    no_anchor: Tensor | None = None
    tail: Tensor | None = None

    def __len__(self) -> int:
        return len(self.text)


def predictor(parts: Parts, conditions: Conditions, guidance: Guidance) -> CleanAt:
    """What `parts` takes for clean; the CAM features are computed here, once."""
    c = conditions
    text = pair(c.no_text, c.text, guidance)
    anchor = pair(c.no_anchor, c.anchor, guidance)
    tail = pair(c.tail, c.tail, guidance)
    cam = None if tail is None else parts.cam.clean_features(tail, text)

    def clean_at(latents: Tensor, time: float) -> Tensor:
        rows = torch.cat([latents] * guidance.passes)
        timesteps = torch.full((len(rows),), TIMESTEPS_PER_TIME * time, device=rows.device)
        velocity = parts.unet(rows, timesteps, text, anchor, cam).float()
        return guidance(clean_latents(rows, velocity, *alpha_sigma(time), "v"))

    return clean_at


ONE_PASS = Guidance(1.0)


@dataclass
class Chains:
    """Films that the student makes for itself while it learns; only what their next chunk depends on."""

    films: Tensor  # (chains,) int64: whose caption and first picture
    tails: Tensor  # (chains, 8, 12, h, w)
    ages: Tensor  # (chains,) int64, in chunks

    @classmethod
    def begun(cls, pool: LatentPool, films: Tensor) -> Chains:
        return cls(films, held_pictures(pool, films), torch.zeros_like(films))

    def advance(self, pool: LatentPool, tails: Tensor, ends: Tensor) -> None:
        """The first chains go on from `tails`, or where `ends` is 0 or more begin anew as that film; then they queue last."""
        count = len(tails)
        is_new = ends >= 0
        films = torch.where(is_new, ends, self.films[:count])
        fresh = held_pictures(pool, films)
        tails = torch.where(is_new.view(-1, 1, 1, 1, 1), fresh, tails)
        ages = torch.where(is_new, 0, self.ages[:count] + 1)
        self.films = torch.cat([self.films[count:], films])
        self.tails = torch.cat([self.tails[count:], tails])
        self.ages = torch.cat([self.ages[count:], ages])


def held_pictures(pool: LatentPool, films: Tensor) -> Tensor:
    """The tails `(B, 8, 12, h, w)` of new films: their first picture, held still."""
    return pool.anchor[films, :1].float().repeat(1, TAIL_FRAMES, 1, 1, 1)


# --- the stage


class DistilStage(DenoisingStage):
    """Distils `parts` into themselves; text and image encoder stay as they are, so both share their tokens."""

    name = "distil"

    def __init__(
        self,
        parts: Parts,
        pool: LatentPool,
        validation: LatentPool,
        shared: DiffusionRecipe,
        *,
        recipe: DistilRecipe,
        vae: FrameAutoencoder,
        seed: int,
        device: str = "cpu",
    ) -> None:
        self.teacher = copy.deepcopy(parts).requires_grad_(False).eval().to(device)
        parts.text_encoder.requires_grad_(False)
        parts.image_encoder.requires_grad_(False)
        shared = dataclasses.replace(shared, ema=recipe.ema, caption_dropout=recipe.caption_dropout)
        super().__init__(parts, pool, validation, shared, seed=seed, device=device)
        compile_on_gpu(self.device, self.teacher.unet, self.teacher.cam)
        self.recipe = recipe
        self.vae = vae.to(device)
        films = torch.randint(len(pool), (recipe.chains,), generator=randomness.torch_rng(seed, "distil chains"))
        self.chains = Chains.begun(pool, films)
        self._reference: dict[str, Tensor] | None = None

    def loss(self, step: int, rng: torch.Generator) -> Tensor:
        r = self.recipe
        kind = torch.rand((), generator=rng).item()
        if kind < r.image_share:
            return self._loss_pictures(rng)
        if kind < r.image_share + r.drift_share:
            return self._loss_chains(rng)
        return self._loss_films(rng)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"chains": dict(vars(self.chains))}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.chains = Chains(**{name: value.clone() for name, value in state["chains"].items()})

    # --- three sources of conditions

    def _loss_pictures(self, rng: torch.Generator) -> Tensor:
        r = self.recipe
        films = torch.randint(len(self.pool), (r.image_batch,), generator=rng)
        conditions = self._conditions(self.teacher, self._captions(films, rng))
        real = window_of(self.pool.opening[films, :1]).to(self.device)
        step = _uniform(r.image_steps, rng)
        latents = self._student_input(conditions, real, r.image_steps, step, rng)
        error, _ = self._error(conditions, latents, r.image_steps, step, self._picture_guidance, r.image_teacher_steps)
        return error.mean()

    def _loss_films(self, rng: torch.Generator) -> Tensor:
        """Real pasts and, at most steps, real windows under noise."""
        r = self.recipe
        films = torch.randint(len(self.pool), (r.batch,), generator=rng)
        starts = torch.rand(r.batch, generator=rng) < r.start_share
        window, tail = windows_of(self.pool, films, starts)
        which = torch.where(starts, 0, torch.randint(2, (r.batch,), generator=rng))
        conditions = self._window_conditions(films, tail, which, rng)
        steps, step = self._draw_step(rng)
        latents = self._student_input(conditions, window_of(window).to(self.device), steps, step, rng)
        error, _ = self._error(conditions, latents, steps, step, self._guidance, r.teacher_steps)
        return self._weighted(error)

    def _loss_chains(self, rng: torch.Generator) -> Tensor:
        """The student's own pasts. Where it makes its last step, its window is the chains' next chunk."""
        r = self.recipe
        films, tail = self.chains.films[: r.batch], self.chains.tails[: r.batch]
        conditions = self._window_conditions(films, tail, torch.zeros_like(films), rng)
        steps, step = self._draw_step(rng)
        latents = self._student_input(conditions, None, steps, step, rng)
        error, made = self._error(conditions, latents, steps, step, self._guidance, r.teacher_steps)
        if step == steps - 1:
            ends = torch.rand(len(films), generator=rng) < 1 / r.chain_chunks
            begun = torch.where(ends, torch.randint(len(self.pool), (len(films),), generator=rng), -1)
            self.chains.advance(self.pool, self._remembered_tail(made), begun)
        return self._weighted(error)

    @property
    def _guidance(self) -> Guidance:
        return Guidance(self.recipe.guidance_scale, GUIDANCE_RESCALE)

    @property
    def _picture_guidance(self) -> Guidance:
        return Guidance(self.recipe.image_guidance_scale, GUIDANCE_RESCALE)

    def _draw_step(self, rng: torch.Generator) -> tuple[int, int]:
        """How many steps the student's sampler has, and which of them is trained."""
        counts, shares = zip(*self.recipe.steps, strict=True)
        steps = counts[int(torch.multinomial(torch.tensor(shares), 1, generator=rng))]
        return steps, _uniform(steps, rng)

    @torch.no_grad()
    def _conditions(self, encoders: Parts, token_ids: Tensor) -> Conditions:
        no_caption = self.no_caption.expand(len(token_ids), -1).to(self.device)
        return Conditions(encoders.encode_text(token_ids), encoders.encode_text(no_caption))

    @torch.no_grad()
    def _window_conditions(self, films: Tensor, tail: Tensor, which: Tensor, rng: torch.Generator) -> Conditions:
        """`tail` `(B, 8, 12, h, w)`; `which` of the films' two anchors, `(B,)`; some anchors are dropped."""
        encoder = self.teacher.image_encoder
        null = encoder.null_tokens(len(films))
        is_dropped = torch.rand((len(films), 1, 1), generator=rng) < self.recipe.anchor_dropout
        tokens = encoder(self.pool.anchor[films, which].float().to(self.device))
        return dataclasses.replace(
            self._conditions(self.teacher, self._captions(films, rng)),
            anchor=torch.where(is_dropped.to(self.device), null, tokens),
            no_anchor=null,
            tail=window_of(tail).to(self.device),
        )

    # --- one step of the student

    @torch.no_grad()
    def _student_input(
        self, conditions: Conditions, real: Tensor | None, steps: int, step: int, rng: torch.Generator
    ) -> Tensor:
        """Latents at the step's time: the student's own way from pure noise, or real latents under noise."""
        side = self.pool.anchor.shape[-2:]
        shape = (len(conditions), self.pool.anchor.shape[2], *_frames_of(conditions, real), *side)
        noise = torch.randn(shape, generator=rng).to(self.device)
        is_own = torch.rand((), generator=rng).item() < self.recipe.roll_out_share
        times = grid(steps)
        if real is not None and not is_own:
            a, s = alpha_sigma(times[step])
            return a * real + s * noise
        if step == 0:
            return noise
        return solve(predictor(self.parts, conditions, ONE_PASS), noise, times[: step + 1], order=1)

    def _error(
        self, conditions: Conditions, latents: Tensor, steps: int, step: int, guidance: Guidance, teacher_steps: int
    ) -> tuple[Tensor, Tensor]:
        """Squared error of the student's v, per frame `(F,)`, and what it predicted, detached."""
        time, next_time = grid(steps)[step : step + 2]
        with torch.no_grad():
            times = sub_grid(steps, step, max(1, round(teacher_steps / steps)))
            landed = solve(predictor(self.teacher, conditions, guidance), latents, times, order=2)
            target = needed_clean(latents, landed, time, next_time)
        clean = predictor(self.parts, conditions, ONE_PASS)(latents, time)
        _, sigma = alpha_sigma(time)
        return ((clean - target) / sigma).pow(2).mean((0, 1, 3, 4)), clean.detach()

    def _weighted(self, error: Tensor) -> Tensor:
        r = self.recipe
        return (r.overlap_weight * error[:TAIL_FRAMES].mean() + r.new_frames_weight * error[TAIL_FRAMES:].mean()) / 2

    @torch.no_grad()
    def _remembered_tail(self, window: Tensor) -> Tensor:
        """The window's new frames `(B, 8, 12, h, w)` as the next chunk will find them."""
        frames = window[:, :, TAIL_FRAMES:].transpose(1, 2).float()
        return through_memory(self.vae, frames.flatten(0, 1)).unflatten(0, frames.shape[:2]).cpu()

    # --- validation

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Mean squared errors of whole samples on unseen films, new frames only, from the same noise.

        `steps_2`, `steps_3`: averaged student against guided teacher in 8 steps; `pictures`: the same for first pictures.
        `real_2`, `real_teacher`: both against the films themselves.
        """
        windows, pictures = self._validation_conditions()
        if self._reference is None:
            self._reference = self._teacher_samples(windows, pictures)
        reference = self._reference
        noise, picture_noise = self._validation_noises(windows, pictures)
        student = predictor(self.average, windows, ONE_PASS)
        two, three = (solve(student, noise, grid(steps), order=1)[:, :, TAIL_FRAMES:] for steps in (2, 3))
        drawn = predictor(self.average, pictures, ONE_PASS)
        picture = solve(drawn, picture_noise, grid(self.recipe.image_steps), order=1)
        return {
            "steps_2": _mse(two, reference["windows"]),
            "steps_3": _mse(three, reference["windows"]),
            "pictures": _mse(picture, reference["pictures"]),
            "real_2": _mse(two, reference["real"]),
            "real_teacher": _mse(reference["windows"], reference["real"]),
            "chain_age": self.chains.ages.float().mean().item(),
        }

    def _teacher_samples(self, windows: Conditions, pictures: Conditions) -> dict[str, Tensor]:
        """Made once per run: eight guided steps of a batch are worth several training steps."""
        noise, picture_noise = self._validation_noises(windows, pictures)
        times = grid(VALIDATION_TEACHER_STEPS)
        teacher = predictor(self.teacher, windows, self._guidance)
        painter = predictor(self.teacher, pictures, self._picture_guidance)
        films, starts = self._validation_films()
        real = window_of(windows_of(self.validation, films, starts)[0]).to(self.device)
        return {
            "windows": solve(teacher, noise, times, order=2)[:, :, TAIL_FRAMES:],
            "pictures": solve(painter, picture_noise, times, order=2),
            "real": real[:, :, TAIL_FRAMES:],
        }

    def _validation_films(self) -> tuple[Tensor, Tensor]:
        """Films, and which of them start from a picture: every other."""
        films = torch.arange(min(VALIDATION_WINDOWS, len(self.validation)))
        return films, films % 2 == 0

    def _validation_conditions(self) -> tuple[Conditions, Conditions]:
        pool, encoder = self.validation, self.teacher.image_encoder
        films, starts = self._validation_films()
        windows = dataclasses.replace(
            self._conditions(self.teacher, pool.token_ids[films].to(self.device)),
            anchor=encoder(pool.anchor[films, 0].float().to(self.device)),
            no_anchor=encoder.null_tokens(len(films)),
            tail=window_of(windows_of(pool, films, starts)[1]).to(self.device),
        )
        return windows, self._conditions(self.teacher, pool.token_ids[:VALIDATION_PICTURES].to(self.device))

    def _validation_noises(self, windows: Conditions, pictures: Conditions) -> tuple[Tensor, Tensor]:
        rng = randomness.torch_rng(self.seed, "distil validation")
        channels, side = self.validation.anchor.shape[2], self.validation.anchor.shape[-2:]
        shapes = ((len(windows), channels, 2 * TAIL_FRAMES, *side), (len(pictures), channels, 1, *side))
        first, second = (torch.randn(shape, generator=rng).to(self.device) for shape in shapes)
        return first, second


def _frames_of(conditions: Conditions, real: Tensor | None) -> tuple[int]:
    if real is not None:
        return (real.shape[2],)
    return (1,) if conditions.tail is None else (2 * TAIL_FRAMES,)


def _uniform(count: int, rng: torch.Generator) -> int:
    return int(torch.randint(count, (), generator=rng))


def _mse(a: Tensor, b: Tensor) -> float:
    return (a - b).pow(2).mean().item()
