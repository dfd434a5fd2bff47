"""Every error this package raises on purpose.

St2vError                  expected and received, in words a user can act on
├── InvalidRequest         the caller asked for something that cannot be (400)
│   └── UnknownModel       no model of that name (404)
├── NotFound               no such video, segment or page (404)
├── Conflict               right in itself, wrong in this state (409)
├── Unauthorized           no valid token or grant (401)
├── Forbidden              a wrong Host or Origin, or a grant for something else (403)
├── NotReady               the model is still loading, or failed to (503)
├── CheckpointError        a checkpoint is missing or damaged
├── DamagedMedia           bytes that are not the segment they should be (media/boxes.py)
├── StoreError             the data directory cannot be used (locked, read-only, full, damaged)
│   ├── StoreFull          no space left
│   └── StoreDamaged       bytes that are there and are not what was written
└── Stopped                raised by `on_step` to leave a chunk between two denoising steps; not a failure
"""

from __future__ import annotations

from typing import ClassVar

_SHOWN = 120


class St2vError(Exception):
    """The root: a message, and where it helps what was expected and what came."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"

    def __init__(self, message: str, *, expected: object = None, received: object = None, param: str | None = None) -> None:
        self.message = message
        self.expected = None if expected is None else str(expected)
        self.received = None if received is None else _short(received)
        self.param = param
        super().__init__(str(self))

    def __str__(self) -> str:
        text = self.message
        if self.expected is not None:
            text += f": expected {self.expected}"
        if self.received is not None:
            text += f", received {self.received}" if self.expected is not None else f": received {self.received}"
        return text


class InvalidRequest(St2vError):
    """The caller asked for something that cannot be."""

    status = 400
    code = "invalid_request"


class UnknownModel(InvalidRequest):
    """No model of that name."""

    status = 404
    code = "model_not_found"


class NotFound(St2vError):
    """No such video, segment or page."""

    status = 404
    code = "not_found"


class Conflict(St2vError):
    """Right in itself, wrong in this state."""

    status = 409
    code = "conflict"


class Unauthorized(St2vError):
    """No valid token or grant."""

    status = 401
    code = "unauthorized"


class Forbidden(St2vError):
    """A wrong Host or Origin, or a grant for something else."""

    status = 403
    code = "forbidden"


class NotReady(St2vError):
    """The model is still loading, or failed to."""

    status = 503
    code = "not_ready"


class CheckpointError(St2vError):
    """A checkpoint is missing or damaged."""

    status = 503
    code = "checkpoint_error"


class StoreError(St2vError):
    """The data directory cannot be used."""

    status = 503
    code = "store_error"


class StoreFull(StoreError):
    """No space left in the data directory."""

    status = 507
    code = "store_full"


class StoreDamaged(StoreError):
    """Bytes that are there and are not what was written."""

    code = "store_damaged"


class Stopped(St2vError):
    """Raised by `on_step` to leave a chunk between two denoising steps; not a failure."""

    code = "stopped"


def _short(value: object) -> str:
    text = value if isinstance(value, str) else repr(value)
    return repr(text[:_SHOWN] + "…") if len(text) > _SHOWN else repr(text) if isinstance(value, str) else text
