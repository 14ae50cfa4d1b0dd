"""HEVC (Rec. ITU-T H.265): kinds of NAL units, and the hvcC record of ISO/IEC 14496-15. `hevc_sps` reads the SPS."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from media.codecs.bits import Bits
from media.codecs.hevc_sps import ProfileTierLevel, Sps, parse_sps
from media.codecs.nal import unescape
from media.errors import ProtocolError

RASL_N, RASL_R = 8, 9
BLA_W_LP, BLA_W_RADL, BLA_N_LP = 16, 17, 18
IDR_W_RADL, IDR_N_LP = 19, 20
CRA = 21
VPS = 32
SPS = 33
PPS = 34
AUD = 35
END_OF_SEQUENCE = 36
END_OF_STREAM = 37
FILLER = 38
SEI_PREFIX, SEI_SUFFIX = 39, 40

__all__ = ["HevcConfig", "ProfileTierLevel", "Sps", "build_hvcc", "codec_string", "parse_hvcc", "parse_sps"]


@dataclass(frozen=True, slots=True)
class HevcConfig:
    """HEVCDecoderConfigurationRecord (ISO/IEC 14496-15 8.3.3.1)."""

    ptl: ProfileTierLevel
    chroma_format: int
    bit_depth: int
    length_size: int
    """Bytes of each NAL length in the samples that this record describes."""
    vps: tuple[bytes, ...]
    sps: tuple[bytes, ...]
    pps: tuple[bytes, ...]


def nal_type(unit: bytes) -> int:
    """nal_unit_type; 48 (unspecified) for an empty unit."""
    return (unit[0] >> 1) & 0x3F if unit else 48


def layer_id(unit: bytes) -> int:
    """nuh_layer_id: 0 for the picture that every decoder shows."""
    return (unit[0] & 1) << 5 | unit[1] >> 3 if len(unit) > 1 else 0


def is_vcl(unit: bytes) -> bool:
    """True for slice segments."""
    return nal_type(unit) < 32


def is_irap(units: Iterable[bytes]) -> bool:
    """True where decoding may start here, though leading pictures that follow may not be decodable."""
    return any(BLA_W_LP <= nal_type(unit) <= 23 for unit in units)


def is_idr(units: Iterable[bytes]) -> bool:
    """True where decoding may start here and every picture that follows can be decoded.

    IDR and those BLA pictures that have no RASL pictures. A CRA may be followed by RASL pictures, which refer to
    pictures before it (H.265 3.122), so a segment must not start at one.
    """
    return any(BLA_W_RADL <= nal_type(unit) <= IDR_N_LP for unit in units)


def is_rasl(units: Iterable[bytes]) -> bool:
    """True for a picture that cannot be decoded when decoding started at the IRAP picture before it."""
    return any(nal_type(unit) in (RASL_N, RASL_R) for unit in units)


def starts_picture(unit: bytes) -> bool:
    """True for a slice segment with first_slice_segment_in_pic_flag, in the base layer."""
    return is_vcl(unit) and len(unit) > 2 and unit[2] & 0x80 != 0 and layer_id(unit) == 0


def set_id(unit: bytes) -> int:
    """Id of a VPS, SPS or PPS."""
    match nal_type(unit):
        case 32:
            value, highest = Bits(unit[2:3]).u(4), 15
        case 33:
            value, highest = parse_sps(unit).id, 15
        case _:
            value, highest = Bits(unescape(unit[2:16])).ue(), 63
    if value > highest:
        raise ProtocolError("A parameter set has an id out of range.", slug="bad_parameter_set")
    return value


def parse_hvcc(record: bytes) -> HevcConfig:
    """Read a record. Sets other than VPS, SPS and PPS are left out. Raises `ProtocolError`."""
    if len(record) < 23 or record[0] > 1:  # ffmpeg before 4.3 wrote version 0 in some paths; the layout is the same
        raise ProtocolError("The HEVC configuration is not an hvcC record of version 1.", slug="bad_hvcc")
    sets: dict[int, list[bytes]] = {VPS: [], SPS: [], PPS: []}
    position = 23
    for _ in range(record[22]):
        if position + 3 > len(record):
            raise ProtocolError("The hvcC record ends in the middle of an array.", slug="bad_hvcc")
        kind = record[position] & 0x3F
        count = int.from_bytes(record[position + 1 : position + 3], "big")
        position += 3
        for _ in range(count):
            start = position + 2
            position = start + int.from_bytes(record[position:start], "big")
            if start > len(record) or position > len(record):
                raise ProtocolError("A parameter set is longer than the hvcC record.", slug="bad_hvcc")
            unit = record[start:position]
            if kind not in sets or layer_id(unit):
                continue
            if nal_type(unit) != kind:
                raise ProtocolError("The hvcC record holds a set of another kind than it says.", slug="bad_hvcc")
            sets[kind].append(unit)
    ptl = ProfileTierLevel(
        space=record[1] >> 6,
        high_tier=bool(record[1] & 0x20),
        profile=record[1] & 0x1F,
        compatibility=int.from_bytes(record[2:6], "big"),
        constraints=int.from_bytes(record[6:12], "big"),
        level=record[12],
    )
    return HevcConfig(
        ptl,
        chroma_format=record[16] & 3,
        bit_depth=8 + (record[17] & 7),
        length_size=(record[21] & 3) + 1,
        vps=tuple(sets[VPS]),
        sps=tuple(sets[SPS]),
        pps=tuple(sets[PPS]),
    )


def build_hvcc(vps: Sequence[bytes], sps: Sequence[bytes], pps: Sequence[bytes]) -> bytes:
    """A record for samples with 4-byte lengths. The first SPS names the profile. Raises `ProtocolError`."""
    if not (1 <= len(vps) <= 16 and 1 <= len(sps) <= 16 and 1 <= len(pps) <= 64):
        raise ProtocolError("An hvcC record needs a VPS, an SPS and a PPS.", slug="bad_hvcc")
    if any(len(unit) > 0xFFFF for unit in (*vps, *sps, *pps)):
        raise ProtocolError("A parameter set is longer than an hvcC record can hold.", slug="bad_hvcc")
    first = parse_sps(sps[0])
    ptl = first.ptl
    head = bytes((1, ptl.space << 6 | ptl.high_tier << 5 | ptl.profile))
    head += ptl.compatibility.to_bytes(4, "big") + ptl.constraints.to_bytes(6, "big") + bytes((ptl.level,))
    head += (0xF000 | first.min_spatial_segmentation).to_bytes(2, "big")
    head += bytes((0xFC, 0xFC | first.chroma_format, 0xF8 | (first.bit_depth - 8), 0xF8 | (first.bit_depth_chroma - 8)))
    head += bytes(2)  # avgFrameRate: not told
    head += bytes((first.temporal_layers << 3 | first.temporal_nested << 2 | 3, 3))
    arrays: list[bytes] = []
    for kind, units in ((VPS, vps), (SPS, sps), (PPS, pps)):
        arrays.append(bytes((0x80 | kind,)) + len(units).to_bytes(2, "big"))
        arrays += [len(unit).to_bytes(2, "big") + unit for unit in units]
    return head + b"".join(arrays)


def codec_string(record: bytes) -> str:
    """`hvc1.1.6.L93.B0` (ISO/IEC 14496-15 Annex E.3) from an hvcC record."""
    ptl = parse_hvcc(record).ptl
    compatibility = int(f"{ptl.compatibility:032b}"[::-1], 2)
    constraints = ptl.constraints.to_bytes(6, "big").rstrip(b"\0")
    parts = [
        "hvc1",
        ("", "A", "B", "C")[ptl.space] + str(ptl.profile),
        f"{compatibility:X}",
        ("H" if ptl.high_tier else "L") + str(ptl.level),
        *(f"{byte:X}" for byte in constraints),
    ]
    return ".".join(parts)
