"""AAC: AudioSpecificConfig (ISO/IEC 14496-3 1.6.2.1) and ADTS frames (1.A.2.2). No LATM."""

from __future__ import annotations

from dataclasses import dataclass

from media.codecs.bits import Bits
from media.errors import ProtocolError

RATES = (96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000, 7_350)
"""By samplingFrequencyIndex (table 1.18)."""
SLOWEST_RATE = 4_000
"""The escape value names any rate in Hz; below, one frame would last for longer than a quarter of a second."""
_CHANNELS = (0, 1, 2, 3, 4, 5, 6, 8, 0, 0, 0, 7, 8, 24, 8)
"""By channelConfiguration (table 1.19); 0 where a program_config_element tells, or reserved."""

AAC_LC = 2
SBR = 5
PS = 29
_GENERAL = (1, 2, 3, 4, 6, 7, 17, 19, 20, 21, 22, 23)
"""Object types that carry a GASpecificConfig."""
_PLAIN = (1, 2, 4)
"""Main, LC and LTP, whose syntax is the same for silence."""
_ELEMENTS = {
    1: ("sce",),
    2: ("cpe",),
    3: ("sce", "cpe"),
    4: ("sce", "cpe", "sce"),
    5: ("sce", "cpe", "cpe"),
    6: ("sce", "cpe", "cpe", "lfe"),
    7: ("sce", "cpe", "cpe", "cpe", "lfe"),
}
"""Syntactic elements by channelConfiguration (table 1.19)."""
_STREAM = "00000000{info}000"
"""An individual_channel_stream without a spectrum: global_gain, ics_info, no pulse, TNS or gain control."""
_INFO = 11 * "0"
"""An ics_info: one long window, no scale factor band, no prediction."""
_SILENCE = {
    "sce": "000{tag:04b}" + _STREAM.format(info=_INFO),
    "cpe": "001{tag:04b}1" + _INFO + "00" + 2 * _STREAM.format(info=""),
    "lfe": "011{tag:04b}" + _STREAM.format(info=_INFO),
}
"""In bits: single_channel_element, channel_pair_element with a common window, lfe_channel_element."""
ADTS_SYNC = 0xFFF0
"""The first 16 bits of a frame under `ADTS_MASK`: syncword and layer."""
ADTS_MASK = 0xFFF6


@dataclass(frozen=True, slots=True)
class AacConfig:
    """An AudioSpecificConfig."""

    object_type: int
    """2 for AAC-LC, also underneath HE-AAC."""
    sample_rate: int
    """Of the core coder: `frame_length` counts in it. With SBR the output has `output_rate`."""
    channels: int
    """Of the output: 2 with parametric stereo."""
    frame_length: int = 1024
    sbr: bool = False
    """Spectral band replication is signalled explicitly."""
    ps: bool = False
    output_rate: int = 0
    """Sample rate of the output; equal to `sample_rate` without explicit SBR."""


def _read_type(bits: Bits) -> int:
    kind = bits.u(5)
    return 32 + bits.u(6) if kind == 31 else kind


def _read_rate(bits: Bits) -> int:
    index = bits.u(4)
    rate = bits.u(24) if index == 15 else RATES[index] if index < len(RATES) else 0
    if not SLOWEST_RATE <= rate <= 192_000:
        raise ProtocolError("The AAC configuration names a sample rate that does not exist.", slug="bad_asc")
    return rate


def parse_asc(config: bytes) -> AacConfig:
    """Read an AudioSpecificConfig. Raises `ProtocolError`."""
    bits = Bits(config)
    kind = _read_type(bits)
    rate = _read_rate(bits)
    layout = bits.u(4)
    output_rate, sbr, ps = rate, kind in (SBR, PS), kind == PS
    if sbr:  # hierarchical signalling
        output_rate = _read_rate(bits)
        kind = _read_type(bits)
    if kind not in _GENERAL:
        raise ProtocolError(f"AAC object type {kind} is not supported.", slug="bad_asc")
    frame_length = 960 if bits.flag() else 1024
    if bits.flag():
        bits.skip(14)
    extension = bits.flag()
    channels = _CHANNELS[layout] if layout < len(_CHANNELS) else 0
    if layout == 0:
        channels = _read_program_config(bits)
    if not channels:
        raise ProtocolError("The AAC configuration names no channels.", slug="bad_asc")
    if kind in (6, 20):
        bits.skip(3)
    if extension:
        bits.skip({22: 17, 17: 4, 19: 4, 20: 4, 23: 4}.get(kind, 1))
    if not sbr and bits.left >= 16 and bits.u(11) == 0x2B7 and _read_type(bits) == SBR and bits.flag():
        sbr = True  # backward compatible signalling
        output_rate = _read_rate(bits)
        ps = bits.left >= 12 and bits.u(11) == 0x548 and bits.flag()
    return AacConfig(kind, rate, 2 if ps and channels == 1 else channels, frame_length, sbr, ps, output_rate)


def _read_program_config(bits: Bits) -> int:
    """Channels of a program_config_element (ISO/IEC 14496-3 4.4.1.1)."""
    bits.skip(4 + 2 + 4)
    front, side, back, low, data, coupling = bits.u(4), bits.u(4), bits.u(4), bits.u(2), bits.u(3), bits.u(4)
    for size in (4, 4, 3):  # mono, stereo and matrix mixdown
        if bits.flag():
            bits.skip(size)
    channels = low
    for _ in range(front + side + back):
        channels += 2 if bits.flag() else 1
        bits.skip(4)
    bits.skip(4 * (low + data) + 5 * coupling)
    bits.align()
    bits.skip(8 * bits.u(8))
    return channels


def build_asc(config: AacConfig) -> bytes:
    """An AudioSpecificConfig with hierarchical signalling of SBR, for layouts of table 1.19. Raises `ProtocolError`."""
    channels = 1 if config.ps and config.channels == 2 else config.channels
    if channels not in _CHANNELS[1:8] and channels != 7:
        raise ProtocolError(f"No AAC channel layout has {channels} channels.", slug="bad_asc")
    layout = 11 if channels == 7 else _CHANNELS.index(channels, 1)
    fields: list[tuple[int, int]] = []

    def add_type(kind: int) -> None:
        fields.extend([(31, 5), (kind - 32, 6)] if kind > 31 else [(kind, 5)])

    def add_rate(rate: int) -> None:
        fields.extend([(RATES.index(rate), 4)] if rate in RATES else [(15, 4), (rate, 24)])

    add_type(PS if config.ps else SBR if config.sbr else config.object_type)
    add_rate(config.sample_rate)
    fields.append((layout, 4))
    if config.sbr or config.ps:
        add_rate(config.output_rate or 2 * config.sample_rate)
        add_type(config.object_type)
    fields += [(config.frame_length == 960, 1), (0, 2)]
    value = length = 0
    for field, size in fields:
        value, length = value << size | field, length + size
    padding = -length % 8
    return (value << padding).to_bytes((length + padding) // 8, "big")


def silent_frame(config: bytes) -> bytes:
    """A raw_data_block (ISO/IEC 14496-3 4.4.2) of silence; empty for a coder or a layout that it is not known of.
    Raises `ProtocolError`."""
    if parse_asc(config).object_type not in _PLAIN:
        return b""
    bits = Bits(config)
    _read_type(bits)
    _read_rate(bits)
    text, tags = "", {"sce": 0, "cpe": 0, "lfe": 0}
    for element in _ELEMENTS.get(bits.u(4), ()):
        text += _SILENCE[element].format(tag=tags[element])
        tags[element] += 1
    if not text:
        return b""
    text += "111"  # ID_END
    text += "0" * (-len(text) % 8)
    return int(text, 2).to_bytes(len(text) // 8, "big")


def codec_string(config: bytes) -> str:
    """`mp4a.40.2`, `mp4a.40.5` or `mp4a.40.29` (RFC 6381 3.3) from an AudioSpecificConfig."""
    asc = parse_asc(config)
    return f"mp4a.40.{PS if asc.ps else SBR if asc.sbr else asc.object_type}"


def read_adts(data: bytes) -> tuple[bytes, list[bytes], bytes]:
    """ADTS frames at the beginning of `data`: AudioSpecificConfig (empty without a frame), frames, what is left.

    Stops where a frame is not whole, where its configuration differs from the first one's, and where no frame
    begins: what is left can be read anew, with more data behind it. Raises `ProtocolError` where no frame begins at
    the very start, or one of several raw data blocks, whose borders only a decoder can see.
    """
    config = b""
    frames: list[bytes] = []
    position, end = 0, len(data)
    head = 0
    while end - position >= 7:
        if int.from_bytes(data[position : position + 2], "big") & ADTS_MASK != ADTS_SYNC:
            if frames:
                break
            raise ProtocolError("No ADTS frame begins here.", slug="bad_adts")
        # From `profile` to `channel_configuration`, without the private bit.
        fields = int.from_bytes(data[position + 2 : position + 4], "big") & 0xFDC0
        size = int.from_bytes(data[position + 3 : position + 6], "big") >> 5 & 0x1FFF
        start = 7 if data[position + 1] & 1 else 9
        if frames and fields != head:
            break
        if size <= start or data[position + 6] & 3:
            if frames:
                break
            raise ProtocolError("An ADTS frame has no or several data blocks.", slug="bad_adts")
        if not frames:
            head = fields
            config = _config_of(fields)
        if position + size > end:
            break
        frames.append(data[position + start : position + size])
        position += size
    return (config if frames else b""), frames, data[position:]


def _config_of(fields: int) -> bytes:
    kind, index, layout = (fields >> 14) + 1, fields >> 10 & 15, fields >> 6 & 7
    if index >= len(RATES) or not layout:
        raise ProtocolError("The ADTS header names no known sample rate or channel layout.", slug="bad_adts")
    return bytes((kind << 3 | index >> 1, (index & 1) << 7 | layout << 3))


def split_adts(data: bytes) -> tuple[bytes, list[bytes]]:
    """(AudioSpecificConfig, raw_data_blocks) of whole ADTS frames. Raises `ProtocolError`."""
    config, frames, rest = read_adts(data)
    if rest or not frames:
        raise ProtocolError("The data is not a whole number of like ADTS frames.", slug="bad_adts")
    return config, frames
