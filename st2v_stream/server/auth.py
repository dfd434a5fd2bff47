"""Who may: the owner's token, grants in the path, exact Host and Origin. One gate for every route, HTTP and WebSocket alike.

The gate decides before any route is looked up, and by default refuses: open are only the static page, /openapi.json,
/asyncapi.yaml, /healthz and /readyz. There are no cookies, so a foreign page can make a browser send a request but never
the token.
"""

from __future__ import annotations

import base64
import hmac
import os
import re
import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from st2v_stream.config import Config
from st2v_stream.delivery.grants import Grant, GrantKey, require_readable
from st2v_stream.delivery.protocol import CloseCode
from st2v_stream.delivery.websocket import refuse
from st2v_stream.errors import Forbidden, InvalidRequest, St2vError, StoreError, Unauthorized

TOKEN_BYTES = 32
_TOKEN_SHAPE = re.compile(r"[A-Za-z0-9_.~-]{16,256}")
"""Characters that are legal in a header, a WebSocket sub-protocol and a link alike."""

_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
_GUARDED = re.compile(r"/(?:v1|g|metrics)(?:/|$)")
_GRANT_PATH = re.compile(r"(?P<prefix>/g/(?P<grant>[^/]+))(?P<rest>/v1/videos/.*)")

SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; "
        "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


# ---------------------------------------------------------------- the owner's token


def owner_token(config: Config) -> str:
    """The token from the configuration, or from DATA/token (made on first use, readable by its owner only).

    Raises `InvalidRequest` for a token that could be guessed or cannot travel in a header.
    """
    token = config.token if config.token is not None else _read_or_make(config.data_dir / "token")
    if _TOKEN_SHAPE.fullmatch(token) is None:
        expected = "16 to 256 letters, digits or any of _ . ~ -"
        raise InvalidRequest(
            "the owner token is not usable", expected=expected, received=f"{len(token)} characters", param="token"
        )
    return token


def _read_or_make(path: Path) -> str:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            return path.read_text().strip()
        except FileNotFoundError:
            return _make(path)
    except OSError as error:
        raise StoreError(
            f"{path} cannot be used", expected="a readable and writable data directory", received=error.strerror
        ) from error


def _make(path: Path) -> str:
    token = base64.urlsafe_b64encode(secrets.token_bytes(TOKEN_BYTES)).rstrip(b"=").decode()
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(token + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(unfinished, path)
    return token


# ---------------------------------------------------------------- where requests come from


class Origins:
    """Under which names this server is known; everything else is a rebound name or a foreign page."""

    def __init__(self, config: Config) -> None:
        host = f"[{config.host}]" if ":" in config.host else config.host
        names = {"localhost", "127.0.0.1", "[::1]", host.lower(), *(name.lower() for name in config.allowed_hosts)}
        self._hosts = frozenset(names | {f"{name}:{config.port}" for name in names})

    def require_host(self, headers: Headers) -> str:
        """The Host header. Raises `Forbidden` unless there is exactly one and it is ours."""
        given = headers.getlist("host")
        if len(given) != 1 or given[0].lower() not in self._hosts:
            raise Forbidden(
                "this server is not known under that name", expected="a host given by --allowed-host", received=", ".join(given)
            )
        return given[0].lower()

    def require_same_origin(self, headers: Headers, host: str) -> None:
        """Raise `Forbidden` for a request that a page of another origin (or of none: `null`) makes; programs send no Origin."""
        given = headers.getlist("origin")
        if given and (len(given) > 1 or given[0].lower() not in (f"http://{host}", f"https://{host}")):
            raise Forbidden("pages of another origin may not do that", expected=f"http://{host}", received=", ".join(given))


# ---------------------------------------------------------------- the gate


@dataclass(frozen=True, slots=True)
class Access:
    """Who asks: the owner, the holder of a grant, or anybody (open paths only). In scope["state"]["access"]."""

    who: Literal["owner", "grant", "anybody"]
    grant: Grant | None = None

    @property
    def remaining_s(self) -> float | None:
        """How long this access lasts; None = no end."""
        return None if self.grant is None else max(0.0, self.grant.expires_at_s - time.time())


class Gate:
    """ASGI middleware: checks every request and adds the security headers to every answer."""

    def __init__(self, app: ASGIApp, *, token: str, grants: GrantKey, origins: Origins, on_done: Callable[[int], None]) -> None:
        self._app = app
        self._token = token.encode()
        self._grants = grants
        self._origins = origins
        self._on_done = on_done

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request pass, or answer it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        try:
            self._require_origin(scope, headers)
        except St2vError as error:
            await self._answer(scope, receive, send, error_response(error))
            return
        try:
            scope = self._admit(scope, headers)
        except St2vError as error:
            if scope["type"] == "websocket":
                self._on_done(error.status)
                await refuse(WebSocket(scope, receive, send), CloseCode.NOT_ALLOWED, error.message)
            else:
                await self._answer(scope, receive, send, error_response(error))
            return
        await self._app(scope, receive, self._with_headers(send) if scope["type"] == "http" else send)

    def _require_origin(self, scope: Scope, headers: Headers) -> None:
        host = self._origins.require_host(headers)
        if scope["type"] == "websocket" or scope["method"] not in _SAFE_METHODS:
            self._origins.require_same_origin(headers, host)

    def _admit(self, scope: Scope, headers: Headers) -> Scope:
        """The scope with its `Access`, and a grant's prefix moved from the path to root_path. Raises if nobody may."""
        method = scope.get("method", "GET")
        path: str = scope["path"]
        match = _GRANT_PATH.fullmatch(path)
        if match is not None:
            grant = self._grants.read(match["grant"], now_s=time.time())
            require_readable(grant, method, match["rest"])
            scope = {**scope, "root_path": scope.get("root_path", "") + match["prefix"]}
            return _with_access(scope, Access("grant", grant))
        if self._is_owner(scope, headers):
            return _with_access(scope, Access("owner"))
        if _GUARDED.match(path) or scope["type"] == "websocket" or method not in _SAFE_METHODS:
            raise Unauthorized(
                "you need the owner's token", expected="Authorization: Bearer <token>", received="no valid token"
            )
        return _with_access(scope, Access("anybody"))

    def _is_owner(self, scope: Scope, headers: Headers) -> bool:
        return any(hmac.compare_digest(said.encode(), self._token) for said in _tokens(scope, headers))

    async def _answer(self, scope: Scope, receive: Receive, send: Send, response: Response) -> None:
        self._on_done(response.status_code)
        if scope["type"] == "http":
            await response(scope, receive, self._with_headers(send, count=False))
        else:
            await WebSocket(scope, receive, send).send_denial_response(response)

    def _with_headers(self, send: Send, *, count: bool = True) -> Send:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                add_security_headers(MutableHeaders(scope=message))
                if count:
                    self._on_done(message["status"])
            await send(message)

        return send_with_headers


def add_security_headers(headers: MutableHeaders) -> None:
    """What every answer carries; API answers are not stored unless they say so."""
    for name, value in SECURITY_HEADERS.items():
        headers[name] = value
    headers.setdefault("Cache-Control", "no-store")


def _tokens(scope: Scope, headers: Headers) -> Iterable[str]:
    """What might be the token: the Authorization header, or (WebSocket) a sub-protocol `bearer.<token>`."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        yield token.strip()
    for name in scope.get("subprotocols", ()):
        if name.startswith("bearer."):
            yield name.removeprefix("bearer.")


def _with_access(scope: Scope, access: Access) -> Scope:
    return {**scope, "state": {**scope.get("state", {}), "access": access}}


# ---------------------------------------------------------------- errors as answers

_OPENAI_TYPES = {401: "authentication_error", 403: "permission_error"}


def error_body(status: int, code: str, message: str, param: str | None = None) -> dict[str, dict[str, str | None]]:
    """OpenAI's error shape."""
    kind = "server_error" if status >= 500 else _OPENAI_TYPES.get(status, "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def error_response(error: St2vError) -> JSONResponse:
    """An error of ours as an answer."""
    body = error_body(error.status, error.code, str(error), error.param)
    headers = {"WWW-Authenticate": "Bearer"} if error.status == 401 else {}
    return JSONResponse(body, error.status, headers=headers)
