"""A server on loopback inside the test's own event loop, and viewers that speak the protocol."""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import websockets
from starlette.applications import Starlette
from websockets.asyncio.client import ClientConnection

from st2v_stream.config import Config
from st2v_stream.delivery.protocol import SUBPROTOCOL, BinaryHeader, Kind
from st2v_stream.delivery.websocket import WatchLimits
from st2v_stream.server.app import create_app
from st2v_stream.server.listen import Server, bind, uvicorn_config
from st2v_stream.types import Director

TOKEN = "a-token-for-tests-0123456789"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


def in_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an async test, 20 s at most."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(asyncio.wait_for(test(*args, **kwargs), 20))

    return run


@dataclass
class Running:
    """A server that takes requests."""

    app: Starlette
    server: Server
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def watch_url(self, video_id: str, grant_prefix: str = "") -> str:
        return f"ws://127.0.0.1:{self.port}{grant_prefix}/v1/videos/{video_id}/watch"


@asynccontextmanager
async def running(
    director: Director, data_dir: Path, *, limits: WatchLimits | None = None, **settings: Any
) -> AsyncIterator[Running]:
    """Serve `director` until the block ends."""
    listener = bind("127.0.0.1", 0)
    config = Config(port=listener.getsockname()[1], data_dir=data_dir, token=TOKEN, model="testcard", **settings)
    app = create_app(config, director, limits=limits)
    started = asyncio.Event()
    server = Server(uvicorn_config(app), on_started=started.set, on_exit=app.state.draining.set)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    await started.wait()
    try:
        yield Running(app, server, config.port)
    finally:
        server.should_exit = True
        await serving


@dataclass
class Viewer:
    """One viewer: says hello, keeps what it got, acknowledges when asked to."""

    socket: ClientConnection
    texts: list[dict[str, Any]] = field(default_factory=list)
    inits: dict[int, bytes] = field(default_factory=dict)
    segments: list[tuple[BinaryHeader, bytes]] = field(default_factory=list)
    order: list[str] = field(default_factory=list)
    cursor: int = 0

    async def send(self, **message: Any) -> None:
        await self.socket.send(json.dumps(message))

    async def next(self, *, ack: bool = True) -> str:
        """Take one message; its type (`binary init`, `binary segment` for binary ones)."""
        message = await self.socket.recv()
        if isinstance(message, bytes):
            header, payload = BinaryHeader.unpack(message)
            kind = "binary init" if header.kind == Kind.INIT else "binary segment"
            if header.kind == Kind.INIT:
                self.inits[header.init_id] = payload
            else:
                assert header.init_id in self.inits, "a segment came before its init segment"
                self.segments.append((header, payload))
                self.cursor = header.seq
                if ack:
                    await self.send(type="ack", seq=header.seq)
        else:
            text = json.loads(message)
            self.texts.append(text)
            kind = text["type"]
            self.cursor = max(self.cursor, text.get("seq", 0))
        self.order.append(kind)
        return kind

    async def until(self, kind: str, *, ack: bool = True) -> dict[str, Any]:
        """Take messages up to the first of this type."""
        while await self.next(ack=ack) != kind:
            pass
        return self.texts[-1] if self.texts else {}

    async def until_segments(self, count: int) -> list[tuple[int, str, int]]:
        """Take messages until so many segments are here: their (index, rendition, revision)."""
        while len(self.segments) < count:
            await self.next()
        return [(header.index, header.rendition, header.revision) for header, _ in self.segments]

    async def closed(self) -> int:
        """Take everything until the server closes; the code."""
        try:
            while True:
                await self.next()
        except websockets.ConnectionClosed:
            assert self.socket.close_code is not None
            return self.socket.close_code


@asynccontextmanager
async def viewer(
    url: str, *, token: str | None = TOKEN, hello: dict[str, Any] | None = None, say_hello: bool = True
) -> AsyncIterator[Viewer]:
    """Connect and say hello."""
    subprotocols = [SUBPROTOCOL] + ([f"bearer.{token}"] if token else [])
    async with websockets.connect(url, subprotocols=subprotocols, max_size=None, compression=None, close_timeout=1) as socket:
        seen = Viewer(socket)
        if say_hello:
            with suppress(websockets.ConnectionClosed):  # refused already; the test sees it when it reads
                await seen.send(**{"type": "hello", "cursor": 0, "renditions": ["preview", "enhanced"]} | (hello or {}))
        yield seen
