"""The sequence header of AV1 (AV1 specification 5.5)."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from media.codecs.bits import Bits
from media.codecs.vui import Colour, check_size, plausible
from media.errors import ProtocolError

_SELECT = 2


@dataclass(frozen=True, slots=True)
class SequenceHeader:
    """What a sequence header says, as far as a live server asks."""

    profile: int
    level: int
    """seq_level_idx of the first operating point: 5 is level 3.1."""
    high_tier: bool
    width: int
    """max_frame_width."""
    height: int
    bit_depth: int
    monochrome: bool
    subsampling: tuple[bool, bool]
    chroma_position: int
    colour: Colour
    still: bool
    """reduced_still_picture_header."""
    frame_rate: Fraction | None


def parse_sequence_header(payload: bytes) -> SequenceHeader:
    """Read the payload of a sequence header OBU. Raises `ProtocolError`."""
    bits = Bits(payload)
    profile = bits.u(3)
    if profile > 2:
        raise ProtocolError("The AV1 sequence header names a profile that does not exist.", slug="bad_av1_sequence")
    bits.skip(1)
    still = bits.flag()
    frame_rate: Fraction | None = None
    if still:
        level, high_tier = bits.u(5), False
    else:
        level, high_tier, frame_rate = _read_operating_points(bits)
    width_bits, height_bits = bits.u(4) + 1, bits.u(4) + 1
    width, height = bits.u(width_bits) + 1, bits.u(height_bits) + 1
    check_size(width, height)
    if not still and bits.flag():
        bits.skip(7)  # lengths of frame ids
    bits.skip(3)
    if not still:
        _skip_tools(bits)
    bits.skip(3)
    depth, monochrome, subsampling, position, colour = _read_colour(bits, profile)
    return SequenceHeader(
        profile=profile,
        level=level,
        high_tier=high_tier,
        width=width,
        height=height,
        bit_depth=depth,
        monochrome=monochrome,
        subsampling=subsampling,
        chroma_position=position,
        colour=colour,
        still=still,
        frame_rate=frame_rate,
    )


def _read_operating_points(bits: Bits) -> tuple[int, bool, Fraction | None]:
    frame_rate: Fraction | None = None
    delay_bits = 0
    if bits.flag():  # timing_info
        units, scale = bits.u(32), bits.u(32)
        if bits.flag():
            ticks = bits.ue() + 1
            frame_rate = plausible(Fraction(scale, units * ticks)) if units and scale else None
        if bits.flag():  # decoder_model_info
            delay_bits = bits.u(5) + 1
            bits.skip(32 + 5 + 5)
    display_delay = bits.flag()
    first: tuple[int, bool] = (0, False)
    for index in range(bits.u(5) + 1):
        bits.skip(12)
        level = bits.u(5)
        high_tier = level > 7 and bits.flag()
        if delay_bits and bits.flag():
            bits.skip(2 * delay_bits + 1)
        if display_delay and bits.flag():
            bits.skip(4)
        if index == 0:
            first = (level, high_tier)
    return (*first, frame_rate)


def _skip_tools(bits: Bits) -> None:
    bits.skip(4)
    order_hint = bits.flag()
    if order_hint:
        bits.skip(2)
    screen_content = _SELECT if bits.flag() else bits.u(1)
    if screen_content and not bits.flag():
        bits.skip(1)
    if order_hint:
        bits.skip(3)


def _read_colour(bits: Bits, profile: int) -> tuple[int, bool, tuple[bool, bool], int, Colour]:
    """color_config (5.5.2): bit depth, monochrome, subsampling, chroma sample position, colour."""
    depth = 10 if bits.flag() else 8
    if profile == 2 and depth == 10 and bits.flag():
        depth = 12
    monochrome = profile != 1 and bits.flag()
    primaries, transfer, matrix = (bits.u(8), bits.u(8), bits.u(8)) if bits.flag() else (2, 2, 2)
    position = 0
    if monochrome:
        full_range, subsampling = bits.flag(), (True, True)
    elif (primaries, transfer, matrix) == (1, 13, 0):
        full_range, subsampling = True, (False, False)
    else:
        full_range = bits.flag()
        if profile == 2 and depth == 12:
            across = bits.flag()
            subsampling = (across, across and bits.flag())
        else:
            subsampling = ((True, True), (False, False), (True, False))[profile]
        if subsampling == (True, True):
            position = bits.u(2)
    return depth, monochrome, subsampling, position, Colour(primaries, transfer, matrix, full_range)
