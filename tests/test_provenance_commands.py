"""`st2v verify`, `replay`, `export`, `import` on the test card."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from videos.living import entry_of, living, until

from st2v_stream.cli import main
from st2v_stream.errors import InvalidRequest
from st2v_stream.generators.testcard import TestCard
from st2v_stream.provenance_commands import checked_line, parse_chunks, with_settings
from st2v_stream.types import CreateVideo
from st2v_stream.videos.screenplay import screenplay_of
from st2v_stream.videos.verification import CheckedChunk


@pytest.fixture
def film(tmp_path: Path) -> str:
    """A film of the test card, its manifest and its screenplay beside it."""

    async def make() -> str:
        async with living(tmp_path / "data", models={"testcard": entry_of(TestCard())}, real=True) as live:
            view = await live.create(CreateVideo("a numbered film", num_frames=32, seed=7, preset="live"))
            await until(live, view.id, "completed")
            (tmp_path / "manifest.json").write_text(json.dumps(await live.manifest(view.id)))
            screenplay = screenplay_of(await live.get(view.id), await live.timeline(view.id))
            (tmp_path / "screenplay.json").write_text(json.dumps(screenplay))
        return view.id

    return asyncio.run(make())


def test_verify_says_that_all_is_the_same(tmp_path: Path, film: str, capsys: pytest.CaptureFixture[str]) -> None:
    data = ["--data-dir", str(tmp_path / "data")]
    assert main(["verify", film, *data]) == 0
    assert "3 of 3 chunks came out the same, bit for bit" in capsys.readouterr().out
    assert main(["verify", film, "--chunks", "1..2", "--json", *data]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["index"], line["verdict"]) for line in lines] == [(1, "same"), (2, "same")]
    assert main(["verify", film, "--chunks", "1..9", *data]) == 2
    assert main(["verify", "video_nobody", *data]) == 2
    assert main(["verify", film, "--data-dir", str(tmp_path / "none")]) == 2
    assert not (tmp_path / "none").exists()


def test_verify_finds_a_frame_that_was_changed(
    tmp_path: Path, film: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    unchanged = TestCard.generate

    def changed(self: TestCard, direction: Any, memory: Any, on_step: Any) -> Any:
        frames, after = unchanged(self, direction, memory, on_step)
        frames[0, 0, 0] ^= memory.next_index == 2
        return frames, after

    monkeypatch.setattr(TestCard, "generate", changed)
    assert main(["verify", film, "--data-dir", str(tmp_path / "data")]) == 1
    said = capsys.readouterr().out
    assert "chunk 1: the same" in said
    assert "chunk 2: DIFFERENT" in said
    # the same frames, made by something that says that it is another
    monkeypatch.setattr(TestCard, "made_with", {"weights_sha256": "others"}, raising=False)
    assert main(["verify", film, "--data-dir", str(tmp_path / "data")]) == 3
    assert "chunk 2: other frames, as may be: weights_sha256 None then, others now" in capsys.readouterr().out


def test_replay_makes_the_same_film_or_one_at_other_settings(tmp_path: Path, film: str) -> None:
    paths = [tmp_path / f"{name}.mp4" for name in ("one", "other", "longer")]
    assert main(["replay", str(tmp_path / "screenplay.json"), "-o", str(paths[0])]) == 0
    assert main(["replay", str(tmp_path / "manifest.json"), "-o", str(paths[1])]) == 0
    assert main(["replay", str(tmp_path / "screenplay.json"), "-o", str(paths[2]), "--num-frames", "40", "--seed", "8"]) == 0
    one, other, longer = (path.read_bytes() for path in paths)
    assert one == other
    assert len(longer) > len(one)
    assert main(["replay", str(tmp_path / "screenplay.json"), "-o", str(paths[0])]) == 2  # it exists
    assert main(["replay", str(tmp_path / "screenplay.json")]) == 2
    spoiled = json.loads((tmp_path / "manifest.json").read_text())
    spoiled["chunks"][0]["direction"]["seed"] = 9
    (tmp_path / "spoiled.json").write_text(json.dumps(spoiled))
    assert main(["replay", str(tmp_path / "spoiled.json"), "-o", str(tmp_path / "new.mp4")]) == 2


def test_export_and_import(tmp_path: Path, film: str, capsys: pytest.CaptureFixture[str]) -> None:
    bundle, there = str(tmp_path / "film.st2v"), ["--data-dir", str(tmp_path / "there")]
    assert main(["export", film, bundle, "--data-dir", str(tmp_path / "data")]) == 0
    assert main(["import", bundle, *there]) == 0
    assert capsys.readouterr().out == f"{film}\n"
    assert main(["verify", film, *there]) == 0
    assert main(["export", film, bundle, *there]) == 2
    assert main(["export", film, bundle, "--overwrite", *there]) == 0


def test_chunks_and_settings() -> None:
    said = {"": (0, None), "3": (3, 3), "3..9": (3, 9), "3..": (3, None), "..9": (0, 9)}
    assert {text: parse_chunks(text) for text in said} == said
    for text in ("x", "3-9", "-1", "1..2..3"):
        with pytest.raises(InvalidRequest, match="no chunks"):
            parse_chunks(text)
    steps = {"num_inference_steps": 4, "first_chunk_num_inference_steps": 9}
    screenplay = {"preset": "live", "guidance_scale": 2.0, "seed": 1, **steps}
    assert with_settings(screenplay, {"seed": 5, "model": None})["seed"] == 5
    assert with_settings(screenplay, {"num_inference_steps": 7})["first_chunk_num_inference_steps"] is None
    other = with_settings(screenplay, {"preset": "default"})
    assert (other["guidance_scale"], other["num_inference_steps"]) == (None, None)
    assert checked_line(CheckedChunk(4, "unknown", "0" * 64).to_json()).startswith("chunk 4: cannot be made")
