"""Tracks made from a codec configuration: size, rate and timescale are read from it, never guessed."""

from __future__ import annotations

from fractions import Fraction

from media.clock import VIDEO_TIMESCALE
from media.codecs import aac, av1, h264, hevc, opus
from media.errors import ProtocolError
from media.track import Codec, Kind, Track

MAX_CONFIG_BYTES = 65_536
"""A configuration stands in every initialisation segment. Real ones have 2 to 500 bytes."""


def codec_string(track: Track) -> str:
    """The track's entry in CODECS of a playlist or an MPD (RFC 6381). Raises `ProtocolError`."""
    match track.codec:
        case Codec.H264:
            return h264.codec_string(track.config)
        case Codec.HEVC:
            return hevc.codec_string(track.config)
        case Codec.AV1:
            return av1.codec_string(track.config)
        case Codec.AAC:
            return aac.codec_string(track.config)
        case Codec.OPUS:
            return opus.codec_string(track.config)
        case Codec.VP8:
            return "vp8"


def video_track(
    id: int,
    codec: Codec,
    config: bytes,
    *,
    width: int = 0,
    height: int = 0,
    frame_rate: Fraction | None = None,
    name: str = "",
    bitrate: int = 0,
    language: str = "und",
) -> Track:
    """A video track. What the configuration says goes before the hints. Raises `ProtocolError`.

    A record without an SPS is refused: nothing can be said of such a track until its first in-band SPS.
    """
    _bound(config)
    aspect = Fraction(1)
    sps: h264.Sps | hevc.Sps | av1.SequenceHeader | None = None
    match codec:
        case Codec.H264:
            avc = h264.parse_avcc(config)
            sps = h264.parse_sps(_first(avc.sps))
        case Codec.HEVC:
            sps = hevc.parse_sps(_first(hevc.parse_hvcc(config).sps))
        case Codec.AV1:
            sps = av1.parse_av1c(config).sequence
        case Codec.VP8:
            pass
        case _:
            raise ProtocolError(f"{codec.value} is not a video codec.", slug="bad_track")
    if sps is not None:
        width, height, frame_rate = sps.width, sps.height, sps.frame_rate or frame_rate
        if not isinstance(sps, av1.SequenceHeader):
            aspect = sps.sample_aspect
    return Track(
        id=id,
        kind=Kind.VIDEO,
        codec=codec,
        timescale=VIDEO_TIMESCALE,
        config=config,
        width=width,
        height=height,
        frame_rate=frame_rate,
        sample_aspect=aspect,
        language=language,
        name=name,
        bitrate=bitrate,
    )


def _bound(config: bytes) -> None:
    if len(config) > MAX_CONFIG_BYTES:
        raise ProtocolError("The codec configuration is larger than any real one.", slug="bad_config")


def _first(units: tuple[bytes, ...]) -> bytes:
    if not units:
        raise ProtocolError("The configuration holds no sequence parameter set.", slug="no_sps")
    return units[0]


def audio_track(
    id: int, codec: Codec, config: bytes, *, language: str = "und", name: str = "", bitrate: int = 0
) -> Track:
    """An audio track. Raises `ProtocolError`.

    For HE-AAC `timescale` and `sample_rate` are those of the core coder, so that a frame always lasts 1024 ticks
    (960 with short frames); `aac.parse_asc(config).output_rate` is what a decoder puts out.
    """
    _bound(config)
    match codec:
        case Codec.AAC:
            asc = aac.parse_asc(config)
            rate, channels = asc.sample_rate, asc.channels
        case Codec.OPUS:
            rate, channels = opus.CLOCK_HZ, opus.parse_head(config).channels
        case _:
            raise ProtocolError(f"{codec.value} is not an audio codec.", slug="bad_track")
    return Track(
        id=id,
        kind=Kind.AUDIO,
        codec=codec,
        timescale=rate,
        config=config,
        sample_rate=rate,
        channels=channels,
        language=language,
        name=name,
        bitrate=bitrate,
    )
