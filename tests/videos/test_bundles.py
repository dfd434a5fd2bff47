"""A film carried from one data directory to another, and bundles that are not what they say."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from st2v_stream.errors import InvalidRequest, NotFound, StoreFull
from st2v_stream.store import fsck
from st2v_stream.store.blobs import Blob, BlobFiles
from st2v_stream.store.store import Store
from st2v_stream.types import AddCue, BranchVideo, Changes, CreateVideo
from st2v_stream.videos.bundles import export_film, import_film
from videos.living import frame_hashes, living, small_card, until, until_chunk

Files = dict[str, bytes]


async def make_film(data_dir: Path, num_frames: int = 48) -> str:
    async with living(data_dir) as live:
        cues = (AddCue(Changes(prompt="another"), from_index=2),)
        view = await live.create(CreateVideo("a film", num_frames=num_frames, seed=7, cues=cues, title="at sea"))
        making = live._tasks[view.id]
        await until(live, view.id, "completed")
        await asyncio.wait([making])
    return view.id


async def carried(source: Path, video_id: str, bundle: Path, target: Path) -> str:
    store = await Store.open(source)
    try:
        await export_film(store, video_id, bundle)
    finally:
        await store.close()
    return await taken_in(target, bundle)


async def taken_in(target: Path, bundle: Path) -> str:
    store = await Store.open(target)
    try:
        return (await import_film(store, bundle)).id
    finally:
        await store.close()


def read(bundle: Path) -> Files:
    with zipfile.ZipFile(bundle) as file:
        return {name: file.read(name) for name in file.namelist()}


def write(bundle: Path, files: Files, **options: Any) -> None:
    with zipfile.ZipFile(bundle, "w", **options) as file:
        for name, content in files.items():
            file.writestr(name, content)


def test_a_film_is_the_same_elsewhere_and_goes_on_there(tmp_path: Path) -> None:
    async def main() -> None:
        film = await make_film(tmp_path / "here", 104)
        assert await carried(tmp_path / "here", film, tmp_path / "film.st2v", tmp_path / "there") == film
        async with living(tmp_path / "here") as here, living(tmp_path / "there") as there:
            one, other = await here.manifest(film), await there.manifest(film)
            assert {**one, "id": ""} == {**other, "id": ""}
            segments = [(await live.snapshot(film)).entries for live in (here, there)]
            assert segments[0] == segments[1]
            for entry in segments[0]:
                assert entry.segment is not None
                assert await here.read_blob(entry.segment.hash) == await there.read_blob(entry.segment.hash)
            for live in (here, there):
                await live.continue_(film, 16)
                await until(live, film, "completed")
            assert await frame_hashes(here, film) == await frame_hashes(there, film)
            branch = await there.branch(film, BranchVideo(5, Changes(prompt="elsewhere")))  # its memory was thinned away
            await until(there, branch.id, "completed")
        assert fsck.check(tmp_path / "there").findings == ()

    asyncio.run(main())


def test_the_same_film_gives_the_same_bytes_and_a_second_import_a_new_id(tmp_path: Path) -> None:
    async def main() -> None:
        film = await make_film(tmp_path / "here")
        await carried(tmp_path / "here", film, tmp_path / "one.st2v", tmp_path / "there")
        again = await carried(tmp_path / "here", film, tmp_path / "two.st2v", tmp_path / "there")
        assert again != film
        assert (tmp_path / "one.st2v").read_bytes() == (tmp_path / "two.st2v").read_bytes()
        async with living(tmp_path / "there") as live:
            assert {view.id for view in (await live.list())[0]} == {film, again}
            assert (await live.manifest(film))["head"] == (await live.manifest(again))["head"]
            await live.delete(film)
            assert (await live.get(again)).chunks == 5
        with pytest.raises(InvalidRequest, match="exists"):
            await carried(tmp_path / "here", film, tmp_path / "one.st2v", tmp_path / "there")
        with pytest.raises(NotFound):
            await carried(tmp_path / "here", "video_nobody", tmp_path / "three.st2v", tmp_path / "there")
        assert sorted(os.listdir(tmp_path)) == ["here", "one.st2v", "there", "two.st2v"]

    asyncio.run(main())


def test_a_film_that_was_being_made_is_stopped_where_it_comes_to(tmp_path: Path) -> None:
    async def main() -> None:
        async with living(tmp_path / "here", small_card(seconds_per_step=0.005)) as live:
            film = (await live.create(CreateVideo("a film", num_frames=None))).id
            await until_chunk(live, film, 2)
        assert await carried(tmp_path / "here", film, tmp_path / "film.st2v", tmp_path / "there") == film
        async with living(tmp_path / "there") as live:
            view = await live.get(film)
            assert (view.state, view.ended_by) == ("stopped", "stopped")
            assert view.chunks >= 3
            await live.continue_(film, 8)
            assert (await until(live, film, "completed")).chunks == view.chunks + 1

    asyncio.run(main())


def film_lines(files: Files, change: Callable[[list[dict[str, Any]]], object]) -> Files:
    lines = [json.loads(line) for line in files["film.jsonl"].splitlines()]
    change(lines)
    return {**files, "film.jsonl": b"".join(json.dumps(line).encode() + b"\n" for line in lines)}


def spoil(files: Files, name: str, content: bytes | None) -> Files:
    return {other: said for other, said in ({**files, name: content}).items() if said is not None}


def first_segment(lines: list[dict[str, Any]]) -> dict[str, Any]:
    return next(line for line in lines if "chunk" in line)


SPOILED: dict[str, tuple[str, Callable[[Files], Files]]] = {
    "no manifest": ("no bundle", lambda files: spoil(files, "manifest.json", None)),
    "an absolute name": ("name", lambda files: spoil(files, "/etc/passwd", b"x")),
    "a name that climbs": ("name", lambda files: spoil(files, "blobs/../../x", b"x")),
    "a folder": ("name", lambda files: spoil(files, "blobs/", b"")),
    "a blob too many": ("not those of its film", lambda files: spoil(files, f"blobs/{'0' * 64}", b"x")),
    "a blob too few": ("not those of its film", lambda files: spoil(files, min(files), None)),
    "a damaged blob": ("damaged", lambda files: spoil(files, min(files), b"other bytes")),
    "no JSON": ("cannot be read", lambda files: spoil(files, "film.jsonl", b"{")),
    "no film": ("empty", lambda files: spoil(files, "film.jsonl", b"")),
    "another seed in the manifest": (
        "not what was written",
        lambda files: spoil(files, "manifest.json", files["manifest.json"].replace(b'"seed": 7', b'"seed": 8')),
    ),
    "other frames in the rows": (
        "not the manifest's",
        lambda files: film_lines(files, lambda lines: first_segment(lines)["chunk"].update(frames_sha256="0" * 64)),
    ),
    "no codec": (
        "cannot be read",
        lambda files: film_lines(files, lambda lines: first_segment(lines)["segment"].update(codec='"><script>')),
    ),
    "a title that is no text": (
        "cannot be read",
        lambda files: film_lines(files, lambda lines: next(line for line in lines if "view" in line)["view"].update(title=7)),
    ),
    "an id that climbs": (
        "names no film",
        lambda files: spoil(files, "manifest.json", files["manifest.json"].replace(b'"id": "video_', b'"id": "../')),
    ),
    "a row too few": ("not those of its film", lambda files: film_lines(files, lambda lines: lines.pop(-2))),
}


def test_a_bundle_that_is_not_what_it_says_leaves_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        film, bundle = await make_film(tmp_path / "here"), tmp_path / "film.st2v"
        await carried(tmp_path / "here", film, bundle, tmp_path / "elsewhere")
        files = read(bundle)
        for name, (said, change) in SPOILED.items():
            write(bundle, change(dict(files)))
            with pytest.raises(InvalidRequest, match=said):
                await taken_in(tmp_path / "there", bundle)
            left = [path for path in (tmp_path / "there" / "blobs").rglob("*") if path.is_file()]
            assert (name, left, list((tmp_path / "there" / "videos").iterdir())) == (name, [], [])
        write(bundle, files, compression=zipfile.ZIP_DEFLATED)
        with pytest.raises(InvalidRequest, match="packed"):
            await taken_in(tmp_path / "there", bundle)
        bundle.write_bytes(b"no zip at all")
        with pytest.raises(InvalidRequest, match="no bundle"):
            await taken_in(tmp_path / "there", bundle)
        with pytest.raises(InvalidRequest, match="cannot be read"):
            await taken_in(tmp_path / "there", tmp_path / "missing.st2v")
        assert fsck.check(tmp_path / "there").findings == ()

    asyncio.run(main())


def test_a_disk_that_fills_up_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        film, bundle = await make_film(tmp_path / "here"), tmp_path / "film.st2v"
        await carried(tmp_path / "here", film, bundle, tmp_path / "elsewhere")
        write_blob, writes = BlobFiles.write, list[str]()

        def write_some(self: BlobFiles, blob: Blob) -> None:
            writes.append(blob.sha256)
            if len(writes) == 4:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            write_blob(self, blob)

        monkeypatch.setattr(BlobFiles, "write", write_some)
        with pytest.raises(StoreFull):
            await taken_in(tmp_path / "there", bundle)
        assert len(writes) == 4
        assert not [path for path in (tmp_path / "there" / "blobs").rglob("*") if path.is_file()]
        monkeypatch.undo()
        assert await taken_in(tmp_path / "there", bundle) == film

    asyncio.run(main())
