"""Closed captions within the pictures: whether an access unit carries CEA-608 or CEA-708 (ANSI/SCTE 128-1 8.1,
ATSC A/53 part 4, 6.2.3). Their text is not read: players do that.

They are user data registered by ITU-T T.35, in an SEI message of H.264 and HEVC, in a metadata OBU of AV1.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum

from media.codecs import av1, h264, hevc
from media.codecs.nal import unescape
from media.errors import ProtocolError
from media.track import Codec

_USER_DATA_T35 = 4
"""payloadType (H.264 D.1) and metadata_type (AV1 6.7.1) alike."""
_GA94 = b"\xb5\x00\x31GA94\x03"
"""United States, ATSC, its identifier, and user_data_type_code: cc_data."""
_METADATA = 5
MAX_SEI_BYTES = 16_384
"""No SEI message with captions comes near: 31 triples are 93 bytes."""


class Captions(Enum):
    """What a player asks for to show them: INSTREAM-ID of RFC 8216bis 4.4.6.1."""

    CEA608 = "CC1"
    CEA708 = "SERVICE1"


def captions(codec: Codec, unit: bytes) -> Captions | None:
    """Which captions the access unit carries, both counting as CEA-608, which every player knows; None for none, and
    where it cannot be read. `unit` as in `Packet.data`. What stands behind the first slice is not looked at."""
    found = {kind for message in _messages(codec, unit) for kind in _kinds(message)}
    return next((kind for kind in Captions if kind in found), None)


def _kinds(message: bytes) -> Iterator[Captions]:
    """Of one T.35 message: cc_data as in CTA-708 4.4."""
    body = message[len(_GA94) :]
    if not message.startswith(_GA94) or len(body) < 2 or not body[0] & 0x40:  # process_cc_data_flag
        return
    for at in range(2, min(2 + 3 * (body[0] & 0x1F), len(body) - 2), 3):
        if body[at] & 0x04:  # cc_valid
            yield Captions.CEA708 if body[at] & 0x02 else Captions.CEA608


def _messages(codec: Codec, unit: bytes) -> Iterator[bytes]:
    """T.35 messages in front of the picture."""
    if codec is Codec.AV1:
        try:
            for obu in av1.iterate(unit):
                if obu.kind in (av1.FRAME, av1.FRAME_HEADER):
                    return
                if obu.kind == _METADATA and obu.payload[:1] == bytes((_USER_DATA_T35,)):
                    yield obu.payload[1:]
        except ProtocolError:
            return
    elif codec in (Codec.H264, Codec.HEVC):
        for nal in _before_slices(codec, unit):
            yield from _sei(unescape(nal[1 if codec is Codec.H264 else 2 :]))


def _before_slices(codec: Codec, unit: bytes) -> Iterator[bytes]:
    """SEI units in front of the first slice, which is not copied."""
    at = 0
    while at + 4 < len(unit):
        size = int.from_bytes(unit[at : at + 4], "big")
        head = unit[at + 4 : at + 5]
        at += 4
        if codec is Codec.H264:
            kind, wanted, slices = h264.nal_type(head), h264.SEI, range(h264.SLICE, h264.IDR + 1)
        else:
            kind, wanted, slices = hevc.nal_type(head), hevc.SEI_PREFIX, range(32)
        if kind in slices:
            return
        if kind == wanted and size <= MAX_SEI_BYTES:
            yield unit[at : at + size]
        at += size


def _sei(body: bytes) -> Iterator[bytes]:
    """T.35 messages of one SEI unit without its header (H.264 7.3.2.3, HEVC 7.3.5)."""
    at = 0
    while at + 2 < len(body):
        kind, at = _number(body, at)
        size, at = _number(body, at)
        if kind == _USER_DATA_T35:
            yield body[at : at + size]
        at += size


def _number(body: bytes, at: int) -> tuple[int, int]:
    """A number written as bytes of 255 and one less, and where it ends."""
    value = 0
    while at < len(body) and body[at] == 255:
        value, at = value + 255, at + 1
    return value + (body[at] if at < len(body) else 0), at + 1
