"""The preview as it is: what every enhancer is compared with, and the stage itself without a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from st2v_stream.chunk import Chunk, Memory, StreamSpec
from st2v_stream.enhancers.position import position_after, require_kind, require_next
from st2v_stream.types import EnhancedChunk, OnStep

KIND, VERSION = "passthrough", 1


class Passthrough:
    """Implements `Enhancer`: every chunk at once, unchanged."""

    name = KIND
    lag_frames = 0

    def sharp_spec(self, preview: StreamSpec) -> StreamSpec:
        """The same."""
        return preview

    def enhance(self, chunk: Chunk, carry: Memory | None, on_step: OnStep) -> tuple[Sequence[EnhancedChunk], Memory]:
        """The chunk itself. Raises `InvalidRequest`."""
        require_next(chunk, carry, KIND, VERSION)
        after = position_after(chunk, KIND, VERSION)
        return [EnhancedChunk(replace(chunk, memory=after))], after

    def finish(self, carry: Memory, on_step: OnStep) -> tuple[Sequence[EnhancedChunk], Memory]:
        """Nothing is left. Raises `InvalidRequest`."""
        require_kind(carry, KIND, VERSION)
        return [], carry
