from __future__ import annotations

import asyncio
import errno
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from server.standin import Standin
from starlette.requests import Request

from st2v_stream.delivery import file as delivery_file
from st2v_stream.delivery.file import MovieCache, film_etag, movie_response
from st2v_stream.delivery.film import read_film
from st2v_stream.errors import StoreFull


@pytest.fixture(autouse=True)
def written(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were assembled: the segments one after the other, no real MP4."""
    paths = list[Path]()

    def assemble(init: bytes, segments: Iterable[bytes], path: Path, metadata: Any) -> None:
        path.write_bytes(init + b"".join(segments))
        paths.append(path)

    monkeypatch.setattr(delivery_file, "progressive_mp4", assemble)
    return paths


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_the_newest_file_of_a_video_replaces_those_before_but_none_that_is_lent(tmp_path: Path) -> None:
    async def main() -> None:
        director = Standin()
        mine, other = director.add(1), director.add(1)
        movies = MovieCache(director, tmp_path)
        one, others = await read_film(director, mine), await read_film(director, other)
        async with movies.lend(others):
            pass
        async with movies.lend(one) as first:
            director.segment(mine, 1)
            two = await read_film(director, mine)
            async with movies.lend(two):
                assert first.is_file()
        assert names(tmp_path) == {f"{mine}.{film_etag(two)}.mp4", f"{other}.{film_etag(others)}.mp4"}

    asyncio.run(main())


def test_a_deleted_video_leaves_no_file(tmp_path: Path) -> None:
    async def main() -> None:
        director = Standin()
        mine, other = director.add(1), director.add(1)
        movies = MovieCache(director, tmp_path)
        async with (
            movies.lend(await read_film(director, other)) as theirs,
            movies.lend(await read_film(director, mine)) as path,
        ):
            movies.forget(mine)
            assert path.is_file(), "it is being sent"
        assert names(tmp_path) == {theirs.name}
        movies.forget(other)
        assert names(tmp_path) == set()

    asyncio.run(main())


def test_only_the_last_used_are_kept(tmp_path: Path) -> None:
    async def main() -> None:
        director = Standin()
        movies = MovieCache(director, tmp_path, max_files=2)
        for _ in range(4):
            async with movies.lend(await read_film(director, director.add(1))) as path:
                assert path.is_file()
        assert len(names(tmp_path)) == 2
        assert path.is_file()

    asyncio.run(main())


def test_who_has_it_already_makes_nobody_assemble_it(tmp_path: Path, written: list[Path]) -> None:
    async def main() -> None:
        director = Standin()
        film = await read_film(director, director.add(2))
        known = [(b"if-none-match", f'"{film_etag(film)}"'.encode())]
        movies = MovieCache(director, tmp_path)
        answer = await movie_response(Request({"type": "http", "method": "GET", "headers": known}), film, movies)
        assert (answer.status_code, written) == (304, [])

    asyncio.run(main())


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(*args: object) -> None:
        raise OSError(number, "no room")

    async def main() -> None:
        director = Standin()
        monkeypatch.setattr(delivery_file, "progressive_mp4", refuse)
        with pytest.raises(StoreFull, match="no room"):
            async with MovieCache(director, tmp_path).lend(await read_film(director, director.add(1))):
                pass

    asyncio.run(main())
