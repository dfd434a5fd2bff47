"""StreamingT2V: text to a film of any length, eight frames at a time (arXiv 2403.14773).

    begin      a first-chunk maker gives 16 frames, or one picture, which two extensions set in motion; so does a given
               picture; a given clip is continued: its last frames are the tail, its first one is the anchor
    generate   the tail (last 8 frames, CAM) and the anchor (frame 0 of the film, APM) condition a window of 16 frames;
               its first 8 are the tail's moments again and are dropped, its last 8 are the chunk

Everything a chunk depends on comes in as an argument; nothing is kept between calls.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias

import torch
from einops import rearrange
from torch import Tensor

from st2v_stream.chunk import Frames, Memory, StreamSpec
from st2v_stream.direction import Direction
from st2v_stream.errors import InvalidRequest
from st2v_stream.generators.conditioning import AnchorEncoder, TextEncoder, blend_prompts
from st2v_stream.generators.memory import Past, read_memory, remembered_frames, to_frames, to_network, to_unit, write_memory
from st2v_stream.media.image import fit_image
from st2v_stream.networks.ar_step import ChunkConditions, chunk_conditions, extend
from st2v_stream.networks.cam import ControlBranch
from st2v_stream.networks.guidance import Guidance, pair
from st2v_stream.networks.sampling import draw_published, make_sampler, noise_at
from st2v_stream.networks.unet import StreamingUNet
from st2v_stream.networks.vae import FrameAutoencoder
from st2v_stream.types import ModelCard, OnStep, Reference

_FRAMES_DECODED_AT_ONCE = 8


class PictureMaker(Protocol):
    """Draws what a film starts from; the extender sets it in motion, and a given picture too."""

    makes_a_picture: Literal[True]

    def __call__(self, direction: Direction, on_step: OnStep) -> Tensor:
        """-> (1, 3, H, W) float32 in [0, 1]. Raises `Stopped`."""
        ...


class WindowMaker(Protocol):
    """Makes the first window whole, from the prompt or from a picture."""

    makes_a_picture: Literal[False]

    def __call__(self, direction: Direction, on_step: OnStep, picture: Frames | None = None) -> Tensor:
        """-> (16, 3, H, W) float32 in [0, 1]. picture: (H', W', 3) uint8 of any size, what it starts from. Raises `Stopped`."""
        ...


FirstChunkMaker: TypeAlias = PictureMaker | WindowMaker


@dataclass(frozen=True)
class Networks:
    """All that has weights, except the first-chunk maker; `scheduler` is the content of scheduler_config.json."""

    unet: StreamingUNet
    cam: ControlBranch
    vae: FrameAutoencoder
    anchor: AnchorEncoder
    text: TextEncoder
    scheduler: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True)
class _Draws:
    """The random numbers of one chunk, and in preset `published` the generator's state after them."""

    init: Tensor
    steps: Sequence[Tensor]
    rng_state: Tensor | None = None


class StreamingT2V:
    """Implements `Generator`."""

    def __init__(self, card: ModelCard, networks: Networks, first_chunk: FirstChunkMaker) -> None:
        self._card, self._networks, self._first_chunk = card, networks, first_chunk
        self._tail_frames = networks.unet.config.num_control_frames
        self.made_with: Mapping[str, Any] = {}
        """What of its weights and device can change a bit (`store/determinism.py`): said by whoever loaded it."""

    @property
    def card(self) -> ModelCard:
        """What is known of the model."""
        return self._card

    @property
    def spec(self) -> StreamSpec:
        """Sizes and lengths of its films."""
        return self._card.spec

    @torch.inference_mode()
    def begin(self, direction: Direction, reference: Reference | None, on_step: OnStep) -> tuple[Frames, Memory]:
        """The first chunk, from the prompt or from a given image or clip of any size. Raises `Stopped`, `InvalidRequest`."""
        if reference is None:
            frames, anchor = self._start(direction, on_step), None
        else:
            frames, anchor = self._start_from(direction, _checked(reference), on_step)
        published = direction.preset == "published"
        rng_state = torch.Generator().manual_seed(direction.seed).get_state() if published else None
        return write_memory(self.spec, 0, frames, tail_frames=self._tail_frames, anchor=anchor, rng_state=rng_state)

    @torch.inference_mode()
    def generate(self, direction: Direction, memory: Memory, on_step: OnStep) -> tuple[Frames, Memory]:
        """Chunk `memory.next_index`. Raises `Stopped`, and `InvalidRequest` for another model's memory."""
        index, past = memory.next_index, read_memory(memory, self.spec, self._tail_frames)
        draws = self._draw(direction, index, past)
        latents = self.denoise_window(direction, past, draws.init, draws.steps, on_step)
        frames = decode_window(self._networks.vae, latents[:, :, self._tail_frames :])
        return write_memory(self.spec, index, frames, tail_frames=self._tail_frames, past=past, rng_state=draws.rng_state)

    def frames_of(self, direction: Direction, memory: Memory) -> Frames:
        """Implements `Remembers`."""
        return remembered_frames(memory)

    def denoise_window(
        self, direction: Direction, past: Past, init: Tensor, step_noise: Sequence[Tensor], on_step: OnStep
    ) -> Tensor:
        """-> latents (1, C, 16, h, w) of the window whose first 8 frames are the tail's moments."""
        networks, guidance, device = self._networks, guidance_of(direction, self._networks.scheduler), self._device
        return extend(
            networks.unet,
            networks.cam,
            self._conditions(direction, past, guidance),
            make_sampler(networks.scheduler, direction.num_inference_steps),
            guidance,
            init.to(device),
            lambda k: step_noise[k].to(device),
            on_step,
        )

    @property
    def _device(self) -> torch.device:
        return self._networks.unet.device

    def _conditions(self, direction: Direction, past: Past, guidance: Guidance) -> ChunkConditions:
        """Text, image tokens and control features; all constant over the steps of the chunk."""
        networks, tail, anchor = self._networks, past.tail.to(self._device), past.anchor.to(self._device)
        text = text_rows(networks.text, direction, guidance)
        image = pair(networks.anchor.none(anchor), networks.anchor(anchor), guidance)
        if networks.cam.config.cam_features == "noisy":
            return chunk_conditions(networks.cam, text, image, control_frames=tail[None])
        control_latents = rearrange(networks.vae.encode(tail), "f c h w -> 1 c f h w")
        return chunk_conditions(networks.cam, text, image, control_latents=control_latents)

    def _draw(self, direction: Direction, index: int, past: Past) -> _Draws:
        shape = latents_shape(self.spec, self._networks.unet, self._networks.vae)
        steps = direction.num_inference_steps if make_sampler(self._networks.scheduler, 1).uses_noise else 0
        if direction.preset == "published":
            rng = torch.Generator().manual_seed(direction.seed)
            if past.rng_state is not None:
                rng.set_state(past.rng_state)
            init, noise = draw_published(rng, shape, steps)
            return _Draws(init, noise, rng.get_state())
        noise = [noise_at(direction.seed, index, f"step:{k}", shape) for k in range(steps)]
        return _Draws(noise_at(direction.seed, index, "init", shape), noise)

    def _start(self, direction: Direction, on_step: OnStep) -> Tensor:
        """(16, 3, H, W) in [0, 1] from the prompt alone."""
        first, maker = direction.of_first_chunk, self._first_chunk
        if not maker.makes_a_picture:
            return maker(first, on_step)
        missing = self.spec.first_chunk_frames - 1
        report = OneReport(on_step, first.num_inference_steps + self._steps_for(missing, direction))
        picture = _as_remembered(maker(first, report), direction)
        return self._fill_up(direction, picture, report)

    def _start_from(self, direction: Direction, given: Frames, on_step: OnStep) -> tuple[Tensor, Tensor | None]:
        """(16, 3, H, W) in [0, 1], and the anchor (1, 3, H, W) where it is not the first of them.

        An image is set in motion. A clip of 16 frames or more: its last 16, and its own first frame as the anchor. A
        shorter one: all of it, and as many new ones as 16 take.
        """
        maker, window = self._first_chunk, self.spec.first_chunk_frames
        if len(given) == 1 and not maker.makes_a_picture:
            return maker(direction.of_first_chunk, on_step, given[0]), None
        kept = self._at_film_size(given if len(given) <= window else given[[0, *range(-window, 0)]])
        clip = to_unit(kept)
        if len(clip) > window:
            return clip[1:], clip[:1]
        report = OneReport(on_step, self._steps_for(window - len(clip), direction))
        whole = self._fill_up(direction, to_network(kept), report)
        return torch.cat([clip.to(whole.device), whole[len(clip) :]]), None

    def _at_film_size(self, frames: Frames) -> Frames:
        height, width = self.spec.height, self.spec.width
        return frames if frames.shape[1:3] == (height, width) else fit_image(frames, width, height)

    def _steps_for(self, missing_frames: int, direction: Direction) -> int:
        return math.ceil(missing_frames / self.spec.chunk_frames) * direction.num_inference_steps

    def _fill_up(self, direction: Direction, clip: Tensor, on_step: OnStep) -> Tensor:
        """(1..16, 3, H, W) in [-1, 1] -> (16, 3, H, W) in [0, 1]: the clip is extended until it is a first chunk.

        What is shorter than a tail is held still before its first frame; nobody sees that.
        """
        number = 0
        while len(clip) < self.spec.first_chunk_frames:
            held = clip[:1].expand(max(0, self._tail_frames - len(clip)), -1, -1, -1)
            tail = torch.cat([held, clip])[-self._tail_frames :]
            draws = self._draw_for_start(direction, number)
            latents = self.denoise_window(direction, Past(tail, clip[:1]), draws.init, draws.steps, on_step)
            new = decode_window(self._networks.vae, latents[:, :, self._tail_frames :])
            clip, number = torch.cat([clip, _as_remembered(new, direction).to(clip.device)]), number + 1
        return clip[: self.spec.first_chunk_frames] / 2 + 0.5

    def _draw_for_start(self, direction: Direction, number: int) -> _Draws:
        """Addressed in every preset: the published pipeline knows no such start."""
        shape = latents_shape(self.spec, self._networks.unet, self._networks.vae)
        steps = direction.num_inference_steps if make_sampler(self._networks.scheduler, 1).uses_noise else 0
        noise = [noise_at(direction.seed, 0, f"step:{number}:{k}", shape) for k in range(steps)]
        return _Draws(noise_at(direction.seed, 0, f"init:{number}", shape), noise)


class OneReport:
    """Several denoising runs reported as one of `total` steps; itself an `OnStep`."""

    def __init__(self, on_step: OnStep, total: int) -> None:
        self._on_step, self._total, self._before = on_step, total, 0

    def __call__(self, k: int, n: int) -> None:
        if k < n:
            self._on_step(self._before + k, self._total)
            return
        self._before += n
        if self._before == self._total:
            self._on_step(self._total, self._total)


def _checked(reference: Reference) -> Frames:
    """Its frames. Raises `InvalidRequest` if they are none."""
    given = reference.frames
    if given.dtype != "uint8" or given.ndim != 4 or given.shape[3] != 3 or 0 in given.shape:
        raise InvalidRequest(
            "the reference holds no pictures",
            expected="(T, H, W, 3) uint8",
            received=f"{given.shape} {given.dtype}",
            param="input_reference",
        )
    return given


def _as_remembered(frames: Tensor, direction: Direction) -> Tensor:
    """Frames in [0, 1] -> in [-1, 1] as the memory gives them back: rounded to 8 bits, except in preset `published`."""
    return 2 * frames - 1 if direction.preset == "published" else to_network(to_frames(frames))


def text_rows(encode: TextEncoder, direction: Direction, guidance: Guidance) -> Tensor:
    """(passes, tokens, D): negative prompt first when guidance needs it."""
    rows = pair(encode([direction.negative_prompt]), blend_prompts(encode, direction.prompts), guidance)
    assert rows is not None
    return rows


def guidance_of(direction: Direction, scheduler: Mapping[str, Any]) -> Guidance:
    """Preset `published` never rescales; otherwise the model's own `guidance_rescale` applies."""
    rescale = 0.0 if direction.preset == "published" else float(scheduler.get("guidance_rescale", 0.0))
    return Guidance(direction.guidance_scale, rescale)


def latents_shape(spec: StreamSpec, unet: StreamingUNet, vae: FrameAutoencoder) -> tuple[int, ...]:
    """(1, C, 16, h, w) of a window."""
    config, downscale = unet.config, vae.config.downscale
    return 1, config.in_channels, config.num_frames, spec.height // downscale, spec.width // downscale


def decode_window(vae: FrameAutoencoder, latents: Tensor) -> Tensor:
    """(1, C, F, h, w) -> (F, 3, H, W) in [0, 1]; at most 8 frames at once, so memory does not grow with F.

    The published code decodes one at a time; a frame does not see its neighbours, and on two cores 8 at once take half as long.
    """
    frames = vae.decode(rearrange(latents, "1 c f h w -> f c h w"), frames_at_once=_FRAMES_DECODED_AT_ONCE)
    return (frames / 2 + 0.5).clamp(0, 1)
