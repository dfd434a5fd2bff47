"""st2v fsck finds every kind of harm, and --rebuild brings the database back from the copies."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sqlite3
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest

from st2v_stream import cli
from st2v_stream.direction import Cue, Timeline
from st2v_stream.errors import StoreError
from st2v_stream.store.fsck import check
from st2v_stream.store.rebuild import rebuild
from st2v_stream.store.store import Store
from st2v_stream.types import LogEntry, Snapshot
from store.films import DIRECTION, new_view, records_after
from store.test_branches import branch_view
from store.test_references import PICTURE
from store.test_store import hurt, opened, write_film


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Films with everything: cues, a reset that keeps the old tail, a branch; one thinned, one from a picture, one deleted."""
    root = tmp_path_factory.mktemp("example")

    async def main() -> None:
        store = await Store.open(root)
        await write_film(store, 6)
        await store.cue("video_a", Cue(2, {"seed": 3}), Cue(4, {"prompts": (("other", 1.0),)}, 2))
        await store.branch(branch_view(3), Timeline(DIRECTION, (Cue(3, {"seed": 8}),)))
        timeline = Timeline(replace(DIRECTION, seed=4), (Cue(4, {"seed": 9}),))
        await store.reset("video_a", 4, timeline=timeline, keep_as="video_k")
        memory, _ = await store.newest_memory("video_a")
        epoch = await store.begin_run("video_a")
        for record in islice(records_after(memory), 2):
            await store.commit("video_a", epoch, record)
        await store.rename("video_a", "a title")
        await write_film(store, 10, "video_t")
        await store.thin("video_t")
        await store.create(new_view("video_p"), {"model_version": "2"}, PICTURE)
        await write_film(store, 1, "video_x")
        await store.delete("video_x")
        await store.close()

    asyncio.run(main())
    return root


@pytest.fixture
def data(example: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(example, tmp_path / "data"))


def changed(data_dir: Path, sql: str) -> None:
    with sqlite3.connect(data_dir / "st2v.db") as connection:
        connection.execute("PRAGMA foreign_keys = OFF")
        connection.execute(sql)
    connection.close()


def first_hash(data_dir: Path, sql: str) -> str:
    connection = sqlite3.connect(data_dir / "st2v.db")
    (sha256,) = connection.execute(sql).fetchone()
    connection.close()
    return str(sha256)


def test_a_whole_one_is_said_to_be_whole_and_is_not_touched(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in data.rglob("*") if path.is_file() and path.name != "LOCK"}
    assert cli.main(["fsck", "--data-dir", str(data)]) == 0
    assert "6 films, 26 chunks, 21 blobs" in (said := capsys.readouterr().out)
    assert said.endswith("everything is as it should be\n")
    assert cli.main(["fsck", "--data-dir", str(data), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["findings"] == []
    assert before == {path: path.read_bytes() for path in data.rglob("*") if path.is_file() and path.name != "LOCK"}


HARM: dict[str, tuple[str, str, str]] = {
    "flip": (
        "SELECT hash FROM segment WHERE video_id = 'video_t' AND idx = 9",
        "damage",
        "is damaged: segment of video_t chunk 9",
    ),
    "cut": ("SELECT init FROM segment", "damage", "is damaged: init of video_a chunks 0 to 5, video_b chunks 0 to 2"),
    "remove": ("SELECT sha256 FROM part WHERE idx = 9 AND name = 'digest'", "damage", "is missing: memory of video_t chunk 9"),
}


@pytest.mark.parametrize("harm", HARM)
def test_harm_to_a_blob_is_found_and_named(data: Path, harm: str, capsys: pytest.CaptureFixture[str]) -> None:
    sql, weight, text = HARM[harm]
    sha256 = first_hash(data, sql)
    hurt(data / "blobs", sha256, harm)
    assert cli.main(["fsck", "--data-dir", str(data)]) == 1
    (line, summary) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{weight}: blobs/{sha256[:2]}/{sha256}: {text}")
    assert summary.endswith(": 1 damage")


ROWS = {
    "UPDATE video SET frames = 7 WHERE id = 'video_b'": "damage: video_b: says 3 chunks of 7 frames, has 3 of 32",
    "DELETE FROM chunk WHERE video_id = 'video_t' AND idx = 5": "chunk 6 begins at frame 56, expected chunk 5 at frame 48",
    "DELETE FROM log WHERE video_id = 'video_a' AND seq = 3": "the segment of chunk 1 with seq 3 is not in the log",
    "DELETE FROM segment WHERE video_id = 'video_a' AND idx = 1": "video_a: chunk 1 has no preview",
    "UPDATE video SET seq = 1 WHERE id = 'video_k'": "video_k: says its newest entry is 1, the log has 9",
    "UPDATE video SET size_bytes = 5 WHERE id = 'video_k'": "video_k: says 5 bytes, refers to ",
    "DELETE FROM cue WHERE video_id = 'video_a' AND number = 0": "video_a: the log entry 8 names a cue that is not there",
    "DELETE FROM part WHERE video_id = 'video_b' AND name = 'digest'": "the memory after chunk 0 is not that of its parts",
    "DELETE FROM blob WHERE kind = 'init'": "damage: table segment: a row refers to one that is not in blob",
    "UPDATE chunk SET memory = json_set(memory, '$.next_start', 5)": "the memory after chunk 2: a memory is damaged",
}


@pytest.mark.parametrize("sql", ROWS)
def test_harm_to_a_row_is_found(data: Path, sql: str, capsys: pytest.CaptureFixture[str]) -> None:
    changed(data, sql)
    assert cli.main(["fsck", "--data-dir", str(data)]) == 1
    assert ROWS[sql] in capsys.readouterr().out


def test_waste_and_late_copies_are_no_damage_and_gone_after_a_start(data: Path) -> None:
    stray = data / "blobs" / "00" / ("0" * 64)
    stray.parent.mkdir(exist_ok=True)
    stray.write_bytes(b"stray")
    (data / "tmp" / "half").write_bytes(b"half a blob")
    copy = data / "videos" / "video_t.jsonl"
    whole = copy.read_bytes()
    copy.write_bytes(whole[:-10])  # the last line half-written
    report = check(data)
    assert [(f.weight, f.subject) for f in report.findings] == [
        ("waste", f"blobs/00/{'0' * 64}"),
        ("copy", "videos/video_t.jsonl"),
        ("waste", "tmp/half"),
    ]
    assert not report.is_damaged

    async def start() -> None:
        async with opened(data):
            pass

    asyncio.run(start())
    assert copy.read_bytes() == whole
    assert check(data).findings == ()


def test_what_cannot_be_looked_at_is_said(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["fsck", "--data-dir", str(tmp_path / "nowhere")]) == 2

    async def while_open() -> None:
        async with opened(data):
            with pytest.raises(StoreError, match="in use"):
                check(data)
            with pytest.raises(StoreError, match="in use"):
                rebuild(data)

    asyncio.run(while_open())
    (data / "st2v.db").write_bytes(b"no database" * 1000)
    assert cli.main(["fsck", "--data-dir", str(data)]) == 1
    assert "damage: st2v.db: not a whole database" in capsys.readouterr().out


# ---------------------------------------------------------------- rebuild

Everything = dict[str, tuple[Snapshot, list[LogEntry], Timeline, object, list[object]]]


def everything(data_dir: Path) -> Everything:
    """All that the doors can see of every film."""

    async def main() -> Everything:
        async with opened(data_dir) as store:
            views, _ = await store.page(None, 50, "asc")
            return {
                view.id: (
                    without_size(await store.snapshot(view.id)),
                    await store.read_log(view.id, 0),
                    await store.timeline(view.id),
                    await store.config(view.id),
                    [replace(chunk, epoch=0, has_memory=True) for chunk in await store.chunks(view.id)],
                )
                for view in views
            }

    return asyncio.run(main())


def without_size(snapshot: Snapshot) -> Snapshot:
    """A thinned film gets memories back that another film has kept, and then counts them."""
    return replace(snapshot, view=replace(snapshot.view, size_bytes=0))


@pytest.mark.parametrize("loss", ["gone", "scrambled", "whole"])
def test_everything_comes_back_from_the_copies(
    example: Path, data: Path, loss: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    before = everything(Path(shutil.copytree(example, tmp_path / "before")))
    database = data / "st2v.db"
    if loss == "gone":
        database.unlink()
        with pytest.raises(StoreError, match=r"st2v.db is missing: expected the database, or st2v fsck --rebuild first"):
            asyncio.run(Store.open(data))
    elif loss == "scrambled":
        content = bytearray(database.read_bytes())
        content[5000:9000] = b"x" * 4000
        database.write_bytes(content)
    assert cli.main(["fsck", "--rebuild", "--data-dir", str(data)]) == 0
    said = capsys.readouterr()
    assert said.err.startswith("rebuilt 6 films")
    assert said.out.endswith("everything is as it should be\n")
    assert (data / "st2v.db.old1").exists() == (loss != "gone")

    async def undelete() -> None:
        store = await Store.open(data)
        assert (await store.undelete("video_x")).view is not None
        await store.delete("video_x")
        await store.close()

    asyncio.run(undelete())
    assert everything(data) == before


def test_a_database_that_has_lost_rows_is_refused_and_they_come_back(
    example: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As when somebody copies st2v.db without its WAL."""

    async def go_on() -> None:
        async with opened(data) as store:
            await store.rename("video_b", "renamed")

    old = (data / "st2v.db").read_bytes()
    asyncio.run(go_on())
    after = everything(Path(shutil.copytree(data, tmp_path / "after")))
    (data / "st2v.db").write_bytes(old)
    with pytest.raises(StoreError, match=r"st2v.db has lost rows: expected entry 6 of a log, or st2v fsck --rebuild first"):
        asyncio.run(Store.open(data))
    assert cli.main(["fsck", "--data-dir", str(data)]) == 1
    assert "damage: video_b: has lost the rows from 6 to 6; st2v fsck --rebuild" in capsys.readouterr().out
    assert cli.main(["fsck", "--rebuild", "--data-dir", str(data)]) == 0
    assert everything(data) == after


@pytest.mark.parametrize("calls", range(4))
def test_a_rebuild_that_is_killed_can_be_done_again(data: Path, calls: int, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, left = os.replace, calls

    def killed(*args: str) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        plain(*args)

    async def write() -> None:
        """Leave a WAL behind."""
        store = await Store.open(data)
        await store.rename("video_b", "renamed")
        shutil.copytree(data, data.with_name("left"))
        await store.close()

    asyncio.run(write())
    left_behind = data.with_name("left")
    assert (left_behind / "st2v.db-wal").stat().st_size > 0
    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            rebuild(left_behind)
    rebuild(left_behind)
    assert check(left_behind).findings == ()
    assert everything(left_behind) == everything(data)


def test_a_film_whose_segment_is_lost_comes_back_up_to_there(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hurt(data / "blobs", first_hash(data, "SELECT hash FROM segment WHERE video_id = 'video_t' AND idx = 8"), "flip")
    (data / "st2v.db").unlink()
    assert cli.main(["fsck", "--rebuild", "--data-dir", str(data)]) == 1
    said = capsys.readouterr()
    assert "lost: video_t: chunk 8 and what follows it" in said.err

    async def main() -> None:
        async with opened(data) as store:
            view = await store.view("video_t")
            assert (view.chunks, view.frames) == (8, 72)
            memory = await store.memory_before("video_t", 8)
            assert memory is not None
            assert memory.next_index == 6, "video_k has that one too"
            assert (await store.read_log("video_t", 0))[-1].kind == "reset"

    asyncio.run(main())
    assert check(data).findings == ()


def test_lines_that_cannot_be_read_are_said(data: Path) -> None:
    with (data / "videos" / "video_b.jsonl").open("a") as copy:
        copy.write("no json\n")
    (data / "videos" / "video_z.jsonl").write_text('{"seq": 1, "kind": "reset", "index": 0}\n')
    rebuilt = rebuild(data)
    assert rebuilt.films == 6
    assert [text.partition(" (")[0] for text in rebuilt.lost] == [
        "video_b: line 6 of its copy cannot be read",
        "video_z: its copy does not say what it is",
    ]
    assert [f.subject for f in check(data).findings] == ["videos/video_z.jsonl"]
