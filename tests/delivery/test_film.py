from __future__ import annotations

import asyncio

import pytest
from server.standin import Standin

from st2v_stream.delivery.file import content_disposition
from st2v_stream.delivery.film import read_film
from st2v_stream.errors import NotFound


def test_auto_is_preview_until_all_is_enhanced() -> None:
    director = Standin()
    video = director.add(3)
    for index in (0, 1):
        director.segment(video, index, rendition="enhanced")
    film = asyncio.run(read_film(director, video))
    assert [(s.index, s.rendition) for s in film.segments] == [(0, "preview"), (1, "preview"), (2, "preview")]
    director.segment(video, 2, rendition="enhanced")
    assert {s.rendition for s in asyncio.run(read_film(director, video)).segments} == {"enhanced"}


def test_enhanced_is_what_is_whole_from_the_beginning() -> None:
    director = Standin()
    video = director.add(4)
    for index in (0, 1, 3):
        director.segment(video, index, rendition="enhanced")
    assert [s.index for s in asyncio.run(read_film(director, video, "enhanced")).segments] == [0, 1]


def test_newest_revision_and_resets_count() -> None:
    director = Standin()
    video = director.add(4)
    director.segment(video, 0, rendition="enhanced")
    director.reset(video, 2)
    director.segment(video, 2, revision=1)
    segments = asyncio.run(read_film(director, video, "preview")).segments
    assert [(s.index, s.revision) for s in segments] == [(0, 0), (1, 0), (2, 1)]


def test_nothing_there_is_said() -> None:
    director = Standin()
    with pytest.raises(NotFound, match="preview"):
        asyncio.run(read_film(director, director.add()))
    with pytest.raises(NotFound, match="enhanced"):
        asyncio.run(read_film(director, director.add(2), "enhanced"))


@pytest.mark.parametrize(
    ("title", "plain"),
    [
        ("A red ball", "A red ball"),
        ("../../etc/passwd", "etc passwd"),
        ('a"b\r\nSet-Cookie: x=1', "a b Set-Cookie x 1"),
        ("日本", "video"),
        ("über", "uber"),
        ("", "video"),
        ("x" * 500, "x" * 80),
    ],
)
def test_file_names_are_safe(title: str, plain: str) -> None:
    header = content_disposition(title, "mp4")
    assert header.startswith(f"attachment; filename=\"{plain}.mp4\"; filename*=UTF-8''")
    header.encode("ascii")
    assert not set("\r\n/\\") & set(header)
