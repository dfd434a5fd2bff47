"""Every route against everybody who might ask: no token, a wrong one, grants for something else, foreign pages, other names."""

from __future__ import annotations

import asyncio
import re
import stat
import time
from pathlib import Path

import pytest
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient, WebSocketDenialResponse
from starlette.websockets import WebSocketDisconnect

from server.running import BEARER, TOKEN
from server.standin import INIT, Standin, sha
from st2v_stream.config import Config
from st2v_stream.delivery.grants import Grant, GrantKey
from st2v_stream.errors import InvalidRequest
from st2v_stream.server.app import create_app
from st2v_stream.server.auth import SECURITY_HEADERS, owner_token

OPEN = {"/openapi.json", "/asyncapi.yaml", "/healthz", "/readyz", "/{path}"}
GRANTS = GrantKey(TOKEN)
WS = "ws://127.0.0.1:8000"


def all_routes() -> list[tuple[str, str]]:
    """(method, path) of the whole route table; `WS` for WebSockets."""
    app = create_app(Config(token=TOKEN, data_dir=Path("nowhere")), Standin())
    found = []
    for route in app.routes:
        if isinstance(route, Route):
            found += [(method, route.path_format) for method in sorted(route.methods or ()) if method != "HEAD"]
        elif isinstance(route, WebSocketRoute):
            found.append(("WS", route.path_format))
    return found


ROUTES = all_routes()
GUARDED = [(method, path) for method, path in ROUTES if path not in OPEN and method != "WS"]
OWNERS = ("/screenplay", "/manifest", "/bundle")
"""How a film was made, and what it goes on from, is for its owner alone."""
READABLE = [(m, path) for m, path in GUARDED if m == "GET" and "{video_id}" in path and not path.endswith(OWNERS)]


def fill(path: str, video_id: str = "v000") -> str:
    known = {"video_id": video_id, "index": "0", "hash": sha(INIT), "model": "testcard", "path": "", "character_id": "c"}
    known |= {"link_id": "0" * 19, "session": "s" * 32, "seq": "1"}
    return re.sub(r"{(\w+)}", lambda match: known[match[1]], path)


def grant(video_id: str = "v000", *, view: str = "watch", lives_s: int = 60) -> str:
    return "/g/" + GRANTS.sign(Grant(video_id, view, int(time.time()) + lives_s))


def assert_error(response: object, status: int) -> None:
    assert response.status_code == status, response.text  # type: ignore[attr-defined]
    error = response.json()["error"]  # type: ignore[attr-defined]
    assert set(error) == {"message", "type", "param", "code"}
    assert TOKEN not in response.text  # type: ignore[attr-defined]
    assert_secured(response)


def assert_secured(response: object) -> None:
    for name, value in SECURITY_HEADERS.items():
        assert response.headers[name] == value  # type: ignore[attr-defined]
    assert "set-cookie" not in response.headers  # type: ignore[attr-defined]


def test_the_route_table_is_the_known_one() -> None:
    assert len(ROUTES) > 25
    assert {path for method, path in ROUTES if method == "WS"} == {"/v1/videos/{video_id}/watch"}
    assert {path for _, path in ROUTES} - {path for _, path in GUARDED} == OPEN | {"/v1/videos/{video_id}/watch"}


@pytest.mark.parametrize(("method", "path"), GUARDED)
def test_nobody_passes_without_the_token(stranger: TestClient, director: Standin, method: str, path: str) -> None:
    director.add(1)
    wrong = [
        {},
        {"Authorization": "Bearer wrong-token-wrong-token"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": ""},
    ]
    wrong += [{"Authorization": f"Bearer {TOKEN}x"}, {"Authorization": "Bearer é"}, {"Cookie": f"token={TOKEN}"}]
    for headers in wrong:
        response = stranger.request(method, fill(path), headers=[(k, v.encode()) for k, v in headers.items()])
        assert_error(response, 401)
        assert response.headers["www-authenticate"] == "Bearer"
    assert_error(stranger.request(method, fill(path) + f"?token={TOKEN}"), 401)
    assert not director.requests


@pytest.mark.parametrize(("method", "path"), GUARDED)
def test_grants_open_their_video_and_nothing_else(stranger: TestClient, director: Standin, method: str, path: str) -> None:
    director.add(1)
    director.add(1)
    for prefix in (grant(lives_s=-1), "/g/nonsense", "/g/", grant(view="edit"), grant("v001")):
        response = stranger.request(method, prefix + fill(path))
        assert_error(response, response.status_code)
        assert response.status_code in (401, 403)
    if (method, path) not in READABLE and "/whep" not in path:  # watching by WebRTC: tests/delivery/test_webrtc.py
        assert stranger.request(method, grant() + fill(path)).status_code in (401, 403)


@pytest.mark.parametrize(
    ("method", "path"), [route for route in READABLE if not re.search("events|content|enhanced", route[1])]
)
def test_a_grant_reads(stranger: TestClient, director: Standin, method: str, path: str) -> None:
    director.add(1)
    assert stranger.request(method, grant() + fill(path)).status_code == 200


def test_a_grant_reads_no_blob_of_another_video(stranger: TestClient, director: Standin) -> None:
    director.add(1)
    other = director.add(1)
    (entry,) = asyncio.run(director.snapshot(other)).entries
    assert entry.segment is not None
    memory = b"memory of nobody's business"
    director.blobs[sha(memory)] = memory
    assert stranger.get(f"{grant(other)}/v1/videos/{other}/segments/{entry.segment.hash}.m4s").status_code == 200
    for sha256 in (entry.segment.hash, sha(memory)):
        assert_error(stranger.get(f"{grant()}/v1/videos/v000/segments/{sha256}.m4s"), 404)


@pytest.mark.parametrize(("method", "path"), [route for route in ROUTES if route[0] != "WS"])
def test_other_names_are_refused_everywhere(client: TestClient, director: Standin, method: str, path: str) -> None:
    director.add(1)
    for host in ("evil.example", "127.0.0.1:9000", "127.0.0.1.evil.example", "localhost.:8000", "", "films.example:81"):
        assert_error(client.request(method, fill(path), headers={"Host": host}), 403)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.1:8000", "localhost:8000", "LOCALHOST", "[::1]:8000", "films.example", "films.example:8000"]
)
def test_own_names_are_answered(client: TestClient, host: str) -> None:
    assert client.get("/v1/videos", headers={"Host": host}).status_code == 200
    assert (
        client.post("/v1/videos", json={"prompt": "x"}, headers={"Host": host, "Origin": f"http://{host}"}).status_code == 200
    )


FOREIGN = ("null", "http://evil.example", "http://127.0.0.1", "http://127.0.0.1:8000.evil.example", "http://localhost:8000", "")


@pytest.mark.parametrize(("method", "path"), [route for route in GUARDED if route[0] not in ("GET", "OPTIONS")])
def test_foreign_pages_change_nothing(client: TestClient, director: Standin, method: str, path: str) -> None:
    director.add(1)
    for origin in FOREIGN:
        assert_error(client.request(method, fill(path), headers={"Origin": origin}), 403)
    assert not director.shelves["v000"].is_deleted
    assert not director.requests


@pytest.mark.parametrize(
    "path",
    [
        "/v1/videos/../v1/models",
        "/v1/videos/%2e%2e/",
        "/v1/videos/..%2f..%2fetc/content",
        "/v1/videos/a%00b",
        "/v1/videos/v000%0a",
    ],
)
def test_odd_ids_are_no_videos(client: TestClient, path: str) -> None:
    response = client.get(path)
    assert response.status_code in (200, 404)
    assert response.status_code == 404 or response.json()["object"] == "list"  # the client itself resolves plain ../


@pytest.mark.parametrize("origin", ["null", "http://evil.example", "https://127.0.0.1:9000"])
def test_foreign_pages_do_not_watch(client: TestClient, director: Standin, origin: str) -> None:
    video = director.add(1)
    for path in (f"/v1/videos/{video}/watch", grant() + f"/v1/videos/{video}/watch"):
        with pytest.raises(WebSocketDenialResponse) as refused, client.websocket_connect(WS + path, headers={"Origin": origin}):
            pass
        assert refused.value.status_code == 403


def test_foreign_names_are_not_watched(client: TestClient, director: Standin) -> None:
    video = director.add(1)
    with (
        pytest.raises(WebSocketDenialResponse),
        client.websocket_connect(WS + f"/v1/videos/{video}/watch", headers={"Host": "evil.example"}),
    ):
        pass


@pytest.mark.parametrize(
    "subprotocols", [["st2v.v1"], ["st2v.v1", "bearer."], ["st2v.v1", "bearer.wrong-token-wrong-token"], []]
)
def test_watching_needs_the_token(stranger: TestClient, director: Standin, subprotocols: list[str]) -> None:
    path = f"/v1/videos/{director.add(1)}/watch"
    with stranger.websocket_connect(WS + path, subprotocols=subprotocols) as socket:
        assert socket.accepted_subprotocol in ("st2v.v1", None)
        with pytest.raises(WebSocketDisconnect) as closed:
            socket.receive_json()
    assert closed.value.code == 4003


def test_the_token_is_never_echoed_as_a_subprotocol(stranger: TestClient, director: Standin) -> None:
    path = f"/v1/videos/{director.add(1)}/watch"
    with stranger.websocket_connect(WS + path, subprotocols=[f"bearer.{TOKEN}"]) as socket:
        assert socket.accepted_subprotocol is None


def test_open_is_what_should_be(stranger: TestClient, director: Standin) -> None:
    for path in ("/", "/index.html", "/app.js", "/openapi.json", "/asyncapi.yaml", "/healthz", "/readyz"):
        response = stranger.get(path)
        assert response.status_code == 200, path
        assert_secured(response)
    assert stranger.get("/healthz").content == stranger.get("/readyz").content == b""
    director.is_ready = False
    assert stranger.get("/readyz").status_code == 503
    assert stranger.post("/").status_code == 401
    assert_error(stranger.get("/V1/videos"), 404)
    assert_error(stranger.get("//v1/videos"), 404)


@pytest.mark.parametrize(
    "path",
    [
        "/../outside.js",
        "/%2e%2e/outside.js",
        "/..%2foutside.js",
        "/.secret.js",
        "/notes.txt",
        "//etc/passwd",
        "/app.js%00.js",
        "/token",
        "/x/../../outside.js",
    ],
)
def test_the_page_is_all_that_can_be_read(stranger: TestClient, path: str) -> None:
    assert stranger.get(path).status_code == 404


def test_the_page_has_fixed_types_and_is_asked_for_again(stranger: TestClient) -> None:
    script = stranger.get("/app.js")
    assert script.headers["content-type"] == "text/javascript; charset=utf-8"
    assert script.headers["cache-control"] == "no-cache"
    assert stranger.get("/app.js", headers={"If-None-Match": script.headers["etag"]}).status_code == 304


def test_mistakes_of_the_server_tell_nothing(client: TestClient, director: Standin, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise ValueError("a secret")

    monkeypatch.setattr(director, "models", fail)
    response = client.get("/v1/models")
    assert_error(response, 500)
    assert "secret" not in response.text


# ---------------------------------------------------------------- the token itself


def test_token_is_made_once_and_private(tmp_path: Path) -> None:
    config = Config(data_dir=tmp_path / "new")
    token = owner_token(config)
    assert len(token) == 43
    assert owner_token(config) == token
    assert stat.S_IMODE((tmp_path / "new" / "token").stat().st_mode) == 0o600
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["token"]


@pytest.mark.parametrize("token", ["", "short", "with space in the middle", "with/slash-0123456789", "ümlaut-0123456789abc"])
def test_weak_tokens_are_refused(tmp_path: Path, token: str) -> None:
    with pytest.raises(InvalidRequest, match="token") as refused:
        owner_token(Config(data_dir=tmp_path, token=token))
    assert not token or token not in str(refused.value)


def test_the_token_opens(stranger: TestClient) -> None:
    assert stranger.get("/v1/videos", headers=BEARER).status_code == 200
