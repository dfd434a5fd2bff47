from __future__ import annotations

import hashlib
import re
from dataclasses import replace

import pytest

from st2v_stream.chunk import StreamSpec
from st2v_stream.errors import InvalidRequest
from st2v_stream.media.playlist import (
    Listed,
    Variant,
    delta_playlist,
    master_playlist,
    media_playlist,
    segment_text,
    skip_until_s,
    target_duration_s,
)
from st2v_stream.types import SegmentRef

SPEC = StreamSpec(width=64, height=64, fps=10, first_chunk_frames=16, chunk_frames=8)


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def chunk(index: int, *, init: str = "a", size_bytes: int = 1000) -> SegmentRef:
    start, frames = SPEC.start_of(index), SPEC.frames_of(index)
    return SegmentRef(sha(f"{index}{init}"), size_bytes, sha(init), "avc1.42C00B", index, start, frames, 256, 256)


def film(chunks: int) -> list[Listed]:
    return [Listed(chunk(index)) for index in range(chunks)]


def test_every_line_of_a_small_playlist() -> None:
    assert media_playlist(film(2), SPEC, "vod", is_whole=True).splitlines() == [
        "#EXTM3U",
        "#EXT-X-VERSION:7",
        "#EXT-X-TARGETDURATION:2",
        "#EXT-X-MEDIA-SEQUENCE:0",
        "#EXT-X-PLAYLIST-TYPE:VOD",
        "#EXT-X-INDEPENDENT-SEGMENTS",
        f'#EXT-X-MAP:URI="init/{sha("a")}.mp4"',
        "#EXTINF:1.60000,",
        f"segments/{sha('0a')}.m4s",
        "#EXTINF:0.80000,",
        f"segments/{sha('1a')}.m4s",
        "#EXT-X-ENDLIST",
    ]


def test_a_growing_playlist_only_grows() -> None:
    texts = [media_playlist(film(chunks), SPEC, "event", is_whole=False) for chunks in range(8)]
    texts.append(media_playlist(film(7), SPEC, "event", is_whole=True))
    for before, after in zip(texts, texts[1:]):
        assert after.startswith(before)
        assert len(after) > len(before)


def test_every_line_of_a_delta_update() -> None:
    listed = film(3)
    texts = [segment_text(entry, before, SPEC.fps) for before, entry in zip([None, *listed], listed)]
    assert delta_playlist(texts, SPEC, 2).splitlines() == [
        "#EXTM3U",
        "#EXT-X-VERSION:9",
        "#EXT-X-TARGETDURATION:2",
        "#EXT-X-SERVER-CONTROL:CAN-SKIP-UNTIL=12",
        "#EXT-X-MEDIA-SEQUENCE:0",
        "#EXT-X-PLAYLIST-TYPE:EVENT",
        "#EXT-X-INDEPENDENT-SEGMENTS",
        "#EXT-X-SKIP:SKIPPED-SEGMENTS=2",
        f'#EXT-X-MAP:URI="init/{sha("a")}.mp4"',
        "#EXTINF:0.80000,",
        f"segments/{sha('2a')}.m4s",
    ]
    full = media_playlist(listed, SPEC, "event", is_whole=False)
    assert f"CAN-SKIP-UNTIL={skip_until_s(SPEC)}" in full
    assert "#EXT-X-VERSION:7" in full, "who asks for no delta update need not know of them"


@pytest.mark.parametrize(
    ("fps", "first", "later", "seconds"), [(8, 16, 8, 2), (10, 16, 8, 2), (24, 16, 8, 1), (8, 8, 20, 3), (30, 4, 4, 1)]
)
def test_no_segment_is_longer_than_the_target(fps: int, first: int, later: int, seconds: int) -> None:
    spec = StreamSpec(64, 64, fps, first, later)
    assert target_duration_s(spec) == seconds
    listed = [Listed(replace(chunk(index), start=spec.start_of(index), frames=spec.frames_of(index))) for index in range(3)]
    text = media_playlist(listed, spec, "event", is_whole=False)
    durations = [float(said) for said in re.findall(r"#EXTINF:([\d.]+),", text)]
    assert max(durations) <= seconds
    assert sum(durations) == pytest.approx((first + 2 * later) / fps, abs=1e-4)


def test_a_cut_and_another_init_segment_are_discontinuities() -> None:
    listed = [
        Listed(chunk(0), is_cut=True),  # nothing before it
        Listed(chunk(1)),
        Listed(chunk(2), is_cut=True),
        Listed(chunk(3, init="b")),
        Listed(chunk(4, init="b")),
    ]
    lines = media_playlist(listed, SPEC, "event", is_whole=False).splitlines()[7:]
    tags = [line.partition(":")[0].removeprefix("#EXT") for line in lines]
    segment = ["INF", "segments/" + sha("0a") + ".m4s"]
    assert tags == [
        "-X-MAP", *segment,
        "INF", f"segments/{sha('1a')}.m4s",
        "-X-DISCONTINUITY", "INF", f"segments/{sha('2a')}.m4s",
        "-X-DISCONTINUITY", "-X-MAP", "INF", f"segments/{sha('3b')}.m4s",
        "INF", f"segments/{sha('4b')}.m4s",
    ]  # fmt: skip


def test_gaps_and_unfinished_vods_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="expected chunk 1, received 2"):
        media_playlist([Listed(chunk(0)), Listed(chunk(2))], SPEC, "event", is_whole=False)
    with pytest.raises(InvalidRequest, match="no VOD"):
        media_playlist(film(1), SPEC, "vod", is_whole=False)


def test_master_says_what_each_variant_needs() -> None:
    small = [chunk(0, size_bytes=2000), chunk(1, size_bytes=3000)]
    large = [replace(segment, codec="avc1.64001F", width=720, height=720, size_bytes=9000) for segment in small]
    text = master_playlist([Variant("preview.m3u8?edit=0", small), Variant("enhanced.m3u8?edit=0", large)], 10)
    assert text.splitlines() == [
        "#EXTM3U",
        "#EXT-X-VERSION:7",
        "#EXT-X-INDEPENDENT-SEGMENTS",
        # 3000 bytes in 0.8 s; 5000 bytes in 2.4 s
        '#EXT-X-STREAM-INF:BANDWIDTH=30000,AVERAGE-BANDWIDTH=16667,CODECS="avc1.42C00B",RESOLUTION=256x256,FRAME-RATE=10.000',
        "preview.m3u8?edit=0",
        '#EXT-X-STREAM-INF:BANDWIDTH=90000,AVERAGE-BANDWIDTH=60000,CODECS="avc1.64001F",RESOLUTION=720x720,FRAME-RATE=10.000',
        "enhanced.m3u8?edit=0",
    ]
