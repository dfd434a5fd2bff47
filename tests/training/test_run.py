"""Whole stages as the command line runs them, with tiny networks; what they leave behind."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from st2v_stream.checkpoints.load import load_generator
from st2v_stream.errors import InvalidRequest
from st2v_stream.training import decoder, distil, run
from st2v_stream.training.decoder import DecoderStage
from st2v_stream.training.export import DISTILLED_PRESETS, GUIDED_PRESETS, export, load_export
from st2v_stream.training.judge import JudgeRecipe
from st2v_stream.training.loop import StopFlag
from st2v_stream.training.preview import PreviewSettings
from st2v_stream.training.recipe import BaseRecipe, CamApmRecipe, DecoderRecipe, DistilRecipe, PoolRecipe, Recipe
from st2v_stream.training.run import Training
from st2v_stream.worlds import captions
from st2v_stream.worlds.judge import Judge
from training.tiny_training import TINY_DISTIL, tiny_autoencoder, tiny_parts, tiny_pool

pytestmark = pytest.mark.slow

RECIPE = Recipe(
    preview_chunks=1,
    base=BaseRecipe(batch=4),
    cam_apm=CamApmRecipe(batch=2),
    decoder=DecoderRecipe(films=2, memory_slots=4, memory_frames=16),
    distil=TINY_DISTIL,
    pool=PoolRecipe(films=3, validation_films=3),
)


@pytest.fixture(autouse=True, scope="module")
def short() -> Iterator[None]:
    """What is checked here does not depend on how well anything is learnt or measured."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoder, "SETTLING_STEPS", 4)
        patch.setattr(decoder, "VALIDATION_FILMS", 4)
        patch.setattr(distil, "VALIDATION_TEACHER_STEPS", 2)
        patch.setattr(run, "PreviewSettings", lambda: PreviewSettings(steps=2, picture_steps=2))
        yield


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported model that `--from` starts from."""
    folder = tmp_path_factory.mktemp("model") / "origin"
    parts = tiny_parts()
    torch.nn.init.normal_(parts.unet.conv_out.weight, std=0.05)
    export(parts, tiny_autoencoder(), folder)
    return folder


@pytest.fixture(scope="module")
def trained(origin: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What two steps of a stage left; trained when first asked for, then only read."""

    class Trained(dict[str, Path]):
        def __missing__(self, stage: str) -> Path:
            self[stage] = tmp_path_factory.mktemp(stage)
            assert train(stage, self[stage], origin) == 0
            return self[stage]

    return Trained()


def train(stage: str, out: Path, origin: Path | None, steps: int = 2, recipe: Recipe = RECIPE, *, resume: bool = False) -> int:
    out.mkdir(exist_ok=True)
    for name in ("films.pt", "validation_films.pt"):
        tiny_pool().save(out / name)
    training = Training(recipe=recipe, stages=(stage,), budget_s=1e6, out=out, origin=origin, steps=steps, resume=resume)
    return training.run()


def card(folder: Path) -> dict[str, object]:
    return json.loads((folder / "card.json").read_text())


@pytest.mark.parametrize("stage", ["base", "cam-apm", "decoder", "distil"])
def test_a_stage_leaves_curves_pictures_and_a_checkpoint(stage: str, trained: dict[str, Path]) -> None:
    left = {path.name for path in (trained[stage] / stage).iterdir()}
    assert left == {"checkpoint.pt", "log.jsonl", "losses.png", "pictures.png"}


def test_a_new_decoder_and_then_fewer_steps_make_a_model_that_loads(
    origin: Path, trained: dict[str, Path], tmp_path: Path
) -> None:
    first, second = trained["decoder"], tmp_path / "second"
    assert card(first / "export")["presets"] == GUIDED_PRESETS
    before, after = load_export(origin), load_export(first / "export")
    assert after[1].config.decoder_memory_slots == 4
    kept = after[0].state_dict()
    for name, value in before[0].state_dict().items():
        assert torch.equal(value, kept[name]), name
    assert train("distil", second, first / "export") == 0
    assert card(second / "export")["presets"] == DISTILLED_PRESETS
    assert load_export(second / "export")[1].config == after[1].config
    assert load_generator(second / "export").card.direction("a red boat", preset="live").num_inference_steps == 2


@pytest.mark.parametrize(("stage", "part"), [("decoder", "vae"), ("distil", "average")])
def test_the_same_seed_and_steps_give_the_same_weights(
    stage: str, part: str, origin: Path, trained: dict[str, Path], tmp_path: Path
) -> None:
    assert train(stage, tmp_path / "again", origin) == 0
    folders = (trained[stage], tmp_path / "again")
    one, two = (torch.load(out / stage / "checkpoint.pt", weights_only=True)["stage"][part] for out in folders)
    for name, value in one.items():
        assert torch.equal(value, two[name]), name


def test_a_resumed_stage_ends_as_an_uninterrupted_one(origin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert train("decoder", tmp_path / "whole", origin, steps=3) == 0
    flags: list[StopFlag] = []
    train_step = DecoderStage.train_step

    def interrupted(stage: DecoderStage, step: int, rate: float) -> float:
        if step == 1:
            flags[0].set()
        return train_step(stage, step, rate)

    with monkeypatch.context() as patch:  # a signal comes in the second step
        patch.setattr(StopFlag, "listen", lambda flag: flags.append(flag))
        patch.setattr(DecoderStage, "train_step", interrupted)
        assert train("decoder", tmp_path / "parts", origin, steps=3) == 3
    assert train("decoder", tmp_path / "parts", origin, steps=3, resume=True) == 0
    whole, parts = (load_export(tmp_path / name / "export")[1].state_dict() for name in ("whole", "parts"))
    for name, value in whole.items():
        assert torch.equal(value, parts[name]), name


def test_a_judge_is_trained_beside_the_model(origin: Path, tmp_path: Path) -> None:
    judge = JudgeRecipe(batch=4, tracks=8, motion_steps=4, motion_batch=8)
    out = tmp_path / "out"
    assert Training(RECIPE, ("judge",), budget_s=1e6, out=out, origin=origin, steps=2, judge=judge).run() == 0
    assert {path.name for path in (out / "judge").iterdir()} == {
        "checkpoint.pt",
        "log.jsonl",
        "losses.png",
        "pictures.png",
        "export",
    }
    assert Judge.load(out / "judge" / "export").read(np.zeros((16, 64, 64, 3), np.uint8)).scene in captions.SCENES
    assert not (out / "export").exists()


def test_a_decoder_without_an_autoencoder_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="no autoencoder: expected --from FOLDER"):
        train("decoder", tmp_path / "out", None)


def test_every_share_of_the_budget_is_spent() -> None:
    recipe = Recipe()
    shares = [part.budget_share for part in (recipe.vae, recipe.base, recipe.cam_apm, recipe.decoder, recipe.distil)]
    assert sum(shares) == pytest.approx(1.0)
    assert dataclasses.replace(recipe, distil=DistilRecipe(batch=1)).for_device("cpu").distil.batch == 1
