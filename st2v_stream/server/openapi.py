"""`/openapi.json` (OpenAPI 3.1), made from the table of operations and the types that check requests."""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from starlette.requests import Request
from starlette.responses import Response

from st2v_stream import __version__
from st2v_stream.server.schema import Schema, schema_of


class ErrorJson(TypedDict):
    """What went wrong; the message says what was expected and what came."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(TypedDict):
    """OpenAI's error shape."""

    error: ErrorJson


@dataclass(frozen=True, slots=True)
class Operation:
    """One thing the API can do: where, what goes in, what comes out.

    body, query: request dataclasses, or of a body that is a file its MIME type. answer: a type for JSON, or a MIME type for
    everything else. open: needs no token.
    """

    method: str
    path: str
    handler: Callable[[Request], Awaitable[Response]]
    summary: str
    answer: Any = None
    body: type | str | None = None
    query: type | None = None
    open: bool = False

    @property
    def documented_path(self) -> str:
        """The path without the router's convertors."""
        return re.sub(r"{(\w+):\w+}", r"{\1}", self.path)


def openapi_document(operations: Sequence[Operation]) -> Schema:
    """The whole document."""
    named: dict[str, Schema] = {}
    paths: dict[str, Schema] = {}
    for operation in operations:
        paths.setdefault(operation.documented_path, {})[operation.method.lower()] = _operation(operation, named)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "st2v_stream",
            "version": __version__,
            "summary": "Long generated video that is watched while it is being made. OpenAI's videos API, and more.",
        },
        "paths": paths,
        "components": {
            "schemas": named,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "description": "The owner's token."}},
        },
        "security": [{"token": []}],
    }


def _operation(operation: Operation, named: dict[str, Schema]) -> Schema:
    said: Schema = {
        "operationId": operation.handler.__name__,
        "summary": operation.summary,
        "parameters": [*_path_parameters(operation), *_query_parameters(operation, named)],
        "responses": {
            "200": {"description": "done", **_answer(operation.answer, named)},
            "default": {"description": "an error", **_content("application/json", schema_of(ErrorBody, named))},
        },
    }
    if isinstance(operation.body, str):
        said["requestBody"] = {**_content(operation.body, {"type": "string", "format": "binary"}), "required": True}
    elif operation.body is not None:
        schema = schema_of(operation.body, named)
        content = {mime: {"schema": schema} for mime in ("application/json", "multipart/form-data")}
        said["requestBody"] = {"content": content, "required": bool(named[operation.body.__name__]["required"])}
    if operation.open:
        said["security"] = []
    return said


def _path_parameters(operation: Operation) -> list[Schema]:
    kinds: dict[str, str] = dict(re.findall(r"{(\w+)(?::(\w+))?}", operation.path))
    types = {"int": int}
    return [
        {"name": name, "in": "path", "required": True, "schema": schema_of(types.get(kind, str), {})}
        for name, kind in kinds.items()
    ]


def _query_parameters(operation: Operation, named: dict[str, Schema]) -> list[Schema]:
    if operation.query is None:
        return []
    hints = typing.get_type_hints(operation.query, include_extras=True)
    return [
        {"name": field.name, "in": "query", "required": False, "schema": schema_of(hints[field.name], named) | _default(field)}
        for field in dataclasses.fields(operation.query)
    ]


def _default(field: dataclasses.Field[Any]) -> Schema:
    return {} if field.default in (None, dataclasses.MISSING) else {"default": field.default}


def _answer(answer: Any, named: dict[str, Schema]) -> Schema:
    if answer is None:
        return {}
    if isinstance(answer, str):
        return _content(answer, {"type": "string"})
    return _content("application/json", schema_of(answer, named))


def _content(mime: str, schema: Schema) -> Schema:
    return {"content": {mime: {"schema": schema}}}
