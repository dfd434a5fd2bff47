"""What a stranger's SDP may ask for, and what is left of it."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from aiortc.sdp import SessionDescription

from st2v_stream.delivery.webrtc_offer import (
    MAX_CANDIDATES,
    MAX_OFFER_BYTES,
    TooLarge,
    first_video_codec,
    is_believed,
    read_offer,
)
from st2v_stream.errors import InvalidRequest

SECRETS = "a=ice-ufrag:abcd\r\na=ice-pwd:abcdefghijklmnopqrstuvwx\r\na=fingerprint:sha-256 00:11\r\na=setup:actpass\r\n"
H264 = "a=rtpmap:102 H264/90000\r\na=fmtp:102 level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f\r\n"
HIGH = "a=rtpmap:104 H264/90000\r\na=fmtp:104 profile-level-id=640c1f; packetization-mode=1\r\n"
PLAIN = "a=rtpmap:96 VP8/90000\r\n"


def offer(codecs: str = H264, *, formats: str = "102", more: str = "", secrets: str = SECRETS, sections: str = "") -> bytes:
    session = "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\n"
    video = f"m=video 9 UDP/TLS/RTP/SAVPF {formats}\r\nc=IN IP4 0.0.0.0\r\na=recvonly\r\na=mid:0\r\n"
    return (session + video + secrets + codecs + more + sections).encode()


def candidate(host: str, transport: str = "udp") -> str:
    return f"a=candidate:1 1 {transport} 2130706431 {host} 50000 typ host\r\n"


PRIVATE = [
    "10.0.0.1", "172.16.3.4", "192.168.1.7", "127.0.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "255.255.255.255",
    "224.0.1.1", "::1", "fe80::1", "fd00::2", "ff02::1", "::ffff:10.0.0.1", "64:ff9b::a00:1", "2002:a00:1::1",
    "2001:0:a00:1::1", "::10.0.0.1", "6a1d.local", "metadata.example", "localhost", "", "1.2.3.4.5", "0x7f.1",
]  # fmt: skip


@pytest.mark.parametrize("host", PRIVATE)
def test_a_strangers_word_sends_no_packet_into_a_private_network(host: str) -> None:
    assert not is_believed(host)
    read = read_offer(offer(more=candidate(host or "x")))
    assert "a=candidate" not in read.sdp
    assert read.refused_candidates == 1


@pytest.mark.parametrize("host", ["8.8.8.8", "93.184.216.34", "2606:2800:220:1::1"])
def test_public_addresses_are_believed(host: str) -> None:
    read = read_offer(offer(more=candidate(host)))
    assert host in read.sdp
    assert read.refused_candidates == 0


@pytest.mark.parametrize("end", ["\r", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\n", "\r\n"])
def test_what_aiortc_takes_for_a_line_is_read_as_one(end: str) -> None:
    hidden = f"a=x:y{end}{candidate('127.0.0.1')}"
    read = read_offer(offer(more=hidden))
    assert [read.refused_candidates, "127.0.0.1" in read.sdp] == [1, False]
    assert SessionDescription.parse(read.sdp).media[0].ice_candidates == []
    with pytest.raises(InvalidRequest, match="audio at most"):
        read_offer(offer(more=f"a=x:y{end}m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\n"))


def test_a_candidate_that_begins_with_a_blank_is_read_as_aiortc_reads_it() -> None:
    line = candidate("127.0.0.1").replace("candidate:1 1 udp 2130706431", "candidate: 1 1 udp 2130706431")
    read = read_offer(offer(more=line))
    assert [read.refused_candidates, "127.0.0.1" in read.sdp] == [1, False]
    assert "8.8.8.8" in read_offer(offer(more=line.replace("127.0.0.1", "8.8.8.8"))).sdp


def test_configured_networks_are_believed() -> None:
    networks = [ip_network("192.168.1.0/24"), ip_network("fd00::/16")]
    assert is_believed("192.168.1.7", networks)
    assert is_believed("fd00::2", networks)
    assert is_believed("::ffff:192.168.1.7", networks)
    assert not is_believed("192.168.2.7", networks)
    assert not is_believed("printer.local", networks)


def test_candidates_over_tcp_and_the_end_of_candidates_go() -> None:
    read = read_offer(offer(more=candidate("8.8.8.8", "TCP") + candidate("8.8.4.4") + "a=end-of-candidates\r\n"))
    assert "8.8.8.8" not in read.sdp
    assert "8.8.4.4" in read.sdp
    assert "end-of-candidates" not in read.sdp
    assert read.refused_candidates == 1


def test_profiles_are_those_that_may_come_in_pieces() -> None:
    assert read_offer(offer()).h264 == {"baseline"}
    assert read_offer(offer(H264 + HIGH, formats="102 104")).h264 == {"baseline", "high"}
    assert read_offer(offer(PLAIN, formats="96")).h264 == frozenset()
    assert read_offer(offer(H264.replace("packetization-mode=1", "packetization-mode=0"))).h264 == frozenset()
    assert read_offer(offer(H264.replace("42e01f", "4d001f"))).h264 == frozenset()
    assert read_offer(offer(PLAIN + H264, formats="102 96")).codecs == ("H264", "VP8")


def test_the_first_codec_is_that_of_the_first_payload_type() -> None:
    assert first_video_codec(offer(PLAIN + H264, formats="102 96").decode()) == "H264"
    assert first_video_codec(offer(PLAIN + H264, formats="96 102").decode()) == "VP8"
    assert first_video_codec("v=0\r\n") == ""


AUDIO = "m=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=recvonly\r\na=mid:1\r\na=rtpmap:111 opus/48000/2\r\n"


def test_an_audio_section_may_be_there() -> None:
    assert "m=audio" in read_offer(offer(sections=AUDIO)).sdp


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", "v=0"),
        (b"\xff\xfe", "UTF-8"),
        (b'{"sdp": "v=0"}', "v=0"),
        (b"v=0\r\ns=-\r\n", "one video section"),
        (offer(sections=offer().decode().partition("t=0 0\r\n")[2]), "one video section"),
        (offer(sections="m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\n"), "audio at most"),
        (offer(sections=AUDIO * 4), "audio at most"),
        (offer(more="a=sendonly\r\n"), "recvonly"),
        (offer(secrets=""), "ice-ufrag"),
        (offer(secrets="a=ice-ufrag:abcd\r\n"), "ice-pwd"),
        (offer(secrets=SECRETS.replace("fingerprint", "finger")), "fingerprint"),
        (offer(more=candidate("8.8.8.8") * (MAX_CANDIDATES + 1)), "candidates"),
    ],
)
def test_other_texts_are_refused_with_what_was_expected(body: bytes, expected: str) -> None:
    with pytest.raises(InvalidRequest, match=expected):
        read_offer(body)


def test_long_offers_are_refused_unread() -> None:
    with pytest.raises(TooLarge) as refused:
        read_offer(offer(more="a=x\r\n" * (MAX_OFFER_BYTES // 5)))
    assert refused.value.status == 413
