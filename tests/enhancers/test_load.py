"""The enhancer's three published files, converted, loaded strictly, and at work."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints.published_files import ENHANCER_SIZES, TEXT, OpenClipText, write_base, write_enhancer
from small_networks import randomize

from enhancers.small_enhancer import UNET, no_step, preview
from st2v_stream.checkpoints.convert import convert
from st2v_stream.checkpoints.layouts import EnhancerSizes, enhancer
from st2v_stream.enhancers.load import load_enhancer, load_networks
from st2v_stream.enhancers.sdedit import SdEditSettings
from st2v_stream.errors import CheckpointError
from st2v_stream.networks.enhancer_unet import EnhancerUNet
from st2v_stream.networks.folder import read_weights
from st2v_stream.networks.vae import FrameAutoencoder

SIZES = EnhancerSizes(
    unet=replace(UNET, context_dim=TEXT["hidden_size"]),
    vae=replace(ENHANCER_SIZES.vae, norm_num_groups=32),
    text=TEXT,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("enhancer")
    unet, text = randomize(EnhancerUNet(SIZES.unet)), randomize(OpenClipText(), seed=7)
    source = write_enhancer(home / "published", unet.state_dict(), text, autoencoder_weights())  # type: ignore[arg-type]
    return convert(source, home / "video-to-video", base=write_base(home / "base"), layouts=[enhancer(SIZES)]).folder


def autoencoder_weights() -> dict[str, torch.Tensor]:
    """Random numbers under latent-diffusion's names: those of the recorded one, whose sizes these are."""
    from golden_folder import part, read

    return part(read("enhancer.weights"), "autoencoder.")


@pytest.mark.golden
def test_every_tensor_is_where_it_was(folder: Path) -> None:
    networks = load_networks(folder, torch.device("cpu"))
    stored = read_weights(folder / "unet")
    assert stored.keys() == networks.unet.state_dict().keys()
    assert all(torch.equal(stored[name], value) for name, value in networks.unet.state_dict().items())
    assert isinstance(networks.vae, FrameAutoencoder)
    assert networks.text(["a, "]).shape == (1, TEXT["max_position_embeddings"], TEXT["hidden_size"])
    assert not torch.equal(networks.text(["a, "]), networks.text(["a"]))


@pytest.mark.golden
def test_it_enhances(folder: Path) -> None:
    settings = SdEditSettings(width=24, height=24, num_inference_steps=1, window_frames=4, overlap_frames=1, windows_together=1)
    sharpener = load_enhancer(folder, "cpu", settings)
    first, *_ = preview(1)
    made, carry = sharpener.enhance(first, None, no_step)
    tail, _ = sharpener.finish(carry, no_step)
    (sharp,) = [*made, *tail]
    assert sharp.chunk.frames.shape == (4, 24, 24, 3)
    assert sharp.chunk.frames.dtype == np.uint8
    assert sharp.chunk.frames.std() > 1


@pytest.mark.golden
@pytest.mark.parametrize("damage", ["unet", "vae", "text_encoder", "tokenizer/tokenizer_config.json", "model_index.json"])
def test_a_folder_that_is_not_whole_is_named(folder: Path, tmp_path: Path, damage: str) -> None:
    import shutil

    copy = shutil.copytree(folder, tmp_path / "copy")
    path = copy / damage
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(CheckpointError, match=damage.partition("/")[0]):
        load_enhancer(copy, "cpu")


def test_names() -> None:
    assert [load_enhancer(name).name for name in ("passthrough", "lanczos")] == ["passthrough", "lanczos"]


def test_what_is_no_enhancer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no such enhancer: expected passthrough, lanczos, or a folder"):
        load_enhancer(tmp_path / "nowhere", "cpu")
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "SmallPipeline"}))
    with pytest.raises(
        CheckpointError, match=r"holds no enhancer: expected VideoToVideoPipeline or OneStepPipeline, received 'SmallPipeline'"
    ):
        load_enhancer(tmp_path, "cpu")
