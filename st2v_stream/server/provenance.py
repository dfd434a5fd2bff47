"""The REST side of provenance: the manifest of a film, its chunks made again and compared, the film carried in one file."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Send

from st2v_stream.delivery.file import content_disposition
from st2v_stream.delivery.resource import VideoJson, video_json
from st2v_stream.errors import InvalidRequest, St2vError
from st2v_stream.server.auth import error_body
from st2v_stream.server.openapi import Operation
from st2v_stream.server.requests import ChunkIndex, read_body
from st2v_stream.types import Director
from st2v_stream.videos.provenance import ManifestJson

HEARTBEAT_S = 5.0
"""A verification waits for the films that are being made; meanwhile an empty line says that it is still there."""


@dataclass(frozen=True, slots=True)
class VerifyBody:
    """POST /v1/videos/{id}/verify: the chunks from first to last, both included; absent: all of them."""

    first: ChunkIndex = 0
    last: ChunkIndex | None = None


T = TypeVar("T")

BUNDLE = "application/zip"


class _Stream(StreamingResponse):
    """Ends the work when the asker leaves."""

    async def stream_response(self, send: Send) -> None:
        async with aclosing(self.body_iterator):  # type: ignore[type-var]
            await super().stream_response(send)


@dataclass(frozen=True)
class Provenance:
    """The handlers, and what they need."""

    director: Director

    def operations(self) -> list[Operation]:
        """Everything there is here."""
        video = "/v1/videos/{video_id}"
        return [
            Operation("GET", video + "/manifest", self.get_manifest, "How every chunk was made", ManifestJson),
            Operation(
                "POST",
                video + "/verify",
                self.verify_video,
                "Make chunks again and compare: a JSON object per line",
                "application/x-ndjson",
                body=VerifyBody,
            ),
            Operation("GET", video + "/bundle", self.get_bundle, "The film in one file, to carry it elsewhere", BUNDLE),
            Operation("POST", "/v1/videos/bundles", self.import_bundle, "Take in a film in one file", VideoJson, body=BUNDLE),
        ]

    async def get_manifest(self, request: Request) -> Response:
        """GET /v1/videos/{id}/manifest."""
        manifest = await self.director.manifest(request.path_params["video_id"])
        body = await asyncio.to_thread(json.dumps, manifest)  # a film of an hour has megabytes of it
        return Response(body, media_type="application/json")

    async def verify_video(self, request: Request) -> Response:
        """POST /v1/videos/{id}/verify."""
        body = await read_body(request, VerifyBody)
        checked = self.director.verify(request.path_params["video_id"], body.first, body.last)
        return _Stream(await _begun(_lines(checked)), media_type="application/x-ndjson")

    async def get_bundle(self, request: Request) -> Response:
        """GET /v1/videos/{id}/bundle. Its length is not known before: a part of it has no end, and is taken in nowhere."""
        view = await self.director.get(request.path_params["video_id"])
        headers = {"Content-Disposition": content_disposition(view.title, "st2v")}
        if request.method == "HEAD":
            return Response(media_type=BUNDLE, headers=headers)
        return _Stream(await _begun(_pieces(self.director.bundle(view.id))), media_type=BUNDLE, headers=headers)

    async def import_bundle(self, request: Request) -> Response:
        """POST /v1/videos/bundles: the file as the body, whatever its content type."""
        try:
            return JSONResponse(video_json(await self.director.import_bundle(request.stream())))
        except ClientDisconnect as error:
            raise InvalidRequest("the bundle was cut off", expected="all of it", received="a part") from error


async def _pieces(items: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    try:
        async for item in items:
            yield item
    finally:
        if isinstance(items, AsyncGenerator):
            await items.aclose()


async def _begun(items: AsyncGenerator[T, None]) -> AsyncIterator[T]:
    """The same items, after the first is there: what is wrong with the request is then answered with its status."""
    first = [item async for item in _first(items)]

    async def all_items() -> AsyncGenerator[T, None]:
        async with aclosing(items):
            for item in first:
                yield item
            async for item in items:
                yield item

    return all_items()


async def _first(items: AsyncGenerator[T, None]) -> AsyncIterator[T]:
    async for item in items:
        yield item
        return


async def _lines(checked: AsyncIterator[Mapping[str, Any]]) -> AsyncGenerator[str, None]:
    has_begun = False
    try:
        async for each in _with_heartbeat(checked):
            yield "\n" if each is None else json.dumps(each) + "\n"
            has_begun = True
    except St2vError as error:
        if not has_begun:
            raise
        yield json.dumps(error_body(error.status, error.code, str(error), error.param)) + "\n"


async def _with_heartbeat(items: AsyncIterator[Mapping[str, Any]]) -> AsyncGenerator[Mapping[str, Any] | None, None]:
    """The items, and None whenever there is none for a while."""
    coming: asyncio.Task[Mapping[str, Any]] | None = None
    try:
        while True:
            coming = coming or asyncio.ensure_future(anext(items))
            if not (await asyncio.wait([coming], timeout=HEARTBEAT_S))[0]:
                yield None
                continue
            try:
                item = coming.result()
            except StopAsyncIteration:
                return
            finally:
                coming = None
            yield item
    finally:
        if coming is not None:
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)
        if isinstance(items, AsyncGenerator):
            await items.aclose()
