"""AV1: OBUs in the low-overhead format, and the av1C record of the ISOBMFF binding. `av1_sequence` reads headers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from media.codecs.av1_sequence import SequenceHeader, parse_sequence_header
from media.codecs.bits import Bits
from media.errors import ProtocolError

SEQUENCE_HEADER = 1
TEMPORAL_DELIMITER = 2
FRAME_HEADER = 3
FRAME = 6
PADDING = 15

MAX_OBUS = 4096
"""OBUs of one temporal unit: a frame may have 4096 tiles (A.3), which encoders put into one OBU or a few."""

_KEY_FRAME = 0
_UNSPECIFIED = 2

__all__ = ["Av1Config", "Obu", "SequenceHeader", "build_av1c", "codec_string", "parse_av1c", "parse_sequence_header"]


@dataclass(frozen=True, slots=True)
class Obu:
    """One open bitstream unit (AV1 specification 5.3)."""

    kind: int
    extension: int | None
    """The extension byte (temporal and spatial layer), where there is one."""
    payload: bytes

    def __bytes__(self) -> bytes:
        """The unit with a size field."""
        head = bytes((self.kind << 3 | (0 if self.extension is None else 4) | 2,))
        if self.extension is not None:
            head += bytes((self.extension,))
        return head + _leb128(len(self.payload)) + self.payload


@dataclass(frozen=True, slots=True)
class Av1Config:
    """AV1CodecConfigurationRecord (AV1 in ISOBMFF 2.3)."""

    profile: int
    level: int
    """seq_level_idx_0: 5 is level 3.1."""
    high_tier: bool
    bit_depth: int
    monochrome: bool
    subsampling: tuple[bool, bool]
    chroma_position: int
    sequence: SequenceHeader | None
    obus: bytes
    """configOBUs: the sequence header first, where the record holds any."""


def _leb128(value: int) -> bytes:
    parts = bytearray()
    while True:
        parts.append(value & 0x7F | (0x80 if value > 0x7F else 0))
        value >>= 7
        if not value:
            return bytes(parts)


def iterate(data: bytes) -> Iterator[Obu]:
    """The OBUs of a temporal unit; the last may lack its size field. Raises `ProtocolError`."""
    position, end, left = 0, len(data), MAX_OBUS
    while position < end:
        left -= 1
        if left < 0:
            raise ProtocolError("A temporal unit has more OBUs than any real one.", slug="too_many_units")
        head = data[position]
        if head & 0x80:
            raise ProtocolError("An OBU begins with the forbidden bit.", slug="bad_obu")
        position += 1
        extension = None
        if head & 4:
            if position >= end:
                raise ProtocolError("An OBU ends within its header.", slug="bad_obu")
            extension = data[position]
            position += 1
        size = end - position
        if head & 2:
            size = 0
            for index in range(8):
                if position >= end:
                    raise ProtocolError("An OBU ends within its size.", slug="bad_obu")
                byte = data[position]
                position += 1
                size |= (byte & 0x7F) << (7 * index)
                if not byte & 0x80:
                    break
            else:
                raise ProtocolError("The size of an OBU has more than eight bytes.", slug="bad_obu")
        if position + size > end:
            raise ProtocolError("An OBU is longer than the temporal unit that holds it.", slug="bad_obu")
        yield Obu(head >> 3 & 15, extension, data[position : position + size])
        position += size


def clean(unit: bytes) -> bytes:
    """The temporal unit as ISOBMFF wants it (2.4): no temporal delimiters, no padding, each OBU with its size."""
    return b"".join(bytes(obu) for obu in iterate(unit) if obu.kind not in (TEMPORAL_DELIMITER, PADDING))


def has_frame(unit: bytes) -> bool:
    """True where the temporal unit holds a picture, or shows one again."""
    return any(obu.kind in (FRAME, FRAME_HEADER) for obu in iterate(unit))


def is_keyframe(unit: bytes) -> bool:
    """True for a temporal unit with a sequence header whose first frame is a key frame that is shown."""
    reduced: bool | None = None
    for obu in iterate(unit):
        if obu.kind == SEQUENCE_HEADER:
            reduced = len(obu.payload) > 0 and bool(obu.payload[0] & 0x08)
        elif obu.kind in (FRAME, FRAME_HEADER):
            if reduced is None:
                return False
            if reduced:
                return True
            bits = Bits(obu.payload)
            return not bits.flag() and bits.u(2) == _KEY_FRAME and bits.flag()
    return False


def sequence_obu(unit: bytes) -> Obu | None:
    """The first sequence header OBU of a temporal unit."""
    return next((obu for obu in iterate(unit) if obu.kind == SEQUENCE_HEADER), None)


def parse_av1c(record: bytes) -> Av1Config:
    """Read a record. Raises `ProtocolError`."""
    if len(record) < 4 or record[0] != 0x81:
        raise ProtocolError("The AV1 configuration is not an av1C record of version 1.", slug="bad_av1c")
    profile, level, flags = record[1] >> 5, record[1] & 31, record[2]
    depth = (12 if flags & 0x20 else 10) if flags & 0x40 else 8
    header = sequence_obu(record[4:])
    return Av1Config(
        profile=profile,
        level=level,
        high_tier=bool(flags & 0x80),
        bit_depth=depth,
        monochrome=bool(flags & 0x10),
        subsampling=(bool(flags & 8), bool(flags & 4)),
        chroma_position=flags & 3,
        sequence=parse_sequence_header(header.payload) if header else None,
        obus=record[4:],
    )


def build_av1c(sequence: Obu) -> bytes:
    """A record that holds this sequence header. Raises `ProtocolError`."""
    head = parse_sequence_header(sequence.payload)
    flags = head.high_tier << 7 | (head.bit_depth > 8) << 6 | (head.bit_depth == 12) << 5 | head.monochrome << 4
    flags |= head.subsampling[0] << 3 | head.subsampling[1] << 2 | head.chroma_position
    return bytes((0x81, head.profile << 5 | head.level, flags, 0)) + bytes(sequence)


def codec_string(record: bytes) -> str:
    """`av01.0.05M.08`, or the long form where a default of AV1 in ISOBMFF section 5 does not hold."""
    config = parse_av1c(record)
    short = f"av01.{config.profile}.{config.level:02}{'H' if config.high_tier else 'M'}.{config.bit_depth:02}"
    colour = config.sequence.colour if config.sequence else None
    codes = (colour.primaries, colour.transfer, colour.matrix) if colour else (1, 1, 1)
    # "Unspecified" is left to the player's default, which is BT.709, as encoders mean it.
    points = tuple(1 if code == _UNSPECIFIED else code for code in codes)
    full_range = colour is not None and colour.full_range
    if points == (1, 1, 1) and not full_range and not config.monochrome and config.subsampling == (True, True):
        return short
    across, down = config.subsampling
    position = config.chroma_position if across and down else 0
    chroma = f"{across:d}{down:d}{position}"
    return f"{short}.{config.monochrome:d}.{chroma}.{points[0]:02}.{points[1]:02}.{points[2]:02}.{full_range:d}"
