"""The wheel as a newcomer gets it: built, installed in a fresh environment outside the tree, used."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--wheel-dir", str(out), str(ROOT)]
    subprocess.run(command, check=True)
    (wheel,) = out.glob("st2v_stream-*.whl")
    return wheel


@pytest.mark.package
def test_wheel_holds_page_and_built_in_model(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert "st2v_stream/web/index.html" in names
    assert "st2v_stream/docs/asyncapi.yaml" in names
    assert "st2v_stream/checkpoints/storybook/card.json" in names
    assert any(name.endswith("licenses/NOTICE") for name in names)
    for part in ("unet", "enhancer/unet"):
        folder = f"st2v_stream/checkpoints/storybook/{part}/"
        assert any(name.startswith(folder) and name.endswith(".safetensors") for name in names), part
    assert not any(name.startswith(("tests/", "bench/", "docs/")) for name in names)
    assert not any(name.endswith((".ckpt", ".pt", ".pth", ".pkl")) for name in names), "pickles never ship"


@pytest.mark.package
@pytest.mark.timeout(900)
def test_fresh_environment_generates_24_frames(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    constraints = ["-c", str(ROOT / "constraints.txt")]
    index = os.environ.get("ST2V_TORCH_INDEX")  # the CPU build's, where people chose it
    flags = ["--no-deps", "--index-url", index] if index else []
    subprocess.run([python, "-m", "pip", "install", "-q", *flags, *constraints, "torch"], check=True)
    subprocess.run([python, "-m", "pip", "install", "-q", *constraints, wheel], check=True)
    film = tmp_path / "film.mp4"
    prompt = "a red boat drifts left over the sea"
    st2v = [
        tmp_path / "env" / "bin" / "st2v",
        "generate",
        "--prompt",
        prompt,
        "--num-frames",
        "24",
        "--preset",
        "live",
        "-o",
        film,
    ]
    subprocess.run(st2v, check=True, cwd=tmp_path)
    count = "import av, sys; print(sum(1 for _ in av.open(sys.argv[1]).decode(video=0)))"
    done = subprocess.run([python, "-c", count, film], check=True, capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.strip() == "24"
