"""`WS /v1/videos/{id}/watch`: sends one video's log to one viewer, and never queues bytes, only positions in the log.

One sender task, one receive loop that always runs (uvicorn stops reading, and so stops seeing pongs, while nobody receives),
and one place that closes. Every message has a deadline: a viewer whose socket takes nothing for that long is cut off by
aborting the transport, because close() itself waits for the same full socket. Viewers reconnect with their cursor.

A viewer that wants the live edge and takes chunks more slowly than they play is skipped ahead once it is far behind, and told
(mediamtx and others do the same: a slow reader loses, nobody else notices). Whoever looks at the past gets everything.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeAlias

from starlette.websockets import WebSocket, WebSocketDisconnect

from st2v_stream.delivery.fanout import Outbox, Outgoing, text
from st2v_stream.delivery.film import following
from st2v_stream.delivery.protocol import (
    MAX_IN_FLIGHT,
    SUBPROTOCOL,
    WANT_ANSWER,
    Ack,
    BadMessage,
    CloseCode,
    Conversation,
    Hello,
    Json,
    Want,
    covers,
    ended_message,
    error_message,
)
from st2v_stream.errors import NotFound, St2vError
from st2v_stream.types import Director, LogEntry, SegmentRef, VideoView

log = logging.getLogger(__name__)

ABORT_EXTENSION = "st2v.abort"
"""Key of scope["extensions"] under which the server may offer a function that drops the connection at once."""

WRITE_EXTENSION = "st2v.write"
"""Key under which it may offer one that writes a whole WebSocket frame, or says False when the socket takes no bytes now. (It
raises OSError on a closed one.)"""

WRITABLE_EXTENSION = "st2v.writable"
"""Key under which it then offers one that waits until the socket takes bytes, or is closed."""

EDGE_CHUNKS = 2
"""How many of the newest chunks a viewer that is skipped ahead still gets: pages stay one and a half behind the newest."""

Message: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class WatchLimits:
    """How long a viewer may take, and how many segments may be on their way to it.

    A live viewer is skipped ahead when more than `skip_behind` chunks wait to be sent to it and it kept the server waiting
    for `slow_chunks` times as long as the chunk plays. (A viewer that comes back fast takes a backlog of any length at once.)
    """

    hello_s: float = 5.0
    send_s: float = 10.0
    max_in_flight: int = MAX_IN_FLIGHT
    skip_behind: int = 8
    slow_chunks: float = 1.0


class ViewerMetrics(Protocol):
    """What is counted about viewers."""

    def viewer_joined(self) -> None: ...

    def viewer_left(self) -> None: ...

    def viewer_aborted(self) -> None: ...

    def viewer_skipped(self) -> None: ...

    def segment_sent(self, size_bytes: int) -> None: ...


class Closing(Exception):
    """Leave the conversation: close the socket with this code, after an error message if there is one."""

    def __init__(self, code: int, reason: str = "", error: Json | None = None) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason
        self.error = error


class ViewerGone(Exception):
    """The socket is closed or cut off; nothing more can be sent."""


async def watch(
    websocket: WebSocket,
    director: Director,
    video_id: str,
    metrics: ViewerMetrics,
    *,
    limits: WatchLimits | None = None,
    allowed_for_s: float | None = None,
    outbox: Outbox | None = None,
) -> None:
    """Serve one viewer until it leaves, the video is deleted or its permission (None = no end) runs out.

    outbox: shared by all viewers of the server.
    """
    viewer = _Viewer(websocket, director, video_id, metrics, limits or WatchLimits(), outbox or Outbox())
    metrics.viewer_joined()
    try:
        await viewer.run(allowed_for_s)
    finally:
        metrics.viewer_left()


async def refuse(websocket: WebSocket, code: int, reason: str) -> None:
    """Accept, only to close with a code that a page can read (browsers hide the status of a refused handshake)."""
    await websocket.accept(subprotocol=visible_subprotocol(websocket.scope["subprotocols"]))
    await websocket.close(code, reason)


def visible_subprotocol(offered: Iterable[str]) -> str | None:
    """The sub-protocol to answer with: ours if offered, else any that is not a token (a browser needs one to stay open)."""
    names = [name for name in offered if name and not name.startswith("bearer.")]
    return SUBPROTOCOL if SUBPROTOCOL in names else next(iter(names), None)


@dataclass(slots=True)
class _LeftOut:
    """What a viewer is not sent: segments of chunks before `to_index`, as far as `to_seq` in the log.

    indexes, seq: the chunks, and the last log entry, of those left out since the viewer was last told.
    """

    to_seq: int = 0
    to_index: int = 0
    indexes: range = range(0)
    seq: int = 0

    def covers(self, entry: LogEntry) -> bool:
        return entry.seq <= self.to_seq and entry.index < self.to_index

    def add(self, entry: LogEntry) -> None:
        known = self.indexes or range(entry.index, entry.index + 1)
        self.indexes = range(min(known.start, entry.index), max(known.stop, entry.index + 1))
        self.seq = entry.seq


class _Viewer:
    def __init__(
        self,
        websocket: WebSocket,
        director: Director,
        video_id: str,
        metrics: ViewerMetrics,
        limits: WatchLimits,
        outbox: Outbox,
    ) -> None:
        self._websocket = websocket
        self._outbox = outbox
        offered = websocket.scope.get("extensions", {})
        self._write: Callable[[bytes], bool] | None = offered.get(WRITE_EXTENSION)
        self._until_writable: Callable[[], Awaitable[Any]] | None = offered.get(WRITABLE_EXTENSION)
        self._director = director
        self._video_id = video_id
        self._metrics = metrics
        self._limits = limits
        self._conversation = Conversation(max_in_flight=limits.max_in_flight)
        self._acknowledged = asyncio.Event()
        self._sending = asyncio.Lock()
        self._left_out = _LeftOut()
        self._kept_waiting_s = 0.0
        self._owed_end: Json | None = None

    async def run(self, allowed_for_s: float | None) -> None:
        try:
            await self._converse(allowed_for_s)
        except ViewerGone:
            return
        except Closing as closing:
            await self._close(closing)
        except BadMessage as error:
            await self._close(Closing(CloseCode.BAD_MESSAGE, error.message, error_message(error.code, str(error))))
        except St2vError as error:
            log.error("a viewer of %s was cut off: %s", self._video_id, error)
            await self._close(Closing(CloseCode.FAILED, error.message, error_message(error.code, str(error))))

    async def _converse(self, allowed_for_s: float | None) -> None:
        offered = self._websocket.scope["subprotocols"]
        await self._websocket.accept(subprotocol=visible_subprotocol(offered))
        if SUBPROTOCOL not in offered:
            raise Closing(CloseCode.WRONG_PROTOCOL, f"expected sub-protocol {SUBPROTOCOL}")
        view = await self._video()
        hello = await self._receive_hello()
        if hello.cursor > view.seq:
            raise BadMessage(
                "the cursor is ahead of the video", expected=f"at most {view.seq}", received=hello.cursor, param="cursor"
            )
        tasks = {asyncio.create_task(self._send_film(hello)), asyncio.create_task(self._receive_all())}
        try:
            done, _ = await asyncio.wait(tasks, timeout=allowed_for_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            task.result()
        raise Closing(CloseCode.NOT_ALLOWED, "this link has expired")

    async def _video(self) -> VideoView:
        try:
            return await self._director.get(self._video_id)
        except NotFound:
            raise Closing(CloseCode.UNKNOWN_VIDEO, "no such video") from None

    # ------------------------------------------------------------ receiving

    async def _receive_hello(self) -> Hello:
        try:
            async with asyncio.timeout(self._limits.hello_s):
                text = await self._receive()
        except TimeoutError:
            raise BadMessage("no hello", expected=f"hello within {self._limits.hello_s:g} s", received="nothing") from None
        hello = self._conversation.receive(text)
        assert isinstance(hello, Hello)
        return hello

    async def _receive_all(self) -> None:
        while True:
            incoming = self._conversation.receive(await self._receive())
            if isinstance(incoming, Ack):
                self._acknowledged.set()
            elif isinstance(incoming, Want):
                await self._send_json(WANT_ANSWER)

    async def _receive(self) -> str | None:
        message = await self._websocket.receive()
        if message["type"] == "websocket.disconnect":
            raise ViewerGone
        text: str | None = message.get("text")
        return text

    # ------------------------------------------------------------ sending

    async def _send_film(self, hello: Hello) -> None:
        try:
            cursor = await self._send_start(hello)
            self._kept_waiting_s = 0.0  # a long past takes its time
            async with following(self._director, self._video_id, cursor) as items:
                async for item in items:
                    if isinstance(item, LogEntry) and item.segment is not None:
                        await self._send_or_leave_out(item, item.segment)
                    else:
                        if self._left_out.indexes:
                            await self._tell_left_out()
                        self._conversation.note(item)
                        for outgoing in self._outbox.texts(item):
                            await self._send(outgoing)
                    if isinstance(item, LogEntry):
                        await self._tell_owed_end(item)
        except NotFound as error:
            await self._say_if_it_lives(str(error))
        await self._say_if_it_lives("the video's log has ended")
        raise Closing(CloseCode.DELETED, "the video was deleted")

    async def _say_if_it_lives(self, why: str) -> None:
        """A segment that is gone does not mean that its video is: then the viewer connects again and finds what there is."""
        try:
            await self._director.get(self._video_id)
        except NotFound:
            return
        log.warning("a viewer of %s has to connect again: %s", self._video_id, why)
        raise Closing(CloseCode.FAILED, why)

    async def _send_start(self, hello: Hello) -> int:
        """Welcome, and for a newcomer the snapshot; the seq to follow from."""
        snapshot = await self._director.snapshot(self._video_id)
        view = snapshot.view
        newcomer = hello.cursor == 0 and covers(hello.renditions, snapshot)
        entries = snapshot.entries if newcomer else ()
        await self._send_json(self._conversation.welcome(view, snapshot.seq, entries))
        for entry in entries:
            if entry.segment is not None:
                await self._send_segment(entry, entry.segment)
        if view.ended_by is not None:
            self._owed_end = ended_message(snapshot.seq, view)
            if newcomer or hello.cursor >= snapshot.seq:
                await self._send_owed_end()
        return snapshot.seq if newcomer else hello.cursor

    async def _tell_owed_end(self, entry: LogEntry) -> None:
        """Who comes back after the film's end, and before its last enhanced chunk, finds no entry that says so."""
        if self._owed_end is not None and entry.kind == "state":
            self._owed_end = None  # the last of them says it
        elif self._owed_end is not None and entry.seq >= self._owed_end["seq"]:
            await self._send_owed_end()

    async def _send_owed_end(self) -> None:
        owed, self._owed_end = self._owed_end, None
        assert owed is not None, "owed"
        await self._send_json(owed)

    async def _send_or_leave_out(self, entry: LogEntry, segment: SegmentRef) -> None:
        if not self._conversation.wants(entry):
            return
        if not self._left_out.covers(entry):
            await self._until_room()
            await self._skip_if_too_slow(segment)
        if self._left_out.covers(entry):
            self._left_out.add(entry)
            return
        if self._left_out.indexes:
            await self._tell_left_out()
        await self._send_segment(entry, segment)

    async def _skip_if_too_slow(self, segment: SegmentRef) -> None:
        """Decided at previews only: enhanced segments lag by nature, and say nothing about the viewer."""
        if segment.rendition != "preview":
            return
        kept_waiting_s, self._kept_waiting_s = self._kept_waiting_s, 0.0
        view = await self._director.get(self._video_id) if self._conversation.live and kept_waiting_s > 0.0 else None
        if view is None or view.ended_by is not None:
            return
        is_slow = kept_waiting_s >= self._limits.slow_chunks * segment.frames / view.spec.fps
        if is_slow and view.chunks - segment.index > self._limits.skip_behind:
            self._left_out.to_seq, self._left_out.to_index = view.seq, view.chunks - EDGE_CHUNKS
            self._metrics.viewer_skipped()

    async def _tell_left_out(self) -> None:
        indexes, self._left_out.indexes = self._left_out.indexes, range(0)
        await self._send_json(self._conversation.skipped(self._left_out.seq, indexes))

    async def _until_room(self) -> None:
        if self._conversation.has_room:
            return
        with self._waiting():
            while not self._conversation.has_room:
                self._acknowledged.clear()
                await self._acknowledged.wait()

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        """Measure how long the viewer keeps the server waiting."""
        began_s = asyncio.get_running_loop().time()
        try:
            yield
        finally:
            self._kept_waiting_s += asyncio.get_running_loop().time() - began_s

    async def _send_segment(self, entry: LogEntry, segment: SegmentRef) -> None:
        if not self._conversation.wants(entry):
            return
        await self._until_room()
        announcement = self._conversation.new_init(segment)
        if announcement is not None:
            await self._send_json(announcement)
            header = self._conversation.init_header(segment)
            await self._send(await self._outbox.binary(header, segment.init, self._director.read_blob))
        header = self._conversation.segment_header(entry.seq, segment)
        outgoing = await self._outbox.binary(header, segment.hash, self._director.read_blob)
        with self._waiting():
            await self._send(outgoing)
        self._metrics.segment_sent(segment.size_bytes)

    async def _send_json(self, message: Json) -> None:
        await self._send(text(message))

    async def _send(self, outgoing: Outgoing) -> None:
        """At once if the socket takes bytes, which costs neither a timer nor a lock. Raises `ViewerGone`."""
        try:
            is_sent = self._write is not None and not self._sending.locked() and self._write(outgoing.frame)
        except OSError:
            raise ViewerGone from None
        if not is_sent:
            await self._send_or_abort(partial(self._send_slowly, outgoing))

    async def _send_slowly(self, outgoing: Outgoing) -> None:
        """Without a copy of one's own while waiting, where that can be had."""
        if self._write is None or self._until_writable is None:
            await self._websocket.send(outgoing.message())
            return
        while not self._write(outgoing.frame):
            await self._until_writable()

    async def _send_or_abort(self, send: Callable[[], Awaitable[None]]) -> None:
        """Send within the deadline or cut the viewer off. Raises `ViewerGone`."""
        async with self._sending:
            try:
                async with asyncio.timeout(self._limits.send_s):
                    await send()
            except TimeoutError:
                self._abort()
                raise ViewerGone from None
            except (WebSocketDisconnect, RuntimeError, OSError):  # closed by the other side, by a ping, at shutdown
                raise ViewerGone from None

    def _abort(self) -> None:
        self._metrics.viewer_aborted()
        abort = self._websocket.scope.get("extensions", {}).get(ABORT_EXTENSION)
        if abort is not None:
            abort()

    async def _close(self, closing: Closing) -> None:
        try:
            if closing.error is not None:
                await self._send_json(closing.error)
            said: Message = {"type": "websocket.close", "code": int(closing.code), "reason": closing.reason[:120]}
            await self._send_or_abort(partial(self._websocket.send, said))
        except ViewerGone:
            return
