"""What H.264, HEVC and AV1 say in common of a picture: colour, and the shape of its samples."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from media.codecs.bits import Bits
from media.errors import ProtocolError

FASTEST = 300
"""Frames per second beyond which a stated rate is none: encoders with variable rates state the tick of their clock
(90000, 1000), and a fixed rate that is faster no encoder makes live."""

MAX_SIDE = 16_384
"""Pixels; larger pictures are beyond every level that exists."""

_ASPECTS = (
    *((1, 1), (12, 11), (10, 11), (16, 11), (40, 33), (24, 11), (20, 11), (32, 11), (80, 33)),
    *((18, 11), (15, 11), (64, 33), (160, 99), (4, 3), (3, 2), (2, 1)),
)
_EXTENDED_SAR = 255


@dataclass(frozen=True, slots=True)
class Colour:
    """Code points of ISO/IEC 23091-2 (the same in all three codecs); 2 is `unspecified`."""

    primaries: int
    transfer: int
    matrix: int
    full_range: bool


def read_aspect(bits: Bits) -> Fraction:
    """aspect_ratio_info of a VUI (H.264 Table E-1). Unspecified and reserved shapes count as square."""
    code = bits.u(8)
    if code == _EXTENDED_SAR:
        width, height = bits.u(16), bits.u(16)
        return Fraction(width, height) if width and height else Fraction(1)
    return Fraction(*_ASPECTS[code - 1]) if 1 <= code <= len(_ASPECTS) else Fraction(1)


def read_signal_type(bits: Bits) -> Colour:
    """video_signal_type of a VUI (H.264 E.1.1, HEVC E.2.1)."""
    bits.skip(3)  # video_format
    full_range = bits.flag()
    primaries, transfer, matrix = (bits.u(8), bits.u(8), bits.u(8)) if bits.flag() else (2, 2, 2)
    return Colour(primaries, transfer, matrix, full_range)


def read_frame_rate(bits: Bits, ticks_per_frame: int) -> Fraction | None:
    """num_units_in_tick and time_scale; None where they make no sense."""
    units, scale = bits.u(32), bits.u(32)
    return plausible(Fraction(scale, units * ticks_per_frame)) if units and scale else None


def plausible(rate: Fraction) -> Fraction | None:
    """The rate, or None where it is the tick of a clock instead (H.264 E.2.1 without fixed_frame_rate_flag)."""
    return rate if rate <= FASTEST else None


def check_size(width: int, height: int) -> None:
    """Raise `ProtocolError` for a picture that cannot be."""
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE):
        raise ProtocolError(f"The picture is said to have {width} x {height} pixels.", slug="bad_picture_size")
