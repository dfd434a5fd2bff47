"""An image or a clip on its way to the Director: as a file, as a data: URL, from OpenAI's own client."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest
from clips import clip_of, grey_frames, picture_of
from starlette.testclient import TestClient

from server.standin import CARD, Standin
from st2v_stream.chunk import Frames
from st2v_stream.server import requests as requests_module

PICTURE = np.random.default_rng(0).integers(0, 256, (30, 50, 3), np.uint8)
PNG = picture_of(PICTURE)
URL = "data:image/png;base64," + base64.b64encode(PNG).decode()


def passed_on(director: Standin) -> Frames | None:
    reference = director.requests[-1].reference
    return None if reference is None else reference.frames


def test_an_image_as_a_file_in_a_form(client: TestClient, director: Standin) -> None:
    response = client.post("/v1/videos", data={"prompt": "a ball"}, files={"input_reference": ("../a.png", PNG, "image/png")})
    assert response.status_code == 200, response.text
    assert np.array_equal(passed_on(director), PICTURE[None])  # type: ignore[arg-type]


@pytest.mark.parametrize("given", [URL, {"image_url": URL}], ids=["text", "object"])
def test_an_image_as_a_data_url(client: TestClient, director: Standin, given: Any) -> None:
    response = client.post("/v1/videos", json={"prompt": "a ball", "input_reference": given})
    assert response.status_code == 200, response.text
    assert np.array_equal(passed_on(director), PICTURE[None])  # type: ignore[arg-type]


def test_an_image_as_openais_client_writes_it(client: TestClient, director: Standin) -> None:
    form = {"prompt": (None, "a ball"), "input_reference[image_url]": (None, URL)}
    assert client.post("/v1/videos", files=form).status_code == 200
    assert np.array_equal(passed_on(director), PICTURE[None])  # type: ignore[arg-type]


def test_a_clip_comes_at_the_films_size(client: TestClient, director: Standin) -> None:
    clip = clip_of(grey_frames(30), fps=CARD.spec.fps)
    response = client.post("/v1/videos", data={"prompt": "a ball"}, files={"input_reference": ("a.mp4", clip)})
    assert response.status_code == 200, response.text
    frames = passed_on(director)
    assert frames is not None
    assert frames.shape == (CARD.spec.first_chunk_frames + 1, CARD.spec.height, CARD.spec.width, 3)


@pytest.mark.parametrize("given", [None, "", {}], ids=["null", "empty", "object"])
def test_none_is_none(client: TestClient, director: Standin, given: Any) -> None:
    assert client.post("/v1/videos", json={"prompt": "a ball", "input_reference": given}).status_code == 200
    assert passed_on(director) is None


def test_a_form_with_an_empty_file_field(client: TestClient, director: Standin) -> None:
    response = client.post("/v1/videos", data={"prompt": "a ball"}, files={"input_reference": ("", b"")})
    assert response.status_code == 200, response.text
    assert passed_on(director) is None


def test_a_file_that_is_no_picture_makes_no_video(client: TestClient, director: Standin) -> None:
    for content in (b"MZ a program", PNG[:100]):
        response = client.post("/v1/videos", data={"prompt": "a ball"}, files={"input_reference": ("a.png", content)})
        assert response.status_code == 400
        error = response.json()["error"]
        assert error["param"] == "input_reference"
        assert "expected" in error["message"]
        assert "received" in error["message"]
    assert not director.requests


def test_what_is_wrong_otherwise_is_said_before_anything_is_decoded(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("st2v_stream.server.api.read_reference", None)
    response = client.post("/v1/videos", json={"prompt": "a ball", "input_reference": URL, "seed": -1})
    assert response.json()["error"]["param"] == "seed"


def test_large_bodies_are_for_new_videos_only(client: TestClient, director: Standin, monkeypatch: pytest.MonkeyPatch) -> None:
    large = URL + "A" * 2**20
    assert client.post(f"/v1/videos/{director.add()}/links", json={"more": large}).status_code == 400
    monkeypatch.setattr("st2v_stream.server.api.MAX_CREATE_BYTES", 2**20)
    error = client.post("/v1/videos", json={"prompt": "a ball", "input_reference": large}).json()["error"]
    assert "at most 1048576 bytes" in error["message"]
    assert requests_module.MAX_CREATE_BYTES > requests_module.MAX_REFERENCE_BYTES * 4 / 3


def test_the_api_description_says_how(client: TestClient) -> None:
    schemas = client.get("/openapi.json").json()["components"]["schemas"]
    options = schemas["CreateBody"]["properties"]["input_reference"]["anyOf"]
    assert {"type": "string", "format": "binary", "description": "a file, in a form"} in options
    assert {"$ref": "#/components/schemas/ImageReference"} in options
