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
    EnhanceBody,
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
from st2v_stream.types import BranchVideo, Changes, Director, EnhanceVideo, VideoView
from st2v_stream.videos.screenplay import ScreenplayCueJson, ScreenplayJson, cue_json, screenplay_of


class CueJson(ScreenplayCueJson):
    """A cue, and the chunk that begins at its time: the first one it changes. seq: of its entry in the log, its name."""

    from_index: int
    seq: int


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


class CueTakenBack(TypedDict):
    """The cue does not hold any more; chunk from_index, the first it would have changed, is not begun."""

    object: Literal["video.cue.deleted"]
    video_id: str
    seq: int
    from_index: int
    from_s: float
    deleted: bool


class DeletedVideoJson(TypedDict):
    """A deleted video and until when it can be had back (Unix seconds; sooner gone when the disk is full)."""

    object: Literal["video.deleted"]
    video: VideoJson
    deleted_at: int
    forgotten_at: int


class DeletedList(TypedDict):
    """What can be had back, the newest deletion first."""

    object: Literal["list"]
    data: list[DeletedVideoJson]


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
            Operation("POST", video + "/enhance", self.enhance_video, "Make it sharp", VideoJson, body=EnhanceBody),
            Operation("DELETE", video + "/enhance", self.leave_video, "Make it sharp no further", VideoJson),
            Operation("POST", video + "/undelete", self.undelete_video, "Have it back", VideoJson, body=NoBody),
            Operation("GET", video + "/cues", self.list_cues, "Its cues", CueList),
            Operation("POST", video + "/cues", self.add_cue, "Change what is made from a chunk on", CueAdded, body=CueBody),
            Operation("DELETE", video + "/cues/{seq:int}", self.take_back_cue, "Undo a cue not begun", CueTakenBack),
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
        title, patience, enhance = clean_title(body.title), body.when_unwatched, body.enhance
        if (title, patience, enhance) == (None, None, None):
            expected = "a title, when_unwatched, or enhance"
            raise InvalidRequest("there is nothing to change", expected=expected, received=body.title, param="title")
        video_id = (await self._view(request)).id
        when_unwatched = None if patience is None else str(patience)
        view = await self.director.edit(video_id, title=title, when_unwatched=when_unwatched, enhance=enhance)
        return JSONResponse(video_json(view))

    async def enhance_video(self, request: Request) -> Response:
        """POST /v1/videos/{id}/enhance."""
        view, body = await self._view(request), await read_body(request, EnhanceBody)
        asked = EnhanceVideo(body.from_index, body.to_index, body.from_s, body.to_s)
        return JSONResponse(video_json(await self.director.enhance(view.id, asked)))

    async def leave_video(self, request: Request) -> Response:
        """DELETE /v1/videos/{id}/enhance: policy none, and what was asked for is taken back; what is sharp stays."""
        view = await self._view(request)
        return JSONResponse(video_json(await self.director.edit(view.id, enhance="none")))

    async def undelete_video(self, request: Request) -> Response:
        """POST /v1/videos/{id}/undelete."""
        await read_body(request, NoBody)
        return JSONResponse(video_json(await self.director.undelete(request.path_params["video_id"])))

    async def list_deleted(self, request: Request) -> Response:
        """GET /v1/videos/deleted."""
        data: list[DeletedVideoJson] = [
            {
                "object": "video.deleted",
                "video": video_json(deleted.view),
                "deleted_at": deleted.deleted_at_s,
                "forgotten_at": deleted.forgotten_at_s,
            }
            for deleted in await self.director.deleted()
        ]
        listed: DeletedList = {"object": "list", "data": data}
        return JSONResponse(listed)

    async def list_cues(self, request: Request) -> Response:
        """GET /v1/videos/{id}/cues; who has a link is told no more of them than who watches: when, and which prompt."""
        view, access = await self._view(request), request.state.access
        live = await self.director.cues(view.id)
        data = [indexed_cue_json(seq, cue, view.spec) for seq, cue in live]
        cues: CueList = {"object": "list", "data": data if access.grant is None else [seen_by_guest(cue) for cue in data]}
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
            "cue": indexed_cue_json(added.seq, added.cue, view.spec),
            "warnings": list(added.warnings),
        }
        return JSONResponse(taken)

    async def take_back_cue(self, request: Request) -> Response:
        """DELETE /v1/videos/{id}/cues/{seq}."""
        view, seq = await self._view(request), int(request.path_params["seq"])
        entry = await self.director.take_back_cue(view.id, seq)
        taken_back: CueTakenBack = {
            "object": "video.cue.deleted",
            "video_id": view.id,
            "seq": seq,
            "from_index": entry.index,
            "from_s": view.spec.start_of(entry.index) / view.spec.fps,
            "deleted": True,
        }
        return JSONResponse(taken_back)

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


def seen_by_guest(cue: CueJson) -> CueJson:
    """A cue without what only its director needs."""
    return {**cue, "negative_prompt": None, "guidance_scale": None, "num_inference_steps": None, "seed": None}


def indexed_cue_json(seq: int, cue: Cue, spec: StreamSpec) -> CueJson:
    """A cue by its name in the log, its chunk and its time."""
    return {**cue_json(cue, spec), "from_index": cue.index, "seq": seq}
