"""Base models from folders: which are found, what is said about those that are not, and what loads in half precision."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_bases import MODELSCOPE, PICTURE, VIDEO, write_animatediff, write_json, write_modelscope, write_streaming_model

from st2v_stream.checkpoints.bases import BASES, PIPELINE, base_named, find_base, with_base
from st2v_stream.checkpoints.first_chunk import tokenizer_from
from st2v_stream.checkpoints.load import load_generator
from st2v_stream.checkpoints.models import read_card
from st2v_stream.checkpoints.parts import _variant
from st2v_stream.errors import CheckpointError, InvalidRequest
from st2v_stream.generators.firstchunk.animatediff import AnimateDiffFirstChunk
from st2v_stream.generators.firstchunk.modelscope import ModelscopeFirstChunk

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("checkpoints")
    write_streaming_model(home)
    write_modelscope(home)
    write_animatediff(home)
    return home


@pytest.fixture
def home(sound: Path, tmp_path: Path) -> Path:
    for name in ("streaming-t2v", MODELSCOPE):
        shutil.copytree(sound / name, tmp_path / name)
    return tmp_path


def refused(home: Path, **options: object) -> str:
    with pytest.raises((CheckpointError, InvalidRequest)) as caught:
        load_generator(home / "streaming-t2v", "cpu", **options)  # type: ignore[arg-type]
    return str(caught.value)


def test_the_base_beside_the_model_is_taken_and_another_on_request(sound: Path) -> None:
    model = sound / "streaming-t2v"
    assert isinstance(load_generator(model, "cpu")._first_chunk, ModelscopeFirstChunk)
    assert isinstance(load_generator(model, "cpu", base_model="animatediff")._first_chunk, AnimateDiffFirstChunk)


def test_presets_begin_as_the_base_was_published(sound: Path) -> None:
    card = read_card(sound / "streaming-t2v")
    steps = {"num_inference_steps": 50.0, "guidance_scale": 7.5, "first_chunk_guidance_scale": 9.0}
    object.__setattr__(card, "presets", {"published": steps, "live": steps})
    assert with_base(card, BASES["ModelscopeT2V"]) is card
    for name, expected in (("AnimateDiff", (25, 7.5)), ("SVD", (25, 3.0))):
        direction = with_base(card, base_named(name)).direction("a boat", preset="published")
        first = direction.of_first_chunk
        assert (first.num_inference_steps, first.guidance_scale) == expected
        assert (direction.num_inference_steps, direction.guidance_scale) == (50, 7.5)
        assert with_base(card, base_named(name)).version == f"1 with {name}"
        given = with_base(card, base_named(name)).direction("a boat", preset="live", num_inference_steps=7)
        assert given.of_first_chunk.num_inference_steps == 7


def test_other_folders_may_be_named(sound: Path, tmp_path: Path) -> None:
    elsewhere = Path(shutil.copytree(sound / MODELSCOPE, tmp_path / "mine"))
    assert find_base(BASES["ModelscopeT2V"], sound / "streaming-t2v", {"model": elsewhere}) == {"model": elsewhere}
    with pytest.raises(InvalidRequest, match="has no such part: expected model, received 'image_model'"):
        find_base(BASES["ModelscopeT2V"], sound / "streaming-t2v", {"image_model": elsewhere})
    with pytest.raises(CheckpointError, match="received 'no such folder'"):
        find_base(BASES["SVD"], sound / "streaming-t2v", {"model": elsewhere, "image_model": tmp_path / "none"})


def test_a_missing_base_is_named_with_the_command_that_fetches_it(home: Path) -> None:
    assert f"{home / VIDEO} (st2v pull {VIDEO})" in refused(home, base_model="SVD")
    (home / VIDEO).mkdir()
    assert find_base(BASES["SVD"], home / "streaming-t2v") == {"model": home / VIDEO}, PICTURE  # SDXL may be missing


def test_unknown_bases_and_models_that_need_none(home: Path) -> None:
    assert "unknown base model: expected one of ModelscopeT2V, AnimateDiff, SVD, received 'SVDXT'" in refused(
        home, base_model="SVDXT"
    )
    write_json(home / "streaming-t2v" / "model_index.json", {"_class_name": "SmallPipeline"})
    assert "begins its films by itself: expected no base model, received 'SVD'" in refused(home, base_model="SVD")
    load_generator(home / "streaming-t2v", "cpu")


@pytest.mark.parametrize("file", ["unet/config.json", f"vae/{WEIGHTS}", "text_encoder/model.safetensors"])
def test_a_missing_file_is_named(home: Path, file: str) -> None:
    (home / MODELSCOPE / file).unlink()
    message = refused(home)
    assert str(home / MODELSCOPE / file.split("/", maxsplit=1)[0]) in message
    assert "lacks" in message


def test_pickles_are_not_read(home: Path) -> None:
    weights = home / MODELSCOPE / "unet" / WEIGHTS
    weights.rename(weights.with_suffix(".bin"))
    assert "expected diffusion_pytorch_model.safetensors (pickles are not read), received" in refused(home)


@pytest.mark.parametrize(
    ("part", "file", "fault"),
    [
        ("unet", WEIGHTS, "missing"),
        ("unet", WEIGHTS, "unknown"),
        ("unet", WEIGHTS, "shape"),
        ("unet", WEIGHTS, "cut"),
        ("vae", WEIGHTS, "missing"),
        ("text_encoder", "model.safetensors", "missing"),
        ("text_encoder", "model.safetensors", "cut"),
    ],
)
def test_weights_that_do_not_fit_are_named(home: Path, part: str, file: str, fault: str) -> None:
    path = home / MODELSCOPE / part / file
    tensors = load_file(path)
    name = sorted(name for name, value in tensors.items() if value.ndim == 2)[0]
    if fault == "missing":
        del tensors[name]
    elif fault == "unknown":
        tensors["something.else"] = tensors[name].clone()
    elif fault == "shape":
        tensors[name] = torch.zeros(3, 3)
    save_file(tensors, path, metadata={"format": "pt"})
    if fault == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    message = refused(home)
    assert f"{MODELSCOPE}/{part}" in message
    if fault in ("missing", "unknown"):
        assert ("something.else" if fault == "unknown" else name.removeprefix("text_model.")) in message


def test_an_adapter_for_another_model_is_refused(sound: Path, tmp_path: Path) -> None:
    for folder in sound.iterdir():
        shutil.copytree(folder, tmp_path / folder.name)
    adapter = next(tmp_path.glob("*adapter*"))
    config = adapter / "config.json"
    config.write_text(config.read_text().replace('"motion_layers_per_block": 1', '"motion_layers_per_block": 2'))
    assert adapter.name in refused(tmp_path, base_model="AnimateDiff")


def test_half_precision_reads_the_half_precision_file_if_there_is_one(tmp_path: Path) -> None:
    def choose(dtype: torch.dtype) -> str | None:
        return _variant(tmp_path, "model", dtype)

    (tmp_path / "model.fp16.safetensors").touch()
    assert (choose(torch.float16), choose(torch.float32)) == ("fp16", "fp16")
    (tmp_path / "model.safetensors").touch()
    assert (choose(torch.float16), choose(torch.float32)) == ("fp16", None)
    (tmp_path / "model.fp16.safetensors").unlink()
    assert (choose(torch.float16), choose(torch.float32)) == (None, None)


def test_padding_is_what_the_special_tokens_map_says(sound: Path) -> None:
    tokenizer = tokenizer_from(sound / MODELSCOPE / "tokenizer")
    assert tokenizer.model_max_length == 12
    ids = tokenizer(["a red boat"], padding="max_length", max_length=6).input_ids
    assert ids == [[4, 5, 7, 0, 0, 0]]


def test_the_names_are_those_of_the_published_command_line() -> None:
    assert list(BASES) == ["ModelscopeT2V", "AnimateDiff", "SVD"]
    assert PIPELINE == "StreamingT2VPipeline"
