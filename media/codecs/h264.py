"""H.264 (Rec. ITU-T H.264): kinds of NAL units, sequence parameter sets, and the avcC record of ISO/IEC 14496-15."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from media.codecs.bits import Bits
from media.codecs.nal import unescape
from media.codecs.vui import Colour, check_size, read_aspect, read_frame_rate, read_signal_type
from media.errors import ProtocolError

SLICE = 1
IDR = 5
SEI = 6
SPS = 7
PPS = 8
AUD = 9
END_OF_SEQUENCE = 10
END_OF_STREAM = 11
FILLER = 12

_WITHOUT_CHROMA_INFO = (66, 77, 88)
_WITH_CHROMA_INFO = (100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135)
"""profile_idc whose SPS carries chroma_format_idc (H.264 7.3.2.1.1)."""


@dataclass(frozen=True, slots=True)
class AvcConfig:
    """AVCDecoderConfigurationRecord (ISO/IEC 14496-15 5.3.3.1)."""

    profile: int
    compatibility: int
    level: int
    length_size: int
    """Bytes of each NAL length in the samples that this record describes."""
    sps: tuple[bytes, ...]
    pps: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Sps:
    """A sequence parameter set, as far as a live server asks."""

    id: int
    profile: int
    compatibility: int
    level: int
    width: int
    """Pixels after cropping."""
    height: int
    interlaced: bool
    """True where pictures may be coded as fields."""
    chroma_format: int
    """0 monochrome, 1 4:2:0, 2 4:2:2, 3 4:4:4."""
    bit_depth: int
    bit_depth_chroma: int
    sample_aspect: Fraction = Fraction(1)
    colour: Colour | None = None
    frame_rate: Fraction | None = None
    max_num_reorder: int | None = None
    """Frames that may precede any frame in decoding order and follow it in output; None where not told."""


def nal_type(unit: bytes) -> int:
    """nal_unit_type; 0 (unspecified) for an empty unit."""
    return unit[0] & 0x1F if unit else 0


def is_idr(units: Iterable[bytes]) -> bool:
    """True where the access unit is an IDR picture."""
    return any(nal_type(unit) == IDR for unit in units)


def is_vcl(unit: bytes) -> bool:
    """True for slices and data partitions."""
    return 1 <= nal_type(unit) <= IDR


def starts_picture(unit: bytes) -> bool:
    """True for a slice with first_mb_in_slice 0: without arbitrary slice order, the first of a picture."""
    return nal_type(unit) in (SLICE, 2, IDR) and len(unit) > 1 and unit[1] & 0x80 != 0


def set_id(unit: bytes) -> int:
    """seq_parameter_set_id of an SPS or pic_parameter_set_id of a PPS."""
    bits = Bits(unescape(unit[:16]))
    bits.skip(32 if nal_type(unit) == SPS else 8)
    value = bits.ue()
    if value > (31 if nal_type(unit) == SPS else 255):
        raise ProtocolError("A parameter set has an id out of range.", slug="bad_parameter_set")
    return value


def parse_avcc(record: bytes) -> AvcConfig:
    """Read a record. Bytes behind the parameter sets are not looked at. Raises `ProtocolError`."""
    if len(record) < 7 or record[0] != 1:
        raise ProtocolError("The H.264 configuration is not an avcC record of version 1.", slug="bad_avcc")
    position = 6
    sps, position = _read_sets(record, position, record[5] & 0x1F)
    if position >= len(record):
        raise ProtocolError("The avcC record ends before its picture parameter sets.", slug="bad_avcc")
    pps, position = _read_sets(record, position + 1, record[position])
    if any(nal_type(unit) != SPS for unit in sps) or any(nal_type(unit) != PPS for unit in pps):
        raise ProtocolError("The avcC record holds something else than parameter sets.", slug="bad_avcc")
    return AvcConfig(record[1], record[2], record[3], (record[4] & 3) + 1, sps, pps)


def _read_sets(record: bytes, position: int, count: int) -> tuple[tuple[bytes, ...], int]:
    units: list[bytes] = []
    for _ in range(count):
        start = position + 2
        position = start + int.from_bytes(record[position:start], "big")
        if start > len(record) or position > len(record):
            raise ProtocolError("A parameter set is longer than the avcC record.", slug="bad_avcc")
        units.append(record[start:position])
    return tuple(units), position


def build_avcc(sps: Sequence[bytes], pps: Sequence[bytes]) -> bytes:
    """A record for samples with 4-byte lengths. The first SPS names the profile. Raises `ProtocolError`."""
    if not 1 <= len(sps) <= 31 or not 1 <= len(pps) <= 255 or any(len(u) > 0xFFFF for u in (*sps, *pps)):
        raise ProtocolError("An avcC record needs 1 to 31 SPS and 1 to 255 PPS.", slug="bad_avcc")
    first = parse_sps(sps[0])
    parts = [bytes((1, first.profile, first.compatibility, first.level, 0xFF, 0xE0 | len(sps)))]
    parts += [len(unit).to_bytes(2, "big") + unit for unit in sps]
    parts.append(bytes((len(pps),)))
    parts += [len(unit).to_bytes(2, "big") + unit for unit in pps]
    if first.profile not in _WITHOUT_CHROMA_INFO:
        depths = (0xF8 | (first.bit_depth - 8), 0xF8 | (first.bit_depth_chroma - 8))
        parts.append(bytes((0xFC | first.chroma_format, *depths, 0)))
    return b"".join(parts)


def codec_string(record: bytes) -> str:
    """`avc1.PPCCLL` (RFC 6381 3.3) from an avcC record."""
    if len(record) < 4 or record[0] != 1:
        raise ProtocolError("The H.264 configuration is not an avcC record of version 1.", slug="bad_avcc")
    return f"avc1.{record[1:4].hex()}"


def parse_sps(unit: bytes) -> Sps:
    """Read a sequence parameter set (H.264 7.3.2.1.1). Raises `ProtocolError`."""
    if nal_type(unit) != SPS:
        raise ProtocolError("This is not a sequence parameter set.", slug="bad_sps")
    bits = Bits(unescape(unit))
    bits.skip(8)
    profile, compatibility, level, ident = bits.u(8), bits.u(8), bits.u(8), bits.ue()
    chroma, depth, depth_chroma, planes = 1, 8, 8, False
    if profile in _WITH_CHROMA_INFO:
        chroma = bits.ue()
        planes = chroma == 3 and bits.flag()
        depth, depth_chroma = 8 + bits.ue(), 8 + bits.ue()
        bits.skip(1)
        if chroma > 3 or max(depth, depth_chroma) > 14:
            raise ProtocolError("The SPS names a sample format that does not exist.", slug="bad_sps")
        if bits.flag():
            for index in range(8 if chroma != 3 else 12):
                if bits.flag():
                    _skip_scaling_list(bits, 16 if index < 6 else 64)
    bits.ue()  # log2_max_frame_num_minus4
    match bits.ue():  # pic_order_cnt_type
        case 0:
            bits.ue()
        case 1:
            bits.skip(1)
            bits.se()
            bits.se()
            for _ in range(min(bits.ue(), 256)):
                bits.se()
    bits.ue()  # max_num_ref_frames
    bits.skip(1)
    mbs_wide, map_units_high = bits.ue() + 1, bits.ue() + 1
    frames_only = bits.flag()
    if not frames_only:
        bits.skip(1)
    bits.skip(1)
    # Units of cropping: H.264 (7-19) to (7-22).
    array = 0 if planes else chroma
    unit_x = 2 if array in (1, 2) else 1
    unit_y = (2 if array == 1 else 1) * (1 if frames_only else 2)
    left, right, top, bottom = (bits.ue(), bits.ue(), bits.ue(), bits.ue()) if bits.flag() else (0, 0, 0, 0)
    width = 16 * mbs_wide - unit_x * (left + right)
    height = 16 * map_units_high * (1 if frames_only else 2) - unit_y * (top + bottom)
    check_size(width, height)
    vui = _read_vui(bits) if bits.flag() else _Vui()
    return Sps(
        id=ident,
        profile=profile,
        compatibility=compatibility,
        level=level,
        width=width,
        height=height,
        interlaced=not frames_only,
        chroma_format=chroma,
        bit_depth=depth,
        bit_depth_chroma=depth_chroma,
        sample_aspect=vui.sample_aspect,
        colour=vui.colour,
        frame_rate=vui.frame_rate,
        max_num_reorder=vui.max_num_reorder,
    )


def _skip_scaling_list(bits: Bits, size: int) -> None:
    last = following = 8
    for _ in range(size):
        if following:
            following = (last + bits.se()) & 0xFF
        last = following or last


@dataclass(slots=True)
class _Vui:
    sample_aspect: Fraction = Fraction(1)
    colour: Colour | None = None
    frame_rate: Fraction | None = None
    max_num_reorder: int | None = None


def _read_vui(bits: Bits) -> _Vui:
    """VUI parameters (H.264 E.1.1). Encoders exist whose VUI is cut short: what stands before the cut counts."""
    vui = _Vui()
    try:
        if bits.flag():
            vui.sample_aspect = read_aspect(bits)
        if bits.flag():
            bits.skip(1)  # overscan
        if bits.flag():
            vui.colour = read_signal_type(bits)
        if bits.flag():
            bits.ue()  # chroma sample location
            bits.ue()
        if bits.flag():
            vui.frame_rate = read_frame_rate(bits, 2)
            bits.skip(1)
        hrds = 0
        for _ in ("nal", "vcl"):
            if bits.flag():
                hrds += 1
                _skip_hrd(bits)
        bits.skip(2 if hrds else 1)
        if bits.flag():
            bits.skip(1)
            for _ in range(4):
                bits.ue()
            reorder = bits.ue()
            vui.max_num_reorder = reorder if reorder <= 16 else None
    except ProtocolError:
        return vui
    return vui


def _skip_hrd(bits: Bits) -> None:
    count = bits.ue() + 1
    if count > 32:
        raise ProtocolError("The SPS describes more than 32 buffers.", slug="bad_sps")
    bits.skip(8)
    for _ in range(count):
        bits.ue()
        bits.ue()
        bits.skip(1)
    bits.skip(20)
