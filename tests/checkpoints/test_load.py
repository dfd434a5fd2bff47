"""Model folders: what loads, and what is said about those that do not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_model import CARD, write_json, write_model

from st2v_stream.checkpoints.load import load_generator
from st2v_stream.errors import CheckpointError, UnknownModel

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "model"))


def test_a_sound_folder_loads(sound: Path) -> None:
    generator = load_generator(sound)
    assert generator.card.name == CARD["name"]
    assert (generator.spec.width, generator.spec.first_chunk_frames, generator.spec.chunk_frames) == (64, 16, 8)


def test_unknown_name() -> None:
    for name in ("no-such-model", "m" * 5000):
        with pytest.raises(UnknownModel, match="no such model"):
            load_generator(name)


@pytest.mark.parametrize(
    "missing",
    [
        "model_index.json",
        "card.json",
        f"unet/{WEIGHTS}",
        "cam/config.json",
        f"image_encoder/{WEIGHTS}",
        f"vae/{WEIGHTS}",
        "text_encoder/model.safetensors",
        "tokenizer/tokenizer_config.json",
        "scheduler/scheduler_config.json",
    ],
)
def test_a_missing_file_is_named(folder: Path, missing: str) -> None:
    (folder / missing).unlink()
    with pytest.raises(CheckpointError) as caught:
        load_generator(folder)
    assert missing.split("/", maxsplit=1)[0] in str(caught.value)


@pytest.mark.parametrize("part", ["unet", "cam", "image_encoder", "vae"])
def test_a_cut_file_is_named(folder: Path, part: str) -> None:
    weights = folder / part / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=rf"{part} is damaged.*Safetensor"):
        load_generator(folder)


@pytest.mark.parametrize(("part", "file"), [("unet", WEIGHTS), ("text_encoder", "model.safetensors")])
def test_a_missing_tensor_is_named(folder: Path, part: str, file: str) -> None:
    tensors = load_file(folder / part / file)
    name = sorted(tensors)[0]
    del tensors[name]
    save_file(tensors, folder / part / file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError) as caught:
        load_generator(folder)
    assert name in str(caught.value)


def test_code_that_lies_in_a_folder_is_not_run(folder: Path) -> None:
    (folder / "tokenizer" / "tokenizer.py").write_text("import pathlib\npathlib.Path(__file__).with_name('ran').touch()\n")
    settings = {"tokenizer_class": "Mine", "auto_map": {"AutoTokenizer": ["tokenizer.Mine", "tokenizer.Mine"]}}
    write_json(folder / "tokenizer" / "tokenizer_config.json", settings)
    (folder / "tokenizer" / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match="tokenizer is damaged"):
        load_generator(folder)
    assert not (folder / "tokenizer" / "ran").exists()


def test_json_that_is_none(folder: Path) -> None:
    (folder / "scheduler" / "scheduler_config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"scheduler_config\.json is damaged"):
        load_generator(folder)


def test_an_unknown_scheduler(folder: Path) -> None:
    write_json(folder / "scheduler" / "scheduler_config.json", {"_class_name": "NoSuch"})
    with pytest.raises(CheckpointError, match="received 'NoSuch'"):
        load_generator(folder)


def test_a_config_that_does_not_fit_the_weights(folder: Path) -> None:
    path = folder / "unet" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"in_channels": 5}))
    with pytest.raises(CheckpointError, match=r"conv_in\.weight: expected shape \(16, 5, 3, 3\), received \(16, 12, 3, 3\)"):
        load_generator(folder)


def test_published_names_of_the_text_encoder_load_too(sound: Path, folder: Path) -> None:
    path = folder / "text_encoder" / "model.safetensors"
    tensors = {f"text_model.{name.removeprefix('text_model.')}": value for name, value in load_file(path).items()}
    save_file(tensors, path, metadata={"format": "pt"})
    assert torch.equal(*(load_generator(home)._networks.text(["a red boat"]) for home in (sound, folder)))
