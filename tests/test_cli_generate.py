"""The published command line: every flag in both spellings has an effect or is refused, and names survive any prompt."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from weakref import ref

import av
import numpy as np
import pytest
from clips import picture_of
from enhancers.small_enhancer import small_enhancer
from small_bases import write_modelscope, write_streaming_model
from small_model import write_model

from st2v_stream import generate
from st2v_stream.checkpoints import models
from st2v_stream.chunk import Chunk
from st2v_stream.cli import main
from st2v_stream.enhancers.sdedit import SdEdit, SdEditSettings
from st2v_stream.generate import FilmFile, file_stem
from st2v_stream.media.segment import EncodeSpec, Segment

TESTCARD = ["generate", "--model", "testcard", "--prompt", "numbers"]


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., tuple[list[int], dict[str, object]]]:
    """Run it into a file -> (width, height, frames), and what is written in the file about how it was made."""

    def make(*flags: str, model: str = "testcard") -> tuple[list[int], dict[str, object]]:
        film = tmp_path / "film.mp4"
        assert main(["generate", "--model", model, "--prompt", "a red boat", *flags, "--overwrite", "-o", str(film)]) == 0
        return look(film)

    return make


def look(path: Path) -> tuple[list[int], dict[str, object]]:
    with av.open(str(path)) as film:
        frames = [frame.to_ndarray(format="rgb24").shape for frame in film.decode(video=0)]
        return [frames[0][1], frames[0][0], len(frames)], json.loads(film.metadata["comment"])


# ---------------------------------------------------------------- flags


@pytest.mark.parametrize("spelling", ["--num-frames", "--num_frames"])
@pytest.mark.parametrize("frames", [1, 7, 16, 17, 30])
def test_the_film_has_as_many_frames_as_asked_for(made, spelling: str, frames: int) -> None:  # type: ignore[no-untyped-def]
    (_, _, received), record = made(spelling, str(frames))
    assert (received, record["num_frames"]) == (frames, frames)


@pytest.mark.parametrize(
    ("flags", "field", "value"),
    [
        (["--num_steps", "3"], "num_inference_steps", 3),
        (["--num-inference-steps", "3"], "num_inference_steps", 3),
        (["--image_guidance", "2.5"], "guidance_scale", 2.5),
        (["--image-guidance", "2.5"], "guidance_scale", 2.5),
        (["--guidance_scale", "2.5"], "guidance_scale", 2.5),
        (["--negative_prompt", "rain"], "negative_prompt", "rain"),
        (["--negative_prompt", "blur, " * 100], "negative_prompt", "blur, " * 100),
        (["--seed", "4"], "seed", 4),
        (["--seed", "0"], "seed", 0),
        (["--image_guidance", "0"], "guidance_scale", 0.0),
        (["--preset", "published"], "preset", "published"),
    ],
)
def test_a_given_value_wins_over_the_preset_and_is_recorded(made, flags: list[str], field: str, value: object) -> None:  # type: ignore[no-untyped-def]
    _, record = made("--num_frames", "1", *flags)
    assert record["direction"][field] == value
    assert record["given"][field] == value
    assert field not in made("--num_frames", "1")[1]["given"]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--negative_prompt_enhancer", "blur"], "--negative-prompt-enhancer is for the enhancer of the published film"),
        (["--negative-prompt-enhancer", ""], "received 'no --enhance'"),
        (["--chunk", "24"], "--chunk is for the enhancer"),
        (["--overlap", "8"], "--overlap is for the enhancer"),
        (["--use_randomized_blending"], "--use-randomized-blending is for the enhancer"),
        (["--enhance", "lanczos", "--chunk", "24"], "received '--enhance lanczos'"),
        (["--enhance", "--chunk", "0"], "chunk is out of range: expected 1 frame or more, received 0"),
        (["--enhance", "--chunk", "24", "--overlap", "13"], "expected 0 to 12 frames, at most half of --chunk, received 13"),
        (["--enhance"], "no such enhancer is here: expected passthrough, lanczos, or a folder that st2v convert made"),
        (["--enhance", "."], "model_index.json"),
    ],
)
def test_what_the_enhancer_cannot_do_is_one_clear_sentence(
    flags: list[str], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(models, "_HOMES", (tmp_path,))
    assert main([*TESTCARD, *flags, "-o", "film.mp4"]) == 2
    assert expected in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("frames", [7, 30])
def test_an_enhanced_film_is_larger_and_as_long(made, frames: int) -> None:  # type: ignore[no-untyped-def]
    width, height, _ = made("--num_frames", "1", "--enhance", "passthrough")[0]
    size, record = made("--num_frames", str(frames), "--enhance", "lanczos")
    assert size == [4 * width, 4 * height, frames]
    assert record["given"]["enhance"] == "lanczos"


@pytest.mark.golden
def test_the_enhancers_flags_reach_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made) -> None:  # type: ignore[no-untyped-def]
    """The recorded tiny weights in the place of the folder; what they are asked for is watched."""
    asked: list[tuple[SdEditSettings, str]] = []
    enhance = SdEdit.enhance

    def watched(enhancer: SdEdit, chunk: Chunk, *rest: Any) -> Any:
        asked.append((enhancer._settings, chunk.direction.negative_prompt))
        return enhance(enhancer, chunk, *rest)

    def small(folder: Path, device: str, settings: SdEditSettings) -> SdEdit:
        assert (folder, device) == (tmp_path / "video-to-video", "cpu")
        return small_enhancer(window_frames=settings.window_frames, overlap_frames=settings.overlap_frames)

    monkeypatch.setattr(SdEdit, "enhance", watched)
    monkeypatch.setattr("st2v_stream.enhancers.load.load_enhancer", small)
    (tmp_path / "video-to-video").mkdir()
    monkeypatch.setattr(models, "_HOMES", (tmp_path,))
    flags = ["--enhance", "--chunk", "12", "--overlap", "4", "--use_randomized_blending", "--device", "cpu"]
    (_, _, frames), record = made(
        "--num_frames", "24", *flags, "--negative_prompt", "sea", "--negative_prompt_enhancer", "blur"
    )
    assert frames == 24
    assert {(settings.window_frames, settings.overlap_frames, said) for settings, said in asked} == {(12, 4, "blur")}
    assert record["given"].items() >= {"chunk": 12, "overlap": 4, "negative_prompt_enhancer": "blur"}.items()  # type: ignore[attr-defined]
    assert record["given"].items() >= {"enhance": "video-to-video", "use_randomized_blending": True}.items()  # type: ignore[attr-defined]
    assert record["direction"]["negative_prompt"] == "sea"  # type: ignore[index]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--base_model", "SVD"], "the test card has one size and no networks"),
        (["--offload_models"], "the test card has one size and no networks"),
        (["--width", "128"], "the test card has one size and no networks"),
        (["--model", "m" * 5000], "no such model"),
        (["--model", "storybook", "--base_model", "Sora"], "expected one of ModelscopeT2V, AnimateDiff, SVD, received 'Sora'"),
        (
            ["--model", "storybook", "--width", "256", "--height", "256"],
            "films of one size: expected 64x64, received '256x256'",
        ),
        (["--image", "missing.png"], "missing.png cannot be read"),
        (["--prompt", "boat \udcff"], "prompt is no text: expected UTF-8"),
        (["--output_dir", "file/inside"], "the output folder does not exist"),
    ],
)
def test_bad_flags_are_one_clear_sentence(
    flags: list[str], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert main([*TESTCARD, *flags]) == 2
    assert expected in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_base_model_without_a_model_means_the_published_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(models, "_HOMES", (tmp_path,))
    assert main(["generate", "--prompt", "a cat", "--base_model", "ModelscopeT2V", "-o", str(tmp_path / "film.mp4")]) == 2
    assert "checkpoints/streaming-t2v (docs/checkpoints.md says how)" in capsys.readouterr().err


# ---------------------------------------------------------------- the published model in miniature


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("checkpoints")
    write_streaming_model(home)
    write_modelscope(home)
    write_model(home / "small")
    return home


@pytest.mark.slow
def test_the_published_command_line(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every published flag at once, and another size than the model's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(models, "_HOMES", (home,))
    rename_to_published(home)
    (tmp_path / "boat.png").write_bytes(picture_of(np.full((40, 90, 3), 200, np.uint8)))
    flags = "--base_model ModelscopeT2V --num_frames 20 --num_steps 2 --image_guidance 3 --seed 5 --offload_models --device cpu"
    size = ["--width", "128", "--height", "64", "--image", "boat.png", "--negative_prompt", "sea"]
    assert main(["generate", "--prompt", "a red boat", *flags.split(), *size, "--output_dir", "results"]) == 0
    (width, height, frames), record = look(tmp_path / "results" / "a_red_boat.mp4")
    assert (width / height, frames) == (2, 20)
    assert record["given"].keys() >= {"base_model", "offload_models", "image", "width", "seed", "num_inference_steps"}
    assert record["given"]["image"]["name"] == "boat.png"
    assert record["direction"]["preset"] == "default", "nobody said live: the published number of steps"


def rename_to_published(home: Path) -> None:
    card = home / "streaming-t2v" / "card.json"
    card.write_text(json.dumps(json.loads(card.read_text()) | {"name": "streaming-t2v"}))


def test_sizes_that_the_networks_cannot_make(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = str(home / "streaming-t2v")
    for side in ("100", "0", "4096", "-64"):
        assert (
            main(
                [
                    "generate",
                    "--model",
                    model,
                    "--prompt",
                    "x",
                    "--num_frames",
                    "1",
                    "--width",
                    side,
                    "-o",
                    str(tmp_path / "film.mp4"),
                ]
            )
            == 2
        )
        assert f"expected a multiple of 64 from 64 to 2048, received {side}" in capsys.readouterr().err


def test_a_model_that_begins_by_itself_takes_no_base(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--prompt", "x", "--base_model", "SVD", "-o", str(tmp_path / "film.mp4")]
    assert main(["generate", "--model", str(home / "small"), *flags]) == 2
    assert "begins its films by itself" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_clip_is_no_image_and_an_image_no_clip(tmp_path: Path, capsys: pytest.CaptureFixture[str], made) -> None:  # type: ignore[no-untyped-def]
    made("--num_frames", "20")
    clip, film = tmp_path / "film.mp4", tmp_path / "second.mp4"
    assert main([*TESTCARD, "--image", str(clip), "-o", str(film)]) == 2
    assert "is a clip: expected an image, or --video" in capsys.readouterr().err
    (tmp_path / "boat.png").write_bytes(picture_of(np.full((40, 90, 3), 200, np.uint8)))
    assert main([*TESTCARD, "--video", str(tmp_path / "boat.png"), "-o", str(film)]) == 2
    assert "is no clip: expected two frames or more, or --image" in capsys.readouterr().err
    assert main([*TESTCARD, "--video", str(clip), "--image", "", "--num_frames", "8", "-o", str(film)]) == 0
    assert look(film)[1]["given"]["video"]["name"] == "film.mp4"  # type: ignore[index]


# ---------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("prompt", "stem"),
    [
        ("a red boat, over the sea", "a_red_boat_over_the_sea"),
        ("../../etc/passwd", "etc_passwd"),
        ('a\\b:c*d?e"f<g>h|i\0j\nk', "a_b_c_d_e_f_g_h_i_j_k"),
        ("🚀 to the moon 🌙", "to_the_moon"),
        ("🚀🌙", "film"),
        ("...", "film"),
        ("NUL", "NUL_film"),
        ("com1", "com1_film"),
        ("Ünïcode 猫", "Ünïcode_猫"),
    ],
)
def test_names_made_from_prompts(prompt: str, stem: str) -> None:
    assert file_stem(prompt) == stem


@pytest.mark.parametrize("prompt", ["boat " * 1000, "猫" * 5000, "é" * 5000, "/" * 5000, "\ud800" * 5000])
def test_any_prompt_gives_a_name_that_a_disk_takes(prompt: str, tmp_path: Path) -> None:
    path = tmp_path / f"{file_stem(prompt)}_100000.mp4"
    path.write_bytes(b"")
    assert len(os.fsencode(path.name)) <= 150


def test_a_folder_collects_numbered_films(tmp_path: Path) -> None:
    results = tmp_path / "not" / "yet" / "there"
    for seed in "123":
        assert main([*TESTCARD, "--num_frames", "1", "--seed", seed, "--output_dir", str(results)]) == 0
    assert sorted(path.name for path in results.iterdir()) == ["numbers.mp4", "numbers_2.mp4", "numbers_3.mp4"]
    assert look(results / "numbers_3.mp4")[1]["direction"]["seed"] == 3  # type: ignore[index]
    assert main([*TESTCARD, "--num_frames", "2", "--overwrite", "--output_dir", str(results)]) == 0
    assert look(results / "numbers.mp4")[0][2] == 2


# ---------------------------------------------------------------- memory


def test_a_film_file_keeps_no_segments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from st2v_stream.direction import Direction
    from st2v_stream.generators.testcard import TestCard

    encoded: list[ref[Segment]] = []
    encode = generate.encode_segment

    def remembering(chunk: Chunk, spec: EncodeSpec) -> Segment:
        segment = encode(chunk, spec)
        encoded.append(ref(segment))
        return segment

    monkeypatch.setattr(generate, "encode_segment", remembering)
    card, direction = TestCard(64, 48, steps=1), Direction((("x", 1.0),))
    film = FilmFile(tmp_path / "film.mp4", card.spec, title="x")
    frames, memory = card.begin(direction, None, lambda k, n: None)
    for index in range(4):
        assert film.append(Chunk(index, card.spec.start_of(index), frames, direction, memory)) == len(frames)
        frames, memory = card.generate(direction, memory, lambda k, n: None)
    assert [segment() for segment in encoded] == [None] * 4
    film.finish()
    with av.open(str(tmp_path / "film.mp4")) as whole:
        assert sum(1 for _ in whole.decode(video=0)) == 16 + 3 * 8
