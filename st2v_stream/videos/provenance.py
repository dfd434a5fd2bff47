"""The manifest of a film: how every chunk of it was made, each entry bound to the one before by a hash (docs/provenance.md).

    origin            H(model, version, spec, what it starts from)
    entry k           hash = H(hash of entry k-1 or origin, what is said of chunk k)
    head              hash of the last entry, or origin

The origin names no video, so a branch and its parent have the same entries up to the fork.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal, TypedDict

from st2v_stream import __version__
from st2v_stream.direction import Timeline
from st2v_stream.errors import InvalidRequest
from st2v_stream.store.segments import ChunkRow
from st2v_stream.types import VideoView
from st2v_stream.videos.screenplay import ScreenplayJson, screenplay_of


class ManifestOrigin(TypedDict):
    """What the whole film rests on. model_version: null where it was not written down."""

    model: str
    model_version: str | None
    spec: dict[str, Any]
    reference_sha256: str | None


class ManifestChunk(TypedDict):
    """How one chunk was made; `hash` covers all of it and `previous`.

    frames_sha256: of the frames before the encoder. made_with: which of the manifest's classes. segment_sha256: of the
    preview as it was encoded first.
    """

    index: int
    start: int
    frames: int
    direction: dict[str, Any]
    frames_sha256: str
    memory_sha256: str | None
    made_with: str | None
    making_s: float
    created_at: int
    segment_sha256: str
    previous: str
    hash: str


class ManifestJson(TypedDict):
    """How a film was made. classes: determinism classes by the sha256 of their JSON. head: names all of it."""

    object: Literal["video.manifest"]
    manifest: Literal[1]
    id: str
    title: str
    parent_id: str | None
    fork_index: int | None
    created_at: int
    frames: int
    st2v_stream: str
    origin: ManifestOrigin
    classes: dict[str, dict[str, Any]]
    chunks: list[ManifestChunk]
    head: str
    screenplay: ScreenplayJson


class BrokenChain(InvalidRequest):
    """A manifest that somebody has changed, or that is damaged."""

    code = "broken_chain"


def manifest_of(
    view: VideoView,
    rows: Sequence[ChunkRow],
    timeline: Timeline,
    *,
    model_version: str | None,
    reference_sha256: str | None,
) -> ManifestJson:
    """The manifest of a film from what the store keeps of it."""
    origin: ManifestOrigin = {
        "model": view.model,
        "model_version": model_version,
        "spec": asdict(view.spec),
        "reference_sha256": reference_sha256,
    }
    classes = {digest(row.made_with): dict(row.made_with) for row in rows if row.made_with is not None}
    chunks, previous = list[ManifestChunk](), digest(origin)
    for row in rows:
        chunks.append(_entry(row, previous))
        previous = chunks[-1]["hash"]
    return {
        "object": "video.manifest",
        "manifest": 1,
        "id": view.id,
        "title": view.title,
        "parent_id": view.parent_id,
        "fork_index": view.fork_index,
        "created_at": view.created_at_s,
        "frames": sum(row.frames for row in rows),
        "st2v_stream": __version__,
        "origin": origin,
        "classes": classes,
        "chunks": chunks,
        "head": previous,
        "screenplay": screenplay_of(view, timeline),
    }


def check_chain(manifest: Mapping[str, Any]) -> None:
    """Raise `BrokenChain` at the first entry that is not what was written; `InvalidRequest` for what is no manifest."""
    try:
        previous = digest(manifest["origin"])
        for name, made_with in manifest["classes"].items():
            _require("a determinism class", digest(made_with), name)
        for index, entry in enumerate(manifest["chunks"]):
            _require(f"the place of chunk {index}", index, entry["index"])
            _require(f"what chunk {index} follows", previous, entry["previous"])
            _require(f"chunk {index}", _hash_of(entry), entry["hash"])
            previous = entry["hash"]
        _require("the head", previous, manifest["head"])
    except (KeyError, TypeError, AttributeError) as error:
        raise InvalidRequest("this is no manifest", expected="what GET .../manifest says", received=repr(error)) from error


def digest(value: object) -> str:
    """sha256 of a value's JSON: sorted names, no spaces, ASCII."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _entry(row: ChunkRow, previous: str) -> ManifestChunk:
    entry: ManifestChunk = {
        "index": row.index,
        "start": row.start,
        "frames": row.frames,
        "direction": row.direction.to_json(),
        "frames_sha256": row.frames_sha256,
        "memory_sha256": row.memory_digest,
        "made_with": None if row.made_with is None else digest(row.made_with),
        "making_s": row.making_s,
        "created_at": row.created_at_s,
        "segment_sha256": row.segments[0].hash,
        "previous": previous,
        "hash": "",
    }
    entry["hash"] = _hash_of(entry)
    return entry


def _hash_of(entry: Mapping[str, Any]) -> str:
    return digest({name: value for name, value in entry.items() if name != "hash"})


def _require(what: str, expected: object, received: object) -> None:
    if expected != received:
        raise BrokenChain(f"{what} is not what was written", expected=expected, received=received)
