"""What the docs say is held against the code: the README's example runs, links lead somewhere, flags exist."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from st2v_stream.cli import build_parser
from st2v_stream.config import Config

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.slow
def test_readme_example_runs(tmp_path: Path) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    done = subprocess.run([sys.executable, "-c", example], capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_on_the_pages_parse(page: Path) -> None:
    command = re.compile(
        r"^\s*(?:\$ )?(?:\.venv/bin/)?(st2v (?:serve|generate|models|pull|convert|train|evaluate|fsck|watch|link"
        r"|verify|replay|export|import)[^\n`|#<]*)$",
        flags=re.MULTILINE,
    )
    for line in command.findall(page.read_text()):
        build_parser().parse_args(shlex.split(line)[1:])


def test_install_page_names_every_setting() -> None:
    page = (ROOT / "docs" / "install.md").read_text()
    table = page[page.index("## Settings") :]
    documented = set(re.findall(r"`([a-z_]+)`", table))
    assert {field.name for field in fields(Config)} <= documented


def test_make_targets_in_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"make ([a-z-]+)", (ROOT / "README.md").read_text()):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_no_page_names_a_machine() -> None:
    for page in PAGES:
        assert not re.search(r"/(root|home)/", page.read_text()), page
