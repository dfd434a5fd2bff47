"""A Director whose segments are real test-card pictures, and WebRTC viewers that read the numbers off what they decode."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import httpx
import numpy as np
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError
from server.running import BEARER, Running
from server.standin import SPEC, Standin, sha

from st2v_stream.chunk import Chunk, Memory
from st2v_stream.direction import Direction
from st2v_stream.generators.testcard import draw_frames, read_frame_number
from st2v_stream.media.encode import encode_segment
from st2v_stream.media.segment import EncodeSpec, Segment
from st2v_stream.types import LogEntry, Rendition, SegmentRef

LOOPBACK: dict[str, Any] = {"ice_addresses": ("127.0.0.1",), "ice_networks": ("127.0.0.0/8",)}
"""Settings under which a server and its viewers find each other on one machine, and nothing leaves it."""

COLOURS = {"preview": (180, 60, 60), "enhanced": (60, 60, 180)}


@cache
def encoded(index: int, rendition: Rendition = "preview") -> Segment:
    """Chunk `index` of the numbered film; red is preview, blue is enhanced."""
    start = SPEC.start_of(index)
    numbers = range(start, start + SPEC.frames_of(index))
    frames = draw_frames(SPEC, numbers, np.array(COLOURS[rendition], np.uint8), bytes(32))
    memory = Memory("none", 1, index + 1, numbers.stop, {})
    chunk = Chunk(index, start, frames, Direction((("a numbered film", 1.0),)), memory)
    return encode_segment(chunk, EncodeSpec.for_stream(SPEC, rendition))


class Filmed(Standin):
    """A Standin whose chunks are pictures. Tests say when the next one is there."""

    def segment(
        self, video_id: str, index: int, *, rendition: Rendition = "preview", revision: int = 0, size: int = 100
    ) -> LogEntry:
        super().segment(video_id, index, rendition=rendition, revision=revision)
        made, shelf = encoded(index, rendition), self.shelves[video_id]
        self.blobs |= {sha(made.data): made.data, sha(made.init): made.init}
        ref = SegmentRef(
            made.hash, len(made.data), made.init_hash, made.codec, index, made.start, made.frames, made.width, made.height,
            rendition, revision,
        )  # fmt: skip
        shelf.log[-1] = LogEntry(len(shelf.log), "segment", index, segment=ref)
        return shelf.log[-1]


@dataclass
class RtcViewer:
    """One WebRTC connection: the numbers of the frames it decoded, in order, and when each came."""

    connection: RTCPeerConnection
    client: httpx.AsyncClient
    answer: httpx.Response
    numbers: list[int] = field(default_factory=list)
    stamps: list[int] = field(default_factory=list)
    blues: list[float] = field(default_factory=list)
    seen_s: list[float] = field(default_factory=list)
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    async def until(self, number: int) -> list[int]:
        """Wait until this frame, or a later one, was seen; all numbers so far."""
        while max(self.numbers, default=-1) < number:
            assert not self.ended.is_set(), self.numbers
            await asyncio.sleep(0.01)
        return self.numbers

    async def delete(self) -> httpx.Response:
        return await self.client.delete(self.answer.headers["location"])

    async def read(self, track: Any) -> None:
        try:
            while True:
                frame = await track.recv()
                picture = frame.to_ndarray(format="rgb24")
                self.numbers.append(read_frame_number(picture))
                self.stamps.append(frame.pts)
                middle = picture[60:120].astype(float).mean(axis=(0, 1))
                self.blues.append(float(middle[2] - middle[0]))
                self.seen_s.append(asyncio.get_running_loop().time())
        except MediaStreamError:
            self.ended.set()


def caller(running: Running, *, headers: dict[str, str] | None = None) -> httpx.AsyncClient:
    """A client; the server speaks plain HTTP, and reading certificates takes longer than the rest of a test."""
    return httpx.AsyncClient(base_url=running.url, headers=headers, verify=False)


async def make_offer(*kinds: str, direction: str = "recvonly") -> RTCPeerConnection:
    """A connection that has offered to receive; its localDescription is the offer."""
    connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    for kind in kinds or ("video",):
        connection.addTransceiver(kind, direction=direction)
    await connection.setLocalDescription(await connection.createOffer())
    return connection


def only(sdp: str, *codecs: str) -> str:
    """The offer without any other codecs (and without retransmission)."""
    lines = sdp.split("\r\n")
    named = [line.removeprefix("a=rtpmap:").split() for line in lines if line.startswith("a=rtpmap:")]
    kept = {payload_type for payload_type, codec in named if codec.split("/")[0] in codecs}
    about = ("a=rtpmap:", "a=fmtp:", "a=rtcp-fb:")
    result = [line for line in lines if not line.startswith(about) or line.split(":")[1].split()[0] in kept]
    return "\r\n".join(" ".join([*line.split()[:3], *sorted(kept)]) if line.startswith("m=video") else line for line in result)


async def post_offer(
    running: Running, path: str, sdp: str, *, prefix: str = "", headers: dict[str, str] | None = None
) -> httpx.Response:
    said = {"Content-Type": "application/sdp", **({} if prefix else BEARER), **(headers or {})}
    async with caller(running) as client:
        return await client.post(f"{prefix}/v1/videos/{path}", content=sdp, headers=said)


@asynccontextmanager
async def rtc_viewer(
    running: Running, path: str, *, prefix: str = "", edit: Callable[[str], str] = str
) -> AsyncIterator[RtcViewer]:
    """Connect to `/v1/videos/<path>` (as in `v000/whep?t=1`) and collect what is seen. edit: changes the offer."""
    connection = await make_offer()
    async with caller(running, headers={} if prefix else BEARER) as client:
        answer = await post_offer(running, path, edit(connection.localDescription.sdp), prefix=prefix)
        assert answer.status_code == 201, answer.text
        seen = RtcViewer(connection, client, answer)
        reading: list[asyncio.Task[None]] = []
        connection.on("track", lambda track: reading.append(asyncio.create_task(seen.read(track))))
        try:
            await connection.setRemoteDescription(RTCSessionDescription(answer.text, "answer"))
            yield seen
        finally:
            await connection.close()
            for task in reading:  # a track that never began does not end by itself
                task.cancel()
            await asyncio.gather(*reading, return_exceptions=True)


async def eventually(comes_true: Callable[[], bool], within_s: float = 8.0) -> None:
    """Wait for it."""
    deadline_s = asyncio.get_running_loop().time() + within_s
    while not comes_true():
        assert asyncio.get_running_loop().time() < deadline_s
        await asyncio.sleep(0.01)
