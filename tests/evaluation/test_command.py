"""`st2v evaluate` from end to end on the test card and on drawn films, and every way in which it refuses."""

from __future__ import annotations

import json
import re
import shlex
import sys
import types
from argparse import ArgumentParser, Namespace
from pathlib import Path

import pytest

from evaluation.drawn_films import translation, write_film
from evaluation.tiny_clip import write_clip
from st2v_stream.cli import main
from st2v_stream.evaluation import run
from st2v_stream.evaluation.command import build_parser, is_storybook
from st2v_stream.evaluation.measure import Settings

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def small_squares(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Flow on 64 pixels: what is tested here are files and words. And away from this repository's folders."""
    monkeypatch.setattr(run, "Settings", lambda *args, **fields: Settings(*args, side=64, **fields))
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_film(tmp_path_factory.mktemp("films") / "pan.mkv", translation(32, side=64))


def evaluate(*arguments: str | Path) -> int:
    return main(["evaluate", *map(str, arguments)])


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    assert evaluate(*arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert list(Path().iterdir()) == [], "nothing is written where nothing was done"
    return printed.err


class TestVideos:
    def test_one_film_becomes_a_table_and_leaves_nothing_behind(self, film: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert evaluate(film) == 0
        table = capsys.readouterr().out
        assert re.search(r"pan \(n=1\) +better", table)
        assert re.search(r"SCuts, per film +0.00", table)
        assert "not RAFT" in table
        assert list(Path().iterdir()) == []

    def test_the_grid_is_given(self, film: Path) -> None:
        assert evaluate(film, "--first-chunk-frames", "16", "--chunk-frames", "8", "--json", "pan.json") == 0
        (found,) = json.loads(Path("pan.json").read_text())["films"]
        assert found["grid"] == {"first_chunk_frames": 16, "chunk_frames": 8}
        assert found["values"]["boundary_ratio"] == pytest.approx(1, abs=0.2)

    def test_films_are_grouped_by_their_folders(self, film: Path, capsys: pytest.CaptureFixture[str]) -> None:
        for folder in ("ours", "theirs"):
            Path(folder).mkdir()
            (Path(folder) / "pan.mkv").write_bytes(film.read_bytes())
        assert evaluate("ours/pan.mkv", "theirs/pan.mkv", "--num-frames", "8") == 0
        assert re.search(r"ours \(n=1\) +theirs \(n=1\)", capsys.readouterr().out)

    def test_prompts_for_videos_reach_clip(self, film: Path, tmp_path: Path) -> None:
        clip = write_clip(tmp_path / "clip")
        Path("prompts.txt").write_text("a moving texture\n")
        arguments = ("--num-frames", "8", "--clip", clip, "--json", "report.json")
        assert evaluate(film, "--prompts", "prompts.txt", *arguments) == 0
        shown = json.loads(Path("report.json").read_text())
        assert shown["settings"]["clip"] == "clip"
        assert shown["films"][0]["prompt"] == "a moving texture"
        assert -100 <= shown["films"][0]["values"]["clip_score"] <= 100
        assert len(shown["films"][0]["series"]["clip_score"]) == 8
        assert evaluate(film, *arguments) == 0  # without a prompt there is no score
        assert json.loads(Path("report.json").read_text())["films"][0]["values"]["clip_score"] is None


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than everything else; test_report draws."""
    monkeypatch.setattr(run.plots, "film_plot", lambda film: "<svg>")
    monkeypatch.setattr(run.plots, "overview_plot", lambda groups: "<svg>")
    monkeypatch.setattr(run.page, "render", lambda report, folder: "<html>")


class TestModels:
    @pytest.mark.slow
    def test_everything_lies_in_the_folder(self) -> None:
        Path("prompts.txt").write_text("# two films\na red boat\na blue car\n")
        assert evaluate("--model", "testcard", "--prompts", "prompts.txt", "--num-frames", "24", "--out", "out") == 0
        names = {path.name for path in Path("out").iterdir()}
        assert names == {"films", "measures", "plots", "report.html", "report.json"}
        assert len(list(Path("out/plots").iterdir())) == 3
        assert Path("out/report.html").read_text().count("data:video/mp4") == 2
        assert not list(Path("out").rglob("*.part*"))

    @pytest.mark.usefixtures("no_pictures")
    def test_what_is_there_is_taken_up_again(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        Path("prompts.txt").write_text("# two films\na red boat\na blue car\n")
        arguments = ("--model", "testcard", "--prompts", "prompts.txt", "--num-frames", "24", "--out", "out")
        assert evaluate(*arguments) == 0
        first = capsys.readouterr()
        assert "film 2 of 2 to make" in first.err
        shown = json.loads(Path("out/report.json").read_text())
        assert [film["frames"] for film in shown["films"]] == [24, 24]
        assert [film["prompt"] for film in shown["films"]] == ["a red boat", "a blue car"]
        assert shown["films"][0]["grid"] == {"first_chunk_frames": 16, "chunk_frames": 8}

        monkeypatch.setattr(run, "measure_film", None)  # would fail if it were called again
        assert evaluate(*arguments) == 0
        second = capsys.readouterr()
        assert "to make" not in second.err
        assert second.out == first.out

    @pytest.mark.usefixtures("no_pictures")
    def test_the_same_seed_gives_the_same_numbers_and_another_one_others(self) -> None:
        Path("prompts.txt").write_text("a red boat\n")
        values = []
        for number, seed in enumerate(("7", "7", "8")):
            arguments = ("--model", "testcard", "--prompts", "prompts.txt", "--num-frames", "16", "--out", f"out{number}")
            assert evaluate(*arguments, "--seed", seed) == 0
            values.append(json.loads(Path(f"out{number}/report.json").read_text())["films"][0]["values"])
        assert values[0] == values[1] != values[2]

    def test_words_the_model_does_not_know_are_named(self, capsys: pytest.CaptureFixture[str]) -> None:
        prompts = ["a zebra over the sea", "a walrus over the sea", "a red boat drifts left over the sea"]
        model = run.find_model("storybook")
        run._warn(model, prompts)
        printed = capsys.readouterr().err
        assert "does not know 'zebra'" in printed
        assert "2 of 3 prompts hold words" in printed

    def test_the_paper_protocol_takes_its_own_prompts_and_length(self, monkeypatch: pytest.MonkeyPatch) -> None:
        seen: list[tuple[int, int]] = []

        def make_films(model: object, prompts: list[str], folder: Path, shoot: run.Shoot, **rest: object) -> list[object]:
            seen.append((len(prompts), shoot.num_frames))
            return []

        monkeypatch.setattr(run, "make_films", make_films)
        monkeypatch.setattr(run.report, "table", lambda report: str(report.settings))
        monkeypatch.setattr(run, "_write", lambda report, places: None)
        assert evaluate("--model", "testcard", "--protocol", "paper") == 0
        assert seen == [(50, 240)]

    def test_compared_models_share_their_first_chunk(self, monkeypatch: pytest.MonkeyPatch) -> None:
        Path("prompts.txt").write_text("a red boat\n")
        card = {"name": "other", "title": "Other", "version": "1", "licence": "-", "width": 64, "height": 64, "fps": 8}
        Path("other").mkdir()
        Path("other/card.json").write_text(json.dumps(card | {"first_chunk_frames": 16, "chunk_frames": 8}))
        given = []

        def make_films(*arguments: object, starts: dict[str, object] | None, **rest: object) -> list[object]:
            given.append(starts)
            return []

        monkeypatch.setattr(run, "make_films", make_films)
        monkeypatch.setattr(run, "first_chunks", lambda films: {"a red boat": "its first chunk"})
        notes: list[str] = []
        monkeypatch.setattr(run.report, "table", lambda report: notes.extend(report.notes))
        monkeypatch.setattr(run, "_write", lambda report, places: None)
        for protocol in ("paper", "plain"):
            evaluate("--model", "testcard", "--model", "other", "--prompts", "prompts.txt", "--protocol", protocol)
        assert given == [None, {"a red boat": "its first chunk"}, None, None]
        assert sum("first chunk that testcard made" in note for note in notes) == 1
        assert sum("with other prompts: those of prompts.txt" in note for note in notes) == 1


@pytest.mark.usefixtures("no_pictures")
def test_where_the_protocol_is_left_the_report_says_so(film: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate(film, "--protocol", "paper", "--num-frames", "8") == 0
    assert "Protocol paper in part: 8 frames per film instead of 240." in capsys.readouterr().out
    assert evaluate(film, "--protocol", "paper") == 0
    printed = capsys.readouterr().out
    assert "in part" not in printed
    assert "32 frames, 240 were asked for" in printed


class TestRefusals:
    def test_nothing_to_evaluate(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert "expected video files, --model NAME, or storybook" in refusal(capsys)

    def test_a_missing_film(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert "nothere.mp4 cannot be measured: expected a video file" in refusal(capsys, "nothere.mp4")

    def test_a_film_named_twice(self, film: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert "named twice" in refusal(capsys, film, film)

    def test_an_unknown_model(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert "no such model: expected one of" in refusal(capsys, "--model", "nonesuch", "--protocol", "paper")

    def test_one_model_twice(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert "one name" in refusal(capsys, "--model", "testcard", "--model", "testcard", "--protocol", "paper")

    def test_a_model_without_prompts(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert "expected --prompts FILE, or --protocol paper" in refusal(capsys, "--model", "testcard")

    def test_missing_prompts(self, film: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert "prompts.txt cannot be read" in refusal(capsys, film, "--prompts", "prompts.txt")

    def test_too_few_prompts(self, film: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        prompts = film.parent / "prompts.txt"
        prompts.write_text("one\ntwo\n")
        assert "expected 1, one per video in their order, received 2" in refusal(capsys, film, "--prompts", prompts)

    @pytest.mark.parametrize("frames", ["0", "1", "-5"])
    def test_too_few_frames(self, film: Path, frames: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert "--num-frames is out of range: expected 2 or more" in refusal(capsys, film, "--num-frames", frames)

    def test_half_a_grid(self, film: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert "half given" in refusal(capsys, film, "--chunk-frames", "8")
        assert "out of range" in refusal(capsys, film, "--chunk-frames", "0", "--first-chunk-frames", "16")

    def test_no_clip(self, film: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert "no CLIP there" in refusal(capsys, film, "--clip", "nowhere")

    def test_no_raft(self, film: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "torchvision", None)
        assert "RAFT is not available" in refusal(capsys, film, "--raft", "raft.pth")

    def test_places_that_cannot_be_written(self, film: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert "--json cannot be used" in refusal(capsys, film, "--json", "missing/report.json")
        assert "--out cannot be used" in refusal(capsys, film, "--out", film)

    def test_a_film_is_not_overwritten_by_a_slip(self, film: Path, capsys: pytest.CaptureFixture[str]) -> None:
        before = film.read_bytes()
        assert "exists and is no report" in refusal(capsys, film, "--json", film)
        assert film.read_bytes() == before

    def test_a_film_of_one_frame(self, film: Path, capsys: pytest.CaptureFixture[str]) -> None:
        one = write_film(film.parent / "one.mkv", translation(1))
        assert evaluate(one, "--json", "report.json") == 2
        assert "expected at least 2 frames, received 1" in capsys.readouterr().err
        assert list(Path().iterdir()) == []

    def test_unknown_options(self) -> None:
        with pytest.raises(SystemExit, match="2"):
            evaluate("--quality", "high")

    def test_missing_packages(self, film: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "st2v_stream.evaluation.run", None)
        assert "expected pip install 'st2v_stream[eval]'" in refusal(capsys, film)


class TestStorybook:
    """The name of the built-in model alone leads to its own judges."""

    @pytest.fixture
    def asked(self, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Namespace]]:
        calls: list[tuple[str, Namespace]] = []

        def stand_in(name: str) -> types.ModuleType:
            def add_arguments(parser: ArgumentParser) -> None:
                parser.add_argument("--quick", action="store_true")

            def answer(args: Namespace) -> int:
                calls.append((name, args))
                return 7

            module = types.ModuleType(name)
            module.add_arguments, module.run = add_arguments, answer  # type: ignore[attr-defined]
            return module

        for name in ("storybook", "ablation"):
            monkeypatch.setitem(sys.modules, f"st2v_stream.evaluation.{name}", stand_in(name))
        return calls

    def test_judges_and_table(self, asked: list[tuple[str, Namespace]]) -> None:
        assert evaluate("storybook", "--quick") == 7
        assert evaluate("storybook", "--table") == 7
        assert evaluate("storybook", "--quick", "--table") == 7
        assert [(name, args.quick) for name, args in asked] == [("storybook", True), ("ablation", False), ("ablation", True)]

    def test_a_file_of_that_name_is_a_film(self, asked: list[tuple[str, Namespace]], film: Path) -> None:
        Path("storybook").write_bytes(film.read_bytes())
        assert evaluate("storybook", "--num-frames", "4") == 0
        assert asked == []

    def test_other_names_are_not(self) -> None:
        assert is_storybook("storybook")
        assert not is_storybook("storybook-of-somebody-else")
        assert not is_storybook("testcard")
        assert not is_storybook("--table")

    @pytest.mark.parametrize("given", [(), ("--model", "storybook"), ("--model", "checkpoints/storybook")])
    def test_the_table_is_of_the_model_that_is_named(self, given: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
        from st2v_stream.evaluation import ablation_study

        studied: list[Path] = []

        class Study:
            def __init__(self, plan: object, origin: Path, *rest: object, **more: object) -> None:
                studied.append(origin)

            def run(self, rows: object) -> None:
                assert studied

        monkeypatch.setattr(ablation_study, "Study", Study)
        monkeypatch.chdir(Path(__file__).parents[2])
        assert evaluate("storybook", "--table", "--quick", *given) == 0
        assert [folder.name for folder in studied] == ["storybook"]
        assert (studied[0] / "model_index.json").is_file()

    def test_the_real_ones_take_their_options(self, capsys: pytest.CaptureFixture[str]) -> None:
        for arguments in (("storybook", "--help"), ("storybook", "--table", "--help")):
            with pytest.raises(SystemExit, match="0"):
                evaluate(*arguments)
            assert f"usage: st2v evaluate {' '.join(arguments[:-1])}" in capsys.readouterr().out


def test_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        evaluate("--help")
    printed = capsys.readouterr().out
    for option in ("model", "prompts", "num-frames", "seed", "preset", "protocol", "clip", "raft", "out", "json"):
        assert f"--{option} " in printed


def test_commands_on_the_page_parse() -> None:
    page = (ROOT / "docs" / "evaluation.md").read_text()
    lines = re.findall(r"^ +st2v (evaluate [^\n#]*)", page, flags=re.MULTILINE)
    assert len(lines) > 4
    for line in lines:
        arguments = shlex.split(line)[1:]
        if not is_storybook(arguments[0]):
            build_parser().parse_args(arguments)


def test_the_page_names_every_option() -> None:
    page = (ROOT / "docs" / "evaluation.md").read_text()
    for action in build_parser()._actions:
        for option in action.option_strings[:1]:
            assert option in ("-h",) or f"`{option}" in page, option
