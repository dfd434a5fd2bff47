"""Enough of a sequence parameter set reader to see what decoders are promised (14496-10, 7.3.2.1.1 and E.1.1)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Bits:
    data: bytes
    position: int = 0

    def u(self, count: int) -> int:
        value = 0
        for _ in range(count):
            value = value << 1 | self.data[self.position // 8] >> (7 - self.position % 8) & 1
            self.position += 1
        return value

    def ue(self) -> int:
        zeros = 0
        while not self.u(1):
            zeros += 1
        return (1 << zeros) - 1 + self.u(zeros)


def read_sps(sps: bytes) -> dict[str, int]:
    """profile, constraints, colours and reordering limits of an SPS written by x264 (frames only, no HRD, no scaling lists)."""
    bits = Bits(sps[1:].replace(b"\0\0\3", b"\0\0"))
    facts = {"profile": bits.u(8), "constraints": bits.u(8), "level": bits.u(8)}
    bits.ue()  # seq_parameter_set_id
    if facts["profile"] == 100:
        assert (bits.ue(), bits.ue(), bits.ue(), bits.u(1), bits.u(1)) == (1, 0, 0, 0, 0)  # 4:2:0, 8 bit, no scaling lists
    bits.ue()  # log2_max_frame_num
    order_type = bits.ue()
    if order_type == 0:
        bits.ue()
    facts |= {"order_type": order_type, "refs": bits.ue()}
    bits.u(1)
    bits.ue(), bits.ue()  # size in macroblocks
    assert bits.u(1) == 1  # frame_mbs_only
    bits.u(1)
    if bits.u(1):  # cropping
        [bits.ue() for _ in range(4)]
    assert bits.u(1) == 1  # VUI present
    return facts | _read_vui(bits)


def _read_vui(bits: Bits) -> dict[str, int]:
    facts: dict[str, int] = {}
    if bits.u(1) and bits.u(8) == 255:  # sample aspect ratio
        bits.u(32)
    if bits.u(1):
        bits.u(1)  # overscan
    assert bits.u(1) == 1  # video signal type
    bits.u(3)
    facts["full_range"] = bits.u(1)
    assert bits.u(1) == 1  # colour description
    facts |= {"primaries": bits.u(8), "transfer": bits.u(8), "matrix": bits.u(8)}
    if bits.u(1):  # chroma location
        bits.ue(), bits.ue()
    if bits.u(1):  # timing
        facts |= {"num_units": bits.u(32), "time_scale": bits.u(32), "fixed_rate": bits.u(1)}
    assert (bits.u(1), bits.u(1)) == (0, 0)  # no HRD
    bits.u(1)
    assert bits.u(1) == 1  # bitstream restriction
    bits.u(1)
    [bits.ue() for _ in range(4)]
    return facts | {"max_num_reorder_frames": bits.ue(), "max_dec_frame_buffering": bits.ue()}
