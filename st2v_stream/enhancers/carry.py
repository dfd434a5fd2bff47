"""What the diffusion enhancer has begun and not finished, as a `Memory` and back, bit for bit.

waiting                      start latents of frames that no window has yet, (1, C, n, h, w) float32
window<i>                    a window's latents; window<i>.clean its last prediction; window<i>.said what it said of the
                             frames it shares with the next one: (steps, C, overlap, h, w)
finished                     latents that only wait to be decoded with the rest of their chunk
notes                        JSON: where the windows stand; index, frames and Direction of every chunk that is not sharp
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from st2v_stream.chunk import Memory
from st2v_stream.direction import Direction
from st2v_stream.enhancers.position import require_kind
from st2v_stream.errors import InvalidRequest
from st2v_stream.networks.enhancer_film import GrowingFilm, OpenWindow

KIND, VERSION = "sdedit", 1


@dataclass(frozen=True)
class ChunkNote:
    """A preview chunk that is not sharp for good. times_made: how often it was shown; made_of: of how many frames, last."""

    index: int
    start: int
    frames: int
    direction: Direction
    times_made: int = 0
    made_of: int = 0

    @property
    def end(self) -> int:
        """The frame after its last."""
        return self.start + self.frames


@dataclass(frozen=True)
class SdEditState:
    """The film from frame `first` on, which is where enhancement began; `film` and its windows count from there.

    settings: the enhancer's, by which its carry is known. width, height: of the preview.
    """

    settings: str
    width: int
    height: int
    first: int
    next_index: int
    film: GrowingFilm = field(default_factory=GrowingFilm)
    finished: Tensor | None = field(default=None, repr=False)
    notes: tuple[ChunkNote, ...] = ()

    @property
    def next_start(self) -> int:
        """The frame with which the next preview chunk begins."""
        return self.first + self.film.frames


def write_carry(state: SdEditState) -> Memory:
    """The state as a value that can be stored."""
    parts: dict[str, NDArray[np.generic]] = {"notes": _notes(state)}
    tensors = {"waiting": state.film.waiting, "finished": state.finished}
    for i, window in enumerate(state.film.held):
        said = torch.cat(window.said) if window.said else None
        tensors |= {f"window{i}": window.latents, f"window{i}.clean": window.clean, f"window{i}.said": said}
    parts |= {name: value.numpy() for name, value in tensors.items() if value is not None}
    return Memory(KIND, VERSION, state.next_index, state.next_start, parts)


def read_carry(carry: Memory, settings: str) -> SdEditState:
    """Inverse of `write_carry`. Raises `InvalidRequest` for the carry of another enhancer, or of other settings."""
    require_kind(carry, KIND, VERSION)
    notes = json.loads(carry.parts["notes"].tobytes())
    if notes["settings"] != settings:
        raise InvalidRequest("carry of other settings", expected=settings, received=notes["settings"], param="carry")
    held = tuple(_window(carry.parts, i, place) for i, place in enumerate(notes["windows"]))
    film = GrowingFilm(carry.next_start - notes["first"], _tensor(carry.parts, "waiting"), held)
    chunks = tuple(ChunkNote(**note | {"direction": Direction.from_json(note["direction"])}) for note in notes["chunks"])
    place = (settings, notes["width"], notes["height"], notes["first"], carry.next_index)
    return SdEditState(*place, film, _tensor(carry.parts, "finished"), chunks)


def _notes(state: SdEditState) -> NDArray[np.uint8]:
    notes = {
        "settings": state.settings,
        "width": state.width,
        "height": state.height,
        "first": state.first,
        "windows": [{"start": window.start, "step": window.step} for window in state.film.held],
        "chunks": [vars(note) | {"direction": note.direction.to_json()} for note in state.notes],
    }
    return np.frombuffer(json.dumps(notes).encode(), np.uint8)


def _window(parts: Mapping[str, NDArray[np.generic]], i: int, place: Mapping[str, Any]) -> OpenWindow:
    latents, said = _tensor(parts, f"window{i}"), _tensor(parts, f"window{i}.said")
    assert latents is not None
    rows = () if said is None else said.split(1)
    return OpenWindow(place["start"], latents, place["step"], _tensor(parts, f"window{i}.clean"), rows)


def _tensor(parts: Mapping[str, NDArray[np.generic]], name: str) -> Tensor | None:
    """A copy: stored arrays may be read-only."""
    return torch.from_numpy(np.array(parts[name])) if name in parts else None
