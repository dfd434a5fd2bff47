"""Tables, JSON, plots and the page: right numbers, nothing invented, nothing from outside."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import av
import numpy as np
import pytest

from evaluation.drawn_films import translation, write_film
from st2v_stream.evaluation import page, plots, report
from st2v_stream.evaluation.embed import Budget, encode_small, plays_in_browsers, small_size
from st2v_stream.evaluation.film import ChunkGrid, Film, open_film
from st2v_stream.evaluation.flow import dis_flow
from st2v_stream.evaluation.glossary import KEYS, MEASURES
from st2v_stream.evaluation.measure import FilmMeasures, Settings, measure_film
from st2v_stream.evaluation.report import Outcome, Report

SETTINGS = Settings(dis_flow(), side=96)
EVIL = 'a <script>alert(1)</script> & "boat"'


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """A real film of 32 frames, measured."""
    path = write_film(tmp_path_factory.mktemp("films") / "film.mkv", translation(32, side=64))
    film = replace(open_film(path), prompt=EVIL, group="model", grid=ChunkGrid(16, 8))
    return Outcome(film, measure_film(film, SETTINGS))


def with_values(outcome: Outcome, group: str = "model", **values: float | None) -> Outcome:
    changed = replace(outcome.measures, group=group, values={**outcome.measures.values, **values})
    return replace(outcome, measures=changed)


def report_of(*outcomes: Outcome) -> Report:
    settings = SETTINGS.to_json()
    return Report(outcomes, settings, "plain", report.notes_of(settings))


class TestNumbers:
    def test_means_and_intervals_of_a_group(self, outcome: Outcome) -> None:
        films = [with_values(outcome, cuts=float(cuts)) for cuts in (0, 0, 1, 1, 2, 2)]
        found = report_of(*films).to_json()["groups"][0]["measures"]["cuts"]
        assert (found["mean"], found["n"]) == (1.0, 6)
        assert 0 < found["low"] < 1 < found["high"] < 2

    def test_films_without_a_value_do_not_count_as_zero(self, outcome: Outcome) -> None:
        shown = report_of(with_values(outcome, mawe=4.0), with_values(outcome, mawe=None))
        assert shown.to_json()["groups"][0]["measures"]["mawe"]["mean"] == 4.0
        assert "4.00 (n=1)" in report.table(shown)

    def test_what_was_not_measured_is_null_and_said(self, outcome: Outcome) -> None:
        shown = report_of(outcome)
        assert shown.to_json()["groups"][0]["measures"]["clip_score"] is None
        assert shown.to_json()["films"][0]["values"]["clip_score"] is None
        table = report.table(shown)
        assert re.search(r"CLIP +- +higher", table)
        assert "CLIP score: not measured" in table
        assert "not RAFT" in table

    def test_few_films_get_no_interval(self, outcome: Outcome) -> None:
        few = report_of(*[with_values(outcome, rgb_drift=float(n)) for n in range(5)])
        many = report_of(*[with_values(outcome, rgb_drift=float(n)) for n in range(6)])
        assert "[" not in report.table(few)
        assert "[" in report.table(many)

    def test_groups_stand_side_by_side(self, outcome: Outcome) -> None:
        table = report.table(report_of(with_values(outcome, "one", cuts=1.0), with_values(outcome, "two", cuts=7.0)))
        assert re.search(r"one \(n=1\) +two \(n=1\) +better", table)
        assert re.search(r"SCuts, per film +1.00 +7.00 +lower", table)

    def test_json_is_json(self, outcome: Outcome) -> None:
        fields = json.loads(report.to_text(report_of(outcome)))
        assert FilmMeasures.from_json(fields["films"][0]) == outcome.measures
        assert fields["settings"]["flow"] == SETTINGS.flow.name

    def test_every_measure_is_explained(self) -> None:
        assert len(set(KEYS)) == len(KEYS)
        assert all(len(measure.meaning) > 40 for measure in MEASURES)


@pytest.fixture(scope="module")
def drawn(outcome: Outcome) -> str:
    """The plot of a film with chunks and a cut."""
    return plots.film_plot(replace(outcome.measures, cuts=(20,)))


class TestPlots:
    def test_they_are_whole_svg_in_both_dresses(self, outcome: Outcome, drawn: str) -> None:
        for plot in (drawn, plots.overview_plot({"a": [outcome.measures], "b": [outcome.measures] * 2})):
            assert ElementTree.fromstring(plots.alone(plot)).tag.endswith("svg")
            text = plots.inline(plot, "x-")
            assert ElementTree.fromstring(text) is not None
            assert "var(--quiet)" in text
            assert not re.search(r"#(?!x-)[0-9a-f]{6}\b", text), "every colour is the page's"

    def test_ids_of_two_plots_differ(self, drawn: str) -> None:
        ids = [set(re.findall(r'id="([^"]+)"', plots.inline(drawn, prefix))) for prefix in ("a-", "b-")]
        assert ids[0]
        assert not ids[0] & ids[1]
        used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', plots.inline(drawn, "a-")))
        assert used <= ids[0]

    def test_seams_and_cuts_are_drawn(self, outcome: Outcome, drawn: str) -> None:
        plain = plots.film_plot(replace(outcome.measures, grid=None))
        assert drawn.count("<use") > plain.count("<use")
        assert plots.inline(drawn, "").count("var(--cut)") == 3
        assert "var(--cut)" not in plots.inline(plain, "")

    def test_nothing_measured_is_no_plot(self, outcome: Outcome) -> None:
        nothing = replace(outcome.measures, values=dict.fromkeys(KEYS))
        assert plots.overview_plot({"a": [nothing]}) == ""


def embedded_film(url: str) -> bytes:
    assert url.startswith("data:video/mp4;base64,")
    return base64.b64decode(url.split(",", 1)[1])


class TestEmbed:
    def test_what_no_browser_plays_is_encoded_again(self, outcome: Outcome, tmp_path: Path) -> None:
        found = Budget().embed(outcome.film, 20, tmp_path)
        assert found.is_small_copy
        assert found.url is not None
        (tmp_path / "copy.mp4").write_bytes(embedded_film(found.url))
        assert plays_in_browsers(tmp_path / "copy.mp4")
        copy = open_film(tmp_path / "copy.mp4")
        frames = np.stack(list(copy.frames()))
        assert (frames.shape, copy.fps) == ((20, 64, 64, 3), 8)
        original = np.stack(list(outcome.film.frames()))[:20]
        assert np.abs(frames.astype(int) - original).mean() < 12

    def test_a_small_h264_film_is_taken_as_it_is(self, tmp_path: Path) -> None:
        path = write_film(tmp_path / "film.mp4", translation(8, side=64), codec="libx264", pix_fmt="yuv420p")
        found = Budget().embed(open_film(path), 8, tmp_path)
        assert not found.is_small_copy
        assert found.url is not None
        assert embedded_film(found.url) == path.read_bytes()
        assert found.link == "film.mp4"

    def test_the_file_that_people_watch_is_shown(self, outcome: Outcome, tmp_path: Path) -> None:
        path = write_film(tmp_path / "shown.mp4", translation(8, side=64), codec="libx264", pix_fmt="yuv420p")
        found = Budget().embed(replace(outcome.film, shown=path), 8, tmp_path / "reports")
        assert found.link == "../shown.mp4"
        assert not found.is_small_copy

    def test_a_large_film_is_encoded_small_and_one_too_large_is_a_link(self, outcome: Outcome, tmp_path: Path) -> None:
        assert Budget(most_per_film=100_000).embed(outcome.film, 32, tmp_path).is_small_copy
        assert Budget(most_per_film=500).embed(outcome.film, 32, tmp_path).url is None

    def test_a_page_has_a_limit_for_all_its_films(self, outcome: Outcome, tmp_path: Path) -> None:
        content = encode_small(outcome.film.frames(), 32, 8, 10**6)
        assert content is not None
        budget = Budget(most_bytes=len(content) * 3 // 2)
        assert [budget.embed(outcome.film, 32, tmp_path).url is None for _ in range(2)] == [False, True]

    @pytest.mark.parametrize(
        ("size", "small"), [((64, 64), (64, 64)), ((1280, 720), (384, 216)), ((33, 47), (32, 48)), ((1, 900), (2, 384))]
    )
    def test_small_sizes_are_even(self, size: tuple[int, int], small: tuple[int, int]) -> None:
        assert small_size(*size) == small

    def test_other_codecs_do_not_play(self, tmp_path: Path) -> None:
        film = translation(4, side=64)
        assert not plays_in_browsers(write_film(tmp_path / "a.mkv", film))
        assert not plays_in_browsers(write_film(tmp_path / "b.mp4", film, codec="libx264", pix_fmt="yuv444p"))
        assert not plays_in_browsers(write_film(tmp_path / "c.mp4", film, codec="mpeg4", pix_fmt="yuv420p"))


@pytest.fixture(scope="module")
def text(outcome: Outcome, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A page of two films."""
    return page.render(report_of(outcome, with_values(outcome, "other", mawe=None)), tmp_path_factory.mktemp("page"))


class TestPage:
    def test_it_asks_for_nothing_outside_itself(self, text: str) -> None:
        sources = re.findall(r'(?:src|poster)="([^"]{0,12})', text)
        assert len(sources) == 2 * 3  # film, poster and strip of two films
        assert all(source.startswith("data:") for source in sources)
        assert not re.search(r"https?://", text)
        assert "@import" not in text
        assert "<script" not in text
        assert "default-src 'none'" in text

    def test_what_people_wrote_is_text(self, text: str) -> None:
        assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; &quot;boat&quot;" in text

    def test_it_says_how_it_was_measured_and_what_the_words_mean(self, text: str) -> None:
        assert "not RAFT" in text
        assert "not measured" in text
        assert "no value" in text
        for measure in MEASURES:
            assert measure.title in text

    def test_the_films_inside_play(self, text: str, tmp_path: Path) -> None:
        url = re.findall(r'<video src="([^"]+)"', text)[0]
        (tmp_path / "film.mp4").write_bytes(embedded_film(url))
        with av.open(str(tmp_path / "film.mp4")) as container:
            assert sum(1 for _ in container.decode(video=0)) == 32

    def test_a_film_too_large_is_a_link(self, outcome: Outcome, tmp_path: Path) -> None:
        text = page.render(report_of(outcome), tmp_path, Budget(most_bytes=100))
        assert "<video" not in text
        assert "Too large to be inside this page" in text
        assert re.search(r'<a href="[^"]*film\.mkv">', text)


def test_a_film_is_described_by_what_is_known(outcome: Outcome) -> None:
    unknown = Film(Path("f.mp4"), 8, 8, 8.0, "f")
    assert (unknown.group, unknown.prompt, unknown.grid) == ("files", None, None)
    assert outcome.measures.grid == ChunkGrid(16, 8)
