"""--offload-models: the same frames, one stage at a time on the device.

There is one device here, so what moves is watched where accelerate is asked to move it.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.hooks import CpuOffload, UserCpuOffloadHook
from small_bases import write_animatediff, write_modelscope, write_sdxl, write_streaming_model, write_svd
from small_model import write_model

from st2v_stream.checkpoints.load import load_generator
from st2v_stream.checkpoints.offload import Stages
from st2v_stream.chunk import Frames, Memory
from st2v_stream.direction import Direction
from st2v_stream.generators.streamingt2v import StreamingT2V
from st2v_stream.types import Reference

pytestmark = pytest.mark.slow

PICTURE = Reference(np.random.default_rng(0).integers(0, 256, (1, 90, 120, 3), np.uint8))
OPENCLIP = ["CLIPTextModel", "OpenClipImageEncoder", "ImageResampler", "ControlBranch", "StreamingUNet", "FrameAutoencoder"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("checkpoints")
    for write in (write_streaming_model, write_modelscope, write_animatediff, write_svd, write_sdxl):
        write(home)
    write_model(home / "small")
    return home


@functools.cache
def loaded(home: Path, base: str, offload: bool) -> StreamingT2V:
    """Once for all combinations: generators keep nothing between films."""
    return load_generator(home / "streaming-t2v", "cpu", base_model=base, offload_models=offload)


@dataclass
class Moves:
    """Networks that would be on the device now, how they came, and the most that were there together."""

    here: dict[int, str] = field(default_factory=dict)
    arrivals: list[str] = field(default_factory=list)
    most: set[frozenset[str]] = field(default_factory=set)


@pytest.fixture
def moves(monkeypatch: pytest.MonkeyPatch) -> Moves:
    seen = Moves()
    arrive, leave = CpuOffload.pre_forward, UserCpuOffloadHook.offload

    def pre_forward(hook: Any, module: Any, *args: Any, **kwargs: Any) -> Any:
        if id(module) not in seen.here:
            assert not torch.is_inference_mode_enabled()  # or the weights could not leave it again
            seen.here[id(module)] = type(module).__name__
            seen.arrivals.append(type(module).__name__)
            seen.most.add(frozenset(seen.here.values()))
        return arrive(hook, module, *args, **kwargs)

    def offload(hook: Any) -> None:
        seen.here.pop(id(hook.model), None)
        leave(hook)

    monkeypatch.setattr(CpuOffload, "pre_forward", pre_forward)
    monkeypatch.setattr(UserCpuOffloadHook, "offload", offload)
    return seen


def two_chunks(generator: StreamingT2V, preset: str = "default", reference: Reference | None = None) -> tuple[Frames, Memory]:
    direction = Direction((("a red boat", 1.0),), "sea", 2.0, 2, preset, seed=5)  # type: ignore[arg-type]
    frames, memory = generator.begin(direction, reference, lambda k, n: None)
    more, memory = generator.generate(direction, memory, lambda k, n: None)
    return np.concatenate([frames, more]), memory


@pytest.mark.parametrize("preset", ["published", "default"])
@pytest.mark.parametrize("reference", [None, PICTURE], ids=["text", "image"])
@pytest.mark.parametrize("base", ["ModelscopeT2V", "AnimateDiff", "SVD"])
def test_the_same_frames(home: Path, base: str, reference: Reference | None, preset: str) -> None:
    if preset == "published" and base == "AnimateDiff":
        pytest.skip("nothing in it that the other combinations do not have")
    plain, moved = (two_chunks(loaded(home, base, offload), preset, reference) for offload in (False, True))
    assert np.array_equal(plain[0], moved[0])
    assert plain[1].digest == moved[1].digest


def test_one_stage_at_a_time(home: Path, moves: Moves) -> None:
    generator = load_generator(home / "streaming-t2v", "cpu", offload_models=True)
    assert moves.arrivals == []  # loading puts nothing on the device
    two_chunks(generator)
    first = ["CLIPTextModel", "UNet3DConditionModel", "AutoencoderKL"]
    assert [name for name, _ in groupby(moves.arrivals)] == first + OPENCLIP
    together = {frozenset({"OpenClipImageEncoder", "ImageResampler"}), frozenset({"ControlBranch", "StreamingUNet"})}
    assert {names for names in moves.most if len(names) > 1} == together


def test_the_next_chunk_pushes_out_the_last_ones_vae(home: Path, moves: Moves) -> None:
    generator = load_generator(home / "streaming-t2v", "cpu", offload_models=True)
    _, memory = two_chunks(generator)
    moves.arrivals.clear()
    generator.generate(Direction((("a cat", 1.0),), guidance_scale=2.0, num_inference_steps=2), memory, lambda k, n: None)
    assert moves.arrivals == OPENCLIP
    assert list(moves.here.values()) == ["FrameAutoencoder"]


def test_a_model_that_begins_by_itself_is_moved_too(home: Path, moves: Moves) -> None:
    plain = two_chunks(load_generator(home / "small", "cpu"))
    moved = two_chunks(load_generator(home / "small", "cpu", offload_models=True))
    assert np.array_equal(plain[0], moved[0])
    assert {"StreamingUNet", "ControlBranch", "FrameAutoencoder", "LatentImageEncoder", "CLIPTextModel"} == set(moves.arrivals)
    assert max(map(len, moves.most)) == 2


def test_diffusers_pipelines_move_their_own_parts(home: Path, moves: Moves) -> None:
    two_chunks(load_generator(home / "streaming-t2v", "cpu", base_model="SVD", offload_models=True))
    names = [name for name, _ in groupby(moves.arrivals)]
    assert (
        names.index("CLIPTextModelWithProjection")
        < names.index("UNetSpatioTemporalConditionModel")
        < names.index("StreamingUNet")
    )


def test_inputs_are_put_where_a_part_computes() -> None:
    """A part says the device on which it computes, wherever its weights are; its settings are its own."""
    stages = Stages(torch.device("meta"))
    network = torch.nn.Linear(2, 3)
    visiting = stages.add("only", network)
    assert visiting.device.type == "meta"
    assert network.weight.device.type == "cpu"
    assert visiting.out_features == 3
