"""Levels: the smallest that a picture size, frame rate and bitrate fit in, so that codec strings promise no less.

H.264 from Rec. ITU-T H.264 Table A-1, HEVC (Main tier) from Rec. ITU-T H.265 Tables A.8 and A.9.
"""

from __future__ import annotations

from fractions import Fraction

from media.track import Codec

_Row = tuple[int, int, int, int]

# (ten times the level, macroblocks per second, macroblocks per frame, kbit/s of Main profile)
_AVC: tuple[_Row, ...] = (
    (30, 40_500, 1_620, 10_000),
    (31, 108_000, 3_600, 14_000),
    (32, 216_000, 5_120, 20_000),
    (40, 245_760, 8_192, 20_000),
    (42, 522_240, 8_704, 50_000),
    (50, 589_824, 22_080, 135_000),
    (51, 983_040, 36_864, 240_000),
    (52, 2_073_600, 36_864, 240_000),
)

# (ten times the level, luma samples per second, luma samples per picture, kbit/s)
_HEVC: tuple[_Row, ...] = (
    (30, 16_588_800, 552_960, 6_000),
    (31, 33_177_600, 983_040, 10_000),
    (40, 66_846_720, 2_228_224, 12_000),
    (41, 133_693_440, 2_228_224, 20_000),
    (50, 267_386_880, 8_912_896, 25_000),
    (51, 534_773_760, 8_912_896, 40_000),
    (52, 1_069_547_520, 8_912_896, 60_000),
)

UNKNOWN_RATE = Fraction(60)
"""Frames per second that a level is picked for where the source does not tell."""


def pick_level(codec: Codec, width: int, height: int, rate: Fraction | None, bitrate: int) -> int:
    """Ten times the level, for example 31; the table's last where nothing is enough. 0 for other codecs."""
    fps = rate or UNKNOWN_RATE
    if codec is Codec.H264:
        size, table = -(-width // 16) * -(-height // 16), _AVC
    elif codec is Codec.HEVC:
        size, table = width * height, _HEVC
    else:
        return 0
    for level, per_second, per_picture, kbits in table:
        if size <= per_picture and size * fps <= per_second and bitrate <= kbits * 1000:
            return level
    return table[-1][0]
