from __future__ import annotations

import io
import json
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path

import av
import pytest

from st2v_stream.errors import InvalidRequest
from st2v_stream.media import remux
from st2v_stream.media.boxes import DamagedMedia, split_boxes
from st2v_stream.media.remux import fragmented_file, progressive_mp4
from st2v_stream.media.segment import Segment

FRAMES = 16 + 14 * 8
needs_ffprobe = pytest.mark.skipif(shutil.which("ffprobe") is None, reason="ffprobe is not installed")


def bytes_of(film: list[Segment]) -> list[bytes]:
    return [segment.data for segment in film]


def probe(path: Path) -> tuple[dict[str, str], dict[str, str]]:
    """(stream, format) as ffprobe tells them; it must have nothing to complain about."""
    command = ["ffprobe", "-v", "warning", "-count_frames", "-show_streams", "-show_format", "-of", "json", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    told = json.loads(done.stdout)
    return told["streams"][0], told["format"]


def times(file: object) -> list[int]:
    with av.open(file, format="mp4") as container:  # type: ignore[call-overload]
        return [packet.pts for packet in container.demux(video=0) if packet.size]


def test_a_growing_file_can_be_played_after_every_segment(film: list[Segment]) -> None:
    file, frames = b"", 0
    for segment, piece in zip([None, *film], fragmented_file(film[0].init, bytes_of(film)), strict=True):
        file += piece
        frames += segment.frames if segment else 0
        assert len(times(io.BytesIO(file))) == frames


def test_times_of_the_whole_film_grow_evenly(film: list[Segment]) -> None:
    stamps = times(io.BytesIO(b"".join(fragmented_file(film[0].init, bytes_of(film)))))
    assert len(stamps) == FRAMES
    assert {after - before for before, after in pairwise(stamps)} == {9000}


@needs_ffprobe
@pytest.mark.parametrize("form", ["fragmented", "progressive"])
def test_ffprobe_reads_it_without_a_word(form: str, film: list[Segment], tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    if form == "progressive":
        assert progressive_mp4(film[0].init, bytes_of(film), path, {"title": "Ein Bär"}) == FRAMES
    else:
        path.write_bytes(b"".join(fragmented_file(film[0].init, bytes_of(film))))
    stream, container = probe(path)
    assert int(stream["nb_read_frames"]) == FRAMES
    assert stream["profile"] == "Constrained Baseline"
    assert (stream["color_range"], stream["color_space"], stream["color_primaries"]) == ("tv", "bt709", "bt709")
    assert stream["color_transfer"] == "bt709"
    assert (stream["r_frame_rate"], stream["avg_frame_rate"]) == ("10/1", "10/1")
    assert float(container["duration"]) == FRAMES / 10
    if form == "progressive":
        assert container["tags"]["title"] == "Ein Bär"


def test_the_index_comes_first_and_nothing_is_left_beside_the_file(film: list[Segment], tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    progressive_mp4(film[0].init, bytes_of(film), path)
    assert [kind for kind, _ in split_boxes(path.read_bytes())] == ["ftyp", "moov", "mdat"]
    assert list(tmp_path.iterdir()) == [path]


def test_every_frame_can_be_sought(film: list[Segment], tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    progressive_mp4(film[0].init, bytes_of(film), path)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.frames, stream.duration) == (FRAMES, FRAMES * 9000)
        for frame in range(0, FRAMES, 7):
            container.seek(frame * 9000, stream=stream)
            landed = next(container.demux(stream))
            assert landed.is_keyframe
            assert 0 <= frame * 9000 - landed.pts < 16 * 9000


def test_both_forms_hold_the_same_packets(film: list[Segment], tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    progressive_mp4(film[0].init, iter(bytes_of(film)), path)
    growing = io.BytesIO(b"".join(fragmented_file(film[0].init, bytes_of(film))))
    assert packets(str(path)) == packets(growing)


def packets(file: object) -> list[tuple[int, int, bool, bytes]]:
    with av.open(file, format="mp4") as container:  # type: ignore[call-overload]
        return [(p.pts, p.duration, p.is_keyframe, bytes(p)) for p in container.demux(video=0) if p.size]


def test_a_part_of_a_film_begins_at_zero(film: list[Segment], tmp_path: Path) -> None:
    path = tmp_path / "part.mp4"
    assert progressive_mp4(film[3].init, bytes_of(film)[3:5], path) == 16
    assert times(str(path)) == [9000 * t for t in range(16)]


def test_offsets_of_large_files_have_64_bits(film: list[Segment], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remux, "_32_BIT", 2**10)
    path = tmp_path / "film.mp4"
    progressive_mp4(film[0].init, bytes_of(film), path)
    assert b"co64" in path.read_bytes()
    assert len(packets(str(path))) == FRAMES


@pytest.mark.parametrize("order", [[0, 2], [1, 0], [0, 0]])
def test_segments_that_do_not_follow_each_other_are_refused(order: list[int], film: list[Segment], tmp_path: Path) -> None:
    with pytest.raises(DamagedMedia, match="do not follow each other: expected start"):
        progressive_mp4(film[0].init, [film[number].data for number in order], tmp_path / "film.mp4")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written_is_refused(film: list[Segment], tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="at least one segment"):
        progressive_mp4(film[0].init, [], tmp_path / "film.mp4")
    with pytest.raises(InvalidRequest, match="unknown metadata: expected title, artist"):
        progressive_mp4(film[0].init, bytes_of(film), tmp_path / "film.mp4", {"colour": "red"})
    assert list(tmp_path.iterdir()) == []
