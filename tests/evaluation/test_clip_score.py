"""CLIP score from a folder: the cosine of the model itself, in pieces as on the whole; clear words where there is none."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from evaluation.drawn_films import noise
from evaluation.tiny_clip import write_clip
from st2v_stream.errors import CheckpointError
from st2v_stream.evaluation.clip_score import ClipScorer

PROMPT = "a red boat drifts left over the sea"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip") / "tiny")


@pytest.fixture(scope="module")
def scorer(folder: Path) -> ClipScorer:
    return ClipScorer.from_folder(folder)


def scores_of(scorer: ClipScorer, prompt: str, frames: np.ndarray) -> list[float]:
    running = scorer.running(prompt)
    for frame in frames:
        running.push(frame)
    return running.scores()


def test_the_score_is_the_cosine_that_the_model_itself_computes(folder: Path, scorer: ClipScorer) -> None:
    from transformers import CLIPModel, CLIPProcessor

    model, processor = CLIPModel.from_pretrained(folder).eval(), CLIPProcessor.from_pretrained(folder)
    frames = noise(3, side=64)
    inputs = processor(text=[PROMPT], images=list(frames), return_tensors="pt")
    with torch.no_grad():
        outputs = model(**inputs)
    expected = torch.nn.functional.cosine_similarity(outputs.image_embeds, outputs.text_embeds)
    assert scores_of(scorer, PROMPT, frames) == pytest.approx((100 * expected).tolist(), abs=1e-3)


def test_pieces_equal_the_whole(scorer: ClipScorer) -> None:
    frames = noise(20, side=40)  # more than go through the network at once
    one_by_one = [scores_of(scorer, PROMPT, frame[None])[0] for frame in frames]
    assert scores_of(scorer, PROMPT, frames) == pytest.approx(one_by_one, abs=1e-3)


def test_prompt_and_picture_both_count(scorer: ClipScorer) -> None:
    frames = noise(2, side=40)
    first, second = scores_of(scorer, PROMPT, frames)
    assert first != pytest.approx(second, abs=1e-3)
    assert scores_of(scorer, "zzz", frames)[0] != pytest.approx(first, abs=1e-3)


def test_a_prompt_longer_than_clip_reads_is_cut(scorer: ClipScorer) -> None:
    assert np.isfinite(scores_of(scorer, PROMPT * 20, noise(1, side=40))).all()


class TestWhatIsNoClip:
    def refusal(self, folder: Path) -> str:
        with pytest.raises(CheckpointError) as caught:
            ClipScorer.from_folder(folder)
        assert folder.name in str(caught.value)
        return str(caught.value)

    @pytest.fixture
    def damage(self, folder: Path, tmp_path: Path) -> Callable[[str], Path]:
        def copy(name: str) -> Path:
            return Path(shutil.copytree(folder, tmp_path / name))

        return copy

    def test_no_folder(self, tmp_path: Path) -> None:
        assert "expected a folder with a CLIP" in self.refusal(tmp_path / "nowhere")

    def test_an_empty_folder(self, tmp_path: Path) -> None:
        assert "expected config.json" in self.refusal(tmp_path)

    @pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "processor_config.json"])
    def test_a_missing_file(self, damage: Callable[[str], Path], name: str) -> None:
        copy = damage("partial")
        (copy / name).unlink()
        assert "not a whole CLIP" in self.refusal(copy)

    def test_another_kind_of_model(self, damage: Callable[[str], Path]) -> None:
        copy = damage("bert")
        (copy / "config.json").write_text(json.dumps({"model_type": "bert"}))
        assert "expected model_type clip, received 'bert'" in self.refusal(copy)

    def test_pickles_are_not_read(self, damage: Callable[[str], Path]) -> None:
        copy = damage("pickled")
        (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
        assert "pickles are not read" in self.refusal(copy)

    def test_missing_weights_are_not_filled_up_by_chance(self, damage: Callable[[str], Path]) -> None:
        copy = damage("holes")
        tensors = load_file(copy / "model.safetensors")
        del tensors["visual_projection.weight"]
        save_file(tensors, copy / "model.safetensors", {"format": "pt"})
        assert "visual_projection.weight" in self.refusal(copy)

    @pytest.mark.parametrize("content", [b"junk", b""])
    def test_damaged_weights(self, damage: Callable[[str], Path], content: bytes) -> None:
        copy = damage("junk")
        (copy / "model.safetensors").write_bytes(content)
        self.refusal(copy)

    def test_damaged_settings(self, damage: Callable[[str], Path]) -> None:
        copy = damage("junk")
        (copy / "config.json").write_text("{")
        self.refusal(copy)
