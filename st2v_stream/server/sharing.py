"""The REST side of showing a film to others: links that can be taken back, and HLS playlists."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Literal, TypedDict

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.websockets import WebSocket, WebSocketDisconnect

from st2v_stream.delivery.grants import GrantKey
from st2v_stream.delivery.hls import MEDIA_TYPE, Playlists, playlist_response
from st2v_stream.delivery.protocol import CloseCode
from st2v_stream.media.playlist import PlaylistType
from st2v_stream.server.openapi import Operation
from st2v_stream.server.requests import LinkBody, read_body, read_query
from st2v_stream.server.schema import Limits
from st2v_stream.types import Director, Rendition

MAX_SEQ = 2**31 - 1
CLOSE_S = 2.0


class Link(TypedDict):
    """A link without the owner's token; every address is a path on this server.

    url stands for the video: append /content, /thumbnails/0.jpg, /watch, ... id: by which it is taken back.
    """

    id: str
    object: Literal["video.link"]
    video_id: str
    url: str
    page_url: str
    playlist_url: str
    content_url: str
    expires_at: int


class LinksRevoked(TypedDict):
    """The link, or (id null) every link of the video made so far, opens nothing any more."""

    id: str | None
    object: Literal["video.link.revoked"]
    video_id: str
    revoked: bool


@dataclass(frozen=True, slots=True)
class PlaylistQuery:
    """GET /v1/videos/{id}/preview.m3u8: what index.m3u8 says; without it the answer is a redirect to the newest.

    _HLS_skip: only what is new since the list that the player has (rfc8216bis, 6.2.5.1); its name is the standard's.
    """

    edit: Annotated[int, Limits(minimum=0, maximum=MAX_SEQ)] | None = None
    type: PlaylistType = "event"
    _HLS_skip: Literal["YES", "v2"] | None = None


@dataclass(frozen=True)
class Sharing:
    """The handlers, and what they need."""

    director: Director
    grants: GrantKey
    playlists: Playlists

    def operations(self) -> list[Operation]:
        """Everything there is here."""
        video, one = "/v1/videos/{video_id}", "/v1/videos/{video_id}/links/{link_id}"
        return [
            Operation("POST", video + "/links", self.create_link, "A link that needs no token", Link, body=LinkBody),
            Operation("DELETE", video + "/links", self.revoke_links, "Take back every link made so far", LinksRevoked),
            Operation("DELETE", one, self.revoke_link, "Take one link back", LinksRevoked),
            Operation("GET", video + "/index.m3u8", self.get_master, "The film for HLS players", MEDIA_TYPE),
            Operation("GET", video + "/preview.m3u8", self.get_preview, "Its previews", MEDIA_TYPE, query=PlaylistQuery),
            Operation("GET", video + "/enhanced.m3u8", self.get_enhanced, "Enhanced", MEDIA_TYPE, query=PlaylistQuery),
        ]

    async def create_link(self, request: Request) -> Response:
        """POST /v1/videos/{id}/links."""
        body = await read_body(request, LinkBody)
        view = await self.director.get(request.path_params["video_id"])
        grant = self.grants.new(view.id, body.expires_in_s)
        signed = self.grants.sign(grant)
        url = f"/g/{signed}/v1/videos/{view.id}"
        link: Link = {
            "id": grant.link_id,
            "object": "video.link",
            "video_id": view.id,
            "url": url,
            "page_url": f"/#grant={signed}&/video/{view.id}",
            "playlist_url": f"{url}/index.m3u8",
            "content_url": f"{url}/content",
            "expires_at": grant.expires_at_s,
        }
        return JSONResponse(link)

    async def revoke_links(self, request: Request) -> Response:
        """DELETE /v1/videos/{id}/links."""
        view = await self.director.get(request.path_params["video_id"])
        await self.grants.revocations.revoke_all(view.id)
        return _revoked(view.id, None)

    async def revoke_link(self, request: Request) -> Response:
        """DELETE /v1/videos/{id}/links/{link_id}."""
        view = await self.director.get(request.path_params["video_id"])
        await self.grants.revocations.revoke(view.id, request.path_params["link_id"])
        return _revoked(view.id, request.path_params["link_id"])

    async def get_master(self, request: Request) -> Response:
        """GET /v1/videos/{id}/index.m3u8."""
        return await playlist_response(request, await self.playlists.master(request.path_params["video_id"]))

    async def get_preview(self, request: Request) -> Response:
        """GET /v1/videos/{id}/preview.m3u8."""
        return await self._media(request, "preview")

    async def get_enhanced(self, request: Request) -> Response:
        """GET /v1/videos/{id}/enhanced.m3u8."""
        return await self._media(request, "enhanced")

    async def _media(self, request: Request, rendition: Rendition) -> Response:
        query = read_query(request, PlaylistQuery)
        video_id = request.path_params["video_id"]
        delta = query._HLS_skip is not None
        playlist = await self.playlists.media(video_id, rendition, query.edit, query.type, delta=delta)
        return await playlist_response(request, playlist)


def _revoked(video_id: str, link_id: str | None) -> Response:
    answer: LinksRevoked = {"id": link_id, "object": "video.link.revoked", "video_id": video_id, "revoked": True}
    return JSONResponse(answer)


async def close_revoked(websocket: WebSocket) -> None:
    """Tell a viewer whose link was taken back, if its socket still takes anything."""
    with suppress(WebSocketDisconnect, RuntimeError, OSError, TimeoutError):
        async with asyncio.timeout(CLOSE_S):
            await websocket.close(CloseCode.NOT_ALLOWED, "this link was taken back")
