import numpy as np

from st2v_stream.worlds import reading, storybook


def test_real_films_are_read_as_they_were_drawn() -> None:
    rng = np.random.default_rng(3)
    specs = [storybook.sample_spec(rng, "any") for _ in range(10)]
    readings = [reading.read_film(storybook.clip(spec, range(0, 16, 6))) for spec in specs]
    for spec, read in zip(specs, readings, strict=True):
        assert (read.scene, read.colour, read.subject) == (spec.scene, spec.colour, spec.subject)
        assert read.seen_share == 1
    assert np.mean([read.variant == spec.variant for spec, read in zip(specs, readings, strict=True)]) >= 0.9


def test_the_motion_is_read_from_the_track() -> None:
    rng = np.random.default_rng(0)
    specs = [storybook.sample_spec(rng, "any") for _ in range(300)]
    tracks = [np.array([storybook.position(spec, t) for t in range(16)]) for spec in specs]
    right = [reading.read_motion(track) == spec.motion for spec, track in zip(specs, tracks, strict=True)]
    assert np.mean(right) > 0.97


def test_an_empty_scene_has_no_subject() -> None:
    read = reading.read_film(np.stack([storybook.empty_scene("desert", 2)] * 4))
    assert (read.scene, read.variant) == ("desert", 2)
    assert read.seen_share == 0
    assert read.motion == "unseen"
