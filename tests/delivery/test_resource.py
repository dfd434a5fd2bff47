from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import get_args, get_type_hints

import pytest
from openai.types import Video
from server.standin import Standin

from st2v_stream.delivery.resource import VideoJson, encoded_size, video_json
from st2v_stream.types import VideoState, VideoView


def view(**changes: object) -> VideoView:
    director = Standin()
    return replace(asyncio.run(director.get(director.add())), **changes)  # type: ignore[arg-type]


def test_openai_reads_it_strictly() -> None:
    assert set(Video.model_fields) <= set(video_json(view()))
    fields = video_json(view(error="out of memory", state="failed", ended_by="error"))
    read = Video.model_validate({**fields, "size": "1280x720"})  # its literals know Sora's sizes only; the client is lenient
    assert read.status == "failed"
    assert read.error is not None
    assert read.error.message == "out of memory"


def test_has_exactly_the_documented_fields() -> None:
    assert list(video_json(view())) == list(get_type_hints(VideoJson))


@pytest.mark.parametrize("state", get_args(VideoState))
def test_every_state_has_a_status(state: VideoState) -> None:
    assert video_json(view(state=state))["status"] in ("queued", "in_progress", "completed", "failed")


def test_progress_is_100_only_at_a_good_end() -> None:
    assert video_json(view(frames=60))["progress"] == 50
    assert video_json(view(frames=120))["progress"] == 99
    assert video_json(view(frames=40, state="stopped", ended_by="stopped"))["progress"] == 100
    assert video_json(view(frames=40, num_frames=None))["progress"] == 0
    assert video_json(view(frames=60, state="failed", ended_by="error"))["progress"] == 50


def test_seconds_is_text() -> None:
    assert video_json(view())["seconds"] == "15"
    assert video_json(view(frames=20, state="stopped", ended_by="stopped"))["seconds"] == "2.5"
    assert video_json(view(frames=0, num_frames=None))["seconds"] == "0"


def test_size_is_that_of_the_encoded_picture() -> None:
    assert encoded_size(96, 64) == (384, 256)
    assert encoded_size(256, 192) == (256, 192)
    assert video_json(view())["size"] == "256x192"
