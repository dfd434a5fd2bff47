"""The listening socket and uvicorn, set up for sockets that stay open for hours."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.protocol import State

from st2v_stream.delivery.websocket import ABORT_EXTENSION, WRITABLE_EXTENSION, WRITE_EXTENSION
from st2v_stream.errors import InvalidRequest

TCP_USER_TIMEOUT_MS = 20_000
"""A connection whose bytes are not taken for this long is dropped by the kernel (Linux), whatever the handlers do."""

MAX_INCOMING_BYTES = 64 * 1024
BACKLOG = 512


class DirectWebSocket(WebSocketsSansIOProtocol):  # type: ignore[misc]
    """Offers the handler two short ways to the socket.

    To drop the connection at once: in uvicorn 0.54 neither close(), nor returning, nor a ping timeout frees a client that does
    not read, because all of them wait until its socket takes bytes. And to write a frame that is the same for all viewers.
    """

    def handle_connect(self, event: Any) -> None:
        """Accept the handshake, and put the functions into the scope before the application sees it."""
        super().handle_connect(event)
        scope = getattr(self, "scope", None)
        if scope is not None:
            scope.setdefault("extensions", {})[ABORT_EXTENSION] = self.transport.abort
            if not self.config.ws_per_message_deflate:
                scope["extensions"] |= {WRITE_EXTENSION: self.write_frame, WRITABLE_EXTENSION: self.writable.wait}

    def write_frame(self, frame: bytes) -> bool:
        """Write a whole frame; False when the socket takes no bytes now. Raises `OSError` when the connection is not open."""
        if not self.writable.is_set():
            return False
        if self.conn.state is not State.OPEN or self.transport.is_closing():
            raise ConnectionResetError("the connection is not open")
        self.transport.write(frame)
        return True


class Server(uvicorn.Server):  # type: ignore[misc]
    """uvicorn, but a signal only asks it to end: the caller then closes what it opened and exits with status 0.

    (uvicorn raises the signal again after serving, which would kill the process before the store is closed.)
    """

    def __init__(self, config: uvicorn.Config, *, on_started: Callable[[], None], on_exit: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_started = on_started
        self._on_exit = on_exit

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Take requests, and say so."""
        await super().startup(sockets=sockets)
        self._on_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End what streams, close the sockets (1012), wait a little for the rest."""
        self._on_exit()
        await super().shutdown(sockets=sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Listen to signals while serving."""
        with super().capture_signals():
            yield
            self._captured_signals.clear()


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises `InvalidRequest` that says what to do when it cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named, accepted sockets know it too and asyncio sets TCP_NODELAY; without, every answer waited 40 ms
    # for the client's delayed acknowledgement.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            with suppress(OSError):
                listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, TCP_USER_TIMEOUT_MS)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except (OSError, OverflowError) as error:
        listener.close()
        raise _explain(error, host, port) from error
    listener.setblocking(False)
    return listener


def _explain(error: Exception, host: str, port: int) -> InvalidRequest:
    number = getattr(error, "errno", None)
    if number == errno.EADDRINUSE:
        hint = f"another port, for example --port {port + 1}, or --port 0 for any free one"
        return InvalidRequest(f"port {port} is in use by another program", expected=hint, param="port")
    if number == errno.EACCES:
        return InvalidRequest(f"port {port} needs more rights", expected="a port from 1024", param="port")
    return InvalidRequest(
        f"cannot listen on {host} port {port}", expected="an address of this machine", received=str(error), param="host"
    )


def uvicorn_config(app: ASGIApp) -> uvicorn.Config:
    """Settings that were measured: no deflate (video does not shrink), small incoming messages, no log of addresses (they may
    hold grants), no trust in X-Forwarded-*, and an end even while answers are still being read."""
    return uvicorn.Config(
        app,
        http="h11",
        ws=DirectWebSocket,
        ws_per_message_deflate=False,
        ws_max_size=MAX_INCOMING_BYTES,
        ws_ping_interval=20.0,
        ws_ping_timeout=20.0,
        timeout_graceful_shutdown=3,
        access_log=False,
        log_config=None,
        log_level="warning",
        proxy_headers=False,
        server_header=False,
        lifespan="on",
    )
