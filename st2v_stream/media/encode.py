"""Encoding is pure: `encode_segment(chunk, spec)` makes its own encoder, one key frame first, and keeps nothing.

So chunks may be encoded in any order, in parallel, again after a crash, or on another machine. Settings: measured in
Chromium 156 and Firefox 153; a thread count other than 1 makes the bytes depend on the number of cores (sliced frames).
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation, VideoReformatter

from st2v_stream.chunk import Chunk, Frames, StreamSpec
from st2v_stream.errors import InvalidRequest, St2vError
from st2v_stream.media import nal
from st2v_stream.media.boxes import TIMESCALE, Fragment, Sample, Track, write_init, write_segment
from st2v_stream.media.scaling import enlarge
from st2v_stream.media.segment import EncodeSpec, Profile, Segment, require_even

_SPS_PROFILE: dict[Profile, bytes] = {"baseline": b"\x42\xc0", "high": b"\x64\x00"}
"""profile_idc and constraint flags in the SPS: Constrained Baseline, High."""

_EXACT_CHROMA = Interpolation.AREA | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INP | Interpolation.BITEXACT
"""Chroma as the mean of 2x2 pixels: within rounding of the formula (bilinear and bicubic are not), the same on every CPU."""


def encode_segment(chunk: Chunk, spec: EncodeSpec) -> Segment:
    """The chunk as H.264 in one moof+mdat; frame t is shown at `spec.ticks(chunk.start + t)` / 90000 s.

    Safe to call from several threads. Raises `InvalidRequest` for frames that cannot be encoded (odd size, no frame).
    """
    _require_frames(chunk.frames)
    frames = enlarge(chunk.frames, spec.enlarge)
    height, width = frames.shape[1:3]
    require_even(width, height)
    ticks = [spec.ticks(chunk.start + t) for t in range(len(frames) + 1)]
    packets = _encode(frames, ticks, spec)
    track = Track(width, height, _configuration(packets[0], spec))
    samples = tuple(_sample(packet, end - begin) for packet, (begin, end) in zip(packets, pairwise(ticks), strict=True))
    data = write_segment(Fragment(chunk.index + 1, ticks[0], samples))
    return Segment(data, write_init(track), track.codec, chunk.start, len(frames), width, height)


def encode_clip(chunk: Chunk, stream: StreamSpec) -> bytes:
    """The chunk alone as a small MP4 that begins at 0 and that any player opens; of `stream` only the pace counts.

    Raises `InvalidRequest`.
    """
    _require_frames(chunk.frames)
    height, width = chunk.frames.shape[1:3]
    spec = EncodeSpec.for_stream(replace(stream, width=width, height=height))
    segment = encode_segment(replace(chunk, index=0, start=0), spec)
    return segment.init + segment.data


def _require_frames(frames: Frames) -> None:
    shape, dtype = frames.shape, frames.dtype
    if len(shape) != 4 or shape[0] < 1 or shape[3] != 3 or dtype != np.uint8:
        raise InvalidRequest(
            "these frames cannot be encoded", expected="(T, H, W, 3) uint8, T from 1", received=f"{shape} {dtype}"
        )


def _encode(frames: Frames, ticks: list[int], spec: EncodeSpec) -> list[bytes]:
    """One Annex-B packet per frame (T, H, W, 3), in order of display."""
    encoder = _open_encoder(frames.shape[2], frames.shape[1], spec)
    to_yuv = VideoReformatter()
    packets = []
    for frame, pts in zip(frames, ticks):
        packets += encoder.encode(_yuv_frame(frame, pts, to_yuv))
    packets += encoder.encode(None)
    times = [(packet.pts, packet.dts, packet.is_keyframe) for packet in packets]
    wanted = [(pts, pts, number == 0) for number, pts in enumerate(ticks[:-1])]
    if times != wanted:
        raise St2vError("libx264 reordered or dropped frames", expected=wanted, received=times)
    return [bytes(packet) for packet in packets]


def _open_encoder(width: int, height: int, spec: EncodeSpec) -> Any:
    encoder = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuv420p"
    encoder.time_base, encoder.framerate = Fraction(1, TIMESCALE), Fraction(spec.fps)
    encoder.thread_count = 1
    encoder.color_range, encoder.colorspace = ColorRange.MPEG, Colorspace.ITU709
    encoder.color_primaries, encoder.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
    encoder.options = {
        "preset": spec.preset,
        "profile": spec.profile,  # as an option: the context's attribute is ignored without a word
        "tune": "zerolatency",
        "crf": str(spec.crf),
        "bf": "0",
        "g": "600",
        "x264-params": "scenecut=0:keyint=infinite",
    }
    return encoder


def _yuv_frame(frame: Frames, pts: int, to_yuv: VideoReformatter) -> Any:
    """(H, W, 3) RGB -> a yuv420p frame, BT.709, limited range."""
    yuv = to_yuv.reformat(
        av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24"),
        format="yuv420p",
        src_colorspace=Colorspace.ITU709,
        dst_colorspace=Colorspace.ITU709,
        src_color_range=ColorRange.JPEG,
        dst_color_range=ColorRange.MPEG,
        dst_color_trc=ColorTrc.BT709,
        dst_color_primaries=ColorPrimaries.BT709,
        interpolation=_EXACT_CHROMA,
        threads=1,
    )
    yuv.pts, yuv.time_base = pts, Fraction(1, TIMESCALE)
    return yuv


def _configuration(first_packet: bytes, spec: EncodeSpec) -> bytes:
    """The avcC from the parameter sets in the first packet, after checking that x264 made the profile asked for."""
    units = {nal.nal_type(unit): unit for unit in nal.split_annexb(first_packet)}
    sps = units[nal.SPS]
    if sps[1:3] != _SPS_PROFILE[spec.profile]:
        raise St2vError(
            f"libx264 made another profile than {spec.profile}",
            expected=_SPS_PROFILE[spec.profile].hex(),
            received=sps[1:3].hex(),
        )
    return nal.avcc(sps, units[nal.PPS])


def _sample(packet: bytes, duration: int) -> Sample:
    units = nal.split_annexb(packet)
    is_key = any(nal.nal_type(unit) == nal.IDR for unit in units)
    return Sample(nal.to_sample(units), duration, is_key)
