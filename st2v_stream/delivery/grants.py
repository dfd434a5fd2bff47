"""Grants: links that let somebody watch one video and nothing else, for a while, without the owner's token.

A grant is `v1.<video>.<view>.<expiry>.<key id>.<mac>` in the path: `/g/<grant>/v1/videos/<video>/content`. Relative
addresses inherit it, so media elements, VLC and playlists work. The mac is HMAC-SHA256 over everything before it; the key
is derived from the owner's token, so a new token ends every grant.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from dataclasses import dataclass
from functools import lru_cache

from st2v_stream.errors import Forbidden, Unauthorized

View = str
WATCH: View = "watch"
"""The one view there is: read everything of a video, change nothing."""

_SHAPE = re.compile(
    r"v1\.(?P<video>[A-Za-z0-9_-]{1,64})\.(?P<view>[a-z]{1,16})\.(?P<expiry>[0-9]{1,12})"
    r"\.(?P<key_id>[0-9a-f]{8})\.(?P<mac>[A-Za-z0-9_-]{43})"
)


@dataclass(frozen=True, slots=True)
class Grant:
    """What a valid grant allows: `view` of `video_id` until `expires_at_s` (Unix seconds)."""

    video_id: str
    view: View
    expires_at_s: int


@lru_cache(maxsize=4)
def _derive_key(token: str) -> bytes:
    # scrypt (16 MiB, ~50 ms): whoever holds a grant must not be able to try out weak owner tokens quickly.
    return hashlib.scrypt(token.encode(), salt=b"st2v_stream grants v1", n=2**14, r=8, p=1, dklen=32)


class GrantKey:
    """Signs and checks grants with a key derived from the owner's token."""

    def __init__(self, token: str) -> None:
        self._key = _derive_key(token)
        self.key_id = hashlib.sha256(self._key).hexdigest()[:8]

    def sign(self, grant: Grant) -> str:
        """The grant as text for a path."""
        said = f"v1.{grant.video_id}.{grant.view}.{grant.expires_at_s}.{self.key_id}"
        return f"{said}.{self._mac(said)}"

    def read(self, text: str, *, now_s: float) -> Grant:
        """The grant in `text`. Raises `Unauthorized` when it is not one of ours or has expired."""
        match = _SHAPE.fullmatch(text)
        if match is None or not hmac.compare_digest(self._mac(text.rpartition(".")[0]), match["mac"]):
            raise Unauthorized("this link is not valid", expected="a grant made by this server")
        grant = Grant(match["video"], match["view"], int(match["expiry"]))
        if now_s >= grant.expires_at_s:
            raise Unauthorized("this link has expired", expected="a new link from the owner")
        return grant

    def _mac(self, said: str) -> str:
        digest = hmac.new(self._key, said.encode(), hashlib.sha256).digest()
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


_READABLE = re.compile(r"(?:/(?:content|chunks|events|watch|thumbnails/[^/]+|segments/[^/]+|init/[^/]+))?")


def require_readable(grant: Grant, method: str, path: str) -> None:
    """Raise `Forbidden` unless the grant covers this request: GET or HEAD of its own video, without the /g/<grant> prefix."""
    prefix = f"/v1/videos/{grant.video_id}"
    inside = path.startswith(prefix) and _READABLE.fullmatch(path[len(prefix) :]) is not None
    if grant.view != WATCH or method not in ("GET", "HEAD") or not inside:
        raise Forbidden("this link does not allow that", expected=f"GET of video {grant.video_id}", received=f"{method} {path}")
