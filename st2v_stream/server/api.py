"""The REST API: OpenAI's videos API, and what a growing film needs besides. Handlers validate, ask the Director, answer.

`Api.operations` is the one table of what there is; the router and `/openapi.json` are both made from it.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import sys
import time
from contextlib import aclosing
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, NoReturn, TypedDict

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.types import Send
from starlette.websockets import WebSocket

from st2v_stream import __version__
from st2v_stream.config import Config
from st2v_stream.delivery.events import event_stream
from st2v_stream.delivery.fanout import Outbox
from st2v_stream.delivery.file import IMMUTABLE, REVALIDATE, MovieCache, content_disposition, is_current, movie_response
from st2v_stream.delivery.film import read_film
from st2v_stream.delivery.grants import GrantKey, items_while_allowed, while_allowed
from st2v_stream.delivery.hls import Playlists
from st2v_stream.delivery.protocol import CloseCode
from st2v_stream.delivery.resource import ChunkJson, VideoJson, chunk_json, encoded_size, video_json
from st2v_stream.delivery.websocket import WatchLimits, refuse, watch
from st2v_stream.errors import InvalidRequest, NotFound, St2vError
from st2v_stream.media.reference import read_reference
from st2v_stream.server.auth import Access
from st2v_stream.server.directing import DeletedList, Directing
from st2v_stream.server.metrics import Metrics
from st2v_stream.server.openapi import Operation, openapi_document
from st2v_stream.server.page import asyncapi_response
from st2v_stream.server.provenance import Provenance
from st2v_stream.server.requests import (
    MAX_CREATE_BYTES,
    ContentQuery,
    ContinueBody,
    CreateBody,
    EventsQuery,
    ListQuery,
    NoBody,
    ScreenplayBody,
    create_request,
    find_model,
    read_body,
    read_query,
    read_screenplay,
    reference_content,
)
from st2v_stream.server.sharing import Sharing, close_revoked
from st2v_stream.server.whep import WhepDoor
from st2v_stream.types import Director, ModelCard

_VIDEO_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
MAX_DECODERS = 2
"""Inputs decoded at the same time, each in a process of up to 2 GiB."""

_SHA256 = re.compile(r"[0-9a-f]{64}")


class NotImplementedYet(St2vError):
    """Part of OpenAI's API that this server does not have."""

    status = 501
    code = "not_implemented"


class VideoList(TypedDict):
    """One page of videos."""

    object: Literal["list"]
    data: list[VideoJson]
    first_id: str | None
    last_id: str | None
    has_more: bool


class VideoDeleted(TypedDict):
    """The video is gone."""

    id: str
    object: Literal["video.deleted"]
    deleted: bool


class ChunkList(TypedDict):
    """The chunks that exist: the newest revision of the best rendition each."""

    object: Literal["list"]
    data: list[ChunkJson]
    cursor: int


class ModelJson(TypedDict):
    """A model: OpenAI's fields, then its card. width, height: of the encoded picture; spec: of the model's frames."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    title: str
    version: str
    licence: str
    description: str
    fps: int
    width: int
    height: int
    max_frames: int | None
    spec: dict[str, Any]
    example_prompts: list[str]
    vocabulary: dict[str, list[str]] | None
    presets: dict[str, dict[str, float]]


class ModelList(TypedDict):
    """Every model that can be asked for."""

    object: Literal["list"]
    data: list[ModelJson]


class EventStreamResponse(StreamingResponse):
    """Server-sent events; closes its stream of events when the asker leaves."""

    media_type = "text/event-stream"

    async def stream_response(self, send: Send) -> None:
        """Send until the events end or the asker leaves."""
        async with aclosing(self.body_iterator):  # type: ignore[type-var]
            await super().stream_response(send)


@dataclass(frozen=True)
class Api:
    """The handlers, and what they need."""

    config: Config
    director: Director
    grants: GrantKey
    metrics: Metrics
    movies: MovieCache
    playlists: Playlists
    draining: asyncio.Event
    limits: WatchLimits
    whep: WhepDoor
    decoders: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(MAX_DECODERS))
    outbox: Outbox = field(default_factory=Outbox)

    def operations(self) -> list[Operation]:
        """Everything the API can do."""
        video, directing = "/v1/videos/{video_id}", Directing(self.config, self.director)
        return [
            Operation("POST", "/v1/videos", self.create_video, "Make a video", VideoJson, body=CreateBody),
            Operation("GET", "/v1/videos", self.list_videos, "List videos", VideoList, query=ListQuery),
            Operation("GET", "/v1/videos/deleted", directing.list_deleted, "Deleted videos that can be had back", DeletedList),
            Operation("POST", "/v1/videos/edits", self.edit_video, "Not available: answers 501"),
            Operation(
                "POST",
                "/v1/videos/screenplays",
                self.create_from_screenplay,
                "Make the film that a screenplay writes down",
                VideoJson,
                body=ScreenplayBody,
            ),
            Operation("POST", "/v1/videos/characters", self.create_character, "Not available: answers 501"),
            Operation("GET", "/v1/videos/characters/{character_id}", self.get_character, "Not available: answers 501"),
            Operation("GET", video, self.get_video, "One video", VideoJson),
            Operation("DELETE", video, self.delete_video, "Delete a video; for a while it can be had back", VideoDeleted),
            Operation("GET", video + "/content", self.get_content, "What exists as one MP4", "video/mp4", query=ContentQuery),
            Operation("POST", video + "/stop", self.stop_video, "End it within one denoising step", VideoJson, body=NoBody),
            Operation("POST", video + "/continue", self.continue_video, "Go on", VideoJson, body=ContinueBody),
            *directing.operations(),
            *Provenance(self.director).operations(),
            *Sharing(self.director, self.grants, self.playlists).operations(),
            *self.whep.operations(),
            Operation(
                "GET",
                video + "/events",
                self.get_events,
                "Follow it as server-sent events",
                "text/event-stream",
                query=EventsQuery,
            ),
            Operation("GET", video + "/chunks", self.list_chunks, "The chunks that exist", ChunkList),
            Operation("GET", video + "/thumbnails/{index:int}.jpg", self.get_thumbnail, "First frame of a chunk", "image/jpeg"),
            Operation("GET", video + "/segments/{hash}.m4s", self.get_segment, "An encoded chunk", "video/iso.segment"),
            Operation("GET", video + "/init/{hash}.mp4", self.get_init, "The init segment that segments need", "video/mp4"),
            Operation("GET", "/v1/models", self.list_models, "List models", ModelList),
            Operation("GET", "/v1/models/{model}", self.get_model, "One model", ModelJson),
            Operation("GET", "/v1/system", self.get_system, "Device, model state, running videos, viewers", dict[str, Any]),
            Operation("GET", "/metrics", self.get_metrics, "Prometheus metrics", "text/plain"),
            Operation("GET", "/openapi.json", self.get_openapi, "This document", dict[str, Any], open=True),
            Operation("GET", "/asyncapi.yaml", self.get_asyncapi, "The WebSocket protocol", "application/yaml", open=True),
            Operation("GET", "/healthz", self.get_health, "200 while the process answers", open=True),
            Operation("GET", "/readyz", self.get_readiness, "200 when videos can be made, else 503", open=True),
        ]

    # ------------------------------------------------------------ videos

    async def create_video(self, request: Request) -> Response:
        """POST /v1/videos."""
        return await self._create(await read_body(request, CreateBody, MAX_CREATE_BYTES))

    async def create_from_screenplay(self, request: Request) -> Response:
        """POST /v1/videos/screenplays."""
        return await self._create(await read_screenplay(request))

    async def _create(self, body: CreateBody) -> Response:
        wanted = create_request(body, self.config, self.director.models())
        content = reference_content(body.input_reference)
        if content is not None:
            card = find_model(wanted.model or self.config.model, self.director.models())
            async with self.decoders:
                reference = await asyncio.to_thread(read_reference, content, card.spec)
            wanted = replace(wanted, reference=reference)
        return JSONResponse(video_json(await self.director.create(wanted)))

    async def list_videos(self, request: Request) -> Response:
        """GET /v1/videos."""
        query = read_query(request, ListQuery)
        views, has_more = await self.director.list(after=query.after, limit=query.limit, order=query.order, search=query.search)
        page: VideoList = {
            "object": "list",
            "data": [video_json(view) for view in views],
            "first_id": views[0].id if views else None,
            "last_id": views[-1].id if views else None,
            "has_more": has_more,
        }
        return JSONResponse(page)

    async def get_video(self, request: Request) -> Response:
        """GET /v1/videos/{id}."""
        return JSONResponse(video_json(await self.director.get(_video_id(request))))

    async def delete_video(self, request: Request) -> Response:
        """DELETE /v1/videos/{id}."""
        video_id = _video_id(request)
        await self.director.delete(video_id)
        self.playlists.forget(video_id)
        self.movies.forget(video_id)
        deleted: VideoDeleted = {"id": video_id, "object": "video.deleted", "deleted": True}
        return JSONResponse(deleted)

    async def stop_video(self, request: Request) -> Response:
        """POST /v1/videos/{id}/stop."""
        await read_body(request, NoBody)
        return JSONResponse(video_json(await self.director.stop(_video_id(request))))

    async def continue_video(self, request: Request) -> Response:
        """POST /v1/videos/{id}/continue."""
        body, video_id = await read_body(request, ContinueBody), _video_id(request)
        view = await self.director.continue_(video_id, body.num_frames)
        if body.enhance is not None:
            view = await self.director.edit(video_id, enhance=body.enhance)
        return JSONResponse(video_json(view))

    async def edit_video(self, request: Request) -> NoReturn:
        """POST /v1/videos/edits."""
        raise NotImplementedYet("this server does not edit videos")

    async def create_character(self, request: Request) -> NoReturn:
        """POST /v1/videos/characters."""
        raise NotImplementedYet("this server has no characters")

    async def get_character(self, request: Request) -> NoReturn:
        """GET /v1/videos/characters/{id}."""
        raise NotImplementedYet("this server has no characters")

    # ------------------------------------------------------------ what they are made of

    async def get_content(self, request: Request) -> Response:
        """GET /v1/videos/{id}/content."""
        video_id = _video_id(request)
        query = read_query(request, ContentQuery)
        if query.variant == "thumbnail":
            return await self._thumbnail(request, video_id, 0)
        if query.variant == "spritesheet":
            return await self._spritesheet(request, video_id)
        film = await read_film(self.director, video_id, query.rendition)
        return await movie_response(request, film, self.movies)

    async def get_events(self, request: Request) -> Response:
        """GET /v1/videos/{id}/events."""
        query = read_query(request, EventsQuery)
        view = await self.director.get(_video_id(request))
        if request.method == "HEAD":
            return Response(media_type="text/event-stream")
        cursor = _last_event_id(request, query.cursor)
        if cursor > view.seq:
            raise InvalidRequest(
                "the cursor is ahead of the video", expected=f"at most {view.seq}", received=cursor, param="cursor"
            )
        access = _access(request)
        events = event_stream(self.director, view.id, cursor, self.draining, allowed_for_s=access.remaining_s)
        return EventStreamResponse(items_while_allowed(events, self.grants.revocations, access.grant))

    async def list_chunks(self, request: Request) -> Response:
        """GET /v1/videos/{id}/chunks."""
        snapshot = await self.director.snapshot(_video_id(request))
        chunks = [chunk_json(entry.seq, entry.segment) for entry in snapshot.entries if entry.segment is not None]
        chunks.sort(key=lambda chunk: chunk["index"])
        page: ChunkList = {"object": "list", "data": chunks, "cursor": snapshot.seq}
        return JSONResponse(page)

    async def get_thumbnail(self, request: Request) -> Response:
        """GET /v1/videos/{id}/thumbnails/{index}.jpg."""
        return await self._thumbnail(request, _video_id(request), request.path_params["index"])

    async def get_segment(self, request: Request) -> Response:
        """GET /v1/videos/{id}/segments/{hash}.m4s."""
        return await self._blob(request, "video/iso.segment")

    async def get_init(self, request: Request) -> Response:
        """GET /v1/videos/{id}/init/{hash}.mp4."""
        return await self._blob(request, "video/mp4")

    async def _blob(self, request: Request, media_type: str) -> Response:
        video_id, sha256 = _video_id(request), request.path_params["hash"]
        if _SHA256.fullmatch(sha256) is None:
            raise NotFound("no such segment", received=sha256)
        await self.playlists.require(video_id, sha256)
        headers = {"ETag": f'"{sha256}"', "Cache-Control": IMMUTABLE}
        if is_current(request, headers["ETag"]):
            return Response(status_code=304, headers=headers)
        return Response(await self.director.read_blob(sha256), media_type=media_type, headers=headers)

    async def _thumbnail(self, request: Request, video_id: str, index: int) -> Response:
        snapshot = await self.director.snapshot(video_id)
        hashes = [entry.segment.hash for entry in snapshot.entries if entry.segment is not None and entry.index == index]
        etag = f'"{hashes[0]}"' if hashes else '""'  # without a segment the Director says what is missing
        headers = {
            "ETag": etag,
            "Cache-Control": REVALIDATE,
            "Content-Disposition": content_disposition(f"{video_id} {index}", "jpg"),
        }
        if hashes and is_current(request, etag):
            return Response(status_code=304, headers=headers)
        jpeg = await self.director.thumbnail(video_id, index)
        return Response(jpeg, media_type="image/jpeg", headers=headers)

    async def _spritesheet(self, request: Request, video_id: str) -> Response:
        snapshot = await self.director.snapshot(video_id)
        hashes = [entry.segment.hash for entry in snapshot.entries if entry.segment is not None]
        etag = f'"{hashlib.sha256("".join(hashes).encode()).hexdigest()}"'
        headers = {
            "ETag": etag,
            "Cache-Control": REVALIDATE,
            "Content-Disposition": content_disposition(f"{video_id} sheet", "jpg"),
        }
        if hashes and is_current(request, etag):
            return Response(status_code=304, headers=headers)
        return Response(await self.director.spritesheet(video_id), media_type="image/jpeg", headers=headers)

    async def watch_video(self, websocket: WebSocket) -> None:
        """WS /v1/videos/{id}/watch."""
        video_id: str = websocket.path_params["video_id"]
        if _VIDEO_ID.fullmatch(video_id) is None:
            await refuse(websocket, CloseCode.UNKNOWN_VIDEO, "no such video")
        elif self.metrics.viewers >= self.config.max_viewers:
            await refuse(websocket, CloseCode.TRY_LATER, f"{self.metrics.viewers} viewers are here already")
        else:
            access: Access = websocket.state.access
            allowed_for_s = access.remaining_s
            work = watch(
                websocket, self.director, video_id, self.metrics,
                limits=self.limits, allowed_for_s=allowed_for_s, outbox=self.outbox,
            )  # fmt: skip
            if not await while_allowed(work, self.grants.revocations, access.grant):
                await close_revoked(websocket)

    # ------------------------------------------------------------ the server itself

    async def list_models(self, request: Request) -> Response:
        """GET /v1/models."""
        models: ModelList = {"object": "list", "data": [model_json(card) for card in self.director.models()]}
        return JSONResponse(models)

    async def get_model(self, request: Request) -> Response:
        """GET /v1/models/{model}."""
        return JSONResponse(model_json(find_model(request.path_params["model"], self.director.models())))

    async def get_system(self, request: Request) -> Response:
        """GET /v1/system."""
        system = {
            "version": __version__,
            "python": sys.version.split()[0],
            "uptime_s": round(time.time() - self.metrics.started_at_s, 3),
            "ready": self._is_ready(),
            "viewers": self.metrics.viewers,
            **self.director.system(),
        }
        return JSONResponse(system)

    async def get_metrics(self, request: Request) -> Response:
        """GET /metrics."""
        return PlainTextResponse(self.metrics.render(self.director.system()), media_type="text/plain; version=0.0.4")

    async def get_openapi(self, request: Request) -> Response:
        """GET /openapi.json."""
        return JSONResponse(openapi_document(self.operations()))

    async def get_asyncapi(self, request: Request) -> Response:
        """GET /asyncapi.yaml."""
        return asyncapi_response(request)

    async def get_health(self, request: Request) -> Response:
        """GET /healthz."""
        return Response()

    async def get_readiness(self, request: Request) -> Response:
        """GET /readyz."""
        return Response(status_code=200 if self._is_ready() else 503)

    def _is_ready(self) -> bool:
        return self.director.ready and not self.draining.is_set()


def model_json(card: ModelCard) -> ModelJson:
    """A model as other programs see it."""
    width, height = encoded_size(card.spec.width, card.spec.height)
    return {
        "id": card.name,
        "object": "model",
        "created": 0,
        "owned_by": "st2v_stream",
        "title": card.title,
        "version": card.version,
        "licence": card.licence,
        "description": card.description,
        "fps": card.spec.fps,
        "width": width,
        "height": height,
        "max_frames": card.spec.max_frames,
        "spec": asdict(card.spec),
        "example_prompts": list(card.example_prompts),
        "vocabulary": None if card.vocabulary is None else {group: list(words) for group, words in card.vocabulary.items()},
        "presets": {name: dict(values) for name, values in card.presets.items()},
    }


def _video_id(request: Request) -> str:
    video_id: str = request.path_params["video_id"]
    if _VIDEO_ID.fullmatch(video_id) is None:
        raise NotFound("no such video", received=video_id)
    return video_id


def _access(request: Request) -> Access:
    access: Access = request.state.access
    return access


def _last_event_id(request: Request, otherwise: int) -> int:
    last = request.headers.get("last-event-id", "")
    return int(last) if last.isascii() and last.isdigit() and len(last) <= 10 else otherwise
