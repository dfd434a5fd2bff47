"""What may come in: the bodies and queries of the REST API as dataclasses, and how a body is read.

Unknown fields, wrong types, broken JSON and bodies over 1 MiB (68 MiB where an image or a clip may be in it) are refused with
the expected, the received and the parameter.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import re
import unicodedata
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NoReturn, TypeVar

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from st2v_stream.config import Config
from st2v_stream.delivery.film import RenditionChoice
from st2v_stream.delivery.protocol import MAX_CURSOR
from st2v_stream.delivery.resource import encoded_size
from st2v_stream.direction import MAX_GUIDANCE_SCALE, MAX_SEED, MAX_STEPS, Preset
from st2v_stream.errors import InvalidRequest, UnknownModel
from st2v_stream.media.reference import EXPECTED as A_REFERENCE
from st2v_stream.media.reference import MAX_REFERENCE_BYTES
from st2v_stream.server.schema import UNSET, Limits, Unset, Upload, parse_object
from st2v_stream.types import CreateVideo, ModelCard

T = TypeVar("T")

MAX_BODY_BYTES = 2**20
MAX_CREATE_BYTES = MAX_BODY_BYTES + MAX_REFERENCE_BYTES * 4 // 3
"""With an image or a clip in base64."""

MAX_TITLE_CHARS = 200
MAX_LINK_S = 30 * 86_400

NumFrames = Annotated[int, Limits(minimum=1, description="frames; films end on a chunk border")]
Seconds = Annotated[str, Limits(pattern=r"[0-9]{1,7}(\.[0-9]{1,3})?", description='a number of seconds as text, such as "8"')]
Size = Annotated[str, Limits(pattern=r"[0-9]{1,5}x[0-9]{1,5}", description='width x height as text, such as "512x320"')]
WhenUnwatched = Literal["run"] | Annotated[int, Limits(minimum=1, description="seconds until an unwatched film pauses")]


@dataclass(frozen=True, slots=True)
class ImageReference:
    """OpenAI's way to say which image: here `image_url` is a data: URL, and nothing is fetched from elsewhere."""

    image_url: str | None = None
    file_id: str | None = None


@dataclass(frozen=True, slots=True)
class CreateBody:
    """POST /v1/videos, as JSON or multipart. Only the prompt is needed; `num_frames: null` is a film without end.

    input_reference: an image or a clip the film starts from, as a file or as a data: URL.
    """

    prompt: Annotated[str, Limits(min_length=1)]
    model: str | None = None
    input_reference: Upload | ImageReference | str | None = None
    seconds: Seconds | None = None
    num_frames: NumFrames | Unset | None = UNSET
    size: Size | None = None
    seed: Annotated[int, Limits(minimum=0, maximum=MAX_SEED)] | None = None
    preset: Preset | None = None
    enhance: Literal["all", "watched", "idle", "none"] | None = None
    negative_prompt: str | None = None
    guidance_scale: Annotated[float, Limits(minimum=0, maximum=MAX_GUIDANCE_SCALE)] | None = None
    num_inference_steps: Annotated[int, Limits(minimum=1, maximum=MAX_STEPS)] | None = None
    cues: list[Any] | None = None
    when_unwatched: WhenUnwatched | None = None
    title: Annotated[str, Limits(max_length=MAX_TITLE_CHARS)] | None = None


@dataclass(frozen=True, slots=True)
class ContinueBody:
    """POST /v1/videos/{id}/continue: how many frames more; null is without end."""

    num_frames: NumFrames | None


@dataclass(frozen=True, slots=True)
class LinkBody:
    """POST /v1/videos/{id}/links: how long the link is good for."""

    expires_in_s: Annotated[int, Limits(minimum=1, maximum=MAX_LINK_S)] = 3600


@dataclass(frozen=True, slots=True)
class NoBody:
    """Nothing, or an empty JSON object."""


@dataclass(frozen=True, slots=True)
class ListQuery:
    """GET /v1/videos: after = the last id of the page before."""

    after: str | None = None
    limit: Annotated[int, Limits(minimum=1, maximum=100)] = 20
    order: Literal["asc", "desc"] = "desc"


@dataclass(frozen=True, slots=True)
class ContentQuery:
    """GET /v1/videos/{id}/content: auto is enhanced if all of the film is, else preview."""

    variant: Literal["video", "thumbnail", "spritesheet"] = "video"
    rendition: RenditionChoice = "auto"


@dataclass(frozen=True, slots=True)
class EventsQuery:
    """GET /v1/videos/{id}/events: the seq to go on after (`Last-Event-ID` wins); 0 begins with what exists."""

    cursor: Annotated[int, Limits(minimum=0, maximum=MAX_CURSOR)] = 0


# ---------------------------------------------------------------- reading


async def read_body(request: Request, cls: type[T], max_bytes: int = MAX_BODY_BYTES) -> T:
    """The body as an instance of a request dataclass. Raises `InvalidRequest`."""
    raw = await _read_bytes(request, max_bytes)
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type == "multipart/form-data":
        return parse_object(cls, _require_present(await _form(request, raw)), from_text=True)
    if raw.strip() and content_type not in ("application/json", ""):
        raise InvalidRequest(
            "this body cannot be read", expected="application/json or multipart/form-data", received=content_type
        )
    small = len(raw) <= MAX_BODY_BYTES
    return parse_object(cls, _require_present(_json_object(raw) if small else await asyncio.to_thread(_json_object, raw)))


def read_query(request: Request, cls: type[T]) -> T:
    """The query as an instance of a request dataclass. Raises `InvalidRequest`."""
    return parse_object(cls, dict(request.query_params), from_text=True)


async def _read_bytes(request: Request, max_bytes: int) -> bytes:
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > max_bytes:
            raise InvalidRequest(
                "the body is too large", expected=f"at most {max_bytes} bytes", received=f"more than {max_bytes}"
            )
    return bytes(body)


def _json_object(raw: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(raw, parse_constant=_refuse_constant) if raw.strip() else {}
    except (ValueError, RecursionError):
        raise InvalidRequest(
            "the body is not valid JSON", expected="a JSON object", received=raw[:200].decode(errors="replace")
        ) from None
    if not isinstance(fields, dict):
        raise InvalidRequest("the body is not an object", expected="a JSON object", received=fields)
    return fields


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


async def _form(request: Request, raw: bytes) -> dict[str, Any]:
    async def pieces() -> AsyncGenerator[bytes, None]:
        yield raw

    try:
        parser = MultiPartParser(request.headers, pieces(), max_files=1, max_fields=64, max_part_size=len(raw))
        form = await parser.parse()
    except MultiPartException as error:
        raise InvalidRequest("the form cannot be read", expected="multipart/form-data", received=error.message) from None
    try:
        fields: dict[str, Any] = {}
        for name, value in form.multi_items():
            _put(fields, name, Upload(await value.read(), value.filename or "") if isinstance(value, UploadFile) else value)
        return fields
    finally:
        await form.close()


def _put(fields: dict[str, Any], name: str, value: str | Upload) -> None:
    """A form's `object[field]` is a field of an object, as OpenAI's clients write it."""
    nested = re.fullmatch(r"(\w+)\[(\w+)\]", name)
    inside = None if nested is None else fields.setdefault(nested[1], {})
    if nested is not None and isinstance(inside, dict):
        inside[nested[2]] = value
    else:
        fields[name] = value


_LATER = {
    "cues": "cues at creation come later: leave the field out or empty",
}


def _require_present(fields: dict[str, Any]) -> dict[str, Any]:
    """Refuse, in plain words, fields that a later version will take."""
    for name, reason in _LATER.items():
        if fields.get(name) not in (None, [], "", "[]"):
            raise InvalidRequest(reason, expected="no value", received=fields[name], param=name)
    return {name: value for name, value in fields.items() if name not in _LATER}


# ---------------------------------------------------------------- what the request asks of the Director


def create_request(body: CreateBody, config: Config, models: Sequence[ModelCard]) -> tuple[CreateVideo, list[str]]:
    """The request for the Director, and warnings for the person. Raises `InvalidRequest` or `UnknownModel`."""
    card = find_model(body.model or config.model, models)
    _require_size(body.size, card)
    num_frames = _num_frames(body, card)
    length: dict[str, Any] = {} if num_frames is UNSET else {"num_frames": num_frames}
    request = CreateVideo(
        prompt=clean_text(body.prompt, "prompt", config.max_prompt_chars),
        model=card.name,
        seed=body.seed,
        preset=body.preset,
        negative_prompt=clean_text(body.negative_prompt or "", "negative_prompt", config.max_prompt_chars, may_be_empty=True),
        guidance_scale=body.guidance_scale,
        num_inference_steps=body.num_inference_steps,
        title=None if body.title is None else clean_text(body.title, "title", MAX_TITLE_CHARS, may_be_empty=True) or None,
        **length,
    )
    return request, list(_warnings(body))


def reference_content(given: Upload | ImageReference | str | None) -> bytes | None:
    """The bytes of the image or clip a film starts from; None for none. Raises `InvalidRequest`."""
    if isinstance(given, Upload):
        return given.content or None  # a form with an empty file field
    if isinstance(given, ImageReference):
        if given.file_id is not None:
            raise _no_reference("files are not kept here under ids", given.file_id)
        given = given.image_url
    if not given:
        return None
    head, _, payload = given.partition(",")
    if not head.startswith("data:"):
        raise _no_reference("nothing is fetched from elsewhere", given)
    if not head.endswith(";base64"):
        raise _no_reference("a data: URL of text is no picture", head)
    try:
        return base64.b64decode(payload, validate=True) or None
    except (binascii.Error, ValueError) as error:
        raise _no_reference(f"the data: URL is not base64 ({error})", head) from error


def _no_reference(message: str, received: str) -> InvalidRequest:
    expected = f"{A_REFERENCE}, as a file or as a data: URL in base64"
    return InvalidRequest(message, expected=expected, received=received, param="input_reference")


def find_model(name: str, models: Sequence[ModelCard]) -> ModelCard:
    """The card of a model by name. Raises `UnknownModel`."""
    for card in models:
        if card.name == name:
            return card
    names = ", ".join(card.name for card in models)
    raise UnknownModel("no such model", expected=f"one of {names}", received=name, param="model")


def clean_text(text: str, param: str, max_chars: int, *, may_be_empty: bool = False) -> str:
    """Text that people typed, in one spelling (NFC). Raises `InvalidRequest` for control characters and wrong lengths."""
    text = unicodedata.normalize("NFC", text).strip()
    if any(unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t" for c in text):
        raise InvalidRequest(
            f"{param} has characters that are no text",
            expected="text without control characters",
            received=ascii(text),
            param=param,
        )
    if (not may_be_empty and not text) or len(text) > max_chars:
        raise InvalidRequest(
            f"{param} has a wrong length",
            expected=f"1 to {max_chars} characters",
            received=f"{len(text)} characters",
            param=param,
        )
    return text


def _num_frames(body: CreateBody, card: ModelCard) -> int | Unset | None:
    if body.seconds is None:
        return body.num_frames
    if body.num_frames is not UNSET:
        raise InvalidRequest("the length is given twice", expected="seconds or num_frames", received="both", param="seconds")
    frames = round(float(body.seconds) * card.spec.fps)
    if frames < 1:
        raise InvalidRequest("seconds is too short", expected="at least one frame", received=body.seconds, param="seconds")
    return frames


def _require_size(size: str | None, card: ModelCard) -> None:
    width, height = encoded_size(card.spec.width, card.spec.height)
    if size not in (None, f"{width}x{height}", f"{card.spec.width}x{card.spec.height}"):
        raise InvalidRequest(
            f"{card.name} makes pictures of one size", expected=f"{width}x{height}", received=size, param="size"
        )


def _warnings(body: CreateBody) -> Iterator[str]:
    if body.enhance not in (None, "none"):
        yield f"enhance {body.enhance!r} has no effect yet; the film is made without."
    if body.when_unwatched not in (None, "run"):
        yield f"when_unwatched {body.when_unwatched!r} has no effect yet for a single film; the server's setting counts."
