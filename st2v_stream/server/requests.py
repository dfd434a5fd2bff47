"""What may come in: the bodies and queries of the REST API as dataclasses, and how a body is read.

Unknown fields, wrong types, broken JSON and bodies over 1 MiB (68 MiB where an image or a clip may be in it) are refused with
the expected, the received and the parameter.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import dataclasses
import json
import re
import unicodedata
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NoReturn, TypeVar

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from st2v_stream.config import Config
from st2v_stream.delivery.film import RenditionChoice
from st2v_stream.delivery.protocol import MAX_CURSOR
from st2v_stream.delivery.resource import encoded_size
from st2v_stream.direction import MAX_GUIDANCE_SCALE, MAX_SEED, MAX_STEPS, MAX_TRANSITION_CHUNKS, Preset
from st2v_stream.errors import InvalidRequest, UnknownModel
from st2v_stream.media.reference import EXPECTED as A_REFERENCE
from st2v_stream.media.reference import MAX_REFERENCE_BYTES
from st2v_stream.server.schema import UNSET, Limits, Unset, Upload, parse_object
from st2v_stream.types import AddCue, BranchVideo, Changes, CreateVideo, EnhancePolicy, ModelCard
from st2v_stream.videos.screenplay import MAX_SCREENPLAY_BYTES, check_depth

T = TypeVar("T")

MAX_BODY_BYTES = 2**20
MAX_CREATE_BYTES = MAX_BODY_BYTES + MAX_REFERENCE_BYTES * 4 // 3
"""With an image or a clip in base64."""

MAX_TITLE_CHARS = 200
MAX_LINK_S = 30 * 86_400
MAX_CHUNK_INDEX = 2**31 - 1
MAX_FILM_S = 1e9

NumFrames = Annotated[int, Limits(minimum=1, description="frames; films end on a chunk border")]
Seconds = Annotated[str, Limits(pattern=r"[0-9]{1,7}(\.[0-9]{1,3})?", description='a number of seconds as text, such as "8"')]
Size = Annotated[str, Limits(pattern=r"[0-9]{1,5}x[0-9]{1,5}", description='width x height as text, such as "512x320"')]
Seed = Annotated[int, Limits(minimum=0, maximum=MAX_SEED)]
Scale = Annotated[float, Limits(minimum=0, maximum=MAX_GUIDANCE_SCALE)]
Steps = Annotated[int, Limits(minimum=1, maximum=MAX_STEPS)]
Title = Annotated[str, Limits(max_length=MAX_TITLE_CHARS)]
ChunkIndex = Annotated[int, Limits(minimum=0, maximum=MAX_CHUNK_INDEX, description="index of a chunk")]
Moment = Annotated[float, Limits(minimum=0, maximum=MAX_FILM_S, description="seconds from the film's beginning")]
Transition = Annotated[
    int, Limits(minimum=0, maximum=MAX_TRANSITION_CHUNKS, description="chunks over which the new prompt is mixed in")
]
WhenUnwatched = Literal["run"] | Annotated[int, Limits(minimum=1, description="seconds until an unwatched film pauses")]


@dataclass(frozen=True, slots=True)
class ImageReference:
    """OpenAI's way to say which image: here `image_url` is a data: URL, and nothing is fetched from elsewhere."""

    image_url: str | None = None
    file_id: str | None = None


@dataclass(frozen=True, slots=True)
class CueBody:
    """What changes from a moment of the film on, or from a chunk on; without either, as soon as can be."""

    from_s: Moment | None = None
    from_index: ChunkIndex | None = None
    prompt: str | None = None
    negative_prompt: str | None = None
    guidance_scale: Scale | None = None
    num_inference_steps: Steps | None = None
    seed: Seed | None = None
    transition_chunks: Transition = 0


@dataclass(frozen=True, slots=True)
class CreateBody:
    """POST /v1/videos, as JSON or multipart. Only the prompt is needed; `num_frames: null` is a film without end.

    input_reference: an image or a clip the film starts from, as a file or as a data: URL. cues: what changes later, each
    with its moment; in a form, as JSON.
    """

    prompt: Annotated[str, Limits(min_length=1)]
    model: str | None = None
    input_reference: Upload | ImageReference | str | None = None
    seconds: Seconds | None = None
    num_frames: NumFrames | Unset | None = UNSET
    size: Size | None = None
    seed: Seed | None = None
    preset: Preset | None = None
    enhance: EnhancePolicy | None = None
    negative_prompt: str | None = None
    guidance_scale: Scale | None = None
    num_inference_steps: Steps | None = None
    first_chunk_guidance_scale: Scale | None = None
    first_chunk_num_inference_steps: Steps | None = None
    cues: list[CueBody] | None = None
    when_unwatched: WhenUnwatched | None = None
    title: Title | None = None


@dataclass(frozen=True, slots=True)
class ContinueBody:
    """POST /v1/videos/{id}/continue: how many frames more; null is without end. enhance: its policy from now on."""

    num_frames: NumFrames | None
    enhance: EnhancePolicy | None = None


@dataclass(frozen=True, slots=True)
class EnhanceBody:
    """POST /v1/videos/{id}/enhance: make sharp what is not, of the film or of the chunks in a range, the end not included."""

    from_index: ChunkIndex | None = None
    to_index: ChunkIndex | None = None
    from_s: Moment | None = None
    to_s: Moment | None = None


@dataclass(frozen=True, slots=True)
class BranchBody:
    """POST /v1/videos/{id}/branch: a new video that shares the chunks before from_index (absent: all of them).

    What is said holds from there to the end. num_frames: length of the whole film; absent: as its parent was planned.
    or_new_film: where the model cannot go on from here, begin a film of its own from the last frame before.
    """

    from_index: ChunkIndex | None = None
    prompt: str | None = None
    negative_prompt: str | None = None
    guidance_scale: Scale | None = None
    num_inference_steps: Steps | None = None
    seed: Seed | None = None
    transition_chunks: Transition = 0
    num_frames: NumFrames | Unset | None = UNSET
    model: str | None = None
    title: Title | None = None
    or_new_film: bool = False


@dataclass(frozen=True, slots=True)
class RedoBody:
    """POST /v1/videos/{id}/redo: make the chunks from from_index on anew; without a seed one is drawn."""

    from_index: ChunkIndex
    seed: Seed | None = None


@dataclass(frozen=True, slots=True)
class PatchBody:
    """PATCH /v1/videos/{id}: what is given is changed."""

    title: Annotated[str, Limits(min_length=1, max_length=MAX_TITLE_CHARS)] | None = None
    when_unwatched: WhenUnwatched | None = None
    enhance: EnhancePolicy | None = None


@dataclass(frozen=True, slots=True)
class RemixBody:
    """POST /v1/videos/{id}/remix: the same length and seed, the first chunk kept, this prompt from there on."""

    prompt: Annotated[str, Limits(min_length=1)]


@dataclass(frozen=True, slots=True)
class VideoReference:
    """OpenAI's way to say which video."""

    id: Annotated[str, Limits(min_length=1)]


@dataclass(frozen=True, slots=True)
class ExtendBody:
    """POST /v1/videos/extensions: a new video, all of this one and `seconds` more with this prompt."""

    prompt: Annotated[str, Limits(min_length=1)]
    seconds: Seconds
    video: Upload | VideoReference | str


@dataclass(frozen=True, slots=True)
class ScreenplayBody:
    """POST /v1/videos/screenplays: a film as `GET /v1/videos/{id}/screenplay` wrote it down."""

    screenplay: Literal[1]
    prompt: Annotated[str, Limits(min_length=1)]
    num_frames: NumFrames | None
    title: Title | None = None
    model: str | None = None
    preset: Preset | None = None
    seed: Seed | None = None
    negative_prompt: str | None = None
    guidance_scale: Scale | None = None
    num_inference_steps: Steps | None = None
    first_chunk_guidance_scale: Scale | None = None
    first_chunk_num_inference_steps: Steps | None = None
    cues: list[CueBody] | None = None


@dataclass(frozen=True, slots=True)
class LinkBody:
    """POST /v1/videos/{id}/links: how long the link is good for."""

    expires_in_s: Annotated[int, Limits(minimum=1, maximum=MAX_LINK_S)] = 3600


@dataclass(frozen=True, slots=True)
class NoBody:
    """Nothing, or an empty JSON object."""


@dataclass(frozen=True, slots=True)
class ListQuery:
    """GET /v1/videos: after = the last id of the page before; search = words of the title, a prompt or the id."""

    after: str | None = None
    search: Annotated[str, Limits(max_length=MAX_TITLE_CHARS)] = ""
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
        return parse_object(cls, await _form(request, raw), from_text=True)
    if raw.strip() and content_type not in ("application/json", ""):
        raise InvalidRequest(
            "this body cannot be read", expected="application/json or multipart/form-data", received=content_type
        )
    small = len(raw) <= MAX_BODY_BYTES
    return parse_object(cls, _json_object(raw) if small else await asyncio.to_thread(_json_object, raw))


async def read_screenplay(request: Request) -> CreateBody:
    """A screenplay as the request for a new video that it stands for. Raises `InvalidRequest`."""
    return screenplay_body(_json_object(await _read_bytes(request, MAX_SCREENPLAY_BYTES)))


def screenplay_body(fields: dict[str, Any]) -> CreateBody:
    """The same from its JSON. Raises `InvalidRequest`."""
    check_depth(fields)
    body = parse_object(ScreenplayBody, fields)
    return CreateBody(
        **{field.name: getattr(body, field.name) for field in dataclasses.fields(body) if field.name != "screenplay"}
    )


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
    """A form's `object[field]` is a field of an object, `list[][field]` one of a list's last, as OpenAI's clients write it."""
    nested = re.fullmatch(r"(\w+)(\[\])?\[(\w+)\]", name)
    if nested is None:
        fields[name] = value
        return
    outer, is_list, inner = nested.groups()
    held = fields.setdefault(outer, [] if is_list else {})
    if is_list and isinstance(held, list):
        if not held or inner in held[-1]:
            held.append({})
        held[-1][inner] = value
    elif isinstance(held, dict):
        held[inner] = value
    else:
        fields[name] = value


# ---------------------------------------------------------------- what the request asks of the Director


def create_request(body: CreateBody, config: Config, models: Sequence[ModelCard]) -> CreateVideo:
    """The request for the Director. Raises `InvalidRequest` or `UnknownModel`."""
    card = find_model(body.model or config.model, models)
    _require_size(body.size, card)
    num_frames = _num_frames(body, card)
    length: dict[str, Any] = {} if num_frames is UNSET else {"num_frames": num_frames}
    return CreateVideo(
        prompt=clean_text(body.prompt, "prompt", config.max_prompt_chars),
        model=card.name,
        seed=body.seed,
        preset=body.preset,
        negative_prompt=clean_text(body.negative_prompt or "", "negative_prompt", config.max_prompt_chars, may_be_empty=True),
        guidance_scale=body.guidance_scale,
        num_inference_steps=body.num_inference_steps,
        title=clean_title(body.title),
        cues=tuple(cue_request(cue, config) for cue in body.cues or ()),
        first_chunk_guidance_scale=body.first_chunk_guidance_scale,
        first_chunk_num_inference_steps=body.first_chunk_num_inference_steps,
        when_unwatched=None if body.when_unwatched is None else str(body.when_unwatched),
        enhance=body.enhance,
        **length,
    )


def cue_request(body: CueBody, config: Config) -> AddCue:
    """The cue for the Director. Raises `InvalidRequest`."""
    return AddCue(changes_request(body, config), body.from_index, body.from_s, body.transition_chunks)


def changes_request(body: CueBody | BranchBody, config: Config) -> Changes:
    """What a body says anew. Raises `InvalidRequest`."""
    prompt, negative = body.prompt, body.negative_prompt
    limit = config.max_prompt_chars
    return Changes(
        None if prompt is None else clean_text(prompt, "prompt", limit),
        None if negative is None else clean_text(negative, "negative_prompt", limit, may_be_empty=True),
        body.guidance_scale,
        body.num_inference_steps,
        body.seed,
    )


def branch_request(body: BranchBody, config: Config) -> BranchVideo:
    """The branch for the Director. Raises `InvalidRequest`."""
    return BranchVideo(
        body.from_index,
        changes_request(body, config),
        body.transition_chunks,
        "as planned" if isinstance(body.num_frames, Unset) else body.num_frames,
        body.model,
        clean_title(body.title),
        body.or_new_film,
    )


def extended_video_id(body: ExtendBody) -> str:
    """Which video is to become longer. Raises `InvalidRequest`.

    An empty file is known by its name: openai 3.54 sends files only, whatever its types say (`video=(video.id, b"")`).
    """
    if isinstance(body.video, Upload) and not body.video.content and body.video.filename:
        return body.video.filename
    if isinstance(body.video, Upload):
        expected = "the id of a video of this server; a clip begins a new one, as input_reference of POST /v1/videos"
        raise InvalidRequest("a file cannot be extended", expected=expected, received="a file", param="video")
    return body.video.id if isinstance(body.video, VideoReference) else body.video


def prompt_text(prompt: str, config: Config) -> str:
    """A prompt in one spelling. Raises `InvalidRequest`."""
    return clean_text(prompt, "prompt", config.max_prompt_chars)


def clean_title(title: str | None) -> str | None:
    """A title in one spelling, None for none. Raises `InvalidRequest`."""
    return None if title is None else clean_text(title, "title", MAX_TITLE_CHARS, may_be_empty=True) or None


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
    return seconds_in_frames(body.seconds, card.spec.fps)


def seconds_in_frames(seconds: str, fps: int) -> int:
    """A length as OpenAI's clients say it, in frames. Raises `InvalidRequest`."""
    frames = round(float(seconds) * fps)
    if frames < 1:
        raise InvalidRequest("seconds is too short", expected="at least one frame", received=seconds, param="seconds")
    return frames


def _require_size(size: str | None, card: ModelCard) -> None:
    width, height = encoded_size(card.spec.width, card.spec.height)
    if size not in (None, f"{width}x{height}", f"{card.spec.width}x{card.spec.height}"):
        raise InvalidRequest(
            f"{card.name} makes pictures of one size", expected=f"{width}x{height}", received=size, param="size"
        )
