"""A track: one elementary stream of a broadcast with its codec configuration. Immutable; a change makes a new one."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from fractions import Fraction


class Kind(Enum):
    VIDEO = "video"
    AUDIO = "audio"


class Codec(Enum):
    H264 = "h264"
    HEVC = "hevc"
    AV1 = "av1"
    VP8 = "vp8"
    AAC = "aac"
    OPUS = "opus"


@dataclass(frozen=True, slots=True)
class Track:
    """One elementary stream.

    `id` is stable within a publishing session: 0 is the default video, 100 the default audio track; further
    video tracks count from 1, further audio tracks from 101. Two `Track`s with the same id and other values
    mean that the configuration changed in mid-stream.

    `config` by codec: H264 AVCDecoderConfigurationRecord (ISO/IEC 14496-15 5.3.3.1), HEVC
    HEVCDecoderConfigurationRecord (8.3.3.1), AV1 AV1CodecConfigurationRecord (av1C), AAC AudioSpecificConfig
    (ISO/IEC 14496-3 1.6.2.1), OPUS the `OpusHead` header with its magic (RFC 7845 5.1), VP8 empty.

    Timescales: video always 90 000; AAC its sample rate; Opus 48 000.
    """

    id: int
    kind: Kind
    codec: Codec
    timescale: int
    config: bytes = b""
    width: int = 0
    """Coded picture width in pixels after cropping; 0 for audio."""
    height: int = 0
    frame_rate: Fraction | None = None
    """Nominal frames per second where known; None for variable or unknown."""
    sample_aspect: Fraction = Fraction(1)
    sample_rate: int = 0
    channels: int = 0
    language: str = "und"
    """BCP 47 / ISO 639-2 language tag."""
    name: str = ""
    """A label for people, e.g. "Commentary"."""
    bitrate: int = 0
    """Declared bits per second; 0 where unknown. A hint only."""
