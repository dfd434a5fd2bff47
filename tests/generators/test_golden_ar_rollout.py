"""ar_rollout: the published roll-out 16 -> 24 -> 32 -> 40 frames, through the product's own loop (golden README section 2b)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing

import numpy as np
import pytest
import torch
from einops import rearrange
from golden_folder import deviation, read, recorded_networks, settings
from networks.test_golden_ar_step import recorded_parts
from torch import Tensor

from st2v_stream.chunk import Chunk, StreamSpec
from st2v_stream.direction import Direction, Timeline
from st2v_stream.generators.conditioning import OpenClipAnchor
from st2v_stream.generators.memory import Past
from st2v_stream.generators.streamingt2v import Networks, StreamingT2V
from st2v_stream.streaming.autoregressive import stream_chunks
from st2v_stream.types import ModelCard, OnStep

pytestmark = pytest.mark.golden
LATENTS_TOLERANCES, FRAMES_TOLERANCE = (4e-3, 1e-2, 3e-2), 3e-4
PROMPT = "the recorded prompt"


class RecordedFirstChunk:
    makes_a_picture = False

    def __init__(self, frames: Tensor) -> None:
        self.frames = frames

    def __call__(self, direction: Direction, on_step: OnStep) -> Tensor:
        return self.frames


class Rollout(StreamingT2V):
    """Keeps what each extension saw and gave."""

    def __init__(self, *parts: object) -> None:
        super().__init__(*parts)  # type: ignore[arg-type]
        self.pasts: list[Past] = []
        self.windows: list[Tensor] = []
        self.draws: list[tuple[Tensor, Sequence[Tensor]]] = []

    def denoise_window(
        self, direction: Direction, past: Past, init: Tensor, step_noise: Sequence[Tensor], on_step: OnStep
    ) -> Tensor:
        self.pasts.append(past)
        self.draws.append((init, step_noise))
        self.windows.append(super().denoise_window(direction, past, init, step_noise, on_step))
        return self.windows[-1]


class Recorded:
    def __init__(self) -> None:
        self.io, config = read("ar_rollout.io"), settings("ar_rollout.io")
        unet, branch = recorded_networks()
        encoder, resampler, vae = recorded_parts(config)
        first = self.io["in.first_chunk"]
        size = StreamSpec(first.shape[3], first.shape[2], 8, len(first), len(first) - config["num_control_input_frames"])
        card = ModelCard("recorded", "Recorded", "1", "", size)
        anchor = OpenClipAnchor(encoder, resampler)
        networks = Networks(unet, branch, vae, anchor, self.encode_text, config["scheduler"])
        self.generator = Rollout(card, networks, RecordedFirstChunk(first))
        direction = Direction(
            ((PROMPT, 1.0),),
            guidance_scale=config["guidance_scale"],
            num_inference_steps=config["num_inference_steps"],
            preset="published",
            seed=int(self.io["in.generator_seed"]),
        )
        self.chunks = asyncio.run(self.stream(direction))

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        return torch.cat([self.io["in.text_pos" if text == PROMPT else "in.text_neg"] for text in texts])

    async def stream(self, direction: Direction) -> list[Chunk]:
        length = int(self.io["book.merged_length_after"][-1])
        async with aclosing(stream_chunks(self.generator, Timeline(direction), num_frames=length)) as chunks:
            return [chunk async for chunk in chunks]


@pytest.fixture(scope="module")
def recorded() -> Recorded:
    return Recorded()


def extensions(recorded: Recorded) -> range:
    return range(len(recorded.io["book.merged_length_after"]))


def test_draws_run_on_from_chunk_to_chunk(recorded: Recorded) -> None:
    for i in extensions(recorded):
        init, steps = recorded.generator.draws[i]
        assert torch.equal(init, recorded.io[f"in.init_noise_{i}"])
        expected = rearrange(recorded.io[f"in.step_noise_{i}"], "k (b f) c h w -> k b c f h w", b=1)
        assert torch.equal(torch.stack(list(steps)), expected)


def test_latents(recorded: Recorded) -> None:
    for i in extensions(recorded):
        assert deviation(recorded.generator.windows[i], recorded.io[f"out.latents_{i}"]) < LATENTS_TOLERANCES[i]


def test_appended_frames(recorded: Recorded) -> None:
    for i in extensions(recorded):
        tail = torch.from_numpy(recorded.chunks[i + 1].memory.parts["tail"])
        appended = rearrange(tail[[0, -1]], "f h w c -> f c h w")
        assert deviation(appended, recorded.io[f"out.appended_frames_first_last_{i}"]) < FRAMES_TOLERANCE


def test_bookkeeping(recorded: Recorded) -> None:
    io, chunks = recorded.io, recorded.chunks
    film = torch.cat([torch.from_numpy(np.array(chunk.frames)) for chunk in chunks])
    for i in extensions(recorded):
        before, new = chunks[i], chunks[i + 1]
        assert list(range(new.start, new.start + len(new.frames))) == io["book.appended_global_index"][i].tolist()
        assert new.start + len(new.frames) == io["book.merged_length_after"][i]
        control = before.start + len(before.frames) - len(io["book.control_global_index"][i])
        assert control == io["book.control_global_index"][i][0]
        past = recorded.generator.pasts[i]
        for name, indices in (("tail", io["book.control_global_index"][i]), ("anchor", torch.tensor([0]))):
            shown = ((getattr(past, name) / 2 + 0.5) * 255).permute(0, 2, 3, 1)
            # what is shown was truncated to 8 bits, what conditions was not
            assert (shown - film[indices]).min() > -1e-3
            assert (shown - film[indices]).max() < 1 + 1e-3
