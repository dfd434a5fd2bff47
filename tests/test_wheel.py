"""The wheel as a newcomer gets it: built, installed in an environment outside the tree that holds nothing else, used."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
import zipfile
from importlib.metadata import PathDistribution, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

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
def test_an_environment_of_what_it_declares_generates_24_frames(wheel: Path, tmp_path: Path) -> None:
    """The packages that the wheel declares, and those that they declare, linked from this environment."""
    venv.create(tmp_path / "env", symlinks=True)
    python = tmp_path / "env" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python)]
    subprocess.run([*pip, "install", "-q", "--no-deps", "--no-index", wheel], check=True)
    (site,) = (tmp_path / "env" / "lib").glob("python*/site-packages")
    (described,) = site.glob("st2v_stream-*.dist-info")
    for name in needed(PathDistribution(described).requires or []):
        link(name, site)
    require_24_frames(python, tmp_path)


def needed(requirements: list[str]) -> set[str]:
    """Names of the packages that fulfil them, here, and of those that these need."""
    left = [(Requirement(line), "") for line in requirements]
    met = set[tuple[str, str]]()
    while left:
        requirement, asked_for = left.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": asked_for}):
            continue
        name = canonicalize_name(requirement.name)
        for extra in {"", *requirement.extras} - {extra for known, extra in met if known == name}:
            met.add((name, extra))
            left += [(Requirement(line), extra) for line in distribution(name).requires or []]
    return {name for name, _ in met}


def link(name: str, site: Path) -> None:
    """All that a package has put into this environment, into that one."""
    installed = distribution(name)
    for top in {file.parts[0] for file in installed.files or []} - {"..", "__pycache__"}:
        if not (site / top).exists():
            (site / top).symlink_to(Path(str(installed.locate_file(top))).resolve())


@pytest.mark.package
@pytest.mark.long
@pytest.mark.timeout(900)
def test_fresh_environment_generates_24_frames(wheel: Path, tmp_path: Path) -> None:
    """Everything fetched anew: two minutes."""
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    constraints = ["-c", str(ROOT / "constraints.txt")]
    index = os.environ.get("ST2V_TORCH_INDEX")  # the CPU build's, where people chose it
    flags = ["--no-deps", "--index-url", index] if index else []
    subprocess.run([python, "-m", "pip", "install", "-q", *flags, *constraints, "torch"], check=True)
    subprocess.run([python, "-m", "pip", "install", "-q", *constraints, wheel], check=True)
    require_24_frames(python, tmp_path)


def require_24_frames(python: Path, tmp_path: Path) -> None:
    film = tmp_path / "film.mp4"
    prompt = "a red boat drifts left over the sea"
    st2v = [
        python.parent / "st2v",
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
