"""`st2v watch` and `st2v link` against a server whose films the test writes."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import pytest
import websockets
from delivery.numbered import Do, Numbered, link, served_by_hand
from server.running import TOKEN
from websockets.asyncio.server import ServerConnection

from st2v_stream import watch
from st2v_stream.cli import build_parser, main
from st2v_stream.client import Client
from st2v_stream.config import Config
from st2v_stream.delivery.protocol import BinaryHeader, Kind
from st2v_stream.errors import InvalidRequest
from st2v_stream.generators.testcard import read_frame_number
from st2v_stream.watch import Address, InOrder, Seen, Watcher, find_address, parse_duration_s

Served = tuple[Numbered, int, Do]


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    monkeypatch.setenv("ST2V_TOKEN", TOKEN)
    with served_by_hand(tmp_path) as server:
        yield server


def url(server: Served) -> str:
    return f"http://127.0.0.1:{server[1]}"


def status_of(address: str) -> int:
    try:
        with urllib.request.urlopen(address, timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


# ---------------------------------------------------------------- watching


def test_watch_says_what_there_is_of_a_film_that_has_ended(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    director, *_ = served
    video = director.add(3, ended=True)
    assert main(["watch", video, "--server", url(served)]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    size_bytes = sum(entry.segment.size_bytes for entry in director.shelves[video].log if entry.segment is not None)
    assert line.startswith("completed · 32 of 120 frames, 4.0 s · ")
    assert f"{(size_bytes + 691) / 1e6:.1f} MB" in line


def test_watch_without_an_id_takes_the_newest_film(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    director, *_ = served
    assert main(["watch", "--server", url(served)]) == 2
    assert "this server has no film" in capsys.readouterr().err
    director.add(1, ended=True)
    director.add(2, ended=True)
    assert main(["watch", "--server", url(served)]) == 0
    assert "24 of 120 frames" in capsys.readouterr().out


def test_watch_follows_until_the_end(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    director, _, do = served
    video = director.add(1)

    def make() -> None:
        for index in (1, 2):
            time.sleep(0.2)
            do(lambda index=index: director.segment(video, index))  # type: ignore[misc]
        do(lambda: director.reset(video, 2))
        do(lambda: director.state(video, state="failed", ended_by="error", error="the device is on fire"))

    maker = threading.Thread(target=make)
    maker.start()
    assert main(["watch", link(served[1], video)]) == 1
    maker.join()
    said = capsys.readouterr()
    assert said.out.splitlines()[-1].startswith("failed · 24 of 120 frames")
    assert "the device is on fire" in said.err


def test_watch_explains_why_not(served: Served, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    director, port, _ = served
    video = director.add(1)
    assert main(["watch", "nonsense", "--server", url(served)]) == 2
    assert "no such video" in capsys.readouterr().err
    assert main(["watch", link(port, video).replace("v1.", "v1.x", 1)]) == 2
    assert "this link is not valid" in capsys.readouterr().err
    assert main(["watch", video, "--server", "http://127.0.0.1:9"]) == 2
    assert "no server answers there: expected st2v serve" in capsys.readouterr().err
    monkeypatch.delenv("ST2V_TOKEN")
    assert main(["watch", video, "--server", url(served), "--data-dir", "nowhere"]) == 2
    assert "you need the owner's token" in capsys.readouterr().err


@pytest.fixture
def window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the player was fed with; a program of that name that writes its input to a file."""
    fed, folder = tmp_path / "fed.mp4", tmp_path / "bin"
    folder.mkdir()
    program = folder / "ffplay"
    program.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/arguments\nexec cat > {fed}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return fed


def test_play_feeds_a_player_every_frame_once(served: Served, window: Path) -> None:
    director, *_ = served
    video = director.add(3)
    director.segment(video, 0, rendition="enhanced")  # one rendition only: they cannot be joined
    director.reset(video, 2)
    for index in (2, 3):
        director.segment(video, index, revision=1)
    director.state(video, state="completed", ended_by="length")
    assert main(["watch", video, "--server", url(served), "--play"]) == 0
    with av.open(io.BytesIO(window.read_bytes())) as film:
        numbers = [read_frame_number(frame.to_ndarray(format="rgb24")) for frame in film.decode(video=0)]
    assert numbers == [*range(32), *range(1032, 1040)], "what was shown stays, what is new follows at its time"
    assert "-window_title A film" in (window.parent / "arguments").read_text()


def test_the_enhanced_film_is_shown_to_its_end_which_comes_after_the_films(served: Served, window: Path) -> None:
    director, _, do = served
    video = director.add(3, enhance="watched", enhancer="lanczos")
    director.segment(video, 0, rendition="enhanced", revision=1)

    def make() -> None:
        do(lambda: director.state(video, state="completed", ended_by="length"))
        for index in (1, 2):
            time.sleep(0.2)
            do(lambda index=index: director.segment(video, index, rendition="enhanced", revision=1))  # type: ignore[misc]

    maker = threading.Thread(target=make)
    maker.start()
    assert main(["watch", video, "--server", url(served), "--play", "--rendition", "enhanced"]) == 0
    maker.join()
    with av.open(io.BytesIO(window.read_bytes())) as film:
        assert sum(1 for _ in film.decode(video=0)) == 32
    assert main(["watch", video, "--server", url(served), "--rendition", "preview"]) == 0, "its log ends with others"

    async def chunks() -> list[int]:
        async with Client(url(served), TOKEN) as client:
            return [chunk.index async for chunk in client.watch(video, renditions=["preview"])]

    assert asyncio.run(asyncio.wait_for(chunks(), 20)) == [0, 1, 2]


def test_what_is_sharp_in_part_and_stays_so_is_watched_as_far_as_it_goes(served: Served) -> None:
    director, *_ = served
    video = director.add(3, enhance="none", enhancer="lanczos")
    director.segment(video, 0, rendition="enhanced")
    director.state(video, state="completed", ended_by="length")
    assert main(["watch", video, "--server", url(served), "--rendition", "enhanced"]) == 0


def test_who_closes_the_window_has_seen_enough(served: Served, window: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also while the film is made and nothing new comes, and while the player is being fed."""
    director, *_ = served
    growing, long = director.add(2), director.add(40, ended=True)
    for video in (growing, long):
        (window.parent / "bin" / "ffplay").write_text("#!/bin/sh\nexec head -c 1500 > /dev/null\n")
        assert main(["watch", video, "--server", url(served), "--play"]) == 0
    assert "connection lost" not in capsys.readouterr().out, "it was not the server that left"
    (window.parent / "bin" / "ffplay").write_text("#!/bin/sh\nexit 1\n")
    assert main(["watch", growing, "--server", url(served), "--play"]) == 2
    assert "expected a screen, or no --play, received 'ffplay ended with 1'" in capsys.readouterr().err


def test_play_without_a_player(served: Served, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    video = served[0].add(1, ended=True)
    monkeypatch.setattr(watch.Player, "PROGRAM", "no-such-program")
    assert main(["watch", video, "--server", url(served), "--play"]) == 2
    assert "no player on this machine: expected ffmpeg's ffplay" in capsys.readouterr().err


VIDEO = {
    "state": "running", "fps": 8, "num_frames": None, "ended_by": None, "first_chunk_frames": 16, "chunk_frames": 8,
    "error": None, "title": "A film", "frames": 32, "enhance": "none", "enhancer": None, "enhance_error": None,
    "completed_at": None,
}  # fmt: skip


def test_a_lost_connection_is_taken_up_where_it_was() -> None:
    hellos: list[dict[str, Any]] = []

    async def serve(socket: ServerConnection) -> None:
        hellos.append(json.loads(await socket.recv()))
        seq = hellos[-1]["cursor"] + 1
        await socket.send(json.dumps({"type": "welcome", "cursor": 3, "video": VIDEO}))
        if seq == 2:  # it was stopped, and continued before this viewer came back
            await socket.send(json.dumps({"type": "ended", "seq": seq, "ended_by": "stopped"}))
        await socket.send(BinaryHeader(Kind.SEGMENT, "preview", seq - 1, 0, 1, seq).pack() + b"segment")
        assert json.loads(await socket.recv()) == {"type": "ack", "seq": seq}
        if seq == 3:
            await socket.send(json.dumps({"type": "ended", "seq": 4, "ended_by": "length"}))
            await socket.wait_closed()
        await socket.close(1012)

    async def main() -> tuple[Seen, list[str]]:
        lines: list[str] = []
        subprotocols = [websockets.Subprotocol("st2v.v1")]
        async with websockets.serve(serve, "127.0.0.1", 0, subprotocols=subprotocols) as server:
            port = server.sockets[0].getsockname()[1]
            address = Address(f"http://127.0.0.1:{port}", "v")
            watcher = Watcher(address, Seen(dict(VIDEO)), "preview", None, lines.append)
            await watcher.run()
            return watcher.seen, lines

    seen, lines = asyncio.run(asyncio.wait_for(main(), 10))
    assert [hello["cursor"] for hello in hellos] == [0, 1, 2]
    assert (seen.segments, seen.frames) == (3, 32)
    assert sum("trying again" in line for line in lines) == 2


def test_a_line_of_figures() -> None:
    seen = Seen(dict(VIDEO), {"index": 12, "step": 3, "steps": 8, "frames_per_second": 12.0}, 12, 40_000, 104, 5.0)
    assert seen.line(7.2) == (
        "running · chunk 12, step 3 of 8 · 104 frames, 13.0 s · 1.50 times real time · 0.0 MB, 25 kbit/s · newest chunk 2 s ago"
    )


def test_segments_go_on_in_order_and_once() -> None:
    order = InOrder()
    assert order.add(1, b"1") == []
    assert order.add(0, b"0") == [b"0", b"1"]
    assert order.add(3, b"3") == []
    order.reset(1)
    assert order.add(1, b"1 again") == [], "what was shown is not shown again"
    assert order.add(2, b"2") == [b"2"]
    assert order.add(3, b"3 again") == [b"3 again"]


# ---------------------------------------------------------------- links


def test_link_makes_addresses_that_open_and_takes_them_back(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    director, *_ = served
    video = director.add(1)
    server = ["--server", url(served)]
    assert main(["link", video, *server, "--expires", "30m"]) == 0
    first, page, players, download = capsys.readouterr().out.splitlines()
    link_id = first.split()[1].rstrip(",")
    playlist = players.split()[1]
    assert page.split()[1].startswith(url(served) + "/#grant=v1.")
    assert download.split()[1].endswith(f"/v1/videos/{video}/content")
    assert status_of(playlist) == 200
    assert main(["link", video, *server, "--revoke", link_id]) == 0
    assert status_of(playlist) == 401
    assert main(["link", video, *server]) == 0
    second = capsys.readouterr().out.splitlines()[-2].split()[1]
    assert main(["link", video, *server, "--revoke", second]) == 0, "the link itself says which"
    assert status_of(second) == 401
    assert main(["link", video, *server, "--revoke", "all"]) == 0
    assert main(["link", video, *server, "--revoke", "yesterday's"]) == 2
    assert "this is no link" in capsys.readouterr().err


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), ("30m", 1800), ("12h", 43_200), ("7d", 604_800)])
def test_durations(text: str, seconds: int) -> None:
    assert parse_duration_s(text) == seconds


@pytest.mark.parametrize("text", ["", "d", "1 d", "-1d", "1.5h", "1w"])
def test_no_durations(text: str) -> None:
    with pytest.raises(InvalidRequest, match="90s, 30m, 12h or 7d"):
        parse_duration_s(text)


# ---------------------------------------------------------------- which film, and as whom


@pytest.mark.parametrize(
    ("what", "server", "wanted"),
    [
        ("v1", None, Address("http://127.0.0.1:8000", "v1", None, "secret")),
        ("", "http://127.0.0.1:9000/", Address("http://127.0.0.1:9000", "", None, "secret")),
        ("http://films:80/g/v1.a.b/v1/videos/v1/index.m3u8", None, Address("http://films:80", "v1", "v1.a.b")),
        ("http://films/#grant=v1.a.b&/video/v1", None, Address("http://films", "v1", "v1.a.b", None)),
        ("https://films/#token=t&/video/v1", None, Address("https://films", "v1", None, "t")),
        ("http://localhost:8000/#/video/v1", None, Address("http://localhost:8000", "v1", None, "secret")),
    ],
)
def test_find_address(what: str, server: str | None, wanted: Address, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret\n")
    assert find_address(what, server, Config(data_dir=tmp_path)) == wanted


def test_the_token_of_this_machine_is_told_to_no_other(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret\n")
    for server in ("http://films.example", "http://127.0.0.1.films.example:8000", "http://localhost@films.example"):
        assert find_address("v1", server, Config(data_dir=tmp_path)).token is None
    assert find_address("v1", "http://films.example", Config(token="meant for it")).token == "meant for it"


@pytest.mark.parametrize("what", ["a b", "../x", "http://films/v1/videos/v1", "ftp://films/#/video/v1"])
def test_what_leads_to_no_film(what: str) -> None:
    with pytest.raises(InvalidRequest):
        find_address(what, None, Config())


# ---------------------------------------------------------------- docs/watching.md

PAGE = (Path(__file__).parents[1] / "docs" / "watching.md").read_text()


def test_the_commands_on_the_page_are_understood() -> None:
    lines = re.findall(r"^    (st2v (?:watch|link|serve)[^\n#]*)", PAGE, flags=re.MULTILINE)
    assert len(lines) >= 6
    for line in lines:
        build_parser().parse_args(shlex.split(line)[1:])


@pytest.mark.slow
@pytest.mark.parametrize("program", ["ffplay", "ffmpeg", "ffprobe", "curl"])
def test_the_lines_for_players_on_the_page_play(served: Served, tmp_path: Path, program: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"no {program} on this machine")
    (line,) = re.findall(rf"`({program} [^`]*\$LINK[^`]*)`", PAGE)
    director, port, _ = served
    video = director.add(3, ended=True)
    line = line.replace("ffplay", "ffplay -v error -autoexit")  # else it keeps its window open; and there is no screen
    environment = {**os.environ, "LINK": link(port, video, "")[:-1], "SDL_VIDEODRIVER": "dummy", "SDL_AUDIODRIVER": "dummy"}
    done = subprocess.run(["bash", "-c", line], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=30)
    assert (done.returncode, [text for text in done.stderr.splitlines() if text.strip()]) == (0, [])
    if program == "ffprobe":
        assert set(done.stdout.split()) == {"32"}
    elif program != "ffplay":
        with av.open(str(tmp_path / "film.mp4")) as film:
            assert sum(1 for _ in film.decode(video=0)) == 32
