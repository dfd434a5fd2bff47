"""The application around a Director, `create_app(config, director)`, and its process, `serve(config, models)`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute

from st2v_stream.config import Config
from st2v_stream.delivery.file import MovieCache
from st2v_stream.delivery.grants import GrantKey, Revocations
from st2v_stream.delivery.hls import Playlists
from st2v_stream.delivery.webrtc import Whep
from st2v_stream.delivery.websocket import WatchLimits
from st2v_stream.errors import St2vError
from st2v_stream.server.api import Api
from st2v_stream.server.auth import Gate, Origins, add_security_headers, error_body, error_response, owner_token
from st2v_stream.server.listen import Server, bind, uvicorn_config
from st2v_stream.server.metrics import Metrics
from st2v_stream.server.page import find_web, page_response
from st2v_stream.server.whep import WhepDoor
from st2v_stream.types import Director, ModelEntry

SWITCH_INTERVAL_S = 0.0005
"""How long Python's other threads keep the interpreter: at the default 5 ms a busy model thread makes the event loop late."""


def create_app(config: Config, director: Director, *, limits: WatchLimits | None = None, web: Path | None = None) -> Starlette:
    """The whole application. `config.port` must be the real port (Host headers are compared with it).

    `app.state.draining` is an asyncio.Event: set it and event streams end, and /readyz says no.
    """
    token = owner_token(config)
    grants = GrantKey(token, Revocations.open(config.data_dir / "revoked_links"))
    metrics, draining = Metrics(), asyncio.Event()
    movies = MovieCache(director, config.data_dir / "cache")
    playlists = Playlists(director, draining)
    whep = Whep(config, director, metrics, grants.revocations)
    door = WhepDoor(whep, metrics, config.max_viewers)
    api = Api(config, director, grants, metrics, movies, playlists, draining, limits or WatchLimits(), door)
    gate = Middleware(Gate, token=token, grants=grants, origins=Origins(config), on_done=metrics.request_done)
    app = Starlette(
        routes=_routes(api, web or find_web()),
        middleware=[gate],
        exception_handlers={St2vError: _on_error, HTTPException: _on_http_error, Exception: _on_bug},
        lifespan=_lifespan(metrics, whep),
    )
    app.state.draining = draining
    app.state.metrics = metrics
    return app


def _routes(api: Api, web: Path) -> list[BaseRoute]:
    async def page(request: Request) -> Response:
        return page_response(request, web, request.path_params["path"])

    operations: list[BaseRoute] = [Route(op.path, op.handler, methods=[op.method]) for op in api.operations()]
    return [*operations, WebSocketRoute("/v1/videos/{video_id}/watch", api.watch_video), Route("/{path:path}", page)]


def _lifespan(metrics: Metrics, whep: Whep) -> Callable[[Starlette], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        watching = asyncio.create_task(metrics.watch_loop())
        try:
            yield
        finally:
            await whep.aclose()
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching

    return lifespan


# ---------------------------------------------------------------- errors


async def _on_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, St2vError)
    return error_response(error)


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "invalid_request")
    body = error_body(error.status_code, code, f"{error.detail}: {request.method} {request.url.path}")
    return JSONResponse(body, error.status_code, headers=dict(error.headers or {}))


async def _on_bug(request: Request, error: Exception) -> Response:
    """Answered outside of the gate, so the headers are added here; the trace goes to the log, never to the asker."""
    response = JSONResponse(error_body(500, "internal_error", "the server made a mistake; its log says which"), 500)
    add_security_headers(MutableHeaders(raw=response.raw_headers))
    return response


# ---------------------------------------------------------------- serving


async def serve(config: Config, models: Mapping[str, ModelEntry], *, on_ready: Callable[[str], None] | None = None) -> None:
    """Serve until SIGTERM or SIGINT. Page and API answer at once, the model loads in the background.

    `on_ready(link)` is called once requests are taken. Raises `InvalidRequest` (port), `StoreError` (data directory).
    """
    from st2v_stream.videos.live import Live

    sys.setswitchinterval(SWITCH_INTERVAL_S)
    listener = bind(config.host, config.port)
    try:
        config = replace(config, port=listener.getsockname()[1])
        async with Live.open(config, models) as live:
            app = create_app(config, live)

            def announce() -> None:
                link = page_link(config)
                print(f"st2v_stream is ready: {link}", flush=True)
                if on_ready is not None:
                    on_ready(link)

            server = Server(uvicorn_config(app), on_started=announce, on_exit=app.state.draining.set)
            await server.serve(sockets=[listener])
    finally:
        listener.close()


def page_link(config: Config) -> str:
    """The link to the page with the owner's token in its fragment, which browsers never send."""
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(config.host, f"[{config.host}]" if ":" in config.host else config.host)
    return f"http://{host}:{config.port}/#token={owner_token(config)}"
