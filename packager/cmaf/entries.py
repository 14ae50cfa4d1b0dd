"""Sample entries: what stsd says of a track's codec (avc1, hvc1, av01, mp4a, Opus)."""

from __future__ import annotations

import struct

from media.codecs import av1, h264, hevc, opus
from media.codecs.vui import Colour
from media.errors import MediaError
from media.track import Codec, Track
from packager.cmaf.boxes import box, descriptor, full

_VISUAL = struct.Struct(">6xH16xHHIIIH32sHh")
_AUDIO = struct.Struct(">6xH8xHHII")
_RESOLUTION = 0x00480000
"""72 dpi as 16.16, which ISO/IEC 14496-12 12.1.3 asks every writer to put here."""


def sample_entry(track: Track) -> bytes:
    """The one entry of the track's stsd. Raises `MediaError` for a codec that CMAF cannot carry."""
    match track.codec:
        case Codec.H264:
            return _visual(b"avc1", track, box(b"avcC", track.config))
        case Codec.HEVC:
            return _visual(b"hvc1", track, box(b"hvcC", track.config))
        case Codec.AV1:
            return _visual(b"av01", track, box(b"av1C", track.config))
        case Codec.AAC:
            return _audio(b"mp4a", track, _esds(track))
        case Codec.OPUS:
            return _audio(b"Opus", track, box(b"dOps", opus.to_dops(track.config)))
        case _:
            raise MediaError(f"{track.codec.value} cannot be packaged as CMAF.", slug="unsupported_codec")


def _visual(kind: bytes, track: Track, config: bytes) -> bytes:
    head = _VISUAL.pack(1, track.width, track.height, _RESOLUTION, _RESOLUTION, 0, 1, b"", 24, -1)
    aspect = track.sample_aspect
    pasp = box(b"pasp", struct.pack(">II", aspect.numerator, aspect.denominator))
    return box(kind, head, config, _colr(colour_of(track)), pasp)


def _colr(colour: Colour | None) -> bytes:
    if colour is None:
        return b""
    values = struct.pack(">HHHB", colour.primaries, colour.transfer, colour.matrix, colour.full_range << 7)
    return box(b"colr", b"nclx", values)


def colour_of(track: Track) -> Colour | None:
    """The colour that the bitstream states; None where it states none. HEVC must have one (APPLE B.2.3)."""
    match track.codec:
        case Codec.H264:
            sets = h264.parse_avcc(track.config).sps
            return h264.parse_sps(sets[0]).colour if sets else None
        case Codec.HEVC:
            sets = hevc.parse_hvcc(track.config).sps
            stated = hevc.parse_sps(sets[0]).colour if sets else None
            return stated or Colour(2, 2, 2, False)
        case Codec.AV1:
            sequence = av1.parse_av1c(track.config).sequence
            return sequence.colour if sequence else None
        case _:
            return None


def _audio(kind: bytes, track: Track, config: bytes) -> bytes:
    rate = min(track.sample_rate, 0xFFFF) << 16
    return box(kind, _AUDIO.pack(1, track.channels, 16, 0, rate), config)


def _esds(track: Track) -> bytes:
    """ES_Descriptor for MPEG-4 audio (ISO/IEC 14496-14 5.6): object type 0x40, stream type 5 (audio)."""
    rate = min(track.bitrate, 0xFFFFFFFF)
    rates = struct.pack(">II", rate, rate)
    decoder = descriptor(0x04, b"\x40\x15\0\0\0", rates, descriptor(0x05, track.config))
    stream = descriptor(0x03, b"\0\0\0", decoder, descriptor(0x06, b"\x02"))
    return full(b"esds", 0, 0, stream)
