"""CLIP score: how well every frame fits the prompt; 100 times the cosine of text and picture, mean over the frames (paper 5.1).

The model comes from a local folder as transformers writes it (safetensors only) and is never downloaded. The paper does not
say which CLIP it took, so only scores of one and the same folder compare.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from st2v_stream.checkpoints.load import checkpoint_errors
from st2v_stream.chunk import Frames
from st2v_stream.errors import CheckpointError

_FRAMES_AT_ONCE = 16
_NEEDED = ("config.json", "preprocessor_config.json", "tokenizer_config.json")


class ClipScorer:
    """A CLIP in a folder; `running(prompt)` scores one film."""

    def __init__(self, name: str, model: Any, processor: Any) -> None:
        self.name = name
        self._model, self._processor = model, processor

    @staticmethod
    def from_folder(folder: Path, device: str = "cpu") -> ClipScorer:
        """Raises `CheckpointError` naming the folder and what it lacks."""
        _require_clip(folder)
        from transformers import CLIPModel, CLIPProcessor
        from transformers.utils import logging

        logging.disable_progress_bar()
        with checkpoint_errors(folder):
            model, loading = CLIPModel.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, output_loading_info=True
            )
            missing = sorted(loading["missing_keys"])
            if missing:  # transformers fills them with random numbers and only warns
                raise ValueError(f"weights are missing: {', '.join(missing[:3])} and others")
            processor = CLIPProcessor.from_pretrained(folder, local_files_only=True)
        return ClipScorer(folder.resolve().name, model.to(device).eval(), processor)

    def running(self, prompt: str) -> RunningClipScore:
        """The score of a film whose frames come one by one."""
        return RunningClipScore(self, self.text_row(prompt))

    def text_row(self, prompt: str) -> Tensor:
        """(D,) of unit length; what lies beyond CLIP's 77 tokens is cut off."""
        longest = self._model.config.text_config.max_position_embeddings
        tokens = self._processor.tokenizer([prompt], return_tensors="pt", truncation=True, max_length=longest)
        with torch.inference_mode():
            pooled = self._model.text_model(**tokens.to(self._model.device)).pooler_output
            return _unit(self._model.text_projection(pooled))[0]

    def picture_rows(self, frames: Sequence[Frames]) -> Tensor:
        """(len(frames), D) of unit length, from (H, W, 3) uint8 each."""
        pictures = [Image.fromarray(frame) for frame in frames]
        pixels = self._processor(images=pictures, return_tensors="pt")["pixel_values"].to(self._model.device)
        with torch.inference_mode():
            pooled = self._model.vision_model(pixel_values=pixels).pooler_output
            return _unit(self._model.visual_projection(pooled))


class RunningClipScore:
    """Keeps a few frames until they are worth a pass of the network."""

    def __init__(self, scorer: ClipScorer, text: Tensor) -> None:
        self._scorer, self._text = scorer, text
        self._waiting: list[Frames] = []
        self._scores: list[float] = []

    def push(self, frame: Frames) -> None:
        """The next frame (H, W, 3)."""
        self._waiting.append(frame)
        if len(self._waiting) == _FRAMES_AT_ONCE:
            self._score_waiting()

    def scores(self) -> list[float]:
        """100 times the cosine, one per frame pushed so far."""
        if self._waiting:
            self._score_waiting()
        return self._scores

    def _score_waiting(self) -> None:
        rows = self._scorer.picture_rows(self._waiting)
        self._scores += (100.0 * rows @ self._text).tolist()
        self._waiting = []


def _require_clip(folder: Path) -> None:
    if not folder.is_dir():
        raise CheckpointError("no CLIP there", expected="a folder with a CLIP as transformers writes it", received=str(folder))
    for name in _NEEDED:
        if name == "preprocessor_config.json" and (folder / "processor_config.json").is_file():
            continue  # transformers 5 keeps it there
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder} is not a whole CLIP", expected=name, received="no such file")
    with checkpoint_errors(folder / "config.json"):
        kind = json.loads((folder / "config.json").read_text())["model_type"]
    if not list(folder.glob("*.safetensors")):
        raise CheckpointError(
            f"{folder} has no safe weights", expected="model.safetensors", received="none (pickles are not read)"
        )
    if kind != "clip":
        raise CheckpointError(f"{folder} holds another kind of model", expected="model_type clip", received=kind)


def _unit(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=-1, keepdim=True)
