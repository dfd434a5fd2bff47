from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from st2v_stream.config import Config
from st2v_stream.errors import InvalidRequest
from st2v_stream.types import CreateVideo, ModelCard, VideoView
from st2v_stream.videos.cues import timeline_of
from st2v_stream.videos.ids import new_video_id
from st2v_stream.videos.requests import continued_frames, new_view
from videos.living import small_card

CONFIG = Config(max_num_frames=1000, max_prompt_chars=50, preset="live")
CARD = small_card(vocabulary={"animals": ("cat", "red panda"), "places": ("forest", "a"), "acts": ("walks", "in")}).card


def view_of(card: ModelCard = CARD, **fields: Any) -> VideoView:
    request = CreateVideo(**{"prompt": "a cat walks", **fields})
    return new_view(request, timeline_of(request, card, CONFIG), card, CONFIG, "video_a", 0)


def test_presets_give_defaults_and_explicit_values_win() -> None:
    direction = view_of().direction
    assert direction is not None
    assert (direction.preset, direction.num_inference_steps, direction.guidance_scale) == ("live", 4, 1.0)
    direction = view_of(preset="published").direction
    assert direction is not None
    assert (direction.preset, direction.num_inference_steps) == ("published", 8)
    direction = view_of(num_inference_steps=7, guidance_scale=0.0, seed=5, negative_prompt="fog").direction
    assert direction is not None
    assert (direction.num_inference_steps, direction.guidance_scale) == (7, 0.0)
    assert (direction.seed, direction.negative_prompt) == (5, "fog")


@pytest.mark.parametrize(
    ("fields", "param", "text"),
    [
        ({"num_frames": 0}, "num_frames", "expected a whole number from 1 to 1000, or null for an endless video, received 0"),
        ({"num_frames": -8}, "num_frames", "received -8"),
        ({"num_frames": 1001}, "num_frames", "received 1001"),
        ({"num_frames": True}, "num_frames", "received True"),
        ({"num_frames": 2.5}, "num_frames", "received 2.5"),
        ({"prompt": ""}, "prompt", "prompt is empty"),
        ({"prompt": " \n"}, "prompt", "prompt is empty"),
        ({"prompt": "x" * 51}, "prompt", "expected at most 50 characters, received '51 characters'"),
        ({"negative_prompt": "x" * 51}, "negative_prompt", "expected at most 50 characters"),
        ({"preset": "best"}, "preset", "expected one of published, default, live, received 'best'"),
        ({"num_inference_steps": 0}, "num_inference_steps", "received 0"),
        ({"guidance_scale": -1.0}, "guidance_scale", "received -1.0"),
        ({"seed": -1}, "seed", "received -1"),
    ],
)
def test_what_cannot_be_is_refused(fields: dict[str, Any], param: str, text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        view_of(**fields)
    assert caught.value.param == param
    assert text in str(caught.value)


def test_the_limit_of_the_model_counts() -> None:
    with pytest.raises(InvalidRequest, match="from 1 to 40"):
        view_of(small_card(max_frames=40).card, num_frames=48)
    assert view_of(small_card(max_frames=40).card, num_frames=40).num_frames == 40


def test_films_end_on_a_chunk_border() -> None:
    assert view_of(num_frames=24).warnings == ()
    view = view_of(num_frames=25)
    assert view.num_frames == 32
    assert view.warnings == ("num_frames was rounded up from 25 to 32: films end on a chunk border",)
    assert view_of(num_frames=None).num_frames is None


def test_unknown_words_are_named_with_what_the_model_knows() -> None:
    (warning,) = view_of(prompt="a Dragon walks in a dragon forest", num_frames=24).warnings
    known = "animals: cat, red panda; places: forest, a; acts: walks, in"
    assert warning == f"Test card does not know 'dragon' and goes on without. It knows {known}."


def test_ids_sort_by_time() -> None:
    ids = [new_video_id() for _ in range(100)]
    assert ids == sorted(ids)
    assert len(set(ids)) == 100
    assert all(len(name) == 32 and set(name[6:]) <= set("0123456789abcdefghjkmnpqrstvwxyz") for name in ids)
    assert new_video_id(1) < new_video_id(2) < new_video_id(2**63)


def test_how_much_longer_a_film_may_become_is_said() -> None:
    view = replace(view_of(num_frames=None), frames=CARD.spec.start_of(100))  # 808 of 1000 frames
    assert continued_frames(view, None, CARD, CONFIG) is None
    assert continued_frames(view, 3, CARD, CONFIG) == 816
    assert continued_frames(view, 192, CARD, CONFIG) == 1000
    for asked in (193, 0, True, 1000):
        with pytest.raises(InvalidRequest, match="at most 192 more frames, or null") as caught:
            continued_frames(view, asked, CARD, CONFIG)
        assert f"received {asked}" in str(caught.value)
    with pytest.raises(InvalidRequest, match="at most 0 more frames"):
        continued_frames(replace(view, frames=CARD.spec.start_of(200)), 8, CARD, CONFIG)
