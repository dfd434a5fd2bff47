"""Long generated video that you watch while it is being made.

Importing this package has no effect and loads nothing heavy; the names below are fetched on first use (PEP 562).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from st2v_stream.checkpoints.load import load_generator
    from st2v_stream.chunk import Chunk, Memory, StreamSpec
    from st2v_stream.direction import Cue, Direction, Timeline
    from st2v_stream.enhancers.load import load_enhancer
    from st2v_stream.generate import FilmFile
    from st2v_stream.media.encode import encode_clip
    from st2v_stream.streaming.autoregressive import stream_chunks
    from st2v_stream.streaming.enhance import enhance_chunks
    from st2v_stream.streaming.iterate import iterate
    from st2v_stream.streaming.prefetch import prefetch

__version__ = "0.1.0"

_HOMES = {
    "Chunk": "st2v_stream.chunk",
    "Memory": "st2v_stream.chunk",
    "StreamSpec": "st2v_stream.chunk",
    "Cue": "st2v_stream.direction",
    "Direction": "st2v_stream.direction",
    "Timeline": "st2v_stream.direction",
    "FilmFile": "st2v_stream.generate",
    "encode_clip": "st2v_stream.media.encode",
    "enhance_chunks": "st2v_stream.streaming.enhance",
    "iterate": "st2v_stream.streaming.iterate",
    "load_enhancer": "st2v_stream.enhancers.load",
    "load_generator": "st2v_stream.checkpoints.load",
    "prefetch": "st2v_stream.streaming.prefetch",
    "stream_chunks": "st2v_stream.streaming.autoregressive",
}

__all__ = [
    "Chunk",
    "Cue",
    "Direction",
    "FilmFile",
    "Memory",
    "StreamSpec",
    "Timeline",
    "__version__",
    "encode_clip",
    "enhance_chunks",
    "iterate",
    "load_enhancer",
    "load_generator",
    "prefetch",
    "stream_chunks",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'st2v_stream' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
