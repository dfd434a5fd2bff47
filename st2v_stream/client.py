"""A server's films from Python: typed, async, without torch (docs/client.md).

    async with Client("http://127.0.0.1:8000") as client:
        film = await client.create("a red boat drifts left over the sea")
        async for chunk in client.watch(film["id"]):
            ...

`watch` reconnects by its cursor, so a cut connection loses no chunk and shows none twice.
"""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import os
import random
import urllib.error
import urllib.request
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, TypeAlias, TypedDict
from urllib.parse import quote, urlencode
from uuid import uuid4

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.typing import Subprotocol

from st2v_stream import errors
from st2v_stream.chunk import Frames
from st2v_stream.config import read_config
from st2v_stream.delivery.protocol import RENDITIONS, SUBPROTOCOL, BinaryHeader, CloseCode, Kind
from st2v_stream.errors import Forbidden, InvalidRequest, NotFound, NotReady, St2vError
from st2v_stream.types import EnhancePolicy, Rendition
from st2v_stream.watch import DEFAULT_SERVER, FIRST_RETRY_S, LAST_RETRY_S, MAX_MESSAGE_BYTES, Address, find_address, is_of_now

if TYPE_CHECKING:
    from st2v_stream.delivery.resource import VideoJson
    from st2v_stream.server.api import ModelJson
    from st2v_stream.server.directing import CueAdded, CueJson, CueTakenBack, VideoRedone
    from st2v_stream.server.sharing import Link
    from st2v_stream.videos.provenance import ManifestJson
    from st2v_stream.videos.screenplay import ScreenplayJson
    from st2v_stream.videos.verification import CheckedChunkJson

OnEvent: TypeAlias = Callable[[Mapping[str, Any]], None]
"""Called with every text message of `st2v.v1`: state, cue, reset, progress and so on (docs/protocol.md)."""

AS_PLANNED: Literal["as planned"] = "as planned"
TIMEOUT_S = 30.0
_PIECE_BYTES = 2**20
_LINE_BYTES = 2**20


class CueRequest(TypedDict, total=False):
    """What changes from a moment, or from a chunk on."""

    from_s: float
    from_index: int
    prompt: str
    negative_prompt: str
    guidance_scale: float
    num_inference_steps: int
    seed: int
    transition_chunks: int


@dataclass(frozen=True, slots=True)
class WatchedChunk:
    """A chunk as viewers get it. start, frames: its place in the film. seq: the cursor after it.

    A chunk that was made anew comes again with the same index: after a reset (redo), or with a higher revision.
    """

    index: int
    start: int
    frames: int
    rendition: Rendition
    revision: int
    seq: int
    init: bytes = field(repr=False)
    """ftyp and moov: what a decoder needs first."""
    data: bytes = field(repr=False)
    """moof and mdat; `init + data` is a playable MP4."""

    def decode(self) -> Frames:
        """The pictures, (T, H, W, 3) uint8, after the encoder (blocking)."""
        from st2v_stream.media.decode import decode_frames

        return decode_frames(self.init, [self.data])


class Client:
    """One server, as its owner. Methods raise what the server says: `NotFound`, `Conflict`, `InvalidRequest`, `NotReady`..."""

    def __init__(self, server: str | None = None, token: str | None = None) -> None:
        """server: its address (`DEFAULT_SERVER`), or the link that `st2v serve` prints.

        token: by default what ST2V_TOKEN or st2v.toml says, and of a server on this machine its data directory.
        """
        link = server or DEFAULT_SERVER
        found = find_address(link if "#" in link else "", link, read_config({}))
        self._address = Address(found.server, token=found.token if token is None else token)

    async def __aenter__(self) -> Client:
        """Nothing is opened before it is needed."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Nothing stays open."""

    # ------------------------------------------------------------ the director's verbs

    async def create(
        self,
        prompt: str,
        *,
        num_frames: int | None = 120,
        model: str | None = None,
        seed: int | None = None,
        preset: str | None = None,
        negative_prompt: str | None = None,
        guidance_scale: float | None = None,
        num_inference_steps: int | None = None,
        cues: Iterable[CueRequest] = (),
        input_reference: bytes | None = None,
        title: str | None = None,
        when_unwatched: str | int | None = None,
        enhance: EnhancePolicy | None = None,
    ) -> VideoJson:
        """A new film, being made from now on; num_frames None = without end. input_reference: an image or a clip."""
        fields = _given(
            model=model,
            seed=seed,
            preset=preset,
            negative_prompt=negative_prompt,
            guidance_scale=guidance_scale,
            num_inference_steps=num_inference_steps,
            cues=list(cues) or None,
            input_reference=None if input_reference is None else _data_url(input_reference),
            title=title,
            when_unwatched=when_unwatched,
            enhance=enhance,
        )
        answer: VideoJson = await self._post("/v1/videos", {"prompt": prompt, "num_frames": num_frames, **fields})
        return answer

    async def replay(self, screenplay: ScreenplayJson | Mapping[str, Any]) -> VideoJson:
        """The film that a screenplay writes down, made anew."""
        answer: VideoJson = await self._post("/v1/videos/screenplays", screenplay)
        return answer

    async def stop(self, video_id: str) -> VideoJson:
        """End it within one denoising step; everything made is kept."""
        answer: VideoJson = await self._post(f"{_path(video_id)}/stop", {})
        return answer

    async def continue_(self, video_id: str, num_frames: int | None) -> VideoJson:
        """Go on by so many frames; None = without end."""
        answer: VideoJson = await self._post(f"{_path(video_id)}/continue", {"num_frames": num_frames})
        return answer

    async def cue(
        self,
        video_id: str,
        *,
        from_s: float | None = None,
        from_index: int | None = None,
        prompt: str | None = None,
        negative_prompt: str | None = None,
        guidance_scale: float | None = None,
        num_inference_steps: int | None = None,
        seed: int | None = None,
        transition_chunks: int = 0,
    ) -> CueAdded:
        """Change what is made from then on; `from_index` of the answer is the first chunk it changes, which is not begun."""
        fields = _given(
            from_s=from_s,
            from_index=from_index,
            prompt=prompt,
            negative_prompt=negative_prompt,
            guidance_scale=guidance_scale,
            num_inference_steps=num_inference_steps,
            seed=seed,
        )
        answer: CueAdded = await self._post(f"{_path(video_id)}/cues", {**fields, "transition_chunks": transition_chunks})
        return answer

    async def cues(self, video_id: str) -> list[CueJson]:
        """Those that hold, in the order they were given; `seq` names one."""
        cues: list[CueJson] = (await self._get(f"{_path(video_id)}/cues"))["data"]
        return cues

    async def take_back_cue(self, video_id: str, seq: int) -> CueTakenBack:
        """Undo a cue whose first chunk is not begun; seq: as `cue` answered it. Raises `Conflict` once it is begun."""
        answer: CueTakenBack = await self._ask("DELETE", f"{_path(video_id)}/cues/{seq}", None)
        return answer

    async def branch(
        self,
        video_id: str,
        *,
        from_index: int | None = None,
        prompt: str | None = None,
        negative_prompt: str | None = None,
        guidance_scale: float | None = None,
        num_inference_steps: int | None = None,
        seed: int | None = None,
        transition_chunks: int = 0,
        num_frames: int | Literal["as planned"] | None = AS_PLANNED,
        model: str | None = None,
        title: str | None = None,
        or_new_film: bool = False,
    ) -> VideoJson:
        """A new film that shares the chunks before `from_index` (None: all of them) with this one."""
        fields = _given(
            from_index=from_index,
            prompt=prompt,
            negative_prompt=negative_prompt,
            guidance_scale=guidance_scale,
            num_inference_steps=num_inference_steps,
            seed=seed,
            model=model,
            title=title,
        )
        if num_frames != AS_PLANNED:
            fields["num_frames"] = num_frames
        fields |= {"transition_chunks": transition_chunks, "or_new_film": or_new_film}
        answer: VideoJson = await self._post(f"{_path(video_id)}/branch", fields)
        return answer

    async def redo(self, video_id: str, from_index: int, seed: int | None = None) -> VideoRedone:
        """Make it anew from a chunk on, with another seed (drawn by default); `kept` holds the film as it was."""
        answer: VideoRedone = await self._post(f"{_path(video_id)}/redo", {"from_index": from_index, **_given(seed=seed)})
        return answer

    # ------------------------------------------------------------ the library

    async def get(self, video_id: str) -> VideoJson:
        """The film as it is."""
        answer: VideoJson = await self._get(_path(video_id))
        return answer

    async def films(self, search: str = "") -> AsyncGenerator[VideoJson, None]:
        """Every film, the newest first; search: words that its title, a prompt or its id contains."""
        after: dict[str, str] = {}
        while True:
            page = await self._get("/v1/videos?" + urlencode({"limit": "100", "search": search, **after}))
            for film in page["data"]:
                yield film
            if not page["has_more"]:
                return
            after = {"after": page["last_id"]}

    async def enhance(
        self,
        video_id: str,
        *,
        from_index: int | None = None,
        to_index: int | None = None,
        from_s: float | None = None,
        to_s: float | None = None,
    ) -> VideoJson:
        """Make all that is not sharp sharp, or the chunks of a range (its end not included); follow it with `watch`.

        Raises `Conflict` where the server has no enhancer. `edit(id, enhance="none")` takes it back.
        """
        fields = _given(from_index=from_index, to_index=to_index, from_s=from_s, to_s=to_s)
        answer: VideoJson = await self._post(f"{_path(video_id)}/enhance", fields)
        return answer

    async def edit(
        self,
        video_id: str,
        *,
        title: str | None = None,
        when_unwatched: str | int | None = None,
        enhance: EnhancePolicy | None = None,
    ) -> VideoJson:
        """Another title, patience with nobody watching (run, or seconds), or policy of what is made sharp when."""
        fields = _given(title=title, when_unwatched=when_unwatched, enhance=enhance)
        answer: VideoJson = await self._ask("PATCH", _path(video_id), fields)
        return answer

    async def delete(self, video_id: str) -> None:
        """It is not found from now on; `undelete` has it back for a day."""
        await self._ask("DELETE", _path(video_id), None)

    async def undelete(self, video_id: str) -> VideoJson:
        """Have a deleted film back."""
        answer: VideoJson = await self._post(f"{_path(video_id)}/undelete", {})
        return answer

    async def screenplay(self, video_id: str) -> ScreenplayJson:
        """The film written down; `replay` makes it again."""
        answer: ScreenplayJson = await self._get(f"{_path(video_id)}/screenplay")
        return answer

    async def manifest(self, video_id: str) -> ManifestJson:
        """How every chunk of it was made (docs/provenance.md)."""
        answer: ManifestJson = await self._get(f"{_path(video_id)}/manifest")
        return answer

    async def export(self, video_id: str, path: Path | str) -> Path:
        """The film in one file at `path`, to carry it elsewhere: whole, or not there at all. Raises OSError for the file."""
        return await asyncio.to_thread(self._save, f"{_path(video_id)}/bundle", Path(path))

    async def import_(self, path: Path | str) -> VideoJson:
        """Take in a film that `export` wrote elsewhere: all of it, or nothing. Raises OSError for the file."""
        answer: VideoJson = await asyncio.to_thread(self._send, "/v1/videos/bundles", Path(path))
        return answer

    async def link(self, video_id: str, expires_in_s: int = 86_400) -> Link:
        """Addresses on the server that show this one film to whoever has them, without the token (docs/watching.md)."""
        answer: Link = await self._post(f"{_path(video_id)}/links", {"expires_in_s": expires_in_s})
        return answer

    async def models(self) -> list[ModelJson]:
        """Every model that can be asked for."""
        models: list[ModelJson] = (await self._get("/v1/models"))["data"]
        return models

    async def verify(self, video_id: str, first: int = 0, last: int | None = None) -> AsyncGenerator[CheckedChunkJson, None]:
        """Have the server make chunks `first` to `last` (None = to the end) again; each as soon as it is compared."""
        end = last if last is not None else (await self.get(video_id))["chunks"] - 1
        body, newest = {"first": first, **_given(last=end if end >= 0 else None)}, None
        answer = await asyncio.to_thread(self._open, "POST", f"{_path(video_id)}/verify", body)
        try:
            while line := await asyncio.to_thread(_next_line, answer):
                if not line.strip():  # it is still at work
                    continue
                said = json.loads(line)
                if "error" in said:
                    raise _error_of(said["error"], 500)
                newest = said["index"]
                yield said
        finally:
            answer.close()
        if newest != end:
            raise NotReady("the verification was cut off", expected=f"chunks up to {end}", received=f"up to {newest}")

    async def download(self, video_id: str, path: Path | str, rendition: str = "auto") -> Path:
        """What exists of the film, as one MP4 at `path`: whole, or not there at all. Raises OSError for the file."""
        query = urlencode({"rendition": rendition})
        return await asyncio.to_thread(self._save, f"{_path(video_id)}/content?{query}", Path(path))

    # ------------------------------------------------------------ watching

    async def watch(
        self,
        video_id: str,
        *,
        cursor: int = 0,
        renditions: Iterable[Rendition] = RENDITIONS,
        on_event: OnEvent | None = None,
        until_ended: bool = True,
    ) -> AsyncGenerator[WatchedChunk, None]:
        """Every chunk of the film, those that exist first, then each as it is made; through every cut of the connection.

        cursor: the `seq` of the last chunk that is known already; 0 = from the beginning. until_ended: end with the film;
        else go on waiting, because it may be continued. A slow reader holds up nothing but itself. Raises `NotFound` when
        there is no such film (any more), `Forbidden` for a token the server does not know.
        """
        events = self.events(video_id, cursor=cursor, renditions=renditions, until_ended=until_ended)
        async with aclosing(events):
            async for event in events:
                if event["type"] == "segment":
                    yield event["chunk"]
                elif on_event is not None:
                    on_event(event)

    async def events(
        self,
        video_id: str,
        *,
        cursor: int = 0,
        renditions: Iterable[Rendition] = RENDITIONS,
        until_ended: bool = True,
    ) -> AsyncGenerator[Mapping[str, Any], None]:
        """Everything that happens to the film, for who reacts to it: every text message of `st2v.v1`, in order, and of each
        chunk `{"type": "segment", "seq": ..., "chunk": WatchedChunk}`. Otherwise as `watch`.
        """
        watching = _Watching(self._address, video_id, cursor, list(renditions), until_ended)
        wait_s = FIRST_RETRY_S
        while True:
            before = watching.cursor
            try:
                async with aclosing(watching.once()) as events:
                    async for event in events:
                        yield event
                if watching.has_ended:
                    return
            except (WebSocketException, OSError, TimeoutError) as error:
                _require_worth_trying(error, video_id)
            wait_s = FIRST_RETRY_S if watching.cursor > before else min(LAST_RETRY_S, wait_s * 2)
            await asyncio.sleep(wait_s * random.uniform(0.5, 1.0))

    # ------------------------------------------------------------ asking

    async def _get(self, path: str) -> Any:
        return await self._ask("GET", path, None)

    async def _post(self, path: str, body: Mapping[str, Any]) -> Any:
        return await self._ask("POST", path, body)

    async def _ask(self, method: str, path: str, body: Mapping[str, Any] | None) -> Any:
        def ask() -> Any:
            with self._open(method, path, body) as answer:
                return json.load(answer)

        return await asyncio.to_thread(ask)

    def _send(self, path: str, file: Path) -> Any:
        with file.open("rb") as content:
            length = str(file.stat().st_size)
            headers = {"Content-Type": "application/zip", "Content-Length": length}
            with self._request("POST", path, content, headers) as answer:
                return json.load(answer)

    def _open(self, method: str, path: str, body: Mapping[str, Any] | None) -> Any:
        """The answer, to be read and closed (blocking). Raises what the server says, `NotReady` where there is none."""
        data = None if body is None else json.dumps(body).encode()
        return self._request(method, path, data, {"Content-Type": "application/json"})

    def _request(self, method: str, path: str, data: bytes | BinaryIO | None, headers: dict[str, str]) -> Any:
        if self._address.token is not None:
            headers["Authorization"] = f"Bearer {self._address.token}"
        request = urllib.request.Request(self._address.server + path, data, headers, method=method)
        try:
            return urllib.request.urlopen(request, timeout=TIMEOUT_S)
        except urllib.error.HTTPError as error:
            with error:
                raise _error_of(_said(error.read(_LINE_BYTES)), error.code) from None
        except OSError as error:
            raise NotReady("no server answers there", expected="st2v serve", received=self._address.server) from error

    def _save(self, query: str, path: Path) -> Path:
        with self._open("GET", query, None) as answer:
            part = path.with_name(f".{uuid4().hex}.part")
            try:
                with part.open("xb") as file:
                    while piece := answer.read(_PIECE_BYTES):
                        file.write(piece)
                    length = answer.headers["Content-Length"]
                    if length is not None and file.tell() != int(length):
                        raise NotReady("the download was cut off", expected=f"{length} bytes", received=file.tell())
                os.replace(part, path)
            except http.client.HTTPException as error:
                part.unlink(missing_ok=True)
                raise NotReady("the download was cut off", expected="all of it", received=str(error)) from error
            except BaseException:
                part.unlink(missing_ok=True)
                raise
        return path


class _Watching:
    """One viewer through all its connections: the cursor, and the init segments of the connection it has now."""

    def __init__(
        self,
        address: Address,
        video_id: str,
        cursor: int,
        renditions: list[Rendition],
        until_ended: bool,
    ) -> None:
        self._address = Address(address.server, video_id, token=address.token)
        self.cursor = cursor
        self.has_ended = False
        self._renditions = renditions
        self._until_ended = until_ended
        self._inits: dict[int, bytes] = {}
        self._lengths = (0, 0)
        self._welcome: Mapping[str, Any] = {}
        self._then: Mapping[str, Any] = {}

    async def once(self) -> AsyncGenerator[Mapping[str, Any], None]:
        """Over one connection. Ends when the film has ended or the connection is closed in good order."""
        url = f"ws{self._address.base.removeprefix('http')}{self._address.path}/watch"
        tokens = [] if self._address.token is None else [f"bearer.{self._address.token}"]
        names = [Subprotocol(name) for name in (SUBPROTOCOL, *tokens)]
        self._inits = {}  # an id counts on one socket only
        async with connect(url, subprotocols=names, max_size=MAX_MESSAGE_BYTES, proxy=None) as socket:
            await socket.send(json.dumps({"type": "hello", "cursor": self.cursor, "renditions": self._renditions}))
            while not (self.has_ended and self._until_ended):
                message = await socket.recv()
                if isinstance(message, str):
                    yield self._take_text(json.loads(message))
                elif (chunk := self._take_binary(message)) is not None:
                    yield {"type": "segment", "seq": chunk.seq, "chunk": chunk}
                    # only when the reader comes back for more, so that the server waits for a slow one
                    await _acknowledge(socket, chunk.seq)

    def _take_binary(self, message: bytes) -> WatchedChunk | None:
        header, payload = BinaryHeader.unpack(message)
        if header.kind == Kind.INIT:
            self._inits[header.init_id] = payload
            return None
        self.cursor = header.seq
        first, further = self._lengths
        start, frames = (0, first) if header.index == 0 else (first + (header.index - 1) * further, further)
        init = self._inits[header.init_id]
        return WatchedChunk(header.index, start, frames, header.rendition, header.revision, header.seq, init, payload)

    def _take_text(self, message: Mapping[str, Any]) -> Mapping[str, Any]:
        if message["type"] == "welcome":
            self._lengths = message["video"]["first_chunk_frames"], message["video"]["chunk_frames"]
            self._welcome, self._then = message, message["video"]
        if message["type"] == "state":
            self._then, self.has_ended = message["video"], False
        if message["type"] == "ended":
            self.has_ended = is_of_now(message, self._then, self._welcome)
        self.cursor = max(self.cursor, message.get("seq", 0))
        return message


def _next_line(answer: Any) -> bytes:
    """Nothing at the end, be it the end of the answer or of the connection (blocking)."""
    try:
        line: bytes = answer.readline(_LINE_BYTES)
    except (OSError, http.client.HTTPException):
        return b""
    return line


async def _acknowledge(socket: ClientConnection, seq: int) -> None:
    await socket.send(json.dumps({"type": "ack", "seq": seq}))


def _require_worth_trying(error: Exception, video_id: str) -> None:
    """Raise in words what the server said with a close code, or a status, that means: do not come back."""
    if isinstance(error, ConnectionClosed) and error.rcvd is not None:
        code, reason = error.rcvd.code, error.rcvd.reason
        if code in (CloseCode.DELETED, CloseCode.UNKNOWN_VIDEO):
            raise NotFound(reason or "no such video", received=video_id) from error
        if code == CloseCode.NOT_ALLOWED:
            raise Forbidden(reason or "not allowed") from error
        if code == CloseCode.DONE or code >= CloseCode.DELETED:
            raise InvalidRequest(reason or f"the server closed the connection ({code})") from error
    if isinstance(error, InvalidStatus) and error.response.status_code < 500:
        raise _error_of(_said(error.response.body or b""), error.response.status_code) from error


# ---------------------------------------------------------------- answers


def _said(body: bytes | bytearray) -> Mapping[str, Any]:
    """The error in an answer; nothing where a proxy, say, answered in its own way."""
    try:
        said = json.loads(body)["error"]
    except (ValueError, KeyError, TypeError):
        return {}
    return said if isinstance(said, dict) else {}


_KINDS: Mapping[str, type[St2vError]] = {
    kind.code: kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, St2vError)
}
_KIND_OF_STATUS: Mapping[int, type[St2vError]] = {
    400: InvalidRequest,
    401: errors.Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: errors.Conflict,
    503: NotReady,
}


def _error_of(said: Mapping[str, Any], status: int) -> St2vError:
    """The error as the server raised it: the same class, the same sentence."""
    kind = _KINDS.get(str(said.get("code"))) or _KIND_OF_STATUS.get(status, St2vError)
    return kind(str(said.get("message") or f"the server answers {status}"), param=said.get("param"))


def _given(**fields: Any) -> dict[str, Any]:
    """What is not None."""
    return {name: value for name, value in fields.items() if value is not None}


def _path(video_id: str) -> str:
    return f"/v1/videos/{quote(video_id, safe='')}"


def _data_url(content: bytes) -> str:
    return "data:application/octet-stream;base64," + base64.b64encode(content).decode()
