"""`POST /v1/videos/{id}/whep`: a growing film by WebRTC, within a tenth of a second of the newest frame (docs/webrtc.md).

One task per viewer owns its connection and ends it: when the viewer says DELETE or is gone (ICE notices within 36 s), when it
never connects, when its grant runs out or is taken back, when the film has ended or is deleted, when the server stops. aiortc
is an extra and loaded with the first viewer; without it the route says how to get it.

Source: draft-ietf-wish-whep-03.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Coroutine, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import TYPE_CHECKING, Any, Literal

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from st2v_stream.config import Config
from st2v_stream.delivery.grants import Grant, Revocations
from st2v_stream.delivery.webrtc_gop import GopShelf
from st2v_stream.delivery.webrtc_offer import MAX_OFFER_BYTES, Network, Offer, TooLarge, read_offer
from st2v_stream.delivery.webrtc_playback import Playback, Seat, open_enhanced, open_live
from st2v_stream.delivery.websocket import ViewerMetrics
from st2v_stream.errors import Forbidden, InvalidRequest, NotFound, St2vError
from st2v_stream.media.segment import Profile
from st2v_stream.types import Director, Rendition, VideoView

if TYPE_CHECKING:
    from st2v_stream.delivery.webrtc_peer import IceSettings, Peer

log = logging.getLogger(__name__)

SDP = "application/sdp"
CONNECT_S = 15.0
"""A viewer that has its answer and never connects is let go."""

OFFER_S = 10.0
"""An offer that has not arrived by then will not; meanwhile it holds one of the places."""

_PROFILES: dict[Rendition, Profile] = {"preview": "baseline", "enhanced": "high"}


class WhepRefusal(St2vError):
    """Why there is no connection; `headers` lead to what there is instead."""

    def __init__(self, message: str, *, headers: Mapping[str, str] | None = None, **said: Any) -> None:
        super().__init__(message, **said)
        self.headers = dict(headers or {})


class FilmEnded(WhepRefusal):
    """A film that is done is played from its file."""

    status = 409
    code = "film_ended"


class NoCommonCodec(WhepRefusal):
    """The viewer decodes no H.264 that this film has."""

    status = 415
    code = "no_common_codec"


class TooManyViewers(WhepRefusal):
    """There are as many connections as are allowed."""

    status = 503
    code = "too_many_viewers"


class NotInstalled(WhepRefusal):
    """This server has no WebRTC."""

    status = 501
    code = "webrtc_not_installed"


@dataclass(frozen=True, slots=True)
class WhepQuery:
    """POST /v1/videos/{id}/whep: preview is live; enhanced plays what is enhanced from second t on."""

    rendition: Literal["preview", "enhanced"] = "preview"
    t: float | None = None


@dataclass(slots=True, eq=False)
class _Showing:
    """A playback that runs, and how many watch it."""

    playback: Playback
    task: asyncio.Task[None]
    viewers: int = 0


@dataclass(slots=True, eq=False)
class _Session:
    """One viewer's connection. holder: the grant it was opened with, None = the owner."""

    video_id: str
    holder: Grant | None
    peer: Peer
    showing: _Showing
    id: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    leaving: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None


class Whep:
    """All WebRTC viewers of this process."""

    def __init__(self, config: Config, director: Director, metrics: ViewerMetrics, revocations: Revocations) -> None:
        self._config = config
        self._director = director
        self._metrics = metrics
        self._revocations = revocations
        self._networks: tuple[Network, ...] = tuple(ip_network(text) for text in config.ice_networks)
        self._gops = GopShelf(director)
        self._sessions: dict[str, _Session] = {}
        self._live: dict[str, _Showing] = {}
        self._opening = 0

    # ------------------------------------------------------------ the three requests

    def describe(self) -> Response:
        """OPTIONS: what is taken here, and the ICE servers. Raises `NotInstalled`."""
        _load_peer()
        response = Response(status_code=204, headers={"Allow": "OPTIONS, POST", "Accept-Post": SDP})
        self._add_ice_links(response)
        return response

    async def open(self, request: Request, query: WhepQuery, holder: Grant | None, allowed_for_s: float | None) -> Response:
        """POST: an offer in, an answer out, and its address. Raises `InvalidRequest`, `WhepRefusal`, `NotFound`."""
        _load_peer()
        limit = self._config.max_webrtc_viewers
        if self._opening + len(self._sessions) >= limit:
            raise TooManyViewers("too many viewers by WebRTC", expected=f"at most {limit}", headers={"Retry-After": "10"})
        self._opening += 1
        try:
            view = await self._running_film(request, request.path_params["video_id"])
            offer = read_offer(await _read_offer_body(request), self._networks)
            session, answer = await self._connect(view, offer, query, holder)
            self._sessions[session.id] = session
        finally:
            self._opening -= 1
        session.task = asyncio.create_task(self._attend(session, allowed_for_s))
        response = Response(answer, 201, {"Location": f"{request.url.path}/{session.id}"}, SDP)
        self._add_ice_links(response)
        return response

    async def close(self, video_id: str, session_id: str, holder: Grant | None) -> Response:
        """DELETE: end it. Raises `NotFound`, `Forbidden` for a grant that did not open it."""
        session = self._sessions.get(session_id)
        if session is None or session.video_id != video_id:
            raise NotFound("no such connection", received=session_id)
        if holder is not None and holder != session.holder:
            raise Forbidden("another link opened this connection", expected="the link that opened it, or the owner's token")
        await self._end(session)
        return Response()

    async def aclose(self) -> None:
        """End everything."""
        await asyncio.gather(*(self._end(session) for session in list(self._sessions.values())))

    # ------------------------------------------------------------ opening

    async def _running_film(self, request: Request, video_id: str) -> VideoView:
        view = await self._director.get(video_id)
        if view.ended_by is not None:
            playlist = request.url.path.removesuffix("/whep") + "/index.m3u8"
            raise FilmEnded(
                "this film has ended and is not live any more",
                expected=f"GET {playlist}",
                received=f"state {view.state}",
                headers={"Link": f'<{playlist}>; rel="alternate"; type="application/vnd.apple.mpegurl"'},
            )
        return view

    async def _connect(self, view: VideoView, offer: Offer, query: WhepQuery, holder: Grant | None) -> tuple[_Session, str]:
        profile = _PROFILES[query.rendition]
        if "baseline" not in offer.h264 and profile not in offer.h264:
            raise _no_common_codec(offer)
        showing = await self._take_showing(view, query)
        peer: Peer | None = None
        try:
            peer = _load_peer()(Seat(showing.playback), _ice_settings(self._config))
            answer = await peer.answer(offer, profile)
            if answer is None:
                raise _no_common_codec(offer)
        except BaseException:
            if peer is not None:
                await _close_peer(peer)
            await self._leave(showing)
            raise
        if offer.refused_candidates:
            log.info("a viewer of %s offered %d addresses that are not believed", view.id, offer.refused_candidates)
        return _Session(view.id, holder, peer, showing), answer

    async def _take_showing(self, view: VideoView, query: WhepQuery) -> _Showing:
        if query.rendition == "enhanced":
            playback = await open_enhanced(self._director, view, self._gops, _start_s(query))
            showing = _Showing(playback, asyncio.create_task(playback.run()))
        else:
            _require_no_start(query)
            showing = await self._live_showing(view)
        showing.viewers += 1
        return showing

    async def _live_showing(self, view: VideoView) -> _Showing:
        """The one that all live viewers of the film share."""
        known = self._live.get(view.id)
        if known is None or known.playback.has_ended:
            playback = await open_live(self._director, view, self._gops)
            known = self._live.get(view.id)  # somebody else may have been faster
            if known is None or known.playback.has_ended:
                known = self._live[view.id] = _Showing(playback, asyncio.create_task(playback.run()))
        return known

    # ------------------------------------------------------------ attending and ending

    async def _attend(self, session: _Session, allowed_for_s: float | None) -> None:
        """Until one of the reasons to end comes true; then clean up."""
        self._metrics.viewer_joined()
        peer = session.peer
        try:
            async with asyncio.timeout(allowed_for_s):
                await _first(peer.connected.wait(), *self._reasons_to_end(session), timeout_s=CONNECT_S)
                if peer.connected.is_set():
                    await _first(asyncio.shield(session.showing.task), *self._reasons_to_end(session))
        except TimeoutError:
            log.info("a link to %s has expired while somebody watched", session.video_id)
        finally:
            self._sessions.pop(session.id, None)
            self._metrics.viewer_left()
            await self._leave(session.showing)
            await _close_peer(peer)

    def _reasons_to_end(self, session: _Session) -> Iterator[Coroutine[Any, Any, Any]]:
        yield session.peer.gone.wait()
        yield session.leaving.wait()
        if session.holder is not None:
            yield self._revocations.until_revoked(session.holder)

    async def _end(self, session: _Session) -> None:
        session.leaving.set()
        if session.task is not None:
            await asyncio.wait([session.task])

    async def _leave(self, showing: _Showing) -> None:
        showing.viewers -= 1
        if showing.viewers == 0:
            for video_id in [video_id for video_id, live in self._live.items() if live is showing]:
                del self._live[video_id]
            showing.task.cancel()
            await asyncio.wait([showing.task])

    def _add_ice_links(self, response: Response) -> None:
        for link in ice_links(self._config):
            response.headers.append("Link", link)


def ice_links(config: Config) -> list[str]:
    """The ICE servers as Link headers, as WHEP has it."""
    links = []
    for server in config.ice_servers:
        link = f'<{server}>; rel="ice-server"'
        if server.startswith("turn") and config.ice_username is not None:
            link += f'; username="{_quoted(config.ice_username)}"; credential="{_quoted(config.ice_credential or "")}"'
            link += '; credential-type="password"'
        links.append(link)
    return links


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def _load_peer() -> type[Peer]:
    try:
        from st2v_stream.delivery.webrtc_peer import Peer
    except ImportError as error:
        raise NotInstalled(
            "this server has no WebRTC", expected="pip install 'st2v_stream[webrtc]' on the server", received=str(error)
        ) from error
    return Peer


def _ice_settings(config: Config) -> IceSettings:
    from st2v_stream.delivery.webrtc_peer import IceSettings

    return IceSettings(config.ice_servers, config.ice_username, config.ice_credential, config.ice_addresses)


def _no_common_codec(offer: Offer) -> NoCommonCodec:
    return NoCommonCodec(
        "this viewer decodes no H.264 by WebRTC; the film can be watched over /watch (Media Source) or as a file",
        expected="H264 with packetization-mode=1",
        received=", ".join(dict.fromkeys(offer.codecs)) or "no codec",
    )


def _start_s(query: WhepQuery) -> float:
    start_s = query.t or 0.0
    if not 0 <= start_s < float("inf"):
        raise InvalidRequest("t is not usable", expected="seconds from the film's beginning", received=query.t, param="t")
    return start_s


def _require_no_start(query: WhepQuery) -> None:
    if query.t is not None:
        raise InvalidRequest("the preview is live", expected="t with rendition=enhanced only", received=query.t, param="t")


async def _read_offer_body(request: Request) -> bytes:
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != SDP:
        raise InvalidRequest("this body cannot be read", expected=SDP, received=content_type or "no content type")
    body = bytearray()
    try:
        async with asyncio.timeout(OFFER_S):
            async for piece in request.stream():
                body += piece
                if len(body) > MAX_OFFER_BYTES:
                    raise TooLarge("the offer is too large", expected=f"at most {MAX_OFFER_BYTES} bytes", received="more")
    except (ClientDisconnect, TimeoutError):
        expected = f"a whole body within {OFFER_S:g} s"
        raise InvalidRequest("the offer has not arrived", expected=expected, received="a part of it") from None
    return bytes(body)


async def _first(*waits: Coroutine[Any, Any, Any] | asyncio.Future[Any], timeout_s: float | None = None) -> None:
    """Until one of them is done, or `timeout_s` have passed; the others are cancelled."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _close_peer(peer: Peer) -> None:
    try:
        await peer.aclose()
    except TimeoutError:
        log.warning("a WebRTC connection took too long to close and was cut")
