"""The prompts that come with the package, and files of prompts that people write."""

from __future__ import annotations

from pathlib import Path

import pytest

from st2v_stream.errors import InvalidRequest
from st2v_stream.evaluation.protocol import PAPER, PROTOCOLS, pair_with_videos, paper_prompts, read_prompts

SECTIONS = {"animals": 20, "people": 8, "from the air": 8, "effects": 14}


def test_the_paper_protocol() -> None:
    assert (PAPER.num_frames, PAPER.resizes_all, PAPER.shares_first_chunk) == (240, True, True)
    assert set(PROTOCOLS) == {"plain", "paper"}


def test_our_fifty_prompts_have_the_composition_of_the_papers() -> None:
    prompts = paper_prompts()
    assert len(set(prompts)) == 50
    words = [len(prompt.split()) for prompt in prompts]
    assert sum(5 <= count <= 12 for count in words) >= 40
    assert 3 <= sum(15 <= count <= 20 for count in words) <= 6
    assert max(words) <= 20


def test_the_file_counts_its_sections_right() -> None:
    text = (Path(read_prompts.__code__.co_filename).parent / "prompts.txt").read_text()
    for name, count in SECTIONS.items():
        section = text[text.index(f"# {name}") :].split("\n\n")[0]
        assert f"({count})" in section.splitlines()[0]
        assert len(section.splitlines()) == 1 + count


def written(tmp_path: Path, content: str | bytes) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_comments_empty_lines_and_line_ends_do_not_count(tmp_path: Path) -> None:
    path = written(tmp_path, "\ufeff# mine\r\n\r\n  a red boat  \r\na cat, ünïcode\n")
    assert read_prompts(path) == ("a red boat", "a cat, ünïcode")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "holds no prompt"),
        ("# only a comment\n\n", "holds no prompt"),
        (
            "a boat\na cat\na boat\n",
            "line 3, is not a usable prompt: expected every prompt once, received 'the prompt of",
        ),
        (b"a boat\n\xff\xfe\n", "line 2, is not a usable prompt: expected UTF-8 text"),
        ("a boat\n" + "x" * 2001, "line 2, is not a usable prompt: expected at most 2000 characters, received '2001"),
        ("a\x00boat", "line 1, is not a usable prompt: expected printable text"),
    ],
)
def test_a_bad_file_is_named_with_its_line(tmp_path: Path, content: str | bytes, expected: str) -> None:
    path = written(tmp_path, content)
    with pytest.raises(InvalidRequest) as caught:
        read_prompts(path)
    assert expected in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.txt", tmp_path):
        with pytest.raises(InvalidRequest, match="cannot be read"):
            read_prompts(path)


def test_videos_and_prompts_come_in_pairs(tmp_path: Path) -> None:
    assert pair_with_videos(("a", "b"), 2, tmp_path) == ("a", "b")
    with pytest.raises(InvalidRequest, match="expected 3, one per video in their order, received 2"):
        pair_with_videos(("a", "b"), 3, tmp_path)
