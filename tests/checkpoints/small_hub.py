"""A Hugging Face hub on loopback: as much of it as `st2v pull` speaks to, with faults on demand."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """Repositories by name, each path -> bytes (files over 200 bytes are "large": listed with sha256). Faults are one-shot.

    cut_after: the next file is cut off after so many bytes, and later requests for files fail. spoil: a path that is served
    with other bytes. refuse: status and X-Error-Code of every answer.
    """

    repositories: dict[str, dict[str, bytes]]
    cut_after: int | None = None
    closed: bool = False
    spoil: str | None = None
    refuse: tuple[int, str] | None = None
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    """(path, Range header) of every request for a file's bytes."""
    address: str = ""

    def listing(self, repository: str) -> dict[str, Any]:
        """The answer about a repository."""
        siblings = []
        for path, content in self.repositories[repository].items():
            entry: dict[str, Any] = {"rfilename": path, "size": len(content), "blobId": git_hash(content)}
            if len(content) > 200:
                sha256 = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 130}
            siblings.append(entry)
        return {"id": repository, "sha": COMMIT, "siblings": siblings}


def git_hash(content: bytes) -> str:
    """The name git gives a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


@contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    """Answer on a free port until the block ends."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Answers", (_Answers,), {"hub": hub}))
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Answers(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        if self.hub.refuse is not None:
            status, code = self.hub.refuse
            self._answer(status, b"{}", {"X-Error-Code": code})
            return
        path = unquote(urlsplit(self.path).path)
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/revision/(.+)", path):
            self._list(*match.groups())
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._file(*match.groups())
        else:
            self._answer(404, b"{}")

    def _list(self, repository: str, revision: str) -> None:
        if repository not in self.hub.repositories:
            self._answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif revision not in ("main", COMMIT):
            self._answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        else:
            self._answer(200, json.dumps(self.hub.listing(repository)).encode(), {"Content-Type": "application/json"})

    def _file(self, repository: str, revision: str, path: str) -> None:
        hub, wanted = self.hub, self.headers.get("Range")
        hub.requests.append((path, wanted))
        if hub.closed:
            self._answer(503, b"{}")
            return
        assert revision == COMMIT, "the listed commit is what is fetched, whatever the branch does meanwhile"
        content = hub.repositories[repository][path]
        if hub.spoil == path:
            hub.spoil, content = None, bytes(byte ^ 1 for byte in content)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        if hub.cut_after is None:
            self._answer(206 if wanted else 200, content[start:])
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: hub.cut_after])
        hub.cut_after, hub.closed, self.close_connection = None, True, True

    def _answer(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
