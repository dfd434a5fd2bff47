from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, CLIPTextModel

from st2v_stream.networks.cam import ControlBranch
from st2v_stream.networks.resampler import LatentImageEncoder
from st2v_stream.networks.sampling import make_sampler
from st2v_stream.networks.unet import StreamingUNet
from st2v_stream.networks.vae import FrameAutoencoder
from st2v_stream.training.export import DISTILLED_PRESETS, EXAMPLE_PROMPTS, export, scheduler_of_stage
from st2v_stream.training.recipe import DistilRecipe
from st2v_stream.training.text import MAX_TOKENS, new_tokenizer
from st2v_stream.training.vae import finished, new_autoencoder
from training.tiny_training import tiny_autoencoder, tiny_parts

pytestmark = pytest.mark.slow


def exported(folder: Path) -> tuple[torch.nn.Module, FrameAutoencoder]:
    parts = tiny_parts()
    vae = finished(new_autoencoder(0).state_dict(), seed=0, size=64, frames=4)
    export(parts, vae, folder)
    return parts, vae


Exported = tuple[Path, torch.nn.Module, FrameAutoencoder]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Read by several tests, changed by none."""
    folder = tmp_path_factory.mktemp("exported") / "model"
    return folder, *exported(folder)


def test_an_export_loads_back(model: Exported) -> None:
    folder, parts, vae = model
    loaded = {
        "unet": StreamingUNet.from_pretrained(folder / "unet"),
        "cam": ControlBranch.from_pretrained(folder / "cam"),
        "image_encoder": LatentImageEncoder.from_pretrained(folder / "image_encoder"),
        "text_encoder": CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32),
    }
    for name, module in loaded.items():
        received = module.state_dict()
        for key, value in getattr(parts, name).state_dict().items():
            torch.testing.assert_close(received[key], value.half().float(), msg=f"{name}: {key}")
    again = FrameAutoencoder.from_pretrained(folder / "vae")
    assert again.config == vae.config
    frames = torch.rand(2, 3, 64, 64) * 2 - 1
    torch.testing.assert_close(again.encode(frames), vae.encode(frames), atol=0.05, rtol=0.05)


def test_the_tokenizer_and_the_scheduler_load_back(model: Exported) -> None:
    folder, _, _ = model
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    assert tokenizer.model_max_length == MAX_TOKENS
    for prompt in (*EXAMPLE_PROMPTS, "an unknown thing!"):
        assert tokenizer(prompt).input_ids == new_tokenizer()(prompt).input_ids
    settings = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    assert len(make_sampler(settings, 6).timesteps) == 6


def test_a_second_export_replaces_the_first_and_keeps_the_readme(tmp_path: Path) -> None:
    export(tiny_parts(), tiny_autoencoder(), tmp_path / "model")
    (tmp_path / "model" / "README.md").write_text("about")
    export(tiny_parts(), tiny_autoencoder(), tmp_path / "model")
    assert (tmp_path / "model" / "README.md").read_text() == "about"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_the_card_is_whole(model: Exported) -> None:
    folder, _, _ = model
    card = json.loads((folder / "card.json").read_text())
    assert card["name"] == "storybook"
    assert set(card["presets"]) == {"live", "default", "published"}
    assert len(card["example_prompts"]) == 6
    assert card["first_chunk_frames"] == 16
    assert card["chunk_frames"] == 8


def test_distilled_weights_are_sampled_in_first_order(tmp_path: Path) -> None:
    assert "solver_order" not in scheduler_of_stage("cam-apm")
    assert scheduler_of_stage("distil")["solver_order"] == 1
    export(tiny_parts(), tiny_autoencoder(), tmp_path / "model", scheduler=scheduler_of_stage("distil"))
    settings = json.loads((tmp_path / "model" / "scheduler" / "scheduler_config.json").read_text())
    assert settings["solver_order"] == 1


def test_no_preset_guides_distilled_weights() -> None:
    for settings in DISTILLED_PRESETS.values():
        assert settings["guidance_scale"] == 1.0  # first pictures have a model of their own, which is not distilled
        assert settings["num_inference_steps"] in {count for count, _ in DistilRecipe().steps}
