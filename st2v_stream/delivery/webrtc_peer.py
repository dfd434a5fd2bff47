"""One WebRTC connection: packets of a playback go out as they are, stamped with the time they are sent. Needs aiortc.

What is special about aiortc 1.16 here, each measured: codec preferences count only on a transceiver made before the remote
description is set (after, VP8 is announced and H.264 sent: black, without an error); without a configuration it asks a
public STUN server; a lost picture reaches the sender as `_send_keyframe()`, which for packets does nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
from aiortc import RTCConfiguration, RTCIceServer, RTCPeerConnection, RTCRtpSender, RTCSessionDescription
from aiortc.codecs import CODECS
from aiortc.exceptions import OperationError
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack
from aiortc.rtcrtpparameters import RTCRtcpFeedback, RTCRtpCodecParameters

from st2v_stream.delivery.webrtc_offer import Offer, first_video_codec
from st2v_stream.delivery.webrtc_playback import LoopClock, Seat
from st2v_stream.errors import InvalidRequest
from st2v_stream.media.boxes import TIMESCALE
from st2v_stream.media.segment import Profile

CLOSE_S = 5.0
_STAMP_STEP = TIMESCALE // 1000
"""Least distance of two stamps: frames of a replay leave together."""

_LEVEL_IDS: dict[Profile, tuple[str, ...]] = {
    "baseline": ("42e01f", "42001f"),  # the first is the one Safari knows, too
    "high": ("640c1f", "64001f", "42e01f", "42001f"),  # where High is not offered, Chromium decodes it under any name
}


@dataclass(frozen=True, slots=True)
class IceSettings:
    """How connections find each other. addresses: of this machine, to be offered; empty = all but loopback."""

    servers: tuple[str, ...] = ()
    username: str | None = None
    credential: str | None = None
    addresses: tuple[str, ...] = ()


class PacketTrack(MediaStreamTrack):  # type: ignore[misc]
    """Hands aiortc what a seat gets; aiortc packs packets (anything that is no frame) without an encoder."""

    kind = "video"

    def __init__(self, seat: Seat) -> None:
        super().__init__()
        self._seat = seat
        self._clock = LoopClock()
        self._stamp = 0

    async def recv(self) -> Any:
        """The next packet, when it is due. Its stamp is the time of sending: a pause of the model is a pause, not a delay."""
        frame = await self._seat.next()
        if frame is None:
            raise MediaStreamError
        self._stamp = max(int(self._clock.now() * TIMESCALE), self._stamp + _STAMP_STEP)
        packet = av.Packet(frame)
        packet.pts, packet.time_base = self._stamp, Fraction(1, TIMESCALE)
        return packet


class Peer:
    """One viewer's connection. `connected` and `gone` are events."""

    def __init__(self, seat: Seat, ice: IceSettings) -> None:
        servers = [RTCIceServer(url, ice.username, ice.credential) for url in ice.servers]
        self.connected = asyncio.Event()
        self.gone = asyncio.Event()
        self._ice = ice
        self._track = PacketTrack(seat)
        self._connection = RTCPeerConnection(RTCConfiguration(iceServers=servers))
        self._connection.on("connectionstatechange", self._on_state)
        self._transceiver = self._connection.addTransceiver(self._track, direction="sendonly")
        self._transceiver.sender._send_keyframe = seat.replay  # aiortc calls it for PLI and FIR

    async def answer(self, offer: Offer, profile: Profile) -> str | None:
        """The SDP answer; None when the viewer and this film have no codec in common. Raises `InvalidRequest`."""
        self._transceiver.setCodecPreferences(_preferences(profile))
        try:
            await self._connection.setRemoteDescription(RTCSessionDescription(offer.sdp, "offer"))
        except OperationError:  # raised where the codecs of a section have nothing in common
            return None
        except Exception as error:  # aiortc asserts, indexes and unpacks its way through what strangers send
            raise InvalidRequest("this offer is not usable", expected="a WebRTC offer", received=repr(error)) from error
        self._choose_addresses()
        await self._connection.setLocalDescription()
        sdp: str = self._connection.localDescription.sdp
        return sdp if first_video_codec(sdp) == "H264" else None

    async def aclose(self) -> None:
        """Say goodbye, free sockets and tasks. Raises `TimeoutError` when that took too long.

        The sockets are closed all the same: as long as they answer, the viewer believes that the film goes on.
        """
        self._track.stop()
        try:
            async with asyncio.timeout(CLOSE_S):
                await self._connection.close()
        except TimeoutError:
            async with asyncio.timeout(CLOSE_S):
                await asyncio.gather(*(ice.close() for ice in self._ice_connections()))
            raise

    def _on_state(self) -> None:
        state = self._connection.connectionState
        if state == "connected":
            self.connected.set()
        elif state in ("failed", "closed"):
            self.gone.set()

    def _choose_addresses(self) -> None:
        """aioice has no setting for which of this machine's addresses it uses (and never uses loopback)."""
        if self._ice.addresses:
            for ice in self._ice_connections():
                _use_addresses(ice, self._ice.addresses)

    def _ice_connections(self) -> list[Any]:
        """aioice's; aiortc has no name for them."""
        return [each.sender.transport.transport.iceGatherer._connection for each in self._connection.getTransceivers()]


def _use_addresses(connection: Any, chosen: Sequence[str]) -> None:
    gather = type(connection).get_component_candidates

    async def gather_chosen(component: int, addresses: list[str]) -> Any:
        return await gather(connection, component, list(chosen))

    connection.get_component_candidates = gather_chosen


def _preferences(profile: Profile) -> list[Any]:
    """H.264 in the profiles that fit, best first, and retransmission."""
    _announce_high_profile()
    known = RTCRtpSender.getCapabilities("video").codecs
    wanted = [
        codec for level_id in _LEVEL_IDS[profile] for codec in known if codec.parameters.get("profile-level-id") == level_id
    ]
    return wanted + [codec for codec in known if codec.mimeType == "video/rtx"]


def _announce_high_profile() -> None:
    """aiortc's table of codecs names Baseline only, because that is what it encodes; we send what is encoded already."""
    present = {codec.parameters.get("profile-level-id") for codec in CODECS["video"]}
    for level_id in _LEVEL_IDS["high"]:
        if level_id not in present:
            CODECS["video"] += _codec_and_retransmission(level_id, 1 + max(codec.payloadType for codec in CODECS["video"]))


def _codec_and_retransmission(level_id: str, payload_type: int) -> list[Any]:
    parameters = {"level-asymmetry-allowed": "1", "packetization-mode": "1", "profile-level-id": level_id}
    feedback = [RTCRtcpFeedback("nack"), RTCRtcpFeedback("nack", "pli")]
    return [
        RTCRtpCodecParameters("video/H264", TIMESCALE, payloadType=payload_type, rtcpFeedback=feedback, parameters=parameters),
        RTCRtpCodecParameters("video/rtx", TIMESCALE, payloadType=payload_type + 1, parameters={"apt": payload_type}),
    ]
