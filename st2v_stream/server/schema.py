"""One description of a type, used twice: to check what comes in, and to write `/openapi.json`.

Understood: str, int, float, bool, None, Literal, unions, list[...], Mapping[str, ...], TypedDicts, dataclasses and files
(`Upload`), with limits by `Annotated[int, Limits(minimum=1)]`. Checking gives messages with the expected, the received and the
parameter.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from st2v_stream.errors import InvalidRequest

T = TypeVar("T")
Schema = dict[str, Any]


class Unset(Enum):
    """The field was not given (null is a value of its own)."""

    UNSET = "unset"


UNSET = Unset.UNSET


@dataclass(frozen=True, slots=True)
class Upload:
    """A file in a form. Its name is what the sender says, and only for messages."""

    content: bytes = dataclasses.field(repr=False)
    filename: str = ""


@dataclass(frozen=True, slots=True)
class Limits:
    """What JSON Schema calls minimum, maximum, minLength, maxLength and pattern, and a sentence for people."""

    minimum: float | None = None
    maximum: float | None = None
    min_length: int | None = None
    max_length: int | None = None
    pattern: str | None = None
    description: str | None = None

    def in_schema(self) -> Schema:
        """The keywords that are set."""
        named = {
            "minimum": self.minimum,
            "maximum": self.maximum,
            "minLength": self.min_length,
            "maxLength": self.max_length,
            "pattern": self.pattern and f"^(?:{self.pattern})$",
            "description": self.description,
        }
        return {name: value for name, value in named.items() if value is not None}

    def allow(self, value: Any) -> bool:
        """Whether a value of the right type is within the limits."""
        if isinstance(value, str):
            long_enough = self.min_length is None or len(value) >= self.min_length
            short_enough = self.max_length is None or len(value) <= self.max_length
            return long_enough and short_enough and (self.pattern is None or re.fullmatch(self.pattern, value) is not None)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return (self.minimum is None or value >= self.minimum) and (self.maximum is None or value <= self.maximum)
        return True


# ---------------------------------------------------------------- checking


def parse_object(cls: type[T], fields: Mapping[str, Any], *, from_text: bool = False) -> T:
    """An instance of a request dataclass. `from_text`: values are strings (a form, a query). Raises `InvalidRequest`."""
    hints = typing.get_type_hints(cls, include_extras=True)
    unknown = sorted(set(fields) - set(hints))
    if unknown:
        raise InvalidRequest("unknown field", expected="one of " + ", ".join(hints), received=unknown[0], param=unknown[0])
    values = {name: check(hints[name], value, name, from_text=from_text) for name, value in fields.items()}
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        if _is_required(field) and field.name not in values:
            raise InvalidRequest(
                f"{field.name} is missing", expected=describe(hints[field.name]), received="nothing", param=field.name
            )
    return cls(**values)


def check(hint: Any, value: Any, param: str, *, from_text: bool = False) -> Any:
    """The value if it fits the type, converted from text if asked to. Raises `InvalidRequest`."""
    for option in _options(hint):
        if _is_nested(option) and isinstance(value, Mapping):
            return _parse_nested(option, value, param, from_text)
        if get_origin(option) is list:
            items = _list_from_text(value) if from_text else value
            if isinstance(items, list) and _is_nested(item := get_args(option)[0]):
                return [check(item, one, f"{param}[{place}]", from_text=from_text) for place, one in enumerate(items)]
        fits, converted = _fit(option, value, from_text)
        if fits:
            return converted
    raise InvalidRequest(
        f"{param} is not usable", expected=describe(hint), received="null" if value is None else value, param=param
    )


def _is_nested(hint: Any) -> bool:
    return dataclasses.is_dataclass(hint) and hint is not Upload


def _parse_nested(cls: Any, value: Mapping[str, Any], param: str, from_text: bool) -> Any:
    try:
        return parse_object(cls, value, from_text=from_text)
    except InvalidRequest as error:
        error.param = f"{param}.{error.param}"
        raise


def _list_from_text(value: Any) -> Any:
    """A list, as a form has it: as JSON; empty text is an empty list."""
    try:
        return json.loads(value or "[]") if isinstance(value, str) else value
    except (ValueError, RecursionError):
        return value


def _fit(hint: Any, value: Any, from_text: bool) -> tuple[bool, Any]:
    plain, limits = _split(hint)
    if from_text and isinstance(value, str):
        value = _from_text(plain, value)
    if not _has_type(plain, value):
        return False, None
    if plain is float:
        value = float(value)
    return all(limit.allow(value) for limit in limits), value


def _has_type(plain: Any, value: Any) -> bool:
    if plain is types.NoneType:
        return value is None
    if get_origin(plain) is Literal:
        return any(value == option and type(value) is type(option) for option in get_args(plain))
    if get_origin(plain) is list:
        (item,) = get_args(plain)
        return isinstance(value, list) and all(any(_fit(option, one, False)[0] for option in _options(item)) for one in value)
    if plain is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if plain is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(plain, type) and isinstance(value, plain)


def _from_text(plain: Any, text: str) -> Any:
    if plain is types.NoneType:
        return None if text == "null" else text
    try:
        return plain(text) if plain in (int, float) else text
    except ValueError:
        return text


# ---------------------------------------------------------------- describing


def describe(hint: Any) -> str:
    """What is expected, in words: for error messages."""
    return " or ".join(dict.fromkeys(_describe_one(option) for option in _options(hint)))


def _describe_one(hint: Any) -> str:
    plain, limits = _split(hint)
    if get_origin(plain) is Literal:
        return "one of " + ", ".join(str(option) for option in get_args(plain))
    words = {str: "text", int: "a whole number", float: "a number", bool: "true or false", types.NoneType: "null"}
    words[Upload] = "a file"
    text = words.get(plain, "a list" if get_origin(plain) is list else "an object")
    return " ".join([text, *(_describe_limits(limit) for limit in limits)]).strip()


def _describe_limits(limits: Limits) -> str:
    said = []
    if limits.minimum is not None:
        said.append(f"from {limits.minimum}")
    if limits.maximum is not None:
        said.append(f"to {limits.maximum:g}" if isinstance(limits.maximum, float) else f"to {limits.maximum}")
    if limits.min_length:
        said.append(f"of at least {limits.min_length} characters")
    if limits.max_length is not None:
        said.append(f"of at most {limits.max_length} characters")
    if limits.description is not None:
        said.append(f"({limits.description})")
    return " ".join(said)


def schema_of(hint: Any, named: dict[str, Schema]) -> Schema:
    """JSON Schema (2020-12, as OpenAPI 3.1 has it); objects go into `named` and are referred to."""
    options = _options(hint)
    if len(options) > 1:
        return {"anyOf": [schema_of(option, named) for option in options]}
    plain, limits = _split(options[0])
    schema = _schema_of_plain(plain, named)
    for limit in limits:
        schema |= limit.in_schema()
    return schema


def _schema_of_plain(plain: Any, named: dict[str, Schema]) -> Schema:
    simple = {str: "string", int: "integer", float: "number", bool: "boolean", types.NoneType: "null"}
    if plain in simple:
        return {"type": simple[plain]}
    if plain is Any:
        return {}
    if plain is Upload:
        return {"type": "string", "format": "binary", "description": "a file, in a form"}
    if get_origin(plain) is Literal:
        return {"enum": list(get_args(plain))}
    if get_origin(plain) is list:
        return {"type": "array", "items": schema_of(get_args(plain)[0], named)}
    if get_origin(plain) is not None and issubclass(get_origin(plain), Mapping):
        return {"type": "object", "additionalProperties": schema_of(get_args(plain)[1], named)}
    return _reference(plain, named)


def _reference(cls: Any, named: dict[str, Schema]) -> Schema:
    if cls.__name__ not in named:
        named[cls.__name__] = {}  # first, so that a type may refer to itself
        hints = typing.get_type_hints(cls, include_extras=True)
        is_request = dataclasses.is_dataclass(cls)
        required = [field.name for field in dataclasses.fields(cls) if _is_required(field)] if is_request else list(hints)
        named[cls.__name__] = {
            "type": "object",
            "description": inspect.cleandoc(cls.__doc__ or ""),
            "properties": {name: schema_of(hint, named) for name, hint in hints.items()},
            "required": required,
            **({"additionalProperties": False} if is_request else {}),
        }
    return {"$ref": f"#/components/schemas/{cls.__name__}"}


# ---------------------------------------------------------------- types


def _options(hint: Any) -> list[Any]:
    """The members of a union (without `Unset`, which never comes from outside), else the type alone."""
    if get_origin(hint) in (Union, types.UnionType):
        return [option for member in get_args(hint) if member is not Unset for option in _options(member)]
    return [hint]


def _split(hint: Any) -> tuple[Any, list[Limits]]:
    if get_origin(hint) is Annotated:
        plain, *extras = get_args(hint)
        return plain, [extra for extra in extras if isinstance(extra, Limits)]
    return hint, []


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
