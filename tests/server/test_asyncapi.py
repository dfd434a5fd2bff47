"""docs/asyncapi.yaml is what other programs are made from: it is held against the code, and against what a server says."""

from __future__ import annotations

import asyncio
import json
import re
import struct
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from delivery.golden_messages import FILE as GOLDEN_FILE
from jsonschema import Draft7Validator
from test_client import TOKEN, served

from server.running import viewer
from st2v_stream.client import Client
from st2v_stream.delivery.protocol import HEADER, RENDITIONS, VERSION, CloseCode, Conversation, Kind
from st2v_stream.delivery.resource import VideoJson
from st2v_stream.server.schema import schema_of

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT: dict[str, Any] = yaml.safe_load((ROOT / "docs" / "asyncapi.yaml").read_text())
MESSAGES: dict[str, Any] = DOCUMENT["components"]["messages"]
TEXTS = {name for name, message in MESSAGES.items() if message.get("contentType") is None}
GOLDEN = json.loads(GOLDEN_FILE.read_text())


def closed(schema: Any) -> Any:
    """Objects have the fields that are written down and no others: what is missing in the document is noticed."""
    if isinstance(schema, list):
        return [closed(inner) for inner in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {name: closed(value) for name, value in schema.items()}
    return inner | ({"additionalProperties": False} if schema.get("type") == "object" else {})


CLOSED = closed(DOCUMENT)


def faults(name: str, message: Any, document: Mapping[str, Any] = CLOSED) -> list[str]:
    """What is wrong with a message of this type."""
    schema = {"$ref": f"#/components/messages/{name}/payload", "components": document["components"]}
    return [f"{name}: {error.message}" for error in Draft7Validator(schema).iter_errors(message)]


def test_it_is_an_asyncapi_document() -> None:
    published = ROOT / "tests" / "web" / "node_modules" / "@asyncapi" / "specs" / "schemas" / "3.0.0-without-$id.json"
    if not published.exists():
        pytest.skip("npm install in tests/web brings the schema of AsyncAPI")
    errors = Draft7Validator(json.loads(published.read_text())).iter_errors(json.loads(json.dumps(DOCUMENT)))
    assert [error.message[:200] for error in errors] == []


def test_references_lead_somewhere() -> None:
    def references(value: Any) -> Iterator[str]:
        for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            yield from references(inner)
        if isinstance(value, dict) and "$ref" in value:
            yield value["$ref"]

    for reference in references(DOCUMENT):
        found: Any = DOCUMENT
        for step in reference.removeprefix("#/").split("/"):
            found = found[step]


def test_it_has_the_messages_of_the_server_and_of_the_page() -> None:
    to_server = {kind for kinds in Conversation.LEGAL.values() for kind in kinds}
    source = (ROOT / "st2v_stream" / "delivery" / "protocol.py").read_text()
    said = set(re.findall(r'"type": "(\w+)"', source))
    assert to_server | said == TEXTS
    page = (ROOT / "web" / "protocol.js").read_text()
    assert set(re.findall(r'\{type: "(\w+)",', page)) == said
    assert set(re.findall(r'\{ type: "(\w+)",', page)) <= to_server
    listened, told = (_operation(name) for name in ("listen", "tell"))
    assert listened == to_server
    assert told == said | {"init_segment", "segment"}
    for channel in DOCUMENT["channels"].values():
        assert set(channel["messages"]) == set(MESSAGES)


def _operation(name: str) -> set[str]:
    return {message["$ref"].rpartition("/")[2] for message in DOCUMENT["operations"][name]["messages"]}


def test_golden_messages_fit_and_bad_ones_do_not() -> None:
    for text in GOLDEN["from_server"]:
        message = json.loads(text)
        assert faults(message["type"], message) == []
    for heard in GOLDEN["to_server"]:
        if "read" in heard:
            message = json.loads(heard["text"])
            assert faults(message["type"], message, DOCUMENT) == []
    refused = [heard["text"] for heard in GOLDEN["to_server"] if "is not usable" in heard.get("refused", "")]
    refused += [heard["text"] for heard in GOLDEN["to_server"] if "are not usable" in heard.get("refused", "")]
    assert len(refused) > 5
    for text in refused:
        message = json.loads(text)
        assert faults(message["type"], message, DOCUMENT) != [], text


def test_a_field_more_or_less_is_noticed() -> None:
    message = json.loads(GOLDEN["from_server"][0])
    assert faults("welcome", message | {"more": 1}) != []
    del message["video"]["title"]
    assert faults("welcome", message) != []


def test_the_video_is_that_of_the_rest_api() -> None:
    named: dict[str, Any] = {}
    schema_of(VideoJson, named)
    for name, schema in named.items():
        written = DOCUMENT["components"]["schemas"][name]
        assert written["properties"] == {field: _short(kind) for field, kind in schema["properties"].items()}
        assert written["required"] == schema["required"]


def _short(schema: dict[str, Any]) -> dict[str, Any]:
    """As the document writes it: `anyOf` of plain types is a list of types, an enum or nothing is an enum with null."""
    options = schema.get("anyOf", [])
    if options and all(set(option) == {"type"} for option in options):
        return {"type": [option["type"] for option in options]}
    if [set(option) for option in options] == [{"enum"}, {"type"}]:
        return {"enum": [*options[0]["enum"], None]}
    return schema


def test_the_binary_header_is_the_servers() -> None:
    header = DOCUMENT["components"]["schemas"]["binary"]["x-header"]
    codes = {"u8": "B", "u32": "I"}
    layout = struct.Struct(">" + "".join(codes[part["type"]] for part in header))
    assert layout.format == HEADER.format
    offsets = [struct.calcsize(">" + "".join(codes[part["type"]] for part in header[:place])) for place in range(len(header))]
    assert [part["offset"] for part in header] == offsets
    values = {part["name"]: part.get("values") for part in header}
    assert values["kind"] == {int(kind): kind.name.lower() for kind in Kind}
    assert values["rendition"] == dict(enumerate(RENDITIONS))
    assert header[0]["const"] == VERSION
    for message in GOLDEN["binary"]:
        if "read" not in message:
            continue
        numbers = layout.unpack_from(bytes.fromhex(message["hex"]))
        read = {part["name"]: (part.get("values") or {}).get(number, number) for part, number in zip(header, numbers)}
        assert {name: read[name] for name in read if name in message["read"]} == {
            name: value for name, value in message["read"].items() if name != "payload"
        }


def test_close_codes_are_those_of_the_server_and_of_the_page() -> None:
    documented = DOCUMENT["channels"]["watch"]["x-close-codes"]
    by_others = {1001, 1006, 1009}  # of the connection, of a proxy, of the WebSocket library
    assert set(documented) == {int(code) for code in CloseCode} | by_others
    page = (ROOT / "web" / "protocol.js").read_text()
    final = {int(code) for code in re.findall(r"^  \[(\d{4}), ", page, flags=re.MULTILINE)}
    assert final == {code for code, said in documented.items() if code > 4000 and not said["come_back"]}


def document_of(url: str) -> Any:
    with urllib.request.urlopen(f"{url}/asyncapi.yaml", timeout=20) as answer:
        assert answer.headers["Content-Type"] == "application/yaml"
        return yaml.safe_load(answer.read())


def test_what_a_real_server_says_fits(tmp_path: Path) -> None:
    asyncio.run(hear_a_real_server(tmp_path))


async def hear_a_real_server(tmp_path: Path) -> None:
    async with served(tmp_path) as url:
        assert await asyncio.to_thread(document_of, url) == DOCUMENT, "who asks needs no token"
        client = Client(url, TOKEN)
        film = await client.create("a numbered film", num_frames=None)
        address = f"ws{url.removeprefix('http')}/v1/videos/{film['id']}/watch"
        async with viewer(address, token=TOKEN) as seen:
            await seen.until_segments(3)
            await client.cue(film["id"], prompt="another film")
            await seen.send(type="want", from_index=0, to_index=1)
            await seen.until("error")
            await client.redo(film["id"], 1)
            await seen.until("reset")
            await client.stop(film["id"])
            await seen.until("ended")
            await seen.send(type="goodbye")
            assert await seen.closed() == CloseCode.BAD_MESSAGE
    assert {text["type"] for text in seen.texts} >= {"welcome", "init", "state", "progress", "reset", "cue", "ended", "error"}
    assert [fault for text in seen.texts for fault in faults(text["type"], text)] == []
