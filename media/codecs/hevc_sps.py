"""The sequence parameter set of HEVC (Rec. ITU-T H.265 7.3.2.2), as far as a live server asks."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from media.codecs.bits import Bits
from media.codecs.nal import unescape
from media.codecs.vui import Colour, check_size, read_aspect, read_frame_rate, read_signal_type
from media.errors import ProtocolError

_SPS_TYPE = 33
_MAX_SHORT_TERM_SETS = 64
_MAX_PICTURES = 16


@dataclass(frozen=True, slots=True)
class ProfileTierLevel:
    """The general part of profile_tier_level (H.265 7.3.3)."""

    space: int
    high_tier: bool
    profile: int
    compatibility: int
    """32 flags, that of profile 0 the most significant bit."""
    constraints: int
    """48 bits, from general_progressive_source_flag on."""
    level: int
    """30 times the level's number: 93 is level 3.1."""


@dataclass(frozen=True, slots=True)
class Sps:
    """A sequence parameter set."""

    id: int
    ptl: ProfileTierLevel
    width: int
    """Pixels after the conformance window."""
    height: int
    chroma_format: int
    """0 monochrome, 1 4:2:0, 2 4:2:2, 3 4:4:4."""
    bit_depth: int
    bit_depth_chroma: int
    temporal_layers: int
    temporal_nested: bool
    max_num_reorder: int
    """Pictures that may precede any picture in decoding order and follow it in output."""
    interlaced: bool = False
    """True where each picture is a field."""
    sample_aspect: Fraction = Fraction(1)
    colour: Colour | None = None
    frame_rate: Fraction | None = None
    min_spatial_segmentation: int = 0


@dataclass(slots=True)
class _Vui:
    interlaced: bool = False
    sample_aspect: Fraction = Fraction(1)
    colour: Colour | None = None
    frame_rate: Fraction | None = None
    min_spatial_segmentation: int = 0


def parse_sps(unit: bytes) -> Sps:
    """Read a sequence parameter set of the base layer. Raises `ProtocolError`."""
    if len(unit) < 3 or (unit[0] >> 1) & 0x3F != _SPS_TYPE:
        raise ProtocolError("This is not a sequence parameter set of HEVC.", slug="bad_sps")
    bits = Bits(unescape(unit))
    bits.skip(16 + 4)
    sub_layers = bits.u(3)
    nested = bits.flag()
    if sub_layers > 6:
        raise ProtocolError("The SPS has more than seven temporal layers.", slug="bad_sps")
    ptl = _read_profile(bits, sub_layers)
    ident, chroma = bits.ue(), bits.ue()
    planes = chroma == 3 and bits.flag()
    width, height = bits.ue(), bits.ue()
    if bits.flag():
        unit_x = 2 if chroma in (1, 2) and not planes else 1
        unit_y = 2 if chroma == 1 and not planes else 1
        width -= unit_x * (bits.ue() + bits.ue())
        height -= unit_y * (bits.ue() + bits.ue())
    check_size(width, height)
    depth, depth_chroma = 8 + bits.ue(), 8 + bits.ue()
    if ident > 15 or chroma > 3 or max(depth, depth_chroma) > 15:
        raise ProtocolError("The SPS names a sample format that does not exist.", slug="bad_sps")
    poc_bits = 4 + bits.ue()
    reorder = 0
    for _ in range(sub_layers + 1 if bits.flag() else 1):
        bits.ue()
        reorder = bits.ue()
        bits.ue()
    for _ in range(6):  # sizes of coding and transform blocks
        bits.ue()
    if bits.flag() and bits.flag():
        _skip_scaling_lists(bits)
    bits.skip(2)
    if bits.flag():  # pcm
        bits.skip(8)
        bits.ue()
        bits.ue()
        bits.skip(1)
    _skip_short_term_sets(bits)
    if bits.flag():
        for _ in range(min(bits.ue(), 33)):
            bits.skip(poc_bits + 1)
    bits.skip(2)
    vui = _read_vui(bits, sub_layers) if bits.flag() else _Vui()
    return Sps(
        id=ident,
        ptl=ptl,
        width=width,
        height=height,
        chroma_format=chroma,
        bit_depth=depth,
        bit_depth_chroma=depth_chroma,
        temporal_layers=sub_layers + 1,
        temporal_nested=nested,
        max_num_reorder=reorder,
        interlaced=vui.interlaced,
        sample_aspect=vui.sample_aspect,
        colour=vui.colour,
        frame_rate=vui.frame_rate,
        min_spatial_segmentation=vui.min_spatial_segmentation,
    )


def _read_profile(bits: Bits, sub_layers: int) -> ProfileTierLevel:
    ptl = ProfileTierLevel(bits.u(2), bits.flag(), bits.u(5), bits.u(32), bits.u(48), bits.u(8))
    present = [(bits.flag(), bits.flag()) for _ in range(sub_layers)]
    if sub_layers:
        bits.skip(2 * (8 - sub_layers))
    for profile, level in present:
        bits.skip(88 * profile + 8 * level)
    return ptl


def _skip_scaling_lists(bits: Bits) -> None:
    """scaling_list_data (H.265 7.3.4)."""
    for size in range(4):
        for _ in range(0, 6, 3 if size == 3 else 1):
            if not bits.flag():
                bits.ue()
                continue
            if size > 1:
                bits.se()
            for _ in range(min(64, 1 << (4 + (size << 1)))):
                bits.se()


def _skip_short_term_sets(bits: Bits) -> None:
    """The st_ref_pic_sets of an SPS (H.265 7.3.7): how long each is depends on the one before."""
    count = bits.ue()
    if count > _MAX_SHORT_TERM_SETS:
        raise ProtocolError("The SPS has more than 64 reference picture sets.", slug="bad_sps")
    pictures = 0
    for index in range(count):
        if index and bits.flag():
            bits.skip(1)
            bits.ue()
            kept = 0
            for _ in range(pictures + 1):
                used = bits.flag()
                kept += used or bits.flag()
            pictures = kept
        else:
            pictures = 0
            for number in (bits.ue(), bits.ue()):
                pictures += number
            if pictures > _MAX_PICTURES:
                raise ProtocolError("A reference picture set names more than 16 pictures.", slug="bad_sps")
            for _ in range(pictures):
                bits.ue()
                bits.skip(1)


def _read_vui(bits: Bits, sub_layers: int) -> _Vui:
    """VUI parameters (H.265 E.2.1). What stands before a cut counts, as for H.264."""
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
        bits.skip(1)
        vui.interlaced = bits.flag()
        bits.skip(1)
        if bits.flag():  # default display window: no player obeys it, and neither does libav
            for _ in range(4):
                bits.ue()
        if bits.flag():
            vui.frame_rate = read_frame_rate(bits, 1)
            if bits.flag():
                bits.ue()
            if bits.flag():
                _skip_hrd(bits, sub_layers)
        if bits.flag():
            bits.skip(3)
            segmentation = bits.ue()
            vui.min_spatial_segmentation = segmentation if segmentation < 4096 else 0
    except ProtocolError:
        return vui
    return vui


def _skip_hrd(bits: Bits, sub_layers: int) -> None:
    """hrd_parameters with commonInfPresentFlag (H.265 E.2.2)."""
    nal, vcl = bits.flag(), bits.flag()
    sub_pictures = False
    if nal or vcl:
        sub_pictures = bits.flag()
        bits.skip(19 if sub_pictures else 0)
        bits.skip(8)
        bits.skip(4 if sub_pictures else 0)
        bits.skip(15)
    for _ in range(sub_layers + 1):
        fixed_general = bits.flag()
        fixed = fixed_general or bits.flag()
        low_delay = False
        if fixed:
            bits.ue()
        else:
            low_delay = bits.flag()
        count = 1 if low_delay else bits.ue() + 1
        if count > 32:
            raise ProtocolError("The SPS describes more than 32 buffers.", slug="bad_sps")
        for _ in range(count * (nal + vcl)):
            for _ in range(4 if sub_pictures else 2):
                bits.ue()
            bits.skip(1)
