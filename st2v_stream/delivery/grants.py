"""Grants: links that let somebody watch one video and nothing else, for a while, without the owner's token.

A grant is `v1.<video>.<view>.<expiry>.<link id>.<key id>.<mac>` in the path: `/g/<grant>/v1/videos/<video>/content`. Relative
addresses inherit it, so media elements, VLC and playlists work. The mac is HMAC-SHA256 over everything before it; the key
is derived from the owner's token, so a new token ends every grant. The server keeps no list of the grants it made, only of
those that were taken back before their end (`Revocations`).
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import logging
import os
import re
import secrets
import time
from collections.abc import AsyncGenerator, Awaitable
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

from st2v_stream.errors import Forbidden, NotFound, StoreError, Unauthorized

T = TypeVar("T")

logger = logging.getLogger(__name__)

View = str
WATCH: View = "watch"
"""The one view there is: read everything of a video, change nothing."""

LONGEST_S = 30 * 86_400
"""No link is made for longer; so what was revoked longer ago than this need not be remembered."""

_ID = r"[0-9a-f]{19}"
_MS_DIGITS = 11
_SHAPE = re.compile(
    r"v1\.(?P<video>[A-Za-z0-9_-]{1,64})\.(?P<view>[a-z]{1,16})\.(?P<expiry>[0-9]{1,12})"
    rf"\.(?P<link>{_ID})\.(?P<key_id>[0-9a-f]{{8}})\.(?P<mac>[A-Za-z0-9_-]{{43}})"
)


def new_link_id(not_before_ms: int = 0) -> str:
    """19 hex digits: 11 for when it was made (Unix ms, at least `not_before_ms`), 8 at random."""
    return f"{max(int(time.time() * 1000), not_before_ms):0{_MS_DIGITS}x}{secrets.token_hex(4)}"


@dataclass(frozen=True, slots=True)
class Grant:
    """What a valid grant allows: `view` of `video_id` until `expires_at_s` (Unix seconds). link_id: what revokes it."""

    video_id: str
    view: View
    expires_at_s: int
    link_id: str = field(default_factory=new_link_id)

    @property
    def made_at_ms(self) -> int:
        """Unix milliseconds."""
        return int(self.link_id[:_MS_DIGITS], 16)


# ---------------------------------------------------------------- taken back


class Revocations:
    """Links taken back before their end; one JSON line each in `file`, so that a restart forgets none (None: memory only).

    A line that is no longer needed is left out at the next start.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self._links: set[tuple[str, str]] = set()
        self._before_ms: dict[str, int] = {}
        self._changed = asyncio.Event()
        self._writing = asyncio.Lock()

    @staticmethod
    def open(file: Path) -> Revocations:
        """Read what was revoked. Raises `StoreError` when the file cannot be read or written: then no link is to be trusted."""
        revocations = Revocations(file)
        oldest_ms = int((time.time() - LONGEST_S) * 1000)
        try:
            lines = file.read_text().splitlines() if file.exists() else []
            needed = [line for line in lines if revocations._take(line) >= oldest_ms]
            if len(needed) < len(lines):
                _replace(file, "".join(f"{line}\n" for line in needed))
        except OSError as error:
            raise _cannot_keep(file, error) from error
        return revocations

    def covers(self, grant: Grant) -> bool:
        """Whether the grant was taken back."""
        return (grant.video_id, grant.link_id) in self._links or grant.made_at_ms < self.not_before_ms(grant.video_id)

    def not_before_ms(self, video_id: str) -> int:
        """Links of the video made before this were taken back."""
        return self._before_ms.get(video_id, 0)

    async def revoke(self, video_id: str, link_id: str) -> None:
        """Take one link back, at once and for ever. Raises `NotFound` (no such id), `StoreError` (a restart would forget)."""
        if re.fullmatch(_ID, link_id) is None:
            raise NotFound("no such link", expected="the id of a link", received=link_id, param="link_id")
        await self._revoke({"video": video_id, "link": link_id})

    async def revoke_all(self, video_id: str) -> None:
        """Take every link of a video back that was made so far. Raises `StoreError` (a restart would forget it)."""
        await self._revoke({"video": video_id, "before_ms": int(time.time() * 1000) + 1})

    async def until_revoked(self, grant: Grant) -> None:
        """Return when the grant is taken back; a grant that nobody takes back is waited for without end."""
        while not self.covers(grant):
            await self._changed.wait()

    async def _revoke(self, said: dict[str, str | int]) -> None:
        line = json.dumps(said)
        self._take(line)  # first, so that it holds whatever the disk says
        self._changed.set()
        self._changed = asyncio.Event()
        if self._file is None:
            return
        async with self._writing:
            try:
                await asyncio.to_thread(_append, self._file, line)
            except OSError as error:
                raise _cannot_keep(self._file, error) from error

    def _take(self, line: str) -> int:
        """Remember what a line says; returns when the newest link it ends was made (Unix ms)."""
        try:
            said = json.loads(line)
            video_id = str(said["video"])
            if "before_ms" in said:
                self._before_ms[video_id] = max(self.not_before_ms(video_id), int(said["before_ms"]))
                return int(said["before_ms"])
            self._links.add((video_id, said["link"]))
            return Grant(video_id, WATCH, 0, said["link"]).made_at_ms
        except (ValueError, KeyError, TypeError):  # cut short by a crash: whoever revoked it was told that it failed
            logger.warning("a damaged line in the list of revoked links is left out: %r", line[:80])
            return 0


def _append(file: Path, line: str) -> None:
    cut_short = file.exists() and not file.read_bytes().endswith(b"\n")  # by a crash: that line is lost, this one is not
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    with os.fdopen(descriptor, "a") as opened:
        opened.write("\n" * cut_short + line + "\n")
        opened.flush()
        os.fsync(opened.fileno())


def _replace(file: Path, text: str) -> None:
    unfinished = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as opened:
        opened.write(text)
        opened.flush()
        os.fsync(opened.fileno())
    os.replace(unfinished, file)


def _cannot_keep(file: Path, error: OSError) -> StoreError:
    return StoreError(
        "the list of revoked links cannot be kept", expected=f"{file} to be readable and writable", received=error.strerror
    )


# ---------------------------------------------------------------- signed


@lru_cache(maxsize=4)
def _derive_key(token: str) -> bytes:
    # scrypt (16 MiB, ~50 ms): whoever holds a grant must not be able to try out weak owner tokens quickly.
    return hashlib.scrypt(token.encode(), salt=b"st2v_stream grants v1", n=2**14, r=8, p=1, dklen=32)


class GrantKey:
    """Signs and checks grants with a key derived from the owner's token; knows which were taken back."""

    def __init__(self, token: str, revocations: Revocations | None = None) -> None:
        self._key = _derive_key(token)
        self.key_id = hashlib.sha256(self._key).hexdigest()[:8]
        self.revocations = revocations or Revocations()

    def new(self, video_id: str, lives_s: int) -> Grant:
        """A grant to watch the video for so long, from now on."""
        link_id = new_link_id(self.revocations.not_before_ms(video_id))
        return Grant(video_id, WATCH, int(time.time()) + min(lives_s, LONGEST_S), link_id)

    def sign(self, grant: Grant) -> str:
        """The grant as text for a path."""
        said = f"v1.{grant.video_id}.{grant.view}.{grant.expires_at_s}.{grant.link_id}.{self.key_id}"
        return f"{said}.{self._mac(said)}"

    def read(self, text: str, *, now_s: float) -> Grant:
        """The grant in `text`. Raises `Unauthorized` when it is not one of ours, has expired or was taken back."""
        match = _SHAPE.fullmatch(text)
        if match is None or not hmac.compare_digest(self._mac(text.rpartition(".")[0]), match["mac"]):
            raise Unauthorized("this link is not valid", expected="a grant made by this server")
        grant = Grant(match["video"], match["view"], int(match["expiry"]), match["link"])
        if now_s >= grant.expires_at_s:
            raise Unauthorized("this link has expired", expected="a new link from the owner")
        if self.revocations.covers(grant):
            raise Unauthorized("this link was taken back", expected="a new link from the owner")
        return grant

    def _mac(self, said: str) -> str:
        digest = hmac.new(self._key, said.encode(), hashlib.sha256).digest()
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


async def while_allowed(work: Awaitable[None], revocations: Revocations, grant: Grant | None) -> bool:
    """Await `work`; False, and `work` is cancelled, if the grant is taken back before (grant None: the owner's, never)."""
    if grant is None:
        await work
        return True
    working, revoked = asyncio.ensure_future(work), asyncio.ensure_future(revocations.until_revoked(grant))
    try:
        await asyncio.wait({working, revoked}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
            return True
        return False
    finally:
        working.cancel()
        revoked.cancel()
        await asyncio.wait({working, revoked})


async def items_while_allowed(
    items: AsyncGenerator[T, None], revocations: Revocations, grant: Grant | None
) -> AsyncGenerator[T, None]:
    """The items, none of them after the grant was taken back; closes them."""
    async with aclosing(items):
        async for item in items:
            if grant is not None and revocations.covers(grant):
                return
            yield item


# ---------------------------------------------------------------- what it opens

_ALLOWED: tuple[tuple[frozenset[str], re.Pattern[str]], ...] = (
    (
        frozenset({"GET", "HEAD"}),
        re.compile(
            r"(?:/(?:content|chunks|cues|events|watch|(?:index|preview|enhanced)\.m3u8"
            r"|thumbnails/[^/]+|segments/[^/]+|init/[^/]+))?"
        ),
    ),
    # watching by WebRTC is a conversation: it begins with a POST, and the viewer ends it
    (frozenset({"OPTIONS", "POST"}), re.compile(r"/whep")),
    (frozenset({"OPTIONS", "PATCH", "DELETE"}), re.compile(r"/whep/[^/]+")),
)


def require_readable(grant: Grant, method: str, path: str) -> None:
    """Raise `Forbidden` unless the grant covers this request (without the /g/<grant> prefix): to watch its own video."""
    prefix = f"/v1/videos/{grant.video_id}"
    inside = path.removeprefix(prefix) if path.startswith(prefix) else None
    allowed = inside is not None and any(method in methods and shape.fullmatch(inside) for methods, shape in _ALLOWED)
    if grant.view != WATCH or not allowed:
        raise Forbidden("this link does not allow that", expected=f"GET of video {grant.video_id}", received=f"{method} {path}")
