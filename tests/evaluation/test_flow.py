"""Flow estimators: the one that is always there finds a shift; RAFT is taken only from a file, and refuses clearly."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from evaluation.drawn_films import translation
from st2v_stream.checkpoints.load import checkpoint_errors
from st2v_stream.errors import CheckpointError, InvalidRequest
from st2v_stream.evaluation.flow import dis_flow, raft_flow


def test_dis_finds_a_translation() -> None:
    frames = translation(2, side=128, step=3)
    flow = dis_flow().estimate(frames[0], frames[1])
    assert flow.shape == (128, 128, 2)
    assert flow.dtype == np.float32
    inside = flow[16:-16, 16:-16]  # the window moves right, so the picture moves left
    assert np.median(inside[..., 0]) == pytest.approx(-3, abs=0.2)
    assert np.median(inside[..., 1]) == pytest.approx(0, abs=0.2)


def test_dis_says_that_it_is_not_raft() -> None:
    assert "not RAFT" in dis_flow().name
    assert not dis_flow().is_raft


def test_without_torchvision_raft_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.setitem(sys.modules, "torchvision.models.optical_flow", None)
    with pytest.raises(InvalidRequest, match=r"RAFT is not available: expected torchvision beside torch"):
        raft_flow(tmp_path / "raft.pth")


class StandIn(nn.Module):
    """In torchvision's place: one weight, two refinements, the flow is (weight, 0) plus what the pictures say."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, first: Tensor, second: Tensor) -> list[Tensor]:
        assert first.shape == second.shape
        assert -1 <= first.min() <= first.max() <= 1
        flow = torch.zeros(1, 2, *first.shape[2:])
        flow[:, 0] = self.weight + (second - first).mean(dim=1)
        return [flow * 0, flow]


@pytest.fixture
def torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    assert checkpoint_errors  # transformers, which looks for torchvision, is loaded before the stand-in is there

    def raft_large(*, weights: Any) -> nn.Module:
        assert weights is None, "weights must never be downloaded"
        return StandIn()

    module = types.ModuleType("torchvision.models.optical_flow")
    module.raft_large = raft_large  # type: ignore[attr-defined]
    for name in ("torchvision", "torchvision.models"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "torchvision.models.optical_flow", module)


@pytest.mark.usefixtures("torchvision")
class TestRaft:
    @pytest.mark.parametrize("suffix", ["pth", "safetensors"])
    def test_weights_come_from_the_file_and_the_last_refinement_counts(self, tmp_path: Path, suffix: str) -> None:
        path, state = tmp_path / f"raft.{suffix}", {"weight": torch.tensor([2.0])}
        if suffix == "pth":
            torch.save(state, path)
        else:
            save_file(state, path)
        flow = raft_flow(path)
        dark, light = np.zeros((128, 136, 3), np.uint8), np.full((128, 136, 3), 255, np.uint8)
        assert flow.is_raft
        assert np.allclose(flow.estimate(dark, light), (4.0, 0.0))

    def test_files_that_hold_no_raft(self, tmp_path: Path) -> None:
        torch.save({"other": torch.zeros(1)}, tmp_path / "other.pth")
        torch.save([1], tmp_path / "list.pth")
        torch.save(StandIn(), tmp_path / "pickle.pth")
        for name in ("junk.pth", "junk.safetensors"):
            (tmp_path / name).write_bytes(b"junk")
        for name in ("other.pth", "list.pth", "pickle.pth", "junk.pth", "junk.safetensors", "missing.pth"):
            with pytest.raises(CheckpointError, match=name):
                raft_flow(tmp_path / name)

    def test_sizes_that_raft_cannot_take(self, tmp_path: Path) -> None:
        save_file(StandIn().state_dict(), tmp_path / "raft.safetensors")
        flow = raft_flow(tmp_path / "raft.safetensors")
        for size in ((64, 64), (132, 128)):
            frame = np.zeros((*size, 3), np.uint8)
            with pytest.raises(InvalidRequest, match="RAFT cannot take frames of this size"):
                flow.estimate(frame, frame)
