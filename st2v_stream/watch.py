"""`st2v watch`: follow a film of any server in the terminal, or in a player window; `st2v link`: show it to others.

Speaks REST and `st2v.v1` (docs/protocol.md) like every other program; needs no model and no torch.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import re
import shutil
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from st2v_stream.config import Config, read_config
from st2v_stream.delivery.protocol import SUBPROTOCOL, BinaryHeader, CloseCode, Kind
from st2v_stream.errors import InvalidRequest, NotReady, St2vError

DEFAULT_SERVER = "http://127.0.0.1:8000"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
MAX_MESSAGE_BYTES = 2**26
FIRST_RETRY_S, LAST_RETRY_S = 0.25, 5.0

_LINK = re.compile(
    r"(?P<server>https?://[^/#?]+)/(?:g/(?P<grant>[^/]+)/v1/videos/(?P<video>[\w-]{1,64})(?:/.*)?|(?:#(?P<fragment>.*))?)"
)
_UNITS_S = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}


class Refused(St2vError):
    """The server said no, in its own words."""

    code = "refused"


@dataclass(frozen=True, slots=True)
class Address:
    """Where a film is, and as whom to ask: the owner (token), or the holder of a grant. video_id empty: the newest film."""

    server: str
    video_id: str = ""
    grant: str | None = None
    token: str | None = field(default=None, repr=False)

    @property
    def base(self) -> str:
        """The server, below the grant if there is one."""
        return self.server if self.grant is None else f"{self.server}/g/{self.grant}"

    @property
    def path(self) -> str:
        """The film, below `base`."""
        return f"/v1/videos/{self.video_id}"


def find_address(what: str, server: str | None, config: Config) -> Address:
    """`what` is an id, a link to the page, a shared link, or empty for the newest film. Raises `InvalidRequest`."""
    if "://" in what:
        return _from_link(what, config)
    if what and re.fullmatch(r"[\w-]{1,64}", what) is None:
        raise InvalidRequest("this is no film", expected="the id of a video, or a link", received=what, param="id")
    place = (server or DEFAULT_SERVER).rstrip("/")
    return Address(place, what, token=_token_for(place, config))


def _from_link(link: str, config: Config) -> Address:
    match = _LINK.fullmatch(link)
    if match is None:
        raise InvalidRequest("this link leads to no film", expected="the page's address or a shared link", received=link)
    if match["grant"] is not None:
        return Address(match["server"], match["video"], match["grant"])
    said = dict(part.partition("=")[::2] for part in (match["fragment"] or "").split("&"))
    video_id = next((part.removeprefix("/video/") for part in said if part.startswith("/video/")), "")
    return Address(match["server"], video_id, said.get("grant"), said.get("token") or _token_for(match["server"], config))


def _token_for(server: str, config: Config) -> str | None:
    """What ST2V_TOKEN or st2v.toml says; else DATA/token, but never to another machine."""
    if config.token is not None or urlsplit(server).hostname not in LOOPBACK:
        return config.token
    try:
        return (config.data_dir / "token").read_text().strip()
    except OSError:
        return None


def ask(address: Address, method: str, path: str, body: object = None) -> Any:
    """The JSON that the server answers. Raises `Refused`, `NotReady` where there is no server."""
    headers = {"Content-Type": "application/json"}
    if address.token is not None and address.grant is None:
        headers["Authorization"] = f"Bearer {address.token}"
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address.base + path, data, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        raise Refused(_message_of(error)) from None
    except (urllib.error.URLError, OSError) as error:
        raise NotReady("no server answers there", expected="st2v serve, or --server URL", received=address.server) from error


def _message_of(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.load(error)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"the server answers {error.code}"


# ---------------------------------------------------------------- what has been seen


@dataclass
class Seen:
    """What a viewer knows of a film: the video's JSON, the newest step, what has arrived; and one line that says it."""

    video: dict[str, Any]
    progress: dict[str, Any] | None = None
    segments: int = 0
    received_bytes: int = 0
    frames: int = 0
    arrived_s: float | None = None

    def line(self, now_s: float) -> str:
        """For example: running · chunk 12, step 3 of 8 · 104 frames, 13.0 s · 1.42 times real time · 0.4 MB, 250 kbit/s."""
        fps, parts = self.video["fps"], [self.video["state"]]
        if self.progress is not None:
            parts.append("chunk {index}, step {step} of {steps}".format(**self.progress))
        planned = "" if self.video["num_frames"] is None else f" of {self.video['num_frames']}"
        parts.append(f"{self.frames}{planned} frames, {self.frames / fps:.1f} s")
        pace = (self.progress or {}).get("frames_per_second")
        if pace is not None:
            parts.append(f"{pace / fps:.2f} times real time")
        if self.frames:
            rate = self.received_bytes * 8 * fps / self.frames / 1000
            parts.append(f"{self.received_bytes / 1e6:.1f} MB, {rate:.0f} kbit/s")
        if self.arrived_s is not None and self.video["ended_by"] is None:
            parts.append(f"newest chunk {now_s - self.arrived_s:.0f} s ago")
        return " · ".join(parts)


def is_of_now(ended: Mapping[str, Any], then: Mapping[str, Any], welcome: Mapping[str, Any]) -> bool:
    """Whether an `ended` is the film's end, and not one in its past after which it went on.

    then: the video as the `state` before it said. The log may go on after the end, as the film is made sharp: a viewer of
    the preview alone hears nothing of that.
    """
    now = welcome["video"]
    is_the_same = all(then[name] == now[name] for name in ("ended_by", "completed_at", "frames"))
    return bool(ended["seq"] >= welcome["cursor"] or (now["ended_by"] is not None and is_the_same))


class InOrder:
    """Gives segments on from chunk 0, each once and in order; what was given on cannot be taken back."""

    def __init__(self) -> None:
        self.next_index = 0
        self._waiting: dict[int, bytes] = {}

    def add(self, index: int, segment: bytes) -> list[bytes]:
        """Those that can go on now."""
        self._waiting[index] = segment
        ready = []
        while self.next_index in self._waiting:
            ready.append(self._waiting.pop(self.next_index))
            self.next_index += 1
        self._waiting = {waiting: kept for waiting, kept in self._waiting.items() if waiting > self.next_index}
        return ready

    def reset(self, from_index: int) -> None:
        """Chunks from `from_index` on are no longer part of the film."""
        self._waiting = {index: kept for index, kept in self._waiting.items() if index < from_index}


class WindowClosed(Exception):
    """The player has ended before the film."""


class Player:
    """A window that shows the film while it grows: ffplay, fed with the init segment and every segment in order."""

    PROGRAM: ClassVar[str] = "ffplay"
    SIGNALLED: ClassVar[int] = 123
    """How ffplay ends on SIGINT and SIGTERM."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._order = InOrder()
        self._init: bytes | None = None

    @staticmethod
    async def open(title: str) -> Player:
        """Raises `InvalidRequest` where ffplay is not installed."""
        program = shutil.which(Player.PROGRAM)
        if program is None:
            expected = "ffmpeg's ffplay (Debian: apt-get install ffmpeg)"
            raise InvalidRequest("there is no player on this machine", expected=expected, received="nothing", param="play")
        options = ("-loglevel", "error", "-window_title", title, "-autoexit", "-i", "-")
        return Player(await asyncio.create_subprocess_exec(program, *options, stdin=asyncio.subprocess.PIPE))

    async def take(self, header: BinaryHeader, payload: bytes) -> None:
        """Give one binary message on; waits while the player has enough. Raises `WindowClosed`."""
        if header.kind == Kind.INIT:
            if self._init is None:
                self._init = payload
                await self._write(payload)
            elif self._init != payload:
                raise InvalidRequest(
                    "the film goes on in another format", expected="one format", received="another init segment"
                )
            return
        for segment in self._order.add(header.index, payload):
            await self._write(segment)

    def reset(self, from_index: int) -> None:
        """Chunks from there on are made anew."""
        self._order.reset(from_index)

    async def closed(self) -> None:
        """Wait until somebody has closed the window. Raises `InvalidRequest` where there can be none (no screen)."""
        status = await self._process.wait()
        if status > 0 and status != self.SIGNALLED:
            received = f"{self.PROGRAM} ended with {status}"
            raise InvalidRequest("the player does not play", expected="a screen, or no --play", received=received, param="play")

    async def close(self, *, at_once: bool) -> None:
        """Wait until all of it was shown, or end it."""
        if self._process.returncode is None and at_once:
            self._process.terminate()
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        await self._process.wait()

    async def _write(self, payload: bytes) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(payload)
            await self._process.stdin.drain()
        except (BrokenPipeError, ConnectionResetError):
            raise WindowClosed from None


# ---------------------------------------------------------------- following


class Watcher:
    """One viewer over `st2v.v1`: reconnects by its cursor, so that nothing is seen twice or missed."""

    def __init__(
        self, address: Address, seen: Seen, rendition: str, player: Player | None, show: Callable[[str], None]
    ) -> None:
        self._address = address
        self.seen = seen
        self._renditions = ["preview", "enhanced"] if rendition == "best" else [rendition]
        self._player = player
        self._show = show
        self._cursor = 0
        self._welcome: Mapping[str, Any] = {}
        self._has_ended = False
        self._chunks: set[int] = set()

    async def run(self) -> None:
        """Until the film has ended. Raises `Refused` when the server does not want this viewer, `WindowClosed`."""
        wait_s = FIRST_RETRY_S
        while True:
            before = self._cursor
            try:
                if await self._watch_once():
                    return
            except (ConnectionClosed, InvalidStatus, OSError) as error:
                self._require_worth_trying(error)
            wait_s = FIRST_RETRY_S if self._cursor > before else min(LAST_RETRY_S, wait_s * 2)
            self._show(f"connection lost, trying again in {wait_s:.1f} s")
            await asyncio.sleep(wait_s)

    async def _watch_once(self) -> bool:
        """Whether the film has ended."""
        address = self._address
        url = f"ws{address.base.removeprefix('http')}{address.path}/watch"
        protocols = [SUBPROTOCOL] if address.token is None or address.grant else [SUBPROTOCOL, f"bearer.{address.token}"]
        names = [Subprotocol(name) for name in protocols]
        async with connect(url, subprotocols=names, max_size=MAX_MESSAGE_BYTES, proxy=None) as socket:
            await socket.send(json.dumps({"type": "hello", "cursor": self._cursor, "renditions": self._renditions}))
            async for message in socket:
                if isinstance(message, bytes):
                    await self._take_binary(socket, message)
                else:
                    self._take_text(json.loads(message))
                self._show(self.seen.line(time.monotonic()))
                if self._is_over():
                    return True
        return False

    def _is_over(self) -> bool:
        """Whether the film has ended; who watches the enhanced one alone waits for all of it, as long as there may be more."""
        video = self.seen.video
        may_come = video["enhancer"] is not None and video["enhance"] != "none" and video["enhance_error"] is None
        is_short = self._renditions == ["enhanced"] and self.seen.frames < video["frames"]
        return self._has_ended and not (is_short and may_come)

    async def _take_binary(self, socket: ClientConnection, message: bytes) -> None:
        header, payload = BinaryHeader.unpack(message)
        if self._player is not None:
            await self._player.take(header, payload)
        self.seen.received_bytes += len(payload)
        if header.kind == Kind.SEGMENT:
            self.seen.segments += 1
            self.seen.arrived_s = time.monotonic()
            self._chunks.add(header.index)
            self._count()
            self._cursor = header.seq
            await socket.send(json.dumps({"type": "ack", "seq": header.seq}))

    def _take_text(self, message: dict[str, Any]) -> None:
        kind = message["type"]
        self._cursor = max(self._cursor, message.get("seq", 0))
        if kind in ("welcome", "state"):
            self.seen.video = message["video"]
            self._has_ended = self._has_ended and message["video"]["ended_by"] is not None
            self._welcome = message if kind == "welcome" else self._welcome
        elif kind == "progress":
            self.seen.progress = message
        elif kind == "reset":
            self._chunks = {index for index in self._chunks if index < message["from_index"]}
            self._count()
            if self._player is not None:
                self._player.reset(message["from_index"])
        elif kind == "ended":
            self._has_ended = is_of_now(message, self.seen.video, self._welcome)

    def _count(self) -> None:
        first, further = self.seen.video["first_chunk_frames"], self.seen.video["chunk_frames"]
        self.seen.frames = len(self._chunks) * further + (first - further if 0 in self._chunks else 0)

    def _require_worth_trying(self, error: Exception) -> None:
        """Raise `Refused` after a close code that says: do not come back (4xxx, docs/protocol.md)."""
        received = error.rcvd if isinstance(error, ConnectionClosed) else None
        if received is not None and (received.code >= CloseCode.DELETED or received.code == CloseCode.DONE):
            raise Refused(received.reason or f"the server closed the connection ({received.code})")
        if isinstance(error, InvalidStatus) and error.response.status_code in (401, 403, 404):
            raise Refused(f"the server answers {error.response.status_code}")


async def follow_film(address: Address, *, rendition: str, play: bool, show: Callable[[str], None]) -> Seen:
    """Follow until the film has ended; what was seen of it. Raises `Refused`, `NotReady`, `InvalidRequest`."""
    video = await asyncio.to_thread(ask, address, "GET", address.path)
    player = await Player.open(video["title"]) if play else None
    watcher = Watcher(address, Seen(video), rendition, player, show)
    if player is None:
        await watcher.run()
    else:
        await _show(watcher, player)
    return watcher.seen


async def _show(watcher: Watcher, player: Player) -> None:
    """Until all of the film was shown, or the window is closed."""
    watching, closed = asyncio.create_task(watcher.run()), asyncio.create_task(player.closed())
    was_fed = False
    try:
        await asyncio.wait({watching, closed}, return_when=asyncio.FIRST_COMPLETED)
        try:
            if watching.done():
                watching.result()
                was_fed = True
            else:
                closed.result()
        except WindowClosed:
            await closed
    finally:
        watching.cancel()
        closed.cancel()
        await asyncio.gather(watching, closed, return_exceptions=True)
        await player.close(at_once=not was_fed)


# ---------------------------------------------------------------- the command line


def add_watch(parser: argparse.ArgumentParser) -> None:
    """`st2v watch`."""
    _add_place(parser)
    parser.add_argument("--play", action="store_true", help="show it in a window (ffplay)")
    parser.add_argument("--rendition", choices=("best", "preview", "enhanced"), help="which one (best; with --play preview)")
    parser.set_defaults(run=run_watch)


def add_link(parser: argparse.ArgumentParser) -> None:
    """`st2v link`."""
    _add_place(parser)
    parser.add_argument("--expires", default="1d", help="how long it is good for: 90s, 30m, 12h, 7d (1d; at most 30d)")
    parser.add_argument("--revoke", metavar="LINK", help="take a link back: the link, its id, or all")
    parser.set_defaults(run=run_link)


def _add_place(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("id", nargs="?", default="", help="a video's id or a link; the newest film if left out")
    parser.add_argument("--server", help=f"where the film is ({DEFAULT_SERVER})")
    parser.add_argument("--data-dir", help="where the server of this machine keeps its token (./data)")


def run_watch(args: argparse.Namespace) -> int:
    """Follow, and print what is known; 1 for a film that failed."""
    address = _resolve(args)
    rendition = args.rendition or ("preview" if args.play else "best")
    if args.play and rendition == "best":
        raise InvalidRequest("a window shows one rendition", expected="preview or enhanced", received="best", param="rendition")
    terminal = _Terminal()
    seen = asyncio.run(follow_film(address, rendition=rendition, play=args.play, show=terminal.show))
    terminal.end(seen.line(time.monotonic()))
    if seen.video["error"] is not None:
        print(f"st2v: {seen.video['error']['message']}", file=sys.stderr)
        return 1
    return 0


def run_link(args: argparse.Namespace) -> int:
    """Make a link and print every address it opens, or take links back."""
    address = _resolve(args)
    if args.revoke is not None:
        link_id = _link_id(args.revoke)
        ask(address, "DELETE", f"{address.path}/links" + ("" if link_id is None else f"/{link_id}"))
        print("every link of the film was taken back" if link_id is None else f"link {link_id} was taken back")
        return 0
    link = ask(address, "POST", f"{address.path}/links", {"expires_in_s": parse_duration_s(args.expires)})
    until = time.strftime("%Y-%m-%d %H:%M", time.localtime(link["expires_at"]))
    print(f"link {link['id']}, good until {until}")
    for what, name in (("page", "page_url"), ("players", "playlist_url"), ("download", "content_url")):
        print(f"{what:9}{address.server}{link[name]}")
    return 0


def parse_duration_s(text: str) -> int:
    """Seconds in `90s`, `30m`, `12h`, `7d` or a plain number. Raises `InvalidRequest`."""
    match = re.fullmatch(r"([0-9]{1,9})([smhd]?)", text)
    if match is None:
        raise InvalidRequest("this is no duration", expected="90s, 30m, 12h or 7d", received=text, param="expires")
    return int(match[1]) * _UNITS_S[match[2]]


def _link_id(said: str) -> str | None:
    """The id of a link that is given as a whole or as its id; None for `all`. Raises `InvalidRequest`."""
    if said == "all":
        return None
    match = re.search(r"(?:^|\.)([0-9a-f]{19})(?:\.[0-9a-f]{8}\.|$)", said)
    if match is None:
        raise InvalidRequest("this is no link", expected="a link, its id, or all", received=said, param="revoke")
    return match[1]


def _resolve(args: argparse.Namespace) -> Address:
    """The film that is meant. Raises `InvalidRequest` where there is none."""
    address = find_address(args.id, args.server, read_config({"data_dir": args.data_dir}))
    if address.video_id:
        return address
    films = ask(address, "GET", "/v1/videos?limit=1&order=desc")["data"]
    if not films:
        raise InvalidRequest("this server has no film", expected="a film", received="none", param="id")
    return Address(address.server, films[0]["id"], address.grant, address.token)


class _Terminal:
    """One line that is written over again; where nobody looks, one line a second at most."""

    def __init__(self) -> None:
        self._is_live = sys.stdout.isatty()
        self._written_s = 0.0

    def show(self, line: str) -> None:
        now_s = time.monotonic()
        if self._is_live:
            print(f"\r\x1b[2K{line[: shutil.get_terminal_size().columns - 1]}", end="", flush=True)
        elif now_s - self._written_s >= 1.0:
            print(line, flush=True)
            self._written_s = now_s

    def end(self, line: str) -> None:
        print(f"\r\x1b[2K{line}" if self._is_live else line, flush=True)
