"""Where an enhancer is in its film: which preview chunk comes next. One that looks at no neighbours carries nothing else."""

from __future__ import annotations

from st2v_stream.chunk import Chunk, Memory
from st2v_stream.errors import InvalidRequest


def require_next(chunk: Chunk, carry: Memory | None, kind: str, version: int) -> None:
    """Raises `InvalidRequest` unless this chunk follows on this carry and the carry is of this kind. None: any chunk begins."""
    if carry is None:
        return
    require_kind(carry, kind, version)
    expected, received = (carry.next_index, carry.next_start), (chunk.index, chunk.start)
    if expected != received:
        raise InvalidRequest(
            "chunks reach an enhancer in order, (index, first frame)", expected=expected, received=received, param="chunk"
        )


def require_kind(carry: Memory, kind: str, version: int) -> None:
    """Raises `InvalidRequest` for the carry of another enhancer."""
    if (carry.kind, carry.version) != (kind, version):
        raise InvalidRequest(
            "carry of another kind", expected=(kind, version), received=(carry.kind, carry.version), param="carry"
        )


def position_after(chunk: Chunk, kind: str, version: int) -> Memory:
    """A carry that holds nothing but the position behind this chunk."""
    return Memory(kind, version, chunk.index + 1, chunk.start + len(chunk.frames), {})
