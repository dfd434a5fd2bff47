"""Checking and describing come from the same types; the OpenAPI document says what the server does."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from starlette.routing import Route
from starlette.testclient import TestClient

from server.running import TOKEN
from server.standin import Standin
from st2v_stream.config import Config
from st2v_stream.errors import InvalidRequest
from st2v_stream.server.app import create_app
from st2v_stream.server.requests import CreateBody
from st2v_stream.server.schema import Limits, check, describe, parse_object, schema_of

Small = Annotated[int, Limits(minimum=1, maximum=3)]


@pytest.mark.parametrize(
    ("hint", "good", "bad"),
    [
        (int, [0, -5], [True, 1.0, "1", None]),
        (float, [1, 1.5], [True, "1.5"]),
        (bool, [True], [1, "true"]),
        (Small | None, [1, 3, None], [0, 4]),
        (Literal["a", "b"], ["a"], ["c", 1]),
        (list[int], [[], [1]], [["a"], (1,)]),
        (Annotated[str, Limits(pattern="a+")], ["aa"], ["aab", "", "aa\n"]),
    ],
)
def test_check(hint: Any, good: list[Any], bad: list[Any]) -> None:
    for value in good:
        assert check(hint, value, "x") == value
    for value in bad:
        with pytest.raises(InvalidRequest) as refused:
            check(hint, value, "x")
        assert refused.value.param == "x"


def test_text_is_converted_for_forms() -> None:
    assert check(Small | None, "2", "x", from_text=True) == 2
    assert check(Small | None, "null", "x", from_text=True) is None
    assert check(str | None, "null", "x", from_text=True) == "null"
    with pytest.raises(InvalidRequest):
        check(Small, "9", "x", from_text=True)


def test_describe() -> None:
    assert describe(Small | None) == "a whole number from 1 to 3 or null"


def test_absent_and_null_differ() -> None:
    assert parse_object(CreateBody, {"prompt": "x", "num_frames": None}).num_frames is None
    assert parse_object(CreateBody, {"prompt": "x"}).num_frames is not None


def test_schema_of_a_request() -> None:
    named: dict[str, Any] = {}
    assert schema_of(CreateBody, named) == {"$ref": "#/components/schemas/CreateBody"}
    body = named["CreateBody"]
    assert body["required"] == ["prompt"]
    assert body["additionalProperties"] is False
    assert body["properties"]["prompt"] == {"type": "string", "minLength": 1}
    assert {"type": "null"} in body["properties"]["num_frames"]["anyOf"]


# ---------------------------------------------------------------- the document


def document() -> dict[str, Any]:
    app = create_app(Config(token=TOKEN, data_dir=Path("nowhere")), Standin())
    return TestClient(app, base_url="http://127.0.0.1:8000").get("/openapi.json").json()  # type: ignore[no-any-return]


def nodes(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        for inner in value.values():
            yield from nodes(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from nodes(inner)


def test_document_is_whole() -> None:
    said = document()
    assert said["openapi"].startswith("3.1")
    schemas = said["components"]["schemas"]
    for node in nodes(said):
        if "$ref" in node:
            assert node["$ref"].removeprefix("#/components/schemas/") in schemas
        if isinstance(node.get("type"), str) and "in" not in node and "scheme" not in node:
            assert node["type"] in ("string", "integer", "number", "boolean", "null", "array", "object")
    for name in ("VideoJson", "VideoList", "ChunkJson", "ErrorBody", "CreateBody"):
        assert schemas[name]["description"]
        assert set(schemas[name]["required"]) <= set(schemas[name]["properties"])


def test_document_has_every_route_and_every_path_parameter() -> None:
    said = document()
    app = create_app(Config(token=TOKEN, data_dir=Path("nowhere")), Standin())
    routed = {(m.lower(), r.path_format) for r in app.routes if isinstance(r, Route) for m in r.methods or () if m != "HEAD"}
    documented = {(method, path) for path, item in said["paths"].items() for method in item}
    assert documented == routed - {("get", "/{path}")}
    ids = [operation["operationId"] for item in said["paths"].values() for operation in item.values()]
    assert len(set(ids)) == len(ids)
    for path, item in said["paths"].items():
        for operation in item.values():
            declared = {parameter["name"] for parameter in operation["parameters"] if parameter["in"] == "path"}
            assert declared == set(re.findall(r"{(\w+)}", path))


def test_answers_match_their_schema(client: TestClient, director: Standin) -> None:
    schemas = document()["components"]["schemas"]
    video = client.get(f"/v1/videos/{director.add(1)}").json()
    assert set(video) == set(schemas["VideoJson"]["properties"])
    assert set(client.get("/v1/models").json()["data"][0]) == set(schemas["ModelJson"]["properties"])
    assert set(client.get("/v1/videos/v000/chunks").json()["data"][0]) == set(schemas["ChunkJson"]["properties"])
