"""The WHEP viewer printed in docs/watching.md, as it stands there: it ends when the film does, and the film is in its file."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import aioice.ice
import av
import httpx
import pytest
from server.running import BEARER, running
from server.standin import SPEC

from delivery.webrtc_viewers import LOOPBACK, Filmed, caller, eventually, rtc_viewer
from st2v_stream.delivery.webrtc_playback import Seat
from st2v_stream.generators.testcard import read_frame_number

PAGE = Path(__file__).parents[2] / "docs" / "watching.md"
(SCRIPT,) = [block for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL) if "aiortc" in block]

LOOPBACK_ONLY = """
import aioice.ice
aioice.ice.get_host_addresses = lambda use_ipv4, use_ipv6: ["127.0.0.1"]  # which aioice never uses by itself
aioice.ice.CONSENT_INTERVAL = 0.5  # seconds; 5 in earnest
"""
PATIENCE_S = 60.0
"""For what takes two seconds on a quiet machine."""


class Watching:
    """The script in a process of its own."""

    def __init__(self, folder: Path, process: asyncio.subprocess.Process) -> None:
        self._film = folder / "film.mp4"
        self._process = process

    async def ended(self) -> tuple[int | None, str]:
        """Its status, and what it said."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                _, said = await self._process.communicate()
        except TimeoutError:
            self._process.kill()
            raise
        return self._process.returncode, said.decode()

    def numbers(self) -> list[int]:
        """Of the frames in its file."""
        with av.open(str(self._film)) as film:
            return [read_frame_number(frame.to_ndarray(format="rgb24")) for frame in film.decode(video=0)]


def write_script(folder: Path) -> None:
    folder.mkdir()
    (folder / "whep.py").write_text(SCRIPT)
    (folder / "sitecustomize.py").write_text(LOOPBACK_ONLY)


async def start_script(owner: httpx.AsyncClient, video: str, folder: Path) -> Watching:
    """Run the script, as it is printed, with a link to the film."""
    await asyncio.to_thread(write_script, folder)
    link = (await owner.post(f"/v1/videos/{video}/links", json={"expires_in_s": 600})).json()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "whep.py", f"{owner.base_url}".rstrip("/") + link["url"],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(folder)}, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    return Watching(folder, process)


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> Counter[Seat]:
    """How many frames each viewer has been sent."""
    counted: Counter[Seat] = Counter()
    take = Seat.next

    async def next_and_count(seat: Seat) -> bytes | None:
        frame = await take(seat)
        counted[seat] += frame is not None
        return frame

    monkeypatch.setattr(Seat, "next", next_and_count)
    monkeypatch.setattr(aioice.ice, "get_host_addresses", lambda use_ipv4, use_ipv6: ["127.0.0.1"])
    return counted


def say_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on nothing that this process sends by UDP arrives."""

    async def lose_data(*lost: Any) -> None: ...

    def lose_stun(*lost: Any) -> None: ...

    monkeypatch.setattr(aioice.ice.StunProtocol, "send_data", lose_data)
    monkeypatch.setattr(aioice.ice.StunProtocol, "send_stun", lose_stun)


QUICK = type(SPEC)(256, 192, fps=40, first_chunk_frames=16, chunk_frames=8)


@pytest.mark.slow
def test_the_script_ends_with_the_film_though_it_came_in_the_middle_of_a_chunk(tmp_path: Path, taken: Counter[Seat]) -> None:
    async def test() -> None:
        director = Filmed()
        stopped, served = (director.add(2, spec=QUICK) for _ in range(2))
        async with running(director, tmp_path / "data", **LOOPBACK) as server, caller(server, headers=BEARER) as owner:
            async with rtc_viewer(server, f"{stopped}/whep") as early:
                await early.until(22)  # all of the chunk is on the screen, and comes at once to whoever joins
                scripts = {video: await start_script(owner, video, tmp_path / video) for video in (stopped, served)}
                await eventually(lambda: sum(count >= 8 for count in taken.values()) == 3, PATIENCE_S)
            for video in scripts:
                director.segment(video, 2)
            await eventually(lambda: sum(count >= 16 for count in taken.values()) == 2, PATIENCE_S)
            assert (await owner.post(f"/v1/videos/{stopped}/stop")).status_code == 200
            assert await scripts[stopped].ended() == (0, "")
        assert await scripts[served].ended() == (0, ""), "the server has stopped"
        for script in scripts.values():
            assert script.numbers() == list(range(16, 31)), "of the last frame aiortc does not know that it is whole"

    asyncio.run(asyncio.wait_for(test(), 4 * PATIENCE_S))


@pytest.mark.slow
def test_the_script_ends_when_nothing_says_that_it_is_over(
    tmp_path: Path, taken: Counter[Seat], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every goodbye is lost, or the server is killed: it no longer says that packets are welcome, which WebRTC asks for."""

    async def test() -> None:
        director = Filmed()
        video = director.add(2, spec=QUICK)
        async with running(director, tmp_path / "data", **LOOPBACK) as server, caller(server, headers=BEARER) as owner:
            script = await start_script(owner, video, tmp_path / video)
            await eventually(lambda: sum(taken.values()) >= 8, PATIENCE_S)
            say_nothing_more(monkeypatch)
        assert await script.ended() in ((0, ""), (1, "the connection failed\n")), "whichever aiortc says first"
        assert script.numbers() == list(range(16, 23))

    asyncio.run(asyncio.wait_for(test(), 3 * PATIENCE_S))
