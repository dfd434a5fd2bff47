"""CAM, APM and resampler learn over a frozen base: what moves, what stays, and the whole way from clips to a film."""

from __future__ import annotations

import argparse
import dataclasses
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from safetensors.torch import load_file

from st2v_stream.checkpoints.load import load_generator
from st2v_stream.cli import main
from st2v_stream.errors import InvalidRequest, St2vError
from st2v_stream.training import finetune
from st2v_stream.training.clips import find_clips
from st2v_stream.training.finetune_run import Finetuning
from st2v_stream.training.finetune_stage import (
    FinetuneRecipe,
    FinetuneStage,
    StageName,
    checkpoint_activations,
    dropped,
    load_trained,
    noised,
)
from st2v_stream.training.loop import StopFlag, load_checkpoint
from st2v_stream.training.modelscope import new_parts, read_base
from st2v_stream.training.randomness import torch_rng
from st2v_stream.training.windows import ClipCache, Nothing, WindowBatch, Windows, encode_clips
from st2v_stream.types import Reference
from training.tiny_base import SIDE, write_base, write_clips, write_film

pytestmark = pytest.mark.slow

RECIPE = FinetuneRecipe(rate=3e-3, batch=2, accumulate=1)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("finetune")
    write_base(home / "base")
    write_clips(home / "clips", count=3, frames=32)
    return home


@pytest.fixture(scope="module")
def material(home: Path) -> tuple[Any, Windows, Nothing]:
    base = read_base(home / "base")
    cache = ClipCache(base, home / "cache", fps=8)
    clips, _ = encode_clips(find_clips(home / "clips")[0], cache, StopFlag(), lambda _: None)
    return base, Windows(clips), cache.nothing()


def make_stage(material: tuple[Any, Windows, Nothing], name: StageName, **changes: Any) -> FinetuneStage:
    base, windows, nothing = material
    recipe = dataclasses.replace(RECIPE, **changes)
    return FinetuneStage(name, new_parts(base, seed=0), windows, windows, nothing, base.scheduler, recipe, seed=0)


def values(stage: FinetuneStage) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in stage.parts.state_dict().items()}


@pytest.mark.parametrize(
    ("name", "train_spatial", "expected"),
    [
        ("cam", True, {"branch", "merger"}),
        ("apm", False, {"branch", "merger", "apm", "resampler"}),
        ("apm", True, {"branch", "merger", "apm", "resampler", "spatial"}),
    ],
)
def test_what_learns(material: Any, name: StageName, train_spatial: bool, expected: set[str]) -> None:
    stage = make_stage(material, name, train_spatial=train_spatial)
    before = values(stage)
    for step in range(2):  # alpha starts at 0 and so holds back APM's gradients for one step
        stage.train_step(step, 1e-2)
    moved = {key for key, value in stage.parts.state_dict().items() if not torch.equal(value, before[key])}

    def kind(key: str) -> str:
        if key.startswith("cam."):
            return "branch"
        if key.startswith("resampler."):
            return "resampler"
        if "cross_attention_merger" in key:
            return "merger"
        if ".attn2.alpha" in key or ".attn2.conv" in key:
            return "apm"
        return "temporal" if "temp_" in key or "transformer_in" in key else "spatial"

    assert {kind(key) for key in moved} == expected
    assert set(stage.trained) >= moved


@pytest.mark.parametrize("name", ["cam", "apm"])
def test_steps_lower_the_loss_of_fixed_windows(material: Any, name: StageName) -> None:
    stage = make_stage(material, name)
    before = stage.validate()
    for step in range(10):
        stage.train_step(step, 1e-2)
    after = stage.validate()
    fixed = [key for key in before if key.startswith("fixed")]
    assert len(fixed) == 4
    assert sum(after[key] for key in fixed) < 0.95 * sum(before[key] for key in fixed), (before, after)
    if name == "cam":  # the base itself did not change
        assert after["without_cam"] == before["without_cam"] == pytest.approx(sum(before[key] for key in fixed) / 4)
    else:
        assert "without_anchor" in after


@pytest.mark.parametrize("name", ["cam", "apm"])
def test_a_resumed_training_continues_bit_for_bit(material: Any, name: StageName, tmp_path: Path) -> None:
    whole, first, second = (make_stage(material, name, batch=1, fixed_windows=1) for _ in range(3))
    for step in range(3):
        whole.train_step(step, 1e-3)
    first.train_step(0, 1e-3)
    torch.save(first.state_dict(), tmp_path / "state.pt")
    torch.manual_seed(77)  # what else draws random numbers must not matter
    second.load_state_dict(load_checkpoint(tmp_path / "state.pt"))
    for step in (1, 2):
        second.train_step(step, 1e-3)
    expected = values(whole)
    assert all(torch.equal(value, expected[key]) for key, value in values(second).items())


def test_a_checkpoint_holds_what_is_trained_only(material: Any) -> None:
    cam, apm = (make_stage(material, name) for name in ("cam", "apm"))
    assert set(cam.state_dict()["trained"]) == set(cam.trained)
    assert not any(key.startswith("unet.conv_in") for key in cam.state_dict()["trained"])
    with pytest.raises(St2vError, match="a checkpoint of other parameters"):
        load_trained(apm.trained, cam.state_dict()["trained"])


def test_accumulated_gradients_are_those_of_the_mean(material: Any) -> None:
    settings = {"batch": 1, "accumulate": 3, "clip_norm": 1e9, "text_dropout": 0.0, "anchor_dropout": 0.0, "both_dropout": 0.0}
    stage = make_stage(material, "apm", **settings)
    stage.parts.cam.train = lambda mode=True: stage.parts.cam  # without dropout
    load_trained(stage.trained, {key: torch.full_like(value, 0.01) + value for key, value in stage.trained.items()})
    rng = torch_rng(0, "apm", 0)
    losses = []
    for _ in range(3):
        batch = stage.windows.draw(1, rng, with_anchor=True)
        torch.rand(1, generator=rng)
        timesteps = torch.randint(1000, (1,), generator=rng)
        losses.append(stage.loss(batch, torch.randn(batch.latents.shape, generator=rng), timesteps))
    expected = torch.autograd.grad(torch.stack(losses).mean(), list(stage.trained.values()), allow_unused=True)
    assert stage.train_step(0, 0.0) == pytest.approx(torch.stack(losses).mean().item())
    for (key, parameter), gradient in zip(stage.trained.items(), expected, strict=True):
        if gradient is not None:
            torch.testing.assert_close(parameter.grad, gradient, atol=1e-6, rtol=1e-4, msg=key)
    assert sum(gradient is not None and bool(gradient.any()) for gradient in expected) > 100


def test_checkpointed_activations_give_the_same_step(material: Any) -> None:
    plain, saving = make_stage(material, "cam"), make_stage(material, "cam")
    checkpoint_activations(saving.parts)
    assert plain.train_step(0, 1e-3) == saving.train_step(0, 1e-3)
    expected = values(plain)
    assert all(torch.equal(value, expected[key]) for key, value in values(saving).items())


def test_a_loss_that_is_no_number_ends_the_training_before_the_weights_change(material: Any) -> None:
    stage = make_stage(material, "cam")
    stage.loss = lambda *_: torch.tensor(float("nan"), requires_grad=True)  # type: ignore[method-assign]
    before = values(stage)
    with pytest.raises(St2vError, match="cam: the loss of step 7: expected a finite number, received nan"):
        stage.train_step(7, 1e-3)
    assert all(torch.equal(value, before[key]) for key, value in values(stage).items())
    assert not stage.parts.cam.training


def test_noise_is_added_as_the_scheduler_does() -> None:
    settings = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    scheduler = DDIMScheduler(**settings)
    clean, noise, timesteps = torch.randn(3, 4, 16, 4, 4), torch.randn(3, 4, 16, 4, 4), torch.tensor([0, 500, 999])
    received = noised(clean, noise, scheduler.alphas_cumprod[timesteps])
    torch.testing.assert_close(received, scheduler.add_noise(clean, noise, timesteps))


def test_captions_and_anchors_are_dropped_as_often_as_the_paper_says() -> None:
    count = 20_000
    nothing = Nothing(torch.full((1, 1), -1.0), torch.full((1,), -1.0))
    batch = WindowBatch(torch.zeros(count), torch.zeros(count), torch.ones(count, 1, 1), torch.ones(count, 1))
    received = dropped(batch, nothing, FinetuneRecipe(), torch.Generator().manual_seed(0))
    assert received.anchor is not None
    text, anchor = received.text.flatten() < 0, received.anchor.flatten() < 0
    for share in (text & ~anchor, anchor & ~text, text & anchor):
        assert share.float().mean() == pytest.approx(0.05, abs=0.006)
    alone = dropped(dataclasses.replace(batch, anchor=None), nothing, FinetuneRecipe(), torch.Generator().manual_seed(0))
    assert (alone.text < 0).float().mean() == pytest.approx(0.1, abs=0.008)
    assert alone.anchor is None


# ---------------------------------------------------------------- the run


@pytest.fixture
def _signals() -> Iterator[None]:
    """The run listens to SIGINT and SIGTERM; give them back."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def train(home: Path, out: Path, *options: str, clips: Path | None = None) -> int:
    """`st2v train` on the tiny base."""
    folders = ["--base", str(home / "base"), "--clips", str(clips or home / "clips"), "--out", str(out)]
    sizes = ["--batch", "1", "--accumulate", "2", "--rate", "3e-3", "--preview-steps", "2"]
    return main(["train", "--stage", "cam-apm", *folders, *sizes, *options])


def losses(log: Path) -> list[float]:
    """Mean loss of the fixed windows, row by row."""
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    return [float(np.mean([value for name, value in row.items() if name.startswith("fixed")])) for row in rows]


@pytest.mark.usefixtures("_signals")
def test_from_clips_to_a_film_through_the_command_line(home: Path, tmp_path: Path) -> None:
    """Trained in one go, and interrupted and resumed: the same model folder, which continues a clip."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert train(home, whole, "--cam-steps", "6", "--apm-steps", "4") == 0
    assert train(home, parts, "--cam-steps", "3", "--apm-steps", "2") == 0
    assert train(home, parts, "--cam-steps", "6", "--apm-steps", "4", "--resume") == 0
    for name in ("cam", "apm"):
        fixed = losses(whole / name / "log.jsonl")
        assert fixed[-1] < 0.99 * fixed[0], name
        assert (whole / name / "losses.png").stat().st_size > 1000
    assert (whole / "films.png").stat().st_size > 1000
    for path in (whole / "export").rglob("*.safetensors"):
        tensors, again = load_file(path), load_file(parts / "export" / path.relative_to(whole / "export"))
        assert all(torch.equal(again[name], value) for name, value in tensors.items()), path

    generator = load_generator(whole / "export", "cpu")
    assert (generator.spec.width, generator.spec.height, generator.spec.fps) == (SIDE, SIDE, 8)
    clip = np.random.default_rng(0).integers(0, 256, (16, SIDE, SIDE, 3), np.uint8)
    direction = generator.card.direction("a red boat", num_inference_steps=2)
    frames, memory = generator.begin(direction, Reference(clip), lambda k, n: None)
    assert np.array_equal(frames, clip)
    first, memory = generator.generate(direction, memory, lambda k, n: None)
    second, _ = generator.generate(direction, memory, lambda k, n: None)
    assert first.shape == second.shape == (8, SIDE, SIDE, 3)
    assert not np.array_equal(first, second)
    assert (whole / "text-to-video-ms-1.7b").resolve() == (home / "base").resolve()
    started, _ = generator.begin(direction, None, lambda k, n: None)  # the base makes the first chunk
    assert started.shape == (16, SIDE, SIDE, 3)
    trained = load_checkpoint(whole / "apm" / "checkpoint.pt")["stage"]["trained"]
    exported = load_file(whole / "export" / "unet" / "diffusion_pytorch_model.safetensors")
    alphas = {name: value for name, value in trained.items() if name.endswith("alpha")}
    assert alphas
    for name, value in alphas.items():
        assert value != 0
        assert exported[name.removeprefix("unet.")] == value.half()


def finetuning(home: Path, out: Path, **changes: Any) -> Finetuning:
    return Finetuning(base=home / "base", clips=changes.pop("clips", home / "clips"), out=out, **changes)


@pytest.mark.usefixtures("_signals")
def test_a_stopped_run_says_so_and_blames_no_clip(home: Path, tmp_path: Path) -> None:
    stop = StopFlag()
    stop.set()
    assert finetuning(home, tmp_path / "out", stop=stop).run() == 3


@pytest.mark.usefixtures("_signals")
def test_unusable_clips_are_named_and_counted(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clips = write_clips(tmp_path / "clips", count=1)
    write_film(clips / "short.mp4", np.zeros((10, 64, 64, 3), np.uint8))
    (clips / "short.txt").write_text("a short one")
    (clips / "silent.mp4").write_bytes(b"")
    run = finetuning(home, tmp_path / "out", clips=clips)
    encoded, _ = run._encode(read_base(home / "base"), torch.device("cpu"))
    assert [clip.name for clip in encoded] == ["0.mp4"]
    said = capsys.readouterr().err
    assert "1 clips in" in said
    assert "can be used, 2 files cannot:" in said
    assert "silent.mp4 has no caption" in said
    assert "short.mp4 is too short: expected at least 24 frames at 8 per second, received 10" in said
    run.strict = True
    with pytest.raises(InvalidRequest, match=r"(?s)short.mp4 is too short.*--strict"):
        run._encode(read_base(home / "base"), torch.device("cpu"))
    run.strict, run.held_out = False, 1
    with pytest.raises(InvalidRequest, match=r"(?s)expected at least 2 that can, received 1"):
        run._encode(read_base(home / "base"), torch.device("cpu"))


def test_another_training_in_the_folder_is_not_overwritten(home: Path, tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text(json.dumps(finetuning(home, tmp_path)._settings))
    with pytest.raises(InvalidRequest, match="--out holds a training already: expected --resume, or another folder"):
        finetuning(home, tmp_path).run()
    with pytest.raises(InvalidRequest, match=r"rate is not what it was in .*: expected 5e-05, received 0.1"):
        finetuning(home, tmp_path, resume=True, recipe=FinetuneRecipe(rate=0.1)).run()
    finetuning(home, tmp_path, resume=True)._check_settings()


def test_held_out_clips_are_not_trained_on(home: Path, material: Any) -> None:
    clips = list(material[1]._clips)
    training, validation = finetuning(home, home, held_out=1)._split(clips)
    names = [{clip.name for clip in windows._clips} for windows in (training, validation)]
    assert len(names[0]) == 2
    assert len(names[1]) == 1
    assert not names[0] & names[1]
    same = finetuning(home, home)._split(clips)
    assert same[0]._clips == same[1]._clips == clips


def arguments(*options: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    for name in ("--stage", "--finish", "--from"):
        parser.add_argument(name, dest="origin" if name == "--from" else None, default="all" if name == "--stage" else None)
    parser.add_argument("--budget", type=float, default=60.0)
    finetune.add_arguments(parser)
    return parser.parse_args(options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--clips", "x"], "--base is missing"),
        (["--base", "x"], "--clips is missing"),
        (["--base", "x", "--clips", "y", "--stage", "vae"], "--stage does not go with --clips: expected cam-apm"),
        (["--base", "x", "--clips", "y", "--from", "z"], "--from does not go with --clips"),
        (["--base", "x", "--clips", "y", "--finish", "1"], "--finish does not go with --clips"),
        (["--base", "x", "--clips", "y", "--clip-fps", "0"], "--clip-fps is out of range: expected a number above 0"),
        (["--base", "x", "--clips", "y", "--cam-steps", "-1"], "--cam-steps is out of range"),
        (["--base", "x", "--clips", "y", "--held-out", "-1"], "--held-out is out of range"),
    ],
)
def test_options_that_do_not_go_together(options: list[str], said: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        finetune.check(arguments(*options))
    assert said in str(caught.value)


def test_the_options_that_do(home: Path) -> None:
    finetune.check(arguments("--base", "x", "--clips", "y", "--stage", "cam-apm"))
    defaults = arguments("--base", "x", "--clips", "y")
    recipe = FinetuneRecipe()
    for name in ("rate", "batch", "accumulate", "train_spatial", "checkpoint_activations"):
        assert getattr(defaults, name) == getattr(recipe, name)
