"""The diffusion enhancer: SDEdit on the Video-to-Video UNet, with randomized blending (paper sec. 4.3) of a film that grows.

Every frame is enlarged, encoded, noised to t = 599 and denoised in windows of 24 that share 8 (networks/enhancer_film.py).
Left out of the published pass, whose arithmetic this is: 1280x720 with black sides, where 720x768 is the smallest size the
network takes for square films (half the cost) and the padding is cut off again; the film's trimming to whole windows, here
the last one is short; two more H.264 passes; and draws that need the whole film's length: ours are addressed by frame and step.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from st2v_stream.chunk import Chunk, Frames, Memory, StreamSpec
from st2v_stream.direction import Direction
from st2v_stream.enhancers.carry import KIND, VERSION, ChunkNote, SdEditState, read_carry, write_carry
from st2v_stream.enhancers.position import require_next
from st2v_stream.errors import InvalidRequest
from st2v_stream.generators.conditioning import TextEncoder, blend_prompts
from st2v_stream.generators.memory import to_frames, to_network
from st2v_stream.media.scaling import resize
from st2v_stream.networks.enhancer_film import GrowingBlend
from st2v_stream.networks.enhancer_sampling import NOISE_LEVELS, VideoToVideoSampler, predict_clean
from st2v_stream.networks.enhancer_unet import EnhancerUNet
from st2v_stream.networks.guidance import Guidance, pair
from st2v_stream.networks.sampling import noise_at
from st2v_stream.networks.vae import FrameAutoencoder
from st2v_stream.types import EnhancedChunk, OnStep

_TEXTS_KEPT = 4
"""Encoded prompts kept warm; a window at a cue needs two."""


@dataclass(frozen=True)
class EnhancerNetworks:
    """All that has weights, each part where it shall run and in its type.

    The solver's arithmetic stays on the CPU in float32: it costs nothing beside the network, and is the same everywhere.
    """

    unet: EnhancerUNet
    vae: FrameAutoencoder
    text: TextEncoder


@dataclass(frozen=True)
class SdEditSettings:
    """The defaults are the published ones, except `windows_together`: the published pass holds the whole film.

    width, height: the box in pixels that enhanced films fill in one direction. positive_prompt follows the prompt and ", ".
    """

    width: int = 1280
    height: int = 720
    num_inference_steps: int = 30
    noise_levels: int = NOISE_LEVELS
    guidance_scale: float = 7.5
    guidance_rescale: float = 0.2
    window_frames: int = 24
    overlap_frames: int = 8
    windows_together: int = 1
    positive_prompt: str = ""


class SdEdit:
    """Implements `Enhancer`."""

    name = KIND

    def __init__(self, networks: EnhancerNetworks, settings: SdEditSettings | None = None) -> None:
        self._networks, self._settings = networks, settings or SdEditSettings()
        self._sampler = VideoToVideoSampler(self._settings.num_inference_steps, self._settings.noise_levels)
        self._texts: dict[tuple[object, str], Tensor] = {}

    @property
    def lag_frames(self) -> int:
        """A window, and a stride for each of the others that are held; for chunks that end where strides do, as 16 and 8."""
        settings = self._settings
        together = min(settings.windows_together, self._sampler.steps)
        return settings.window_frames + (together - 1) * (settings.window_frames - settings.overlap_frames)

    def sharp_spec(self, preview: StreamSpec) -> StreamSpec:
        """The preview's shape, as large as the box allows, in even numbers of pixels."""
        height, width = self._sharp_size(preview.width, preview.height)
        return replace(preview, width=width, height=height)

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def enhance(self, chunk: Chunk, carry: Memory | None, on_step: OnStep) -> tuple[Sequence[EnhancedChunk], Memory]:
        """A step is one window's: two evaluations of the network. Raises `Stopped`, `InvalidRequest`."""
        require_next(chunk, carry, KIND, VERSION)
        state = self._take_note(chunk, carry)
        blend = self._blend(state)
        film, finished = blend.add(state.film, self._start(chunk), on_step)
        state = replace(state, film=film, finished=_joined(state.finished, finished))
        sharp, end = [], state.first + blend.finished_frames(film)
        while state.notes and state.notes[0].end <= end:
            note, latents = state.notes[0], state.finished
            assert latents is not None
            state = replace(state, notes=state.notes[1:], finished=latents[:, :, note.frames :].clone())
            sharp.append(self._sharp(note, latents[:, :, : note.frames], state))
        return sharp, sharp[-1].chunk.memory if sharp else write_carry(state)

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def finish(self, carry: Memory, on_step: OnStep) -> tuple[Sequence[EnhancedChunk], Memory]:
        """Chunks that were made of the same frames before are not made again. Raises `Stopped`, `InvalidRequest`."""
        state = read_carry(carry, repr(self._settings))
        if all(note.made_of == state.film.frames for note in state.notes):
            return [], carry
        latents = _joined(state.finished, self._blend(state).finish(state.film, on_step))
        assert latents is not None
        sharp, begin = [], state.notes[0].start
        for i, note in enumerate(state.notes):
            if note.made_of == state.film.frames:
                continue
            made = replace(note, times_made=note.times_made + 1, made_of=state.film.frames)
            state = replace(state, notes=(*state.notes[:i], made, *state.notes[i + 1 :]))
            sharp.append(self._sharp(note, latents[:, :, note.start - begin : note.end - begin], state, is_provisional=True))
        return sharp, sharp[-1].chunk.memory

    # ---------------------------------------------------------------- a chunk comes, a chunk leaves

    def _take_note(self, chunk: Chunk, carry: Memory | None) -> SdEditState:
        """The state with this chunk in its notes. Raises `InvalidRequest` for frames of another size."""
        height, width = chunk.frames.shape[1:3]
        settings = repr(self._settings)
        state = read_carry(carry, settings) if carry else SdEditState(settings, width, height, chunk.start, chunk.index)
        if (state.width, state.height) != (width, height):
            raise InvalidRequest(
                "frames of another size", expected=(state.width, state.height), received=(width, height), param="chunk"
            )
        note = ChunkNote(chunk.index, chunk.start, len(chunk.frames), chunk.direction)
        return replace(state, next_index=chunk.index + 1, notes=(*state.notes, note))

    def _start(self, chunk: Chunk) -> Tensor:
        """A chunk's frames as the solver starts with them: (1, C, T, h, w)."""
        parts = []
        for number, frame in enumerate(self._on_canvas(chunk.frames)):
            address = chunk.direction.seed, chunk.index, chunk.start + number
            parts.append(self._start_frame(frame, *address))
        return torch.stack(parts, dim=2)

    def _start_frame(self, frame: Frames, seed: int, index: int, number: int) -> Tensor:
        """(H, W, 3) -> (1, C, h, w): a sample of the posterior, noised. One by one, as published: memory stays small."""
        vae = self._networks.vae
        mean, std = vae.posterior(to_network(frame[None]).to(vae.device, vae.dtype))
        mean, std = mean.float().cpu(), std.float().cpu()
        drawn = noise_at(seed, index, f"enhance:{number}:posterior", tuple(mean.shape))
        clean = vae.normalize(mean + std * drawn)
        return self._sampler.start(clean, noise_at(seed, index, f"enhance:{number}:init", tuple(mean.shape)))

    def _sharp(self, note: ChunkNote, latents: Tensor, state: SdEditState, *, is_provisional: bool = False) -> EnhancedChunk:
        """The chunk with its decoded frames; `state` is what is left to do after it."""
        vae = self._networks.vae
        # contiguous: how a slice lies in memory must not show in the last bit of a pixel
        per_frame = rearrange(latents, "1 c f h w -> f c h w").contiguous()
        pixels = vae.decode(per_frame.to(vae.device, vae.dtype), frames_at_once=1)
        frames = self._off_canvas(to_frames((pixels.float() / 2 + 0.5).clamp(0, 1)), state.width, state.height)
        chunk = Chunk(note.index, note.start, frames, note.direction, write_carry(state))
        return EnhancedChunk(chunk, note.times_made, is_provisional)

    # ---------------------------------------------------------------- sizes

    def _on_canvas(self, frames: Frames) -> Frames:
        """(T, H, W, 3) enlarged (bicubic, as published) in the middle of a black canvas of a size the network takes."""
        height, width = self._sharp_size(frames.shape[2], frames.shape[1])
        top, left, canvas_height, canvas_width = self._canvas(height, width)
        canvas = np.zeros((len(frames), canvas_height, canvas_width, 3), np.uint8)
        for target, frame in zip(canvas, frames, strict=True):
            target[top : top + height, left : left + width] = resize(frame, width, height)
        return canvas

    def _off_canvas(self, frames: Frames, preview_width: int, preview_height: int) -> Frames:
        height, width = self._sharp_size(preview_width, preview_height)
        top, left, _, _ = self._canvas(height, width)
        return np.ascontiguousarray(frames[:, top : top + height, left : left + width])

    def _sharp_size(self, preview_width: int, preview_height: int) -> tuple[int, int]:
        """(height, width): as large as the box allows, in even numbers, as video encoders want them."""
        scale = min(self._settings.width / preview_width, self._settings.height / preview_height)
        return 2 * round(preview_height * scale / 2), 2 * round(preview_width * scale / 2)

    def _canvas(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Where frames of this size lie, and on what: (top, left, height, width)."""
        pixels = self._networks.vae.config.downscale
        unit, least = pixels * self._networks.unet.config.size_step, 2 * pixels
        canvas_height = least + -(-max(height - least, 0) // unit) * unit
        canvas_width = -(-width // unit) * unit
        return (canvas_height - height) // 2, (canvas_width - width) // 2, canvas_height, canvas_width

    # ---------------------------------------------------------------- denoising

    def _blend(self, state: SdEditState) -> GrowingBlend:
        settings = self._settings
        return GrowingBlend(
            _FilmSolver(self, state.notes, state.first),
            size=settings.window_frames,
            overlap=settings.overlap_frames,
            together=settings.windows_together,
        )

    @property
    def sampler(self) -> VideoToVideoSampler:
        """Shared by all films."""
        return self._sampler

    def cut(self, seed: int, index: int, frame: int, k: int) -> int:
        """The cut of step k in the overlap that begins at `frame`: uniform on 0 .. overlap - 1, as published."""
        address = hashlib.sha256(f"{seed}/{index}/enhance:{frame}:cut:{k}".encode()).digest()
        return int.from_bytes(address[:8], "little") % max(self._settings.overlap_frames, 1)

    def predict(self, direction: Direction, k: int, latents: Tensor) -> Tensor:
        """Clean latents (1, C, F, h, w) of a window at step k."""
        guidance = Guidance(self._settings.guidance_scale, self._settings.guidance_rescale)

        def network(scaled: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
            unet = self._networks.unet
            return unet(scaled.to(unet.device, unet.dtype), timestep, text.to(unet.device, unet.dtype)).float().cpu()

        text = self._text(direction, guidance)
        return predict_clean(network, self._sampler, k, latents.contiguous(), text, guidance)

    def _text(self, direction: Direction, guidance: Guidance) -> Tensor:
        """(passes, tokens, D): the negative prompt (empty unless given), then "<prompt>, "."""
        key = direction.prompts, direction.negative_prompt
        if key not in self._texts:
            encode, follows = self._networks.text, self._settings.positive_prompt
            prompts = [(f"{text}, {follows}", weight) for text, weight in direction.prompts]
            rows = pair(encode([direction.negative_prompt]), blend_prompts(encode, prompts), guidance)
            assert rows is not None
            while len(self._texts) >= _TEXTS_KEPT:
                del self._texts[next(iter(self._texts))]
            self._texts[key] = rows.float().cpu()
        return self._texts[key]


class _FilmSolver:
    """Implements `WindowSolver` for one film: its frames counted from where enhancement began, its chunks' directions."""

    def __init__(self, enhancer: SdEdit, notes: Sequence[ChunkNote], first: int) -> None:
        self._enhancer, self._notes, self._first = enhancer, notes, first
        self.steps = enhancer.sampler.steps

    def predict(self, start: int, k: int, latents: Tensor) -> Tensor:
        middle = self._first + start + latents.shape[2] // 2  # what a window shows is what its middle frame was made for
        return self._enhancer.predict(self._note_of(middle).direction, k, latents)

    def advance(self, start: int, k: int, clean: Tensor, latents: Tensor, before: Tensor | None) -> Tensor:
        noise = self._noise(self._first + start, k, latents) if k < self.steps - 1 else None
        return self._enhancer.sampler.advance(k, clean, latents, before, noise)

    def cut(self, start: int, k: int) -> int:
        note = self._note_of(self._first + start)
        return self._enhancer.cut(note.direction.seed, note.index, self._first + start, k)

    def _noise(self, frame: int, k: int, like: Tensor) -> Tensor:
        """Addressed by frame and step, so that windows share it and a film that goes on finds it again."""
        shape, parts = (1, like.shape[1], *like.shape[3:]), []
        for number in range(frame, frame + like.shape[2]):
            note = self._note_of(number)
            parts.append(noise_at(note.direction.seed, note.index, f"enhance:{number}:{k}", shape))
        return torch.stack(parts, dim=2)

    def _note_of(self, frame: int) -> ChunkNote:
        return next(note for note in self._notes if frame < note.end)


def _joined(first: Tensor | None, then: Tensor | None) -> Tensor | None:
    """One after the other along the frames of (1, C, F, h, w), as far as they are there."""
    parts = [part for part in (first, then) if part is not None]
    return torch.cat(parts, dim=2) if parts else None
