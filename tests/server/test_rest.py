"""The REST API against a Director in memory: shapes, validation, paging, caching."""

from __future__ import annotations

import json
from typing import Any

import pytest
from starlette.testclient import TestClient

from server.standin import CARD, INIT, Standin, sha
from st2v_stream.types import CreateVideo


def make(client: TestClient, **fields: Any) -> Any:
    return client.post("/v1/videos", json={"prompt": "a red ball", **fields})


# ---------------------------------------------------------------- creating


def test_create_passes_on_what_was_asked(client: TestClient, director: Standin) -> None:
    response = make(client, num_frames=None, seed=7, preset="live", guidance_scale=2, num_inference_steps=3, title=" Mine ")
    assert response.status_code == 200
    wanted = CreateVideo("a red ball", "testcard", None, 7, "live", "", 2.0, 3, "Mine")
    assert director.requests == [wanted]
    video = response.json()
    assert (video["object"], video["status"], video["title"], video["num_frames"]) == ("video", "queued", "Mine", None)


def test_length_is_frames_or_seconds_or_the_default(client: TestClient, director: Standin) -> None:
    make(client)
    make(client, num_frames=30)
    make(client, seconds="2.5")
    make(client, seconds="4", size="256x192", model="testcard", cues=[])
    assert [request.num_frames for request in director.requests] == [120, 30, 20, 32]


def test_create_from_a_form(client: TestClient, director: Standin) -> None:
    form = {"prompt": "a ball", "num_frames": "null", "seed": "12", "guidance_scale": "1.5"}
    response = client.post("/v1/videos", files={name: (None, value) for name, value in form.items()})
    assert response.status_code == 200, response.text
    (wanted,) = director.requests
    assert (wanted.prompt, wanted.num_frames, wanted.seed, wanted.guidance_scale) == ("a ball", None, 12, 1.5)


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"prompt": ""}, "prompt", "at least 1 characters"),
        ({"prompt": "  "}, "prompt", "1 to 100 characters"),
        ({"prompt": "x" * 101}, "prompt", "received '101 characters'"),
        ({"prompt": 7}, "prompt", "expected text"),
        ({"prompt": None}, "prompt", "received 'null'"),
        ({"prompt": "a\x00b"}, "prompt", "control characters"),
        ({"prompt": "\ud800"}, "prompt", "control characters"),
        ({"num_frames": 0}, "num_frames", "from 1"),
        ({"num_frames": "30"}, "num_frames", "a whole number"),
        ({"num_frames": True}, "num_frames", "received True"),
        ({"num_frames": 1.5}, "num_frames", "or null"),
        ({"seconds": 4}, "seconds", "as text"),
        ({"seconds": "-4"}, "seconds", "received '-4'"),
        ({"seconds": "4", "num_frames": 9}, "seconds", "seconds or num_frames"),
        ({"size": "10x10"}, "size", "expected 256x192"),
        ({"size": "big"}, "size", "width x height"),
        ({"seed": -1}, "seed", "from 0"),
        ({"seed": 2**63}, "seed", "to 9223372036854775807"),
        ({"preset": "fast"}, "preset", "one of published, default, live"),
        ({"enhance": "yes"}, "enhance", "one of all, watched, idle, none"),
        ({"guidance_scale": "2"}, "guidance_scale", "a number"),
        ({"guidance_scale": 101}, "guidance_scale", "to 100"),
        ({"num_inference_steps": 0}, "num_inference_steps", "from 1"),
        ({"when_unwatched": "stop"}, "when_unwatched", "one of run"),
        ({"title": "x" * 201}, "title", "at most 200"),
        ({"cues": [{"index": 3}]}, "cues[0].index", "from_s, from_index"),
        ({"cues": [{"from_s": 1}, {"from_s": "2"}]}, "cues[1].from_s", "seconds from the film's beginning"),
        ({"cues": ["20 s: a boat"]}, "cues[0]", "an object"),
        ({"cues": {"from_s": 1}}, "cues", "a list"),
        ({"cues": [{"from_s": 1, "prompt": "a\x00b"}]}, "prompt", "control characters"),
        ({"input_reference": {"image_url": "data:,"}}, "input_reference", "a data: URL in base64"),
        ({"input_reference": {"image_url": "https://example.com/a.png"}}, "input_reference", "nothing is fetched"),
        ({"input_reference": {"file_id": "file_1"}}, "input_reference", "not kept here under ids"),
        ({"input_reference": {"url": "data:,"}}, "input_reference.url", "one of image_url, file_id"),
        ({"input_reference": "data:image/png;base64,###"}, "input_reference", "is not base64"),
        ({"input_reference": "data:image/png;base64,AAAA"}, "input_reference", "PNG, JPEG or WebP"),
        ({"input_reference": 7}, "input_reference", "a file or an object or text or null"),
        ({"colour": "red"}, "colour", "unknown field"),
    ],
)
def test_wrong_fields_are_explained(
    client: TestClient, director: Standin, fields: dict[str, Any], param: str, words: str
) -> None:
    body = json.dumps({"prompt": "a ball", **fields})
    response = client.post("/v1/videos", content=body, headers={"content-type": "application/json"})
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert (error["type"], error["code"], error["param"]) == ("invalid_request_error", "invalid_request", param)
    assert words in error["message"]
    assert "expected" in error["message"]
    assert "received" in error["message"]
    assert not director.requests


def test_a_missing_prompt_is_named(client: TestClient) -> None:
    error = client.post("/v1/videos", json={}).json()["error"]
    assert error["param"] == "prompt"
    assert error["message"] == "prompt is missing: expected text of at least 1 characters, received 'nothing'"


def test_an_unknown_model_is_404(client: TestClient) -> None:
    response = make(client, model="sora-2")
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "model_not_found"
    assert "expected one of testcard, received 'sora-2'" in response.json()["error"]["message"]


UNREADABLE = {
    "cut": b"{",
    "list": b"[]",
    "number": b"7",
    "bytes": b"\xff",
    "nan": b'{"prompt": NaN}',
    "deep": b"[" * 100_000,
    "long": b'{"seed":' + b"9" * 5000 + b"}",
    "large": b'{"prompt":"' + b"x" * 2**20 + b'"}',
}


@pytest.mark.parametrize("body", UNREADABLE.values(), ids=UNREADABLE)
def test_bodies_that_cannot_be_read(client: TestClient, body: bytes) -> None:
    response = client.post("/v1/videos", content=body, headers={"content-type": "application/json"})
    assert response.status_code == 400
    message = response.json()["error"]["message"]
    assert "expected" in message
    assert "received" in message
    assert len(message) < 500


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "multipart/form-data; boundary=x"]
)
def test_other_kinds_of_bodies_are_refused(client: TestClient, kind: str) -> None:
    response = client.post("/v1/videos", content=b"prompt=a", headers={"content-type": kind})
    assert response.status_code == 400
    assert "multipart/form-data" in response.json()["error"]["message"]


# ---------------------------------------------------------------- reading


def test_list_pages_in_both_orders(client: TestClient, director: Standin) -> None:
    ids = [director.add() for _ in range(7)]
    for order, expected in (("asc", ids), ("desc", ids[::-1])):
        seen: list[str] = []
        after = ""
        while True:
            page = client.get(f"/v1/videos?limit=3&order={order}{after}").json()
            assert page["object"] == "list"
            assert (page["first_id"], page["last_id"]) == (page["data"][0]["id"], page["data"][-1]["id"])
            seen += [video["id"] for video in page["data"]]
            if not page["has_more"]:
                break
            after = "&after=" + page["last_id"]
        assert seen == expected


def test_an_empty_list(client: TestClient) -> None:
    expected = {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}
    assert client.get("/v1/videos").json() == expected


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "limit=x", "order=up", "page=2"])
def test_wrong_queries_are_explained(client: TestClient, query: str) -> None:
    response = client.get(f"/v1/videos?{query}")
    assert response.status_code == 400
    assert response.json()["error"]["param"] == query.partition("=")[0]


def test_get_stop_continue_delete(client: TestClient, director: Standin) -> None:
    url = f"/v1/videos/{director.add(2)}"
    assert client.get(url).json()["chunks"] == 2
    stopped = client.post(url + "/stop").json()
    assert (stopped["status"], stopped["ended_by"], stopped["progress"], stopped["seconds"]) == (
        "completed",
        "stopped",
        100,
        "3",
    )
    again = client.post(url + "/stop", json={})
    assert (again.status_code, again.json()["error"]["code"]) == (409, "conflict")
    assert client.post(url + "/continue", json={"num_frames": 16}).json()["num_frames"] == 40
    assert client.post(url + "/continue", json={"num_frames": None}).json()["num_frames"] is None
    assert client.post(url + "/continue").json()["error"]["param"] == "num_frames"
    assert client.post(url + "/stop", json={"now": True}).status_code == 400
    assert client.delete(url).json() == {"id": "v000", "object": "video.deleted", "deleted": True}
    for response in (client.get(url), client.delete(url), client.post(url + "/stop"), client.get(url + "/events")):
        assert response.status_code == 404
        assert response.json()["error"]["code"] == "not_found"


def test_chunks_and_their_addresses(client: TestClient, director: Standin) -> None:
    url = f"/v1/videos/{director.add(3)}/"
    director.segment("v000", 1, rendition="enhanced")
    listed = client.get(url + "chunks").json()
    assert [(c["index"], c["start"], c["frames"], c["rendition"]) for c in listed["data"]] == [
        (0, 0, 16, "preview"), (1, 16, 8, "enhanced"), (2, 24, 8, "preview"),
    ]  # fmt: skip
    for chunk in listed["data"]:
        segment = client.get(url + chunk["url"])
        assert segment.headers["content-type"] == "video/iso.segment"
        assert segment.headers["cache-control"] == "private, max-age=31536000, immutable"
        assert sha(segment.content) == chunk["hash"]
        assert client.get(url + chunk["url"], headers={"If-None-Match": segment.headers["etag"]}).status_code == 304
    init = client.get(url + listed["data"][0]["init_url"])
    assert (init.content, init.headers["content-type"]) == (INIT, "video/mp4")
    for name in ("segments/" + "0" * 64 + ".m4s", "segments/xyz.m4s", "segments/" + sha(INIT).upper() + ".m4s", "init/..mp4"):
        assert client.get(url + name).status_code == 404


def test_thumbnails(client: TestClient, director: Standin, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"/v1/videos/{director.add(2)}/"
    jpeg = client.get(url + "thumbnails/1.jpg")
    assert (jpeg.content, jpeg.headers["content-type"]) == (b"\xff\xd8 jpeg of v000/1", "image/jpeg")
    chunks = client.get(url + "chunks").json()["data"]
    assert jpeg.headers["etag"] == f'"{chunks[1]["hash"]}"'
    with monkeypatch.context() as nothing_is_decoded:
        nothing_is_decoded.delattr(Standin, "thumbnail")
        assert client.get(url + "thumbnails/1.jpg", headers={"If-None-Match": jpeg.headers["etag"]}).status_code == 304
    assert client.get(url + "content?variant=thumbnail").content == b"\xff\xd8 jpeg of v000/0"
    assert client.get(url + "thumbnails/2.jpg").status_code == 404
    assert client.get(url + "thumbnails/-1.jpg").status_code == 404
    sheet = client.get(url + "content?variant=spritesheet")
    assert (sheet.content, sheet.headers["content-type"]) == (b"\xff\xd8 sheet of 2 chunks", "image/jpeg")
    same = {"If-None-Match": sheet.headers["etag"]}
    assert client.get(url + "content?variant=spritesheet", headers=same).status_code == 304
    director.segment("v000", 2)
    assert client.get(url + "content?variant=spritesheet", headers=same).status_code == 200
    assert client.get(url + "content?variant=film").json()["error"]["param"] == "variant"


def test_nothing_to_download_yet(client: TestClient, director: Standin) -> None:
    assert client.get(f"/v1/videos/{director.add()}/content").status_code == 404


def test_links(client: TestClient, director: Standin) -> None:
    video = director.add(1)
    link = client.post(f"/v1/videos/{video}/links", json={"expires_in_s": 60}).json()
    assert link["url"].startswith("/g/v1.")
    assert link["url"].endswith(f"/v1/videos/{video}")
    del client.headers["authorization"]
    chunk = client.get(link["url"] + "/chunks").json()["data"][0]
    assert client.get(link["url"] + "/" + chunk["url"]).status_code == 200
    client.headers["authorization"] = "Bearer x"  # a wrong token beside a right grant changes nothing
    assert client.get(link["url"] + "/chunks").status_code == 200


@pytest.mark.parametrize("expires_in_s", [0, -1, "60", 10**9, None])
def test_wrong_expiries(client: TestClient, director: Standin, expires_in_s: object) -> None:
    response = client.post(f"/v1/videos/{director.add(1)}/links", json={"expires_in_s": expires_in_s})
    assert response.status_code == 400


@pytest.mark.parametrize("path", ["edits", "characters"])
def test_the_rest_of_openais_api_answers_501(client: TestClient, director: Standin, path: str) -> None:
    director.add()
    response = client.post(f"/v1/videos/{path}", json={"prompt": "x"})
    assert response.status_code == 501
    assert response.json()["error"]["code"] == "not_implemented"


# ---------------------------------------------------------------- the server


def test_models_are_openais_list_with_the_cards(client: TestClient) -> None:
    listed = client.get("/v1/models").json()
    (model,) = listed["data"]
    assert (listed["object"], model["id"], model["object"], model["owned_by"]) == ("list", "testcard", "model", "st2v_stream")
    assert (model["title"], model["version"], model["licence"]) == (CARD.title, CARD.version, CARD.licence)
    assert model["spec"]["first_chunk_frames"] == 16
    assert model["example_prompts"] == ["a numbered film"]
    assert client.get("/v1/models/testcard").json() == model
    assert client.get("/v1/models/nobody").status_code == 404


def test_system_and_metrics(client: TestClient, director: Standin) -> None:
    client.get("/v1/videos/nobody")
    system = client.get("/v1/system").json()
    assert (system["device"], system["ready"], system["viewers"]) == ("cpu", True, 0)
    metrics = client.get("/metrics")
    assert metrics.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = metrics.text.splitlines()
    assert 'st2v_http_requests_total{status="404"} 1' in lines
    assert "st2v_viewers 0" in lines
    assert "st2v_system_store_size_bytes 5.0" in lines
    for line in lines:
        assert line.startswith("# TYPE st2v_") or float(line.rpartition(" ")[2]) >= 0


def test_unknown_addresses_and_methods_have_the_error_shape(client: TestClient) -> None:
    for method, path, status in (
        ("GET", "/v1/nothing", 404),
        ("PUT", "/v1/videos", 405),
        ("PATCH", "/v1/videos/v000/cues", 405),
    ):
        response = client.request(method, path)
        assert response.status_code == status
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    assert client.put("/v1/videos").headers["allow"]
