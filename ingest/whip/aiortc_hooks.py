"""Everything that touches private names of aiortc and aioice, and nothing else does.

Both were read at the versions in `TESTED`; `verify()` names each thing that is relied upon and raises if one is
gone, and a test fails on any other version, so that an upgrade is a decision. What is hooked, always on one
object and never on a class or module:

- a receiver's jitter buffer, NACK generator and RTCP handler: encoded frames come to us instead of a decoder
  thread (that thread exists, but never gets work);
- a DTLS transport's handler of RTP data: the transport-wide packet numbers, which aiortc does not know;
- an ICE connection's gathering (addresses and port range of ours) and its receive queue (bounded);
- an ICE transport's way to its connection, so that an ICE restart can put another one in its place.
"""

from __future__ import annotations

import asyncio
import inspect
import random
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, cast

from aioice.candidate import Candidate as IceCandidate
from aioice.candidate import candidate_foundation, candidate_priority
from aioice.ice import Connection, ConnectionClosed, StunProtocol
from aiortc import RTCPeerConnection, RTCRtpReceiver
from aiortc import rtcrtpreceiver as receiver_module
from aiortc.rtcdtlstransport import RTCDtlsTransport
from aiortc.rtcicetransport import RTCIceTransport
from aiortc.rtp import RtcpSrPacket, RtpPacket

from ingest.whip.feedback import extension
from ingest.whip.rtp import Nacks, Piece, h264_starts_key, vp8_starts_key
from ingest.whip.sdp import MAX_CANDIDATES, Candidate
from media.errors import ProtocolError
from media.track import Codec

TESTED = {"aiortc": "1.16.0", "aioice": "0.13.0"}

QUEUE_PACKETS = 4_096
"""Datagrams between socket and DTLS: a second of 40 Mb/s. Beyond it the newest are dropped and counted."""
SOCKET_BUFFER_BYTES = 1 << 20
BIND_TRIES = 64
"""Ports tried in the range before giving up; each is drawn at random."""


class DropQueue(asyncio.Queue[Any]):
    """A queue that drops what does not fit: anybody can send to an open UDP port. None (the end) always fits."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self._size = size
        self.dropped = 0

    def put_nowait(self, item: Any) -> None:
        if item is not None and self.qsize() >= self._size:
            self.dropped += 1
            return
        super().put_nowait(item)


class _JitterTap:
    """In the place of aiortc's JitterBuffer: hands every packet on, and keeps none."""

    capacity = 0

    def __init__(self, codec: Codec, on_piece: Callable[[int, Piece], None]) -> None:
        self._codec = codec
        self._on_piece = on_piece

    def add(self, packet: RtpPacket) -> tuple[bool, None]:
        data: bytes = packet._data  # type: ignore[attr-defined]
        starts_key = False
        if self._codec is Codec.H264:
            starts_key = h264_starts_key(packet.payload)
        elif self._codec is Codec.VP8:
            starts_key = vp8_starts_key(packet.payload, data)
        piece = Piece(packet.sequence_number, packet.timestamp, bool(packet.marker), data, starts_key)
        self._on_piece(packet.ssrc, piece)
        return False, None


class _NackTap:
    """In the place of aiortc's NackGenerator, which asks once only: asks again until the packet is there."""

    def __init__(self, nacks: Nacks, now_us: Callable[[], int]) -> None:
        self._nacks = nacks
        self._now_us = now_us
        self.missing: set[int] = set()

    def add(self, packet: RtpPacket) -> bool:
        self.missing = self._nacks.due(packet.sequence_number, self._now_us())
        return bool(self.missing)


@dataclass(frozen=True, slots=True)
class Tap:
    """Where a receiver's packets and reports go. All are called on the event loop and must not raise."""

    on_piece: Callable[[int, Piece], None]
    """`(ssrc, piece)`, in the order of arrival."""
    on_report: Callable[[int, int], None]
    """`(ntp, rtp timestamp)` of each sender report."""
    nacks: Nacks
    now_us: Callable[[], int]


def tap_receiver(receiver: RTCRtpReceiver, codec: Codec, tap: Tap) -> None:
    """Take encoded packets from this receiver. Before the transport is connected."""
    private: Any = receiver
    private._RTCRtpReceiver__jitter_buffer = _JitterTap(codec, tap.on_piece)
    if private._RTCRtpReceiver__nack_generator is not None:
        private._RTCRtpReceiver__nack_generator = _NackTap(tap.nacks, tap.now_us)
    original = receiver._handle_rtcp_packet

    async def handle_rtcp(packet: Any) -> None:
        if isinstance(packet, RtcpSrPacket):
            tap.on_report(packet.sender_info.ntp_timestamp, packet.sender_info.rtp_timestamp)
        await original(packet)

    private._handle_rtcp_packet = handle_rtcp


async def request_keyframe(receiver: RTCRtpReceiver, ssrc: int) -> None:
    """Send a Picture Loss Indication (RFC 4585 6.3.1) for this SSRC."""
    await receiver._send_rtcp_pli(ssrc)


def tap_transport(
    pc: RTCPeerConnection, number: int, seen: Callable[[int, int], None], now_us: Callable[[], int]
) -> None:
    """Call `seen(transport-wide number, arrival)` for each RTP packet with header extension `number`."""
    dtls: Any = pc.getTransceivers()[0].receiver.transport
    original = dtls._handle_rtp_data

    async def handle(data: bytes, arrival_time_ms: int) -> None:
        value = extension(data, number)
        if value is not None:
            seen(value, now_us())
        await original(data, arrival_time_ms=arrival_time_ms)

    dtls._handle_rtp_data = handle


def own_ssrc(pc: RTCPeerConnection) -> int:
    """The SSRC that our RTCP comes from."""
    return int(pc.getTransceivers()[0].sender._ssrc)


async def send_rtcp(pc: RTCPeerConnection, packet: bytes) -> None:
    """Send an RTCP packet; nothing happens where the transport does not stand."""
    try:
        await pc.getTransceivers()[0].receiver.transport._send_rtp(packet)
    except ConnectionError:
        return


@dataclass(frozen=True, slots=True)
class Sockets:
    """Which addresses and ports an ICE connection binds, and by which addresses peers are told to find it."""

    addresses: tuple[str, ...]
    """IP addresses of this machine; empty for all but loopback."""
    public_addresses: tuple[str, ...]
    """Addresses in front of a 1:1 NAT that stand for them in candidates; empty to show the real ones."""
    port_min: int
    """0 for any port that the system gives."""
    port_max: int


class IcePath:
    """The way of one peer connection to the network. Owns the ICE connection in use, and one being restarted."""

    def __init__(self, pc: RTCPeerConnection, sockets: Sockets) -> None:
        self._sockets = sockets
        self._dtls: RTCDtlsTransport = pc.getTransceivers()[0].receiver.transport
        self._transport = cast(Any, self._dtls.transport)
        self._current: Connection = self._transport._connection
        self._prepare(self._current)
        self._pending: Connection | None = None
        self._transport._recv = self._recv
        self._transport._send = self._send
        self._transport._monitor = self._monitor
        self._closed = False
        self.restarts = 0

    @property
    def dropped_datagrams(self) -> int:
        queue = self._current._queue
        return queue.dropped if isinstance(queue, DropQueue) else 0

    @property
    def dtls_state(self) -> str:
        return self._dtls.state

    @property
    def ice_state(self) -> str:
        return str(self._transport.state)

    def candidates(self) -> tuple[Candidate, ...]:
        """Local candidates of the newest connection, as peers shall see them."""
        connection = self._pending or self._current
        shown: dict[tuple[str, int], Candidate] = {}
        for local in connection.local_candidates:
            for address in _shown(local.host, self._sockets.public_addresses):
                foundation = candidate_foundation("host", "udp", address)
                shown[address, local.port] = Candidate(foundation, local.priority, address, local.port, "host")
        return tuple(shown.values())

    async def add_remote(self, candidates: Sequence[Candidate]) -> None:
        """Candidates of the peer, for the newest connection; those beyond `MAX_CANDIDATES` are left out, since each is
        a pair that is kept and checked."""
        connection = self._pending or self._current
        room = max(0, MAX_CANDIDATES - len(connection.remote_candidates))
        for candidate in candidates[:room]:
            await connection.add_remote_candidate(IceCandidate.from_sdp(candidate.line()))

    async def restart(self, ufrag: str, password: str) -> tuple[str, str]:
        """Begin an ICE restart: a second connection with sockets of its own. Answers our new ufrag and password.
        The old one goes on carrying media until `finish_restart()`. Not twice at once. Raises `ProtocolError`."""
        if self._pending is not None:
            await self._pending.close()
        connection = Connection(ice_controlling=False, components=1)
        self._prepare(connection)
        connection.remote_username, connection.remote_password = ufrag, password
        await connection.gather_candidates()
        if self._closed:
            await connection.close()
            raise ProtocolError("The session has ended meanwhile.", slug="no_restart")
        self._pending = connection
        return connection.local_username, connection.local_password

    async def finish_restart(self) -> bool:
        """Wait for the new connection and move to it. False if it failed; then everything stays as it was.
        Without an end: the caller bounds the time and cancels."""
        connection = self._pending
        if connection is None:
            return False
        moved = False
        try:
            await connection.connect()
            moved = self._pending is connection and not self._closed
        except ConnectionError:
            return False
        finally:
            if self._pending is connection:
                self._pending = None
            if moved:
                old, self._current = self._current, connection
                self._transport._connection = connection
                self.restarts += 1
            else:
                old = connection
            await old.close()
        return moved

    async def close(self) -> None:
        """Close a connection that is being restarted; the one in use is closed with its peer connection."""
        self._closed = True
        if self._pending is not None:
            pending, self._pending = self._pending, None
            await pending.close()

    def _prepare(self, connection: Any) -> None:
        connection._queue = DropQueue(QUEUE_PACKETS)

        async def gather(component: int, addresses: list[str], timeout: int = 5) -> list[IceCandidate]:
            return await _bind(connection, component, self._sockets, addresses)

        connection.get_component_candidates = gather

    async def _recv(self) -> bytes:
        while True:
            connection = self._current
            try:
                return await connection.recv()
            except ConnectionError:
                if connection is self._current:
                    raise

    async def _send(self, data: bytes) -> None:
        await self._current.send(data)

    async def _monitor(self) -> None:
        """As RTCIceTransport._monitor, but the end of a connection that was replaced is no failure."""
        while True:
            connection = self._current
            event = await connection.get_event()
            if connection is not self._current:
                continue
            if event is None or isinstance(event, ConnectionClosed):
                if self._transport.state == "completed":
                    self._transport._RTCIceTransport__setState("failed")
                return


def _shown(address: str, public: Sequence[str]) -> Sequence[str]:
    """The public addresses of the same family, or the address itself."""
    return [other for other in public if (":" in other) == (":" in address)] or [address]


async def _bind(connection: Any, component: int, sockets: Sockets, found: list[str]) -> list[IceCandidate]:
    """Open one UDP socket on each address, in the port range, and make a host candidate of each."""
    addresses = list(sockets.addresses) or found or ["127.0.0.1"]
    candidates: list[IceCandidate] = []
    for address in addresses:
        protocol = await _open(connection, address, sockets)
        if protocol is None:
            continue
        host, port = protocol.transport.get_extra_info("sockname")[:2]
        protocol.local_candidate = IceCandidate(
            foundation=candidate_foundation("host", "udp", host),
            component=component,
            transport="udp",
            priority=candidate_priority(component, "host"),
            host=host,
            port=port,
            type="host",
        )
        connection._protocols.append(protocol)
        candidates.append(protocol.local_candidate)
    return candidates


async def _open(connection: Connection, address: str, sockets: Sockets) -> StunProtocol | None:
    loop = asyncio.get_running_loop()
    for port in _ports(sockets.port_min, sockets.port_max):
        try:
            _, protocol = await loop.create_datagram_endpoint(
                lambda: StunProtocol(connection), local_addr=(address, port)
            )
        except OSError:
            continue
        raw = protocol.transport.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BUFFER_BYTES)
        return protocol
    return None


def _ports(low: int, high: int) -> Sequence[int]:
    if not low:
        return [0]
    ports = range(low, high + 1)
    return random.sample(ports, min(BIND_TRIES, len(ports)))


_NEEDED: tuple[tuple[Any, str], ...] = (
    (RTCRtpReceiver, "_handle_rtcp_packet"),
    (RTCRtpReceiver, "_handle_rtp_packet"),
    (RTCRtpReceiver, "_send_rtcp_pli"),
    (RTCDtlsTransport, "_handle_rtp_data"),
    (RTCIceTransport, "_monitor"),
    (RTCIceTransport, "_RTCIceTransport__setState"),
    (Connection, "get_component_candidates"),
    (Connection, "gather_candidates"),
    (Connection, "add_remote_candidate"),
    (Connection, "get_event"),
    (Connection, "recv"),
    (Connection, "send"),
    (receiver_module, "JitterBuffer"),
    (receiver_module, "NackGenerator"),
)
_SOURCES: tuple[tuple[Any, str], ...] = (
    (RTCRtpReceiver.__init__, "self.__jitter_buffer ="),
    (RTCRtpReceiver.__init__, "self.__nack_generator ="),
    (RTCRtpReceiver._handle_rtp_packet, "self.__nack_generator.add(packet)"),
    (RTCRtpReceiver._handle_rtp_packet, "sorted(self.__nack_generator.missing)"),
    (RTCRtpReceiver._handle_rtp_packet, "packet._data = depayload(codec, packet.payload)"),
    (RTCRtpReceiver._handle_rtp_packet, "pli_flag, encoded_frame = self.__jitter_buffer.add(packet)"),
    (RTCIceTransport.__init__, "self._recv = self._connection.recv"),
    (RTCIceTransport.__init__, "self._send = self._connection.send"),
    (RTCIceTransport.start, "self._monitor()"),
    (RTCIceTransport.stop, "self._connection.close()"),
    (RTCDtlsTransport._recv_next, "self.transport._recv()"),
    (RTCDtlsTransport._recv_next, "self._handle_rtp_data(data, arrival_time_ms=arrival_time_ms)"),
    (RTCDtlsTransport._send_rtp, "self.transport._send(data)"),
    (Connection.gather_candidates, "self.get_component_candidates(component=component, addresses=addresses)"),
    (Connection.recvfrom, "self._queue.get()"),
    (Connection.data_received, "self._queue.put_nowait("),
    (Connection.get_component_candidates, "self._protocols += host_protocols"),
)


def verify() -> list[str]:
    """What is no longer there of all that this file relies upon; empty if it can work."""
    missing = [f"{owner.__name__}.{name}" for owner, name in _NEEDED if not hasattr(owner, name)]
    for function, text in _SOURCES:
        if text not in inspect.getsource(function):
            missing.append(f"{function.__qualname__}: {text}")
    return missing


def versions() -> dict[str, str]:
    """The versions that are installed."""
    return {name: version(name) for name in TESTED}
