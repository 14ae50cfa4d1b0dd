"""Between libav's bitstreams and ours: what a configuration says of the picture, and what an encoder gives as a Track.

Encoders write Annex B (H.264, HEVC) or OBUs (AV1); `media.packet` wants 4-byte lengths, and the parameter sets in
`Track.config` only.
"""

from __future__ import annotations

from dataclasses import dataclass

from media.codecs import aac, av1, h264, hevc, nal
from media.errors import ProtocolError
from media.track import Codec, Track

_CHROMA = {0: "4:0:0", 1: "4:2:0", 2: "4:2:2", 3: "4:4:4"}


@dataclass(frozen=True, slots=True)
class Shape:
    """What decides whether every player can show a video as it is."""

    chroma: str
    bit_depth: int
    interlaced: bool


def describe(video: Track) -> Shape | None:
    """The shape that the codec configuration states; None where it cannot be read."""
    try:
        match video.codec:
            case Codec.H264:
                avc = h264.parse_sps(h264.parse_avcc(video.config).sps[0])
                return Shape(_CHROMA[avc.chroma_format], avc.bit_depth, avc.interlaced)
            case Codec.HEVC:
                sps = hevc.parse_sps(hevc.parse_hvcc(video.config).sps[0])
                return Shape(_CHROMA[sps.chroma_format], sps.bit_depth, sps.interlaced)
            case Codec.AV1:
                record = av1.parse_av1c(video.config)
                if record.monochrome:
                    return Shape("4:0:0", record.bit_depth, False)
                chroma = {(True, True): "4:2:0", (True, False): "4:2:2"}.get(record.subsampling, "4:4:4")
                return Shape(chroma, record.bit_depth, False)
            case _:
                return None
    except (ProtocolError, LookupError):
        return None


def is_aac_lc(audio: Track) -> bool:
    """True for plain AAC-LC in frames of 1024 samples, mono to 5.1: what every player takes as it is."""
    if audio.codec is not Codec.AAC:
        return False
    try:
        asc = aac.parse_asc(audio.config)
    except ProtocolError:
        return False
    return asc.object_type == aac.AAC_LC and not asc.sbr and asc.frame_length == 1024 and asc.channels <= 6


def config_of(codec: Codec, extradata: bytes) -> bytes:
    """The configuration record for `Track.config` from an encoder's global header. Raises `ProtocolError`."""
    match codec:
        case Codec.H264:
            if extradata[:1] == b"\1":
                return extradata
            units = nal.split_annexb(extradata)
            sps = [u for u in units if h264.nal_type(u) == h264.SPS]
            pps = [u for u in units if h264.nal_type(u) == h264.PPS]
            return h264.build_avcc(sps, pps)
        case Codec.HEVC:
            units = nal.split_annexb(extradata)
            vps, hsps, hpps = ([u for u in units if hevc.nal_type(u) == t] for t in (hevc.VPS, hevc.SPS, hevc.PPS))
            return hevc.build_hvcc(vps, hsps, hpps)
        case Codec.AV1:
            if extradata[:1] == b"\x81":
                return extradata
            sequence = next((obu for obu in av1.iterate(extradata) if obu.kind == av1.SEQUENCE_HEADER), None)
            if sequence is None:
                raise ProtocolError("The encoder gives no sequence header.")
            return av1.build_av1c(sequence)
        case _:
            return extradata


def sample_of(codec: Codec, data: bytes) -> bytes:
    """One access unit as `media.packet.Packet.data` wants it. Raises `ProtocolError`."""
    match codec:
        case Codec.H264:
            drop = (h264.SPS, h264.PPS, h264.AUD, h264.FILLER)
            return nal.join_lengths(u for u in nal.split_annexb(data) if h264.nal_type(u) not in drop)
        case Codec.HEVC:
            unwanted = (hevc.VPS, hevc.SPS, hevc.PPS, hevc.AUD, hevc.FILLER)
            return nal.join_lengths(u for u in nal.split_annexb(data) if hevc.nal_type(u) not in unwanted)
        case Codec.AV1:
            return av1.clean(data)
        case _:
            return data


def config_in(codec: Codec, sample: bytes) -> bytes | None:
    """The configuration record that a keyframe carries itself: AV1's, whose encoders announce another at the start."""
    sequence = av1.sequence_obu(sample) if codec is Codec.AV1 else None
    return av1.build_av1c(sequence) if sequence is not None else None
