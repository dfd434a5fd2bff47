"""The REST side of directing a film: cues, screenplays, branch, redo, and what OpenAI's API calls remix and extension."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypedDict

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from st2v_stream.chunk import StreamSpec
from st2v_stream.config import Config
from st2v_stream.delivery.resource import VideoJson, video_json
from st2v_stream.direction import Cue
from st2v_stream.errors import Conflict, InvalidRequest
from st2v_stream.server.openapi import Operation
from st2v_stream.server.requests import (
    BranchBody,
    CueBody,
    ExtendBody,
    NoBody,
    PatchBody,
    RedoBody,
    RemixBody,
    branch_request,
    clean_title,
    cue_request,
    extended_video_id,
    prompt_text,
    read_body,
    seconds_in_frames,
)
from st2v_stream.types import BranchVideo, Changes, Director, VideoView
from st2v_stream.videos.screenplay import ScreenplayCueJson, ScreenplayJson, cue_json, screenplay_of


class CueJson(ScreenplayCueJson):
    """A cue, and the chunk that begins at its time: the first one it changes."""

    from_index: int


class CueList(TypedDict):
    """The cues of a video, in the order they were given; at one chunk the later one wins."""

    object: Literal["list"]
    data: list[CueJson]


class CueAdded(TypedDict):
    """A cue as it was taken: chunk from_index, which is not begun, is the first it changes. seq: of its entry in the log."""

    object: Literal["video.cue"]
    video_id: str
    from_index: int
    from_s: float
    seq: int
    cue: CueJson
    warnings: list[str]


class VideoRedone(TypedDict):
    """The video, being made anew from chunk from_index on, and the one that keeps the film as it was."""

    object: Literal["video.redo"]
    from_index: int
    video: VideoJson
    kept: VideoJson


@dataclass(frozen=True)
class Directing:
    """The handlers, and what they need."""

    config: Config
    director: Director

    def operations(self) -> list[Operation]:
        """Everything there is here."""
        videos, video = "/v1/videos", "/v1/videos/{video_id}"
        return [
            Operation("POST", videos + "/extensions", self.extend_video, "A video and more of it", VideoJson, body=ExtendBody),
            Operation("PATCH", video, self.patch_video, "Another title, or patience", VideoJson, body=PatchBody),
            Operation("POST", video + "/undelete", self.undelete_video, "Have it back", VideoJson, body=NoBody),
            Operation("GET", video + "/cues", self.list_cues, "Its cues", CueList),
            Operation("POST", video + "/cues", self.add_cue, "Change what is made from a chunk on", CueAdded, body=CueBody),
            Operation("GET", video + "/screenplay", self.get_screenplay, "The film written down", ScreenplayJson),
            Operation(
                "POST", video + "/branch", self.branch_video, "A film that shares its beginning", VideoJson, body=BranchBody
            ),
            Operation("POST", video + "/redo", self.redo_video, "Make it anew from a chunk on", VideoRedone, body=RedoBody),
            Operation("POST", video + "/remix", self.remix_video, "The same with another prompt", VideoJson, body=RemixBody),
        ]

    async def patch_video(self, request: Request) -> Response:
        """PATCH /v1/videos/{id}."""
        body = await read_body(request, PatchBody)
        title, patience = clean_title(body.title), body.when_unwatched
        if title is None and patience is None:
            expected = "a title, or when_unwatched"
            raise InvalidRequest("there is nothing to change", expected=expected, received=body.title, param="title")
        video_id = (await self._view(request)).id
        when_unwatched = None if patience is None else str(patience)
        return JSONResponse(video_json(await self.director.edit(video_id, title=title, when_unwatched=when_unwatched)))

    async def undelete_video(self, request: Request) -> Response:
        """POST /v1/videos/{id}/undelete."""
        await read_body(request, NoBody)
        return JSONResponse(video_json(await self.director.undelete(request.path_params["video_id"])))

    async def list_cues(self, request: Request) -> Response:
        """GET /v1/videos/{id}/cues."""
        view = await self._view(request)
        timeline = await self.director.timeline(view.id)
        cues: CueList = {"object": "list", "data": [indexed_cue_json(cue, view.spec) for cue in timeline.cues]}
        return JSONResponse(cues)

    async def add_cue(self, request: Request) -> Response:
        """POST /v1/videos/{id}/cues."""
        view, body = await self._view(request), await read_body(request, CueBody)
        added = await self.director.cue(view.id, cue_request(body, self.config))
        taken: CueAdded = {
            "object": "video.cue",
            "video_id": view.id,
            "from_index": added.cue.index,
            "from_s": added.start / view.spec.fps,
            "seq": added.seq,
            "cue": indexed_cue_json(added.cue, view.spec),
            "warnings": list(added.warnings),
        }
        return JSONResponse(taken)

    async def get_screenplay(self, request: Request) -> Response:
        """GET /v1/videos/{id}/screenplay."""
        view = await self._view(request)
        return JSONResponse(screenplay_of(view, await self.director.timeline(view.id)))

    async def branch_video(self, request: Request) -> Response:
        """POST /v1/videos/{id}/branch."""
        view, body = await self._view(request), await read_body(request, BranchBody)
        return JSONResponse(video_json(await self.director.branch(view.id, branch_request(body, self.config))))

    async def redo_video(self, request: Request) -> Response:
        """POST /v1/videos/{id}/redo."""
        view, body = await self._view(request), await read_body(request, RedoBody)
        made, kept = await self.director.redo(view.id, body.from_index, body.seed)
        redone: VideoRedone = {
            "object": "video.redo",
            "from_index": body.from_index,
            "video": video_json(made),
            "kept": video_json(kept),
        }
        return JSONResponse(redone)

    async def extend_video(self, request: Request) -> Response:
        """POST /v1/videos/extensions: all of the video that exists, and more."""
        body = await read_body(request, ExtendBody)
        view = await self.director.get(extended_video_id(body))
        if view.ended_by is None:
            raise Conflict(f"{view.id} is being made", expected="status completed or failed", received=view.state)
        prompt, frames = prompt_text(body.prompt, self.config), seconds_in_frames(body.seconds, view.spec.fps)
        extension = BranchVideo(view.chunks, Changes(prompt), num_frames=view.frames + frames)
        return JSONResponse(video_json(await self.director.branch(view.id, extension)))

    async def remix_video(self, request: Request) -> Response:
        """POST /v1/videos/{id}/remix: same length and seed; the first chunk stays, because all others look back at it."""
        view, body = await self._view(request), await read_body(request, RemixBody)
        if view.chunks == 0:
            raise Conflict(f"nothing of {view.id} is made yet", expected="a chunk or more", received="none")
        length = view.frames if view.ended_by is not None else view.num_frames
        if length is not None:  # of a film of one chunk there is nothing to change but what follows it
            length = max(length, view.spec.start_of(2))
        remix = BranchVideo(1, Changes(prompt_text(body.prompt, self.config)), num_frames=length)
        return JSONResponse(video_json(await self.director.branch(view.id, remix)))

    async def _view(self, request: Request) -> VideoView:
        return await self.director.get(request.path_params["video_id"])


def indexed_cue_json(cue: Cue, spec: StreamSpec) -> CueJson:
    """A cue by its chunk and by its time."""
    return {**cue_json(cue, spec), "from_index": cue.index}
