from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from server.running import BEARER, TOKEN
from server.standin import Standin
from st2v_stream.config import Config
from st2v_stream.server.app import create_app

HOST = "http://127.0.0.1:8000"


@pytest.fixture
def director() -> Standin:
    return Standin()


@pytest.fixture
def stranger(director: Standin, tmp_path: Path) -> Iterator[TestClient]:
    """A client without a token."""
    web = tmp_path / "web"
    web.mkdir()
    (web / "index.html").write_text("<!doctype html><title>page</title>")
    (web / "app.js").write_text("export {};")
    (web / ".secret.js").write_text("no")
    (web / "notes.txt").write_text("no")
    (tmp_path / "outside.js").write_text("no")
    config = Config(data_dir=tmp_path, token=TOKEN, model="testcard", allowed_hosts=("films.example",), max_prompt_chars=100)
    with TestClient(create_app(config, director, web=web), base_url=HOST, raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def client(stranger: TestClient) -> TestClient:
    """A client with the owner's token."""
    stranger.headers.update(BEARER)
    return stranger
