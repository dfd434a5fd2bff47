"""Which files of a folder can be trained on, and what their frames become."""

from __future__ import annotations

import json
import socket
import wave
from pathlib import Path

import av
import numpy as np
import pytest

from st2v_stream.chunk import Frames
from st2v_stream.errors import InvalidRequest
from st2v_stream.training import clips as clips_module
from st2v_stream.training.clips import Clip, at_rate, find_clips, read_frames
from training.tiny_base import write_film


def put(folder: Path, **captions: str | None) -> Path:
    """Files NAME.mp4 that are never opened, with or without NAME.txt."""
    for name, caption in captions.items():
        (folder / f"{name}.mp4").write_bytes(b"not opened")
        if caption is not None:
            (folder / f"{name}.txt").write_text(caption)
    return folder


def counting(frames: int, height: int = 32, width: int = 32) -> Frames:
    """Grey films whose brightness is the frame's number times four."""
    levels = 4 * np.arange(frames, dtype=np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (frames, height, width, 3)).copy()


def read(path: Path, fps: float = 8, width: int = 32, height: int = 32, **options: int) -> Frames:
    return read_frames(Clip(path, path.name, "a clip"), fps=fps, width=width, height=height, **options)


def test_captions_lie_beside_the_clips(tmp_path: Path) -> None:
    put(tmp_path, b="  a red\n boat ", a="\ufeffa blue cat")
    (tmp_path / "deep").mkdir()
    put(tmp_path / "deep", c="a green car")
    (tmp_path / ".hidden.mp4").write_bytes(b"")
    found, problems = find_clips(tmp_path)
    assert [(clip.name, clip.caption) for clip in found] == [
        ("a.mp4", "a blue cat"),
        ("b.mp4", "a red boat"),
        ("deep/c.mp4", "a green car"),
    ]
    assert problems == []


def test_a_list_of_captions_wins(tmp_path: Path) -> None:
    put(tmp_path, a="from the file", b="beside it")
    lines = [{"file": "a.mp4", "caption": "from the list"}, {"file": "gone.mp4", "caption": "nothing"}]
    (tmp_path / "captions.jsonl").write_text("\n".join(json.dumps(line) for line in lines) + "\n\n")
    found, problems = find_clips(tmp_path)
    assert [clip.caption for clip in found] == ["from the list", "beside it"]
    assert [str(problem) for problem in problems] == ["gone.mp4 has a line in captions.jsonl and is not there"]


def test_what_is_wrong_with_captions_is_said_with_the_file(tmp_path: Path) -> None:
    put(tmp_path, good="a cat", none=None, empty=" \n")
    (tmp_path / "latin.mp4").write_bytes(b"")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    (tmp_path / "captions.jsonl").write_text('{"file": "x"}\n[1]\nno json\n' + 2 * '{"file": "good.mp4", "caption": "a dog"}\n')
    found, problems = find_clips(tmp_path)
    assert [clip.caption for clip in found] == ["a dog"]
    said = [str(problem) for problem in problems]
    expected = ("captions.jsonl, line 1", "line 2", "line 3", "line 5 is the second one for good.mp4", "empty.mp4 is empty")
    expected += ("latin.mp4 cannot be read: expected UTF-8", "none.mp4 has no caption: expected none.txt beside it")
    assert len(said) == len(expected)
    for part, line in zip(expected, said, strict=True):
        assert part in line


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="no folder of clips: expected a folder, received"):
        find_clips(tmp_path / "none")


def test_frames_come_back_at_their_rate(tmp_path: Path) -> None:
    path = write_film(tmp_path / "clip.mp4", counting(60), fps=8)
    frames = read(path)
    assert frames.shape == (60, 32, 32, 3)
    assert np.abs(frames.mean((1, 2, 3)) - 4 * np.arange(60)).max() < 2


@pytest.mark.parametrize(("own_fps", "suffix"), [(24, "mp4"), (30, "mkv"), (25, "mkv")])
def test_a_faster_clip_gives_the_frames_on_screen(tmp_path: Path, own_fps: int, suffix: str) -> None:
    """mkv rounds its time stamps to milliseconds."""
    film = np.repeat(counting(26), own_fps // 5, axis=0)[: 3 * own_fps + 1]
    frames = read(write_film(tmp_path / f"clip.{suffix}", film, fps=own_fps))
    assert len(frames) == 25
    shown = (np.arange(25) * own_fps / 8 + own_fps / 80).astype(int)
    assert np.abs(frames.mean((1, 2, 3)) - film[shown].mean((1, 2, 3))).max() < 2


def test_frames_without_time_stamps_follow_the_rate() -> None:
    frames = [av.VideoFrame(16, 16, "rgb24") for _ in range(9)]
    assert [frames.index(frame) for frame in at_rate(frames, 8, 16)] == [0, 2, 4, 6, 8]


def test_a_long_clip_gives_its_beginning(tmp_path: Path) -> None:
    path = write_film(tmp_path / "clip.mp4", counting(60))
    assert np.array_equal(read(path, max_frames=30), read(path)[:30])


def test_frames_are_filled_and_cut_around_the_centre(tmp_path: Path) -> None:
    film = counting(30, height=64, width=160)
    film[:, :, :48], film[:, :, 112:] = (255, 0, 0), (0, 0, 255)  # what a square of 64 in the middle does not show
    frames = read(write_film(tmp_path / "clip.mp4", film), width=16, height=16)
    assert frames.shape == (30, 16, 16, 3)
    inside = frames[:, :, 1:-1].astype(int)  # at the edge the codec's half chroma lets colour in
    assert np.abs(inside - 4 * np.arange(30)[:, None, None, None]).max() < 12


def test_shrinking_averages(tmp_path: Path) -> None:
    stripes = np.zeros((24, 64, 64, 3), np.uint8)
    stripes[:, :, ::2] = 255
    frames = read(write_film(tmp_path / "clip.mp4", stripes), width=8, height=8)
    assert np.abs(frames[:, :, 1:-1].astype(int) - 128).max() <= 6


def test_a_turned_clip_is_upright(tmp_path: Path) -> None:
    film = np.zeros((24, 32, 64, 3), np.uint8)
    film[:, :, 32:] = 255  # bright on the right; turned by 90 degrees to the left: bright above
    frames = read(write_film(tmp_path / "clip.mp4", film, rotation=90), width=32, height=64)
    assert frames[:, :24].min() > 240
    assert frames[:, 40:].max() < 15


def test_hd_without_named_colours_is_bt_709(tmp_path: Path) -> None:
    colour = np.full((24, 720, 64, 3), (200, 40, 40), np.uint8)
    named = read(write_film(tmp_path / "named.mp4", colour))
    path = tmp_path / "unnamed.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8, options={"crf": "4"})
        stream.height, stream.width, stream.pix_fmt = 720, 64, "yuv420p"
        for number, pixels in enumerate(colour):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuv420p", dst_colorspace=1)
            frame.pts, frame.colorspace = number, 2
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with av.open(str(path)) as container:
        assert next(container.decode(video=0)).colorspace == 2
    assert np.abs(read(path).astype(int) - named).max() <= 3


def test_a_short_clip_is_named(tmp_path: Path) -> None:
    path = write_film(tmp_path / "clip.mp4", counting(60), fps=24)
    with pytest.raises(
        InvalidRequest, match=r"clip.mp4 is too short: expected at least 24 frames at 8 per second, received 20"
    ):
        read(path)


def test_a_slow_clip_is_named(tmp_path: Path) -> None:
    path = write_film(tmp_path / "clip.mp4", counting(30), fps=5)
    with pytest.raises(InvalidRequest, match=r"clip.mp4 is too slow: expected 8 frames per second, received '5'"):
        read(path)
    assert len(read(path, fps=5)) == 30


def test_what_is_no_film_is_named(tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"a plain text, " * 100)
    with pytest.raises(InvalidRequest, match=r"clip.mp4 cannot be decoded: expected a film, received .*Invalid data"):
        read(tmp_path / "clip.mp4")
    with wave.open(str(tmp_path / "sound.wav"), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(bytes(16000))
    with pytest.raises(InvalidRequest, match=r"sound.wav has no picture"):
        read(tmp_path / "sound.wav")


def test_a_play_list_leads_nowhere(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        entry = f"http://127.0.0.1:{server.getsockname()[1]}/clip.ts"
        (tmp_path / "list.m3u8").write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{entry}\n#EXT-X-ENDLIST\n")
        with pytest.raises(InvalidRequest, match=r"list.m3u8 "):
            read(tmp_path / "list.m3u8")
        with pytest.raises(BlockingIOError):  # nobody came
            server.accept()


def test_a_huge_picture_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_film(tmp_path / "clip.mp4", counting(24))
    monkeypatch.setattr(clips_module, "MAX_PIXELS", 1000)
    with pytest.raises(InvalidRequest, match=r"clip.mp4 is too large: expected at most 1000 pixels, received '32 x 32'"):
        read(path)
