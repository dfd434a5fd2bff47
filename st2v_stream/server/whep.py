"""The REST side of watching by WebRTC: the three requests of WHEP. delivery/webrtc does the work."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from st2v_stream.delivery.webrtc import SDP, TooManyViewers, Whep, WhepQuery, WhepRefusal
from st2v_stream.server.auth import Access, error_response
from st2v_stream.server.metrics import Metrics
from st2v_stream.server.openapi import Operation
from st2v_stream.server.requests import read_query


@dataclass(frozen=True)
class WhepDoor:
    """The handlers, and what they need. max_viewers: by any way together."""

    whep: Whep
    metrics: Metrics
    max_viewers: int

    def operations(self) -> list[Operation]:
        """Everything there is here."""
        path = "/v1/videos/{video_id}/whep"
        return [
            Operation("OPTIONS", path, self.describe_whep, "ICE servers for watching by WebRTC"),
            Operation("POST", path, self.open_whep, "Watch by WebRTC: an SDP offer for an answer (201)", SDP, query=WhepQuery),
            Operation("DELETE", path + "/{session}", self.close_whep, "End a connection by WebRTC"),
        ]

    async def describe_whep(self, request: Request) -> Response:
        """OPTIONS /v1/videos/{id}/whep."""
        return self.whep.describe()

    async def open_whep(self, request: Request) -> Response:
        """POST /v1/videos/{id}/whep."""
        access, query = _access(request), read_query(request, WhepQuery)
        try:
            if self.metrics.viewers >= self.max_viewers:
                raise TooManyViewers("too many viewers", expected=f"at most {self.max_viewers}")
            return await self.whep.open(request, query, access.grant, access.remaining_s)
        except WhepRefusal as refusal:
            response = error_response(refusal)
            response.headers.update(refusal.headers)
            return response

    async def close_whep(self, request: Request) -> Response:
        """DELETE /v1/videos/{id}/whep/{session}."""
        return await self.whep.close(request.path_params["video_id"], request.path_params["session"], _access(request).grant)


def _access(request: Request) -> Access:
    access: Access = request.state.access
    return access
