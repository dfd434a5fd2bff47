"""The picture of the house in docs/architecture.md, held against the imports."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "st2v_stream"

# Floors from the ground up; within a floor, a room may import the rooms before it.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("errors", "direction", "chunk", "types", "config"),
    ("networks", "media", "store"),
    ("generators", "checkpoints", "enhancers"),
    ("streaming",),
    ("videos",),
    ("delivery",),
    ("server",),
    (
        "generate",
        "generate_arguments",
        "watch",
        "worlds",
        "training",
        "evaluation",
        "cluster",
        "client",
        "provenance_commands",
        "cli",
        "__main__",
    ),
)
LEVEL = {room: (floor, place) for floor, rooms in enumerate(FLOORS) for place, room in enumerate(rooms)}
MAY_IMPORT_TORCH = {"networks", "generators", "checkpoints", "enhancers", "training", "evaluation", "worlds"}


def room_of(path: Path) -> str:
    part = path.relative_to(PACKAGE).parts[0]
    return part.removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = [f"{node.module}.{alias.name}" if node.module == "st2v_stream" else node.module for alias in node.names]
        rooms |= {name.split(".")[1] for name in names if name.startswith("st2v_stream.")}
    return rooms - {"__version__"}


MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down_only(path: Path) -> None:
    here = room_of(path)
    assert here in LEVEL, f"{here} is a room that docs/architecture.md does not draw"
    for other in imported_rooms(path) - {here}:
        assert other in LEVEL, f"{other} is a room that docs/architecture.md does not draw"
        assert LEVEL[other] < LEVEL[here], f"{here} imports {other}, which lies above it or to its right"


def test_the_page_names_every_module_and_no_other() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    picture = page[page.index("  1 tools") : page.index("  7            cli")]
    standing = re.sub(r"\((?!numpy|names|run|the local|models)[^)]*\)", "", re.sub(r"\(later[^)]*\)", "", picture))
    for room in ("networks", "media", "store", "generators", "checkpoints", "streaming", "videos", "delivery", "server"):
        line = re.search(rf"\b{room}/ (.*?)(?=\w+/ |  \d \w|\Z)", standing, flags=re.DOTALL)
        assert line is not None, room
        drawn = set(re.findall(r"\w+", re.sub(r"\([^)]*\)", "", line.group(1))))
        modules = {path.stem for path in (PACKAGE / room).glob("*.py")} - {"__init__"}
        assert modules <= drawn, f"{room}: the page lacks {sorted(modules - drawn)}"


def test_delivery_sees_the_director_and_segments_only() -> None:
    users = {other for path in (PACKAGE / "delivery").glob("*.py") for other in imported_rooms(path)}
    assert users <= {"delivery", "errors", "direction", "chunk", "types", "config", "media"}


def test_worlds_are_used_by_training_and_evaluation_only() -> None:
    users = {room_of(path) for path in MODULES if "worlds" in imported_rooms(path)}
    assert users <= {"worlds", "training", "evaluation"}


@pytest.mark.parametrize("module", ["st2v_stream", "st2v_stream.cli", "st2v_stream.server.app", "st2v_stream.videos.live"])
def test_importing_loads_no_torch(module: str) -> None:
    code = f"import {module}, sys; print([m for m in ('torch', 'diffusers', 'transformers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_model_rooms_name_torch(path: Path) -> None:
    if room_of(path) in MAY_IMPORT_TORCH:
        return
    for node in ast.walk(ast.parse(path.read_text())):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        assert not any(name.split(".")[0] in ("torch", "diffusers", "transformers") for name in names), path
