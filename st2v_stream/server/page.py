"""The page: plain files from `web/` (in a checkout) or from inside the package (in a wheel). Nothing else is readable.

And the protocol `st2v.v1` as a document for programs, which is a page of `docs/`.
"""

from __future__ import annotations

from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, Response

from st2v_stream.delivery.file import is_current
from st2v_stream.errors import NotFound

_PACKAGE = Path(__file__).resolve().parent.parent
_HOMES = (_PACKAGE.parent / "web", _PACKAGE / "web")
_ASYNCAPI = (_PACKAGE.parent / "docs" / "asyncapi.yaml", _PACKAGE / "docs" / "asyncapi.yaml")

MIME_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".webmanifest": "application/manifest+json",
    ".woff2": "font/woff2",
}
"""What the page is made of; the system's own list is not asked, because it differs between machines."""


def find_web() -> Path:
    """The folder of the page (it may not exist: the API works without)."""
    return next((home for home in _HOMES if (home / "index.html").is_file()), _HOMES[0])


def page_response(request: Request, web: Path, path: str) -> Response:
    """One file of the page. Raises `NotFound` for everything that is not one."""
    parts = Path(path or "index.html").parts
    file = web.joinpath(*parts).resolve() if "\0" not in path else web
    inside = file.is_relative_to(web.resolve()) and not any(part.startswith(".") for part in parts)
    if not inside or file.suffix not in MIME_TYPES or not file.is_file():
        raise NotFound("no such page", received="/" + path)
    return _file_response(request, file, MIME_TYPES[file.suffix])


def asyncapi_response(request: Request) -> Response:
    """What is said over the WebSocket, as an AsyncAPI document. Raises `NotFound` where it was not installed."""
    file = next((home for home in _ASYNCAPI if home.is_file()), None)
    if file is None:
        raise NotFound("the document is not installed", received="/asyncapi.yaml")
    return _file_response(request, file, "application/yaml")


def _file_response(request: Request, file: Path, media_type: str) -> Response:
    found = file.stat()
    etag = f'"{found.st_mtime_ns:x}-{found.st_size:x}"'
    headers = {"ETag": etag, "Cache-Control": "no-cache"}
    if is_current(request, etag):
        return Response(status_code=304, headers=headers)
    return FileResponse(file, media_type=media_type, headers=headers)
