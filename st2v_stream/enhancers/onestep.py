"""The small enhancer: every frame four times as wide and high, made in one step of itself and the two frames before it.

Nothing is drawn and no later frame is looked at, so a chunk is sharp as soon as it exists, for good: no windows, no blending,
no provisional end. The carry is two frames of the preview. Frames go through the network one by one: how a film is cut into
chunks cannot show in the last bit of a pixel, and the preview, which goes first, waits for one frame at most.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from st2v_stream.chunk import Chunk, Frames, Memory, StreamSpec
from st2v_stream.enhancers.position import require_kind, require_next
from st2v_stream.errors import InvalidRequest
from st2v_stream.generators.memory import to_frames, to_network
from st2v_stream.networks.enhancer_onestep import OneStepUNet
from st2v_stream.types import EnhancedChunk, OnStep

KIND, VERSION = "onestep", 1


class OneStep:
    """Implements `Enhancer`."""

    name = KIND
    lag_frames = 0

    def __init__(self, network: OneStepUNet) -> None:
        self._network = network.to(memory_format=torch.channels_last)

    def sharp_spec(self, preview: StreamSpec) -> StreamSpec:
        """The same at four times the size."""
        scale = self._network.config.scale
        return replace(preview, width=preview.width * scale, height=preview.height * scale)

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def enhance(self, chunk: Chunk, carry: Memory | None, on_step: OnStep) -> tuple[Sequence[EnhancedChunk], Memory]:
        """The chunk, sharp; a step is a frame. Raises `Stopped`, `InvalidRequest`."""
        require_next(chunk, carry, KIND, VERSION)
        before = self._before(chunk, carry)
        seen = np.concatenate([before, chunk.frames])  # (frames - 1 + T, h, w, 3)
        count, frames = len(chunk.frames), []
        for number in range(count):
            on_step(number, count)
            frames.append(self._sharp(seen[number : number + len(before) + 1]))
        on_step(count, count)
        after = self._after(chunk, seen[count:])
        return [EnhancedChunk(replace(chunk, frames=np.stack(frames), memory=after))], after

    def finish(self, carry: Memory, on_step: OnStep) -> tuple[Sequence[EnhancedChunk], Memory]:
        """Nothing is left. Raises `InvalidRequest`."""
        require_kind(carry, KIND, VERSION)
        return [], carry

    def _before(self, chunk: Chunk, carry: Memory | None) -> Frames:
        """What lies before the chunk; where sharpening begins, its first frame stands still. Raises `InvalidRequest`."""
        count = self._network.config.frames - 1
        if carry is None:
            return np.repeat(chunk.frames[:1], count, axis=0)
        before = np.asarray(carry.parts["before"], np.uint8)
        expected = (count, *chunk.frames.shape[1:])
        if before.shape != expected:
            raise InvalidRequest("frames of another size", expected=expected, received=before.shape, param="chunk")
        return before

    def _after(self, chunk: Chunk, last: Frames) -> Memory:
        end = chunk.start + len(chunk.frames)
        return Memory(KIND, VERSION, chunk.index + 1, end, {"before": np.ascontiguousarray(last)})

    def _sharp(self, seen: Frames) -> Frames:
        """(frames, h, w, 3) -> the last of them, (4 h, 4 w, 3)."""
        network = self._network
        pixels = network(to_network(seen)[None].to(network.device, network.dtype)).float()
        frame: Frames = to_frames((pixels / 2 + 0.5).clamp(0, 1))[0]
        return frame
