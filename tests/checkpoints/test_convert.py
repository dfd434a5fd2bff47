"""Small files in every published layout become folders whose networks give the same numbers; bad ones leave nothing."""

from __future__ import annotations

import collections
import errno
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import types
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden_folder import deviation, part, read
from safetensors import safe_open
from safetensors.torch import load_file
from small_networks import randomize
from torch import Tensor

from checkpoints.published_files import (
    ENHANCER_SIZES,
    TOKENS,
    Networks,
    OpenClipText,
    lightning_weights,
    small_networks,
    write_base,
    write_enhancer,
    write_lightning,
)
from st2v_stream.checkpoints.convert import convert
from st2v_stream.checkpoints.layouts import Layout, enhancer, streaming_t2v
from st2v_stream.checkpoints.load import load_generator, load_networks
from st2v_stream.errors import CheckpointError, Conflict, InvalidRequest, St2vError
from st2v_stream.generators.conditioning import ClipText, OpenClipAnchor
from st2v_stream.generators.firstchunk.storybook import StorybookFirstChunk
from st2v_stream.generators.streamingt2v import Networks as GeneratorNetworks
from st2v_stream.generators.streamingt2v import StreamingT2V
from st2v_stream.networks.folder import read_weights
from st2v_stream.networks.vae import FrameAutoencoder
from st2v_stream.types import Reference

pytestmark = pytest.mark.slow

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def networks() -> Networks:
    return small_networks()


@pytest.fixture(scope="module")
def layout(networks: Networks) -> Layout:
    return streaming_t2v(networks.sizes)


@pytest.fixture(scope="module")
def files(networks: Networks, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    write_lightning(folder / "streaming_t2v.ckpt", networks)
    write_base(folder / "base")
    return folder


@pytest.fixture(scope="module")
def converted(files: Path, layout: Layout, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("models") / "streaming-t2v"
    return convert(files / "streaming_t2v.ckpt", out, base=files / "base", layouts=[layout]).folder


def seeded(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------- what comes out is what went in


@torch.no_grad()
def test_the_networks_give_the_same_numbers(converted: Path, networks: Networks) -> None:
    loaded = load_networks(converted, torch.device("cpu"))
    latents, timestep, text = seeded(1, 1, 4, 16, 8, 8), torch.tensor([481]), seeded(2, 1, TOKENS, 16)
    control, anchor = seeded(3, 1, 8, 3, 64, 64), seeded(4, 1, 3, 64, 64)
    cam = [branch(latents[:, :, :8], timestep, text, branch.embed_condition(control)) for branch in (networks.unet, loaded.cam)]
    tokens = [networks.resampler(networks.image_encoder(anchor)[:, None]), loaded.anchor(anchor)]
    assert torch.equal(*tokens)
    assert torch.equal(
        *(unet(latents, timestep, text, tokens[0], cam[i]) for i, unet in enumerate((networks.base_model, loaded.unet)))
    )
    assert torch.equal(*(vae.decode(latents[0].transpose(0, 1)) for vae in (networks.vae, loaded.vae)))
    ids = loaded.text.tokenizer(["ab c"], padding="max_length", max_length=TOKENS, return_tensors="pt").input_ids
    assert torch.equal(loaded.text(["ab c"]), networks.text_encoder(ids).last_hidden_state)


def test_the_generator_gives_the_same_film(converted: Path, networks: Networks) -> None:
    """A clip continued by the converted folder, and by the networks it was made from."""
    ours = load_generator(converted)
    loaded = load_networks(converted, torch.device("cpu"))
    parts = GeneratorNetworks(
        unet=networks.base_model,
        cam=networks.unet,
        vae=networks.vae,
        anchor=OpenClipAnchor(networks.image_encoder, networks.resampler),
        text=ClipText(loaded.text.tokenizer, networks.text_encoder, TOKENS),  # type: ignore[attr-defined]
        scheduler=loaded.scheduler,
    )
    theirs = StreamingT2V(ours.card, parts, StorybookFirstChunk(ours.card, parts))
    clip = np.random.default_rng(0).integers(0, 256, (16, 64, 64, 3), dtype=np.uint8)
    direction = ours.card.direction("ab c", preset="published", num_inference_steps=2)
    films = []
    for generator in (ours, theirs):
        _, memory = generator.begin(direction, Reference(clip), lambda k, n: None)
        frames, _ = generator.generate(direction, memory, lambda k, n: None)
        films.append(frames)
    assert films[0].shape == (8, 64, 64, 3)
    assert films[0].std() > 1
    assert np.array_equal(*films)


def test_the_card(converted: Path) -> None:
    generator = load_generator(converted)
    assert generator.card.name == "streaming-t2v"
    assert "non-commercial" in generator.card.licence
    assert generator.card.presets["published"]["guidance_scale"] == 7.5
    assert (generator.spec.width, generator.spec.fps, generator.spec.first_chunk_frames) == (64, 8, 16)


def test_prompts_are_padded_with_token_0_whatever_the_base_says(converted: Path, files: Path) -> None:
    settings = json.loads((files / "base" / "tokenizer" / "tokenizer_config.json").read_text())
    assert settings["pad_token"] == "<|endoftext|>"
    ids = load_networks(converted, torch.device("cpu")).text.tokenizer(["a"], padding="max_length", max_length=5).input_ids
    assert ids == [[53, 27, 54, 0, 0]]


def test_the_folder_says_where_it_comes_from(converted: Path) -> None:
    origin = json.loads((converted / "origin.json").read_text())
    assert origin["published"] == "PAIR/StreamingT2V"
    assert "CC BY-NC 4.0" in origin["licence"]
    assert origin["left_out"] == 6
    index = json.loads((converted / "model_index.json").read_text())
    assert index["unet"] == ["st2v_stream.networks.unet", "StreamingUNet"]
    assert index["text_encoder"] == ["transformers", "CLIPTextModel"]


def test_bf16_is_the_rounded_weights(files: Path, layout: Layout, networks: Networks, tmp_path: Path) -> None:
    out = convert(files / "streaming_t2v.ckpt", tmp_path / "out", dtype="bf16", base=files / "base", layouts=[layout]).folder
    stored = load_file(out / "unet" / WEIGHTS)
    expected = networks.base_model.state_dict()
    assert stored.keys() == expected.keys()
    assert all(torch.equal(stored[name], value.bfloat16()) for name, value in expected.items())
    load_generator(out)


def test_shards(files: Path, layout: Layout, networks: Networks, tmp_path: Path) -> None:
    limit = 100_000
    out = convert(
        files / "streaming_t2v.ckpt", tmp_path / "out", shard_bytes=limit, base=files / "base", layouts=[layout]
    ).folder
    index = json.loads((out / "unet" / f"{WEIGHTS}.index.json").read_text())
    shards, expected = sorted((out / "unet").glob("*.safetensors")), networks.base_model.state_dict()
    assert sorted(set(index["weight_map"].values())) == [shard.name for shard in shards]
    assert shards[0].name == f"diffusion_pytorch_model-00001-of-{len(shards):05d}.safetensors"
    for shard in shards:
        with safe_open(shard, "pt") as file:
            names = list(file.keys())
            assert file.metadata() == {"format": "pt"}
            assert {index["weight_map"][name] for name in names} == {shard.name}
            assert len(names) == 1 or sum(4 * expected[name].numel() for name in names) <= limit
    loaded = read_weights(out / "unet")
    assert index["metadata"]["total_size"] == sum(4 * value.numel() for value in expected.values())
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[name], value) for name, value in expected.items())


# ---------------------------------------------------------------- the enhancer


@pytest.mark.golden
@torch.no_grad()
def test_the_enhancers_three_files(files: Path, tmp_path: Path) -> None:
    """UNet as recorded; the VAE under diffusers' names gives the recorded numbers; the text tower those of OpenCLIP."""
    recorded, text = read("enhancer.weights"), randomize(OpenClipText(), seed=7)
    unet = part(recorded, "generator.")
    assert isinstance(text, OpenClipText)
    source = write_enhancer(tmp_path / "published", unet, text, part(recorded, "autoencoder."))
    done = convert(source, tmp_path / "enhancer", base=files / "base", layouts=[enhancer(ENHANCER_SIZES)])
    stored = read_weights(done.folder / "unet")
    assert stored.keys() == unet.keys()
    assert all(torch.equal(stored[name], value) for name, value in unet.items())
    io = read("enhancer.io")
    mean, std = FrameAutoencoder.from_pretrained(done.folder / "vae").posterior(io["e2e.in.video"])
    assert deviation(mean, io["e2e.mid.posterior_mean"]) < 1e-5
    assert deviation(std, io["e2e.mid.posterior_std"]) < 1e-5
    ids = torch.randint(0, 55, (2, TOKENS), generator=torch.Generator().manual_seed(3))
    assert deviation(_text_encoder(done.folder)(ids).last_hidden_state, text(ids)) < 1e-5
    assert not (done.folder / "card.json").exists(), "it makes no films by itself"
    assert "CC BY-NC-ND" in json.loads((done.folder / "origin.json").read_text())["licence"]


def _text_encoder(folder: Path) -> Any:
    from st2v_stream.checkpoints.load import _text_model

    return _text_model(folder / "text_encoder")


def test_one_of_the_enhancers_files_is_not_enough(files: Path, tmp_path: Path) -> None:
    source = tmp_path / "published"
    source.mkdir()
    torch.save({"state_dict": {"input_blocks.0.0.weight": torch.zeros(32, 4, 3, 3)}}, source / "non_ema_0035000.pth")
    for given, expected in ((source, "is incomplete"), (source / "non_ema_0035000.pth", "is one of several files")):
        with pytest.raises(CheckpointError, match=f"{expected}.*v2-1_512-ema-pruned.ckpt"):
            convert(given, tmp_path / "out", base=files / "base", layouts=[enhancer(ENHANCER_SIZES)])


# ---------------------------------------------------------------- bad files


def truncated(path: Path, networks: Networks) -> None:
    write_lightning(path, networks)
    os.truncate(path, path.stat().st_size // 2)


def with_code(path: Path, networks: Networks) -> None:
    class Runs:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(path.parent / "the-code-ran"),)

    write_lightning(path, networks)
    content = torch.load(path, weights_only=True)
    torch.save(content | {"callbacks": Runs()}, path)


BAD_FILES: dict[str, tuple[Any, str]] = {
    "nothing there": (
        lambda path, networks: None,
        r"no such checkpoint: expected a torch file, received '.*streaming_t2v\.ckpt",
    ),
    "empty": (lambda path, networks: path.touch(), "expected a whole torch file.*received '0 bytes"),
    "text": (lambda path, networks: path.write_text("<html>Access denied</html>"), "expected a whole torch file"),
    "cut short": (truncated, "expected a whole torch file.*cut short"),
    "a pickle with code": (
        with_code,
        r"is refused.*expected tensors and plain values only, received 'a call of posix\.mkdir'",
    ),
    "a bare pickle": (lambda path, networks: path.write_bytes(pickle.dumps({"state_dict": {}})), "expected a whole torch file"),
    "an old torch file": (
        lambda path, networks: torch.save({"a": torch.zeros(1)}, path, _use_new_zipfile_serialization=False),
        "expected a whole torch file",
    ),
    "another zip": (
        lambda path, networks: shutil.make_archive(str(path), "zip", path.parent) and Path(f"{path}.zip").rename(path),
        "is damaged",
    ),
    "no weights": (
        lambda path, networks: torch.save({"epoch": 3}, path),
        r"holds no weights: expected a state_dict of tensors, received \['epoch'\]",
    ),
    "a number among the weights": (
        lambda path, networks: write_lightning(path, networks, **{"base_model.conv_in.bias": 3}),
        r"base_model\.conv_in\.bias: expected a tensor, received 'int'",
    ),
    "another model": (
        lambda path, networks: torch.save({"state_dict": {"w": torch.zeros(1)}}, path),
        r"is no published file.*received \['w'\]",
    ),
    "half of it": (
        lambda path, networks: torch.save(
            {"state_dict": {k: v for k, v in lightning_weights(networks).items() if not k.startswith("unet.")}}, path
        ),
        "only a piece of it: cam: expected 312 more tensors",
    ),
    "a wrong shape": (
        lambda path, networks: write_lightning(path, networks, **{"resampler.context_embedding.0.bias": torch.zeros(7)}),
        r"resampler: context_embedding\.0\.bias: expected shape \(16,\), received \(7,\)",
    ),
    "a wrong kind of number": (
        lambda path, networks: write_lightning(path, networks, **{"vae.quant_conv.bias": torch.zeros(8, dtype=torch.int64)}),
        r"vae\.quant_conv\.bias: expected float32, float16, bfloat16, received int64",
    ),
    "a tensor without numbers": (
        lambda path, networks: write_lightning(path, networks, **{"vae.quant_conv.bias": torch.zeros(8, device="meta")}),
        r"vae\.quant_conv\.bias: expected a plain tensor with its numbers, received 'strided on meta'",
    ),
    "a tensor of another layout": (
        lambda path, networks: write_lightning(path, networks, **{"vae.quant_conv.bias": torch.ones(8).to_sparse()}),
        r"vae\.quant_conv\.bias: expected a plain tensor with its numbers, received 'sparse_coo on cpu'",
    ),
    "a number that is none": (
        lambda path, networks: write_lightning(path, networks, **{"vae.quant_conv.bias": torch.full((8,), float("nan"))}),
        r"quant_conv\.bias: expected finite numbers, received 'NaN or infinity'",
    ),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_is_said_and_nothing_is_written(
    case: str, files: Path, layout: Layout, networks: Networks, tmp_path: Path
) -> None:
    write, expected = BAD_FILES[case]
    write(tmp_path / "streaming_t2v.ckpt", networks)
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(CheckpointError, match=expected):
        convert(tmp_path / "streaming_t2v.ckpt", tmp_path / "out", base=files / "base", layouts=[layout])
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_training_state_with_classes_of_others_is_skipped_unread(
    files: Path, layout: Layout, networks: Networks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Stable Diffusion's files have it: Lightning's callback class and a numpy number beside the weights."""
    module = types.ModuleType("pytorch_lightning.callbacks.model_checkpoint")
    checkpoint = type("ModelCheckpoint", (), {"__module__": module.__name__})
    module.ModelCheckpoint = checkpoint  # type: ignore[attr-defined]
    state = checkpoint()
    state.best = 1  # type: ignore[attr-defined]
    path = write_lightning(tmp_path / "streaming_t2v.ckpt", networks)
    content = torch.load(path, weights_only=True) | {
        "callbacks": {checkpoint: {"best_model_score": np.float64(0.5), "state": state}}
    }
    with monkeypatch.context() as patch:
        for depth in range(1, 4):
            patch.setitem(sys.modules, ".".join(module.__name__.split(".")[:depth]), module)
        torch.save(content, path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        convert(path, tmp_path / "out", base=files / "base", layouts=[layout])
    assert "pytorch_lightning" not in sys.modules


# ---------------------------------------------------------------- the folder


def test_an_existing_folder_is_kept_unless_asked(files: Path, layout: Layout, tmp_path: Path) -> None:
    def again(overwrite: bool) -> None:
        source = files / "streaming_t2v.ckpt"
        convert(source, tmp_path / "out", base=files / "base", layouts=[layout], overwrite=overwrite)

    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious.txt").write_text("mine")
    for overwrite, expected in ((False, "--overwrite"), (True, "is no model folder")):
        with pytest.raises(Conflict, match=expected):
            again(overwrite)
    assert (tmp_path / "out" / "precious.txt").read_text() == "mine"
    shutil.rmtree(tmp_path / "out")
    again(overwrite=False)
    (tmp_path / "out" / "vae" / WEIGHTS).unlink()
    again(overwrite=True)
    load_generator(tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("settings", "error", "expected"),
    [
        ({"dtype": "fp8"}, InvalidRequest, "expected fp32 or bf16, received 'fp8'"),
        ({"shard_bytes": 0}, InvalidRequest, "received 0"),
        ({"base": None}, CheckpointError, "hold no tokenizer: expected --base FOLDER.*st2v pull text-to-video-ms-1.7b"),
        ({"base": Path("nowhere")}, CheckpointError, "nowhere holds no CLIP tokenizer"),
    ],
)
def test_bad_settings(
    settings: dict[str, Any],
    error: type[St2vError],
    expected: str,
    files: Path,
    layout: Layout,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("st2v_stream.checkpoints.models._HOMES", (tmp_path,))
    with pytest.raises(error, match=expected):
        convert(files / "streaming_t2v.ckpt", tmp_path / "out", **{"base": files / "base", "layouts": [layout]} | settings)
    assert list(tmp_path.iterdir()) == []


def test_a_tokenizer_of_another_model(files: Path, layout: Layout, tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    (base / "tokenizer" / "vocab.json").write_text('{"!": 0, "a": 1}')
    with pytest.raises(CheckpointError, match=r"another model's: expected words 0 to 54, received '2 words'"):
        convert(files / "streaming_t2v.ckpt", tmp_path / "out", base=base, layouts=[layout])


def test_a_pulled_base_is_found_by_itself(files: Path, layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("st2v_stream.checkpoints.models._HOMES", (tmp_path,))
    write_base(tmp_path / "text-to-video-ms-1.7b")
    convert(files / "streaming_t2v.ckpt", tmp_path / "out", layouts=[layout])


def test_no_room(files: Path, layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = collections.namedtuple("usage", "total used free")(10, 10, 12_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(CheckpointError, match=r"no room for the model: expected 0\.0 GB free in .*, received '0\.0 GB'"):
        convert(files / "streaming_t2v.ckpt", tmp_path / "out", base=files / "base", layouts=[layout])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fault", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
def test_an_interrupted_conversion_leaves_nothing(fault: BaseException, files: Path, layout: Layout, tmp_path: Path) -> None:
    def interrupt(line: str) -> None:
        if line.startswith("vae"):
            raise fault

    expected = KeyboardInterrupt if isinstance(fault, KeyboardInterrupt) else CheckpointError
    with pytest.raises(expected):
        convert(files / "streaming_t2v.ckpt", tmp_path / "out", base=files / "base", layouts=[layout], report=interrupt)
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- in a process of its own

_CHILD = """
import sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from checkpoints.published_files import small_networks
from st2v_stream.checkpoints.convert import convert
from st2v_stream.checkpoints.layouts import streaming_t2v

def report(line):
    print(line, flush=True)
    time.sleep({pause})

layout = streaming_t2v(small_networks().sizes)
convert(Path({source!r}), Path({out!r}), base=Path({base!r}), layouts=[layout], report=report)
"""


def test_a_killed_conversion_leaves_no_model_and_the_next_one_cleans_up(files: Path, layout: Layout, tmp_path: Path) -> None:
    tests = str(Path(__file__).parent.parent)
    source, out = files / "streaming_t2v.ckpt", tmp_path / "out"
    code = _CHILD.format(tests=tests, pause=60, source=str(source), out=str(out), base=str(files / "base"))
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        assert child.stdout.readline().startswith("unet")
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait(timeout=20)
    (half,) = tmp_path.iterdir()
    assert half.name.endswith(".half")
    convert(source, out, base=files / "base", layouts=[layout])
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


_MEASURE = """
import json, os, sys, threading
from pathlib import Path
sys.path.insert(0, {tests!r})
from checkpoints import published_files
from st2v_stream.checkpoints.convert import convert
from st2v_stream.checkpoints.layouts import streaming_t2v

def anonymous_bytes():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))

def watch():
    while not done.wait(0.005):
        peak[0] = max(peak[0], anonymous_bytes())

layout = streaming_t2v(published_files.wide_sizes())
before = anonymous_bytes()
peak, done = [before], threading.Event()
watcher = threading.Thread(target=watch)
watcher.start()
source, out, base = Path({source!r}), Path({out!r}), Path({base!r})
converted = convert(source, out, dtype={dtype!r}, shard_bytes={shard}, base=base, layouts=[layout])
done.set()
watcher.join()
print(json.dumps([before, peak[0], sum(converted.part_bytes.values())]))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_memory_stays_below_one_and_a_half_shards(tmp_path: Path) -> None:
    """A file of 411 MB, half of it optimizer state, to shards of 32 MB (bf16: every tensor is copied). Seen: 3.5 MB."""
    from checkpoints import published_files

    tests, shard = str(Path(__file__).parent.parent), 32_000_000
    source = published_files.write_wide(tmp_path / "streaming_t2v.ckpt")
    assert source.stat().st_size > 300e6
    settings = {
        "source": str(source),
        "out": str(tmp_path / "out"),
        "base": str(write_base(tmp_path / "base")),
        "dtype": "bf16",
    }
    code = _MEASURE.format(tests=tests, shard=shard, **settings)
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240, check=False)
    assert child.returncode == 0, child.stderr
    before, peak, written = json.loads(child.stdout)
    assert written > 2 * shard
    assert peak - before < 1.5 * shard, f"anonymous memory grew by {(peak - before) / 1e6:.0f} MB"
