"""Opus: the OpusHead header (RFC 7845 5.1), the dOps box, and the duration of a packet (RFC 6716 3.1)."""

from __future__ import annotations

from dataclasses import dataclass

from media.errors import ProtocolError

MAGIC = b"OpusHead"
CLOCK_HZ = 48_000
MAX_PACKET_SAMPLES = 5_760
"""120 ms at 48 kHz (RFC 6716 3.4, R5)."""

_SILENT = 255
"""In a channel mapping: this channel is silence (RFC 7845 5.1.1)."""
_SILK = (480, 960, 1920, 2880)
_HYBRID = (480, 960)
_CELT = (120, 240, 480, 960)


@dataclass(frozen=True, slots=True)
class OpusHead:
    """The identification header."""

    channels: int
    pre_skip: int = 312
    """Samples at 48 kHz to throw away at the start."""
    input_rate: int = CLOCK_HZ
    """Sample rate of the source, for information; Opus is always clocked at 48 kHz."""
    gain: int = 0
    """Q7.8 dB."""
    family: int = 0
    streams: int = 1
    coupled: int = 1
    mapping: bytes = b""
    """One byte for each channel, empty with family 0."""


def parse_head(data: bytes) -> OpusHead:
    """Read a header with its magic. Raises `ProtocolError`."""
    if len(data) < 19 or data[:8] != MAGIC or data[8] & 0xF0:
        raise ProtocolError("The Opus configuration is not an OpusHead of version 1.", slug="bad_opus_head")
    channels, family = data[9], data[18]
    if not channels or (family == 0 and channels > 2):
        raise ProtocolError("The OpusHead names an impossible number of channels.", slug="bad_opus_head")
    streams, coupled, mapping = 1, channels - 1, b""
    if family:
        if len(data) < 21 + channels:
            raise ProtocolError("The OpusHead ends before its channel mapping.", slug="bad_opus_head")
        streams, coupled, mapping = data[19], data[20], data[21 : 21 + channels]
        if not streams or coupled > streams or streams + coupled > 255:
            raise ProtocolError("The OpusHead names an impossible number of streams.", slug="bad_opus_head")
        if any(place >= streams + coupled and place != _SILENT for place in mapping):
            raise ProtocolError("The OpusHead maps a channel to a stream that is not there.", slug="bad_opus_head")
    return OpusHead(
        channels=channels,
        pre_skip=int.from_bytes(data[10:12], "little"),
        input_rate=int.from_bytes(data[12:16], "little"),
        gain=int.from_bytes(data[16:18], "little", signed=True),
        family=family,
        streams=streams,
        coupled=coupled,
        mapping=mapping,
    )


def build_head(head: OpusHead) -> bytes:
    """The header with its magic, little-endian as in Ogg."""
    fixed = MAGIC + bytes((1, head.channels)) + head.pre_skip.to_bytes(2, "little")
    fixed += head.input_rate.to_bytes(4, "little") + head.gain.to_bytes(2, "little", signed=True)
    return fixed + bytes((head.family,)) + _mapping(head)


def to_dops(head: OpusHead | bytes) -> bytes:
    """Payload of the dOps box (Opus in ISOBMFF 4.3.2): version 0, and big-endian. Raises `ProtocolError`."""
    if isinstance(head, bytes):
        head = parse_head(head)
    fixed = bytes((0, head.channels)) + head.pre_skip.to_bytes(2, "big")
    fixed += head.input_rate.to_bytes(4, "big") + head.gain.to_bytes(2, "big", signed=True)
    return fixed + bytes((head.family,)) + _mapping(head)


def _mapping(head: OpusHead) -> bytes:
    return bytes((head.streams, head.coupled)) + head.mapping if head.family else b""


def packet_duration(packet: bytes) -> int:
    """Samples at 48 kHz in a packet, told by its first bytes. Raises `ProtocolError`."""
    if not packet:
        raise ProtocolError("An Opus packet is empty.", slug="bad_opus")
    config, code = packet[0] >> 3, packet[0] & 3
    if config < 12:
        frame = _SILK[config & 3]
    elif config < 16:
        frame = _HYBRID[config & 1]
    else:
        frame = _CELT[config & 3]
    if code == 3 and len(packet) < 2:
        raise ProtocolError("An Opus packet ends before its frame count.", slug="bad_opus")
    count = packet[1] & 63 if code == 3 else min(code, 1) + 1
    if not 0 < count * frame <= MAX_PACKET_SAMPLES:
        raise ProtocolError("An Opus packet has no frames, or more than 120 ms of them.", slug="bad_opus")
    return count * frame


def lost_frame(packet: bytes, config: bytes) -> bytes:
    """A packet that stands for one lost frame of the kind in `packet`: a TOC byte and no data, which decoders conceal
    (RFC 6716 3.1 and 2.1.7). Empty for several streams, whose packets are framed otherwise. Raises `ProtocolError`."""
    if not packet or (config and parse_head(config).streams > 1):
        return b""
    return bytes((packet[0] & 0xFC,))


def codec_string(_config: bytes = b"") -> str:
    """`opus`, as in the dOps sample entry and in HLS."""
    return "opus"
