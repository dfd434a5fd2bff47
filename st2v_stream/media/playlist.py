"""The text of HLS playlists (RFC 8216): which segments there are, in a form that VLC, Safari, ffmpeg and hls.js read.

Addresses are relative, so that a grant in the path is inherited. Pure: segments in, text out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Literal

from st2v_stream.chunk import StreamSpec
from st2v_stream.errors import InvalidRequest
from st2v_stream.types import SegmentRef

PlaylistType = Literal["event", "vod"]
"""event: lines may still be added at its end (4.3.3.5); vod: it will not change."""

VERSION = 7
"""fMP4 segments with EXT-X-MAP need 6 (RFC 8216, section 7); 7 is what Apple's examples of fMP4 say."""

DELTA_VERSION = 9
"""What EXT-X-SKIP needs (rfc8216bis, section 8)."""

SKIP_TARGETS = 6
"""The fewest target durations before the end that a delta update may leave out (rfc8216bis, 4.4.3.8)."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A segment in a media playlist. is_cut: the film was cut here and went on anew, so decoders should begin anew too."""

    segment: SegmentRef
    is_cut: bool = False


@dataclass(frozen=True, slots=True)
class Variant:
    """A rendition in a master playlist: where its media playlist is, and its segments so far (at least one)."""

    uri: str
    segments: Sequence[SegmentRef]


def target_duration_s(spec: StreamSpec) -> int:
    """Whole seconds that no segment exceeds. From the stream's spec, as it may not change while the playlist grows."""
    return max(1, ceil(max(spec.first_chunk_frames, spec.chunk_frames) / spec.fps))


def skip_until_s(spec: StreamSpec) -> int:
    """CAN-SKIP-UNTIL: a delta update lists at least the last so many seconds."""
    return SKIP_TARGETS * target_duration_s(spec)


def media_playlist(listed: Sequence[Listed], spec: StreamSpec, kind: PlaylistType, *, is_whole: bool) -> str:
    """The playlist of one rendition, chunk 0 first and without a gap; with `is_whole` nothing will be added (EXT-X-ENDLIST).

    For the same beginning of `listed` and the same spec and kind, the text begins the same: it only ever grows. Raises
    `InvalidRequest` for segments that do not follow each other and for a `vod` that is not whole.
    """
    texts = [segment_text(entry, before, spec.fps) for before, entry in zip([None, *listed], listed)]
    return join_playlist(texts, spec, kind, is_whole=is_whole)


def join_playlist(texts: Sequence[str], spec: StreamSpec, kind: PlaylistType, *, is_whole: bool) -> str:
    """As `media_playlist`, of what `segment_text` said: a playlist that is asked for often is not written anew each time."""
    if kind == "vod" and not is_whole:
        raise InvalidRequest("a growing film is no VOD", expected="kind event", received=kind, param="kind")
    return "".join((_head(spec, kind, VERSION), *texts, "#EXT-X-ENDLIST\n" if is_whole else ""))


def delta_playlist(texts: Sequence[str], spec: StreamSpec, skipped: int) -> str:
    """A growing playlist for who has an earlier one: without its first `skipped` segments (rfc8216bis, 6.2.5.1).

    The skipped ones must hold no discontinuity. Their init segment is named again, for players that would look for it.
    """
    init, _, _ = texts[0].partition("\n")
    skip = f"#EXT-X-SKIP:SKIPPED-SEGMENTS={skipped}\n{init}\n"
    return "".join((_head(spec, "event", DELTA_VERSION), skip, *texts[skipped:]))


def _head(spec: StreamSpec, kind: PlaylistType, version: int) -> str:
    control = f"#EXT-X-SERVER-CONTROL:CAN-SKIP-UNTIL={skip_until_s(spec)}\n" if kind == "event" else ""
    return (
        f"#EXTM3U\n#EXT-X-VERSION:{version}\n#EXT-X-TARGETDURATION:{target_duration_s(spec)}\n{control}"
        f"#EXT-X-MEDIA-SEQUENCE:0\n#EXT-X-PLAYLIST-TYPE:{kind.upper()}\n#EXT-X-INDEPENDENT-SEGMENTS\n"
    )


def segment_text(entry: Listed, before: Listed | None, fps: int) -> str:
    """The lines of one segment; `before`: the one listed before it. Raises `InvalidRequest` unless it follows that one."""
    segment = entry.segment
    expected = 0 if before is None else before.segment.index + 1
    if segment.index != expected:
        raise InvalidRequest("segments do not follow each other", expected=f"chunk {expected}", received=segment.index)
    is_other_init = before is None or before.segment.init != segment.init
    return "".join(
        (
            # 4.3.2.3 demands it where encoding parameters change
            "#EXT-X-DISCONTINUITY\n" if before is not None and (entry.is_cut or is_other_init) else "",
            f'#EXT-X-MAP:URI="init/{segment.init}.mp4"\n' if is_other_init else "",
            f"#EXTINF:{segment.frames / fps:.5f},\nsegments/{segment.hash}.m4s\n",
        )
    )


def master_playlist(variants: Sequence[Variant], fps: int) -> str:
    """Which renditions there are, the one to begin with first. Bit rates are those of the segments so far."""
    lines = ["#EXTM3U", f"#EXT-X-VERSION:{VERSION}", "#EXT-X-INDEPENDENT-SEGMENTS"]
    for variant in variants:
        lines += [f"#EXT-X-STREAM-INF:{_attributes(variant.segments, fps)}", variant.uri]
    return "\n".join([*lines, ""])


def _attributes(segments: Sequence[SegmentRef], fps: int) -> str:
    peak = max(segment.size_bytes * 8 * fps / segment.frames for segment in segments)
    mean = sum(segment.size_bytes for segment in segments) * 8 * fps / sum(segment.frames for segment in segments)
    largest = max(segments, key=lambda segment: segment.width * segment.height)
    codecs = ",".join(dict.fromkeys(segment.codec for segment in segments))
    return ",".join(
        (
            f"BANDWIDTH={ceil(peak)}",
            f"AVERAGE-BANDWIDTH={ceil(mean)}",
            f'CODECS="{codecs}"',
            f"RESOLUTION={largest.width}x{largest.height}",
            f"FRAME-RATE={fps:.3f}",
        )
    )
