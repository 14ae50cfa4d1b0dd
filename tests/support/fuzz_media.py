"""What fuzzing feeds the codecs' parsers."""

from __future__ import annotations

from random import Random

from fuzz import Target, quietly
from fuzz_seeds import Clips

from media.codecs import aac, audio_track, av1, h264, hevc, nal, normalise_video, opus, video_track
from media.codecs.av1_sequence import parse_sequence_header
from media.codecs.captions import captions
from media.codecs.hevc_sps import parse_sps as parse_hevc_sps
from media.track import Codec
from media.track import Kind as TrackKind

CAPTIONS = b"\0\0\0\x12\x06\x04\x0e\xb5\0\x31GA94\x03\x41\xff\xfc\x94\x20\xff\x80"
"""An SEI unit of H.264 with its length in front."""


def _h264() -> Target:
    units = Clips.units("h264")
    video = [unit for unit in units if unit.track.kind is TrackKind.VIDEO]
    record = video[0].track.config
    seeds = [record, *h264.parse_avcc(record).sps, *(unit.data[:2000] for unit in video[:4])]

    def run(data: bytes, _: Random) -> None:
        for parser in (
            lambda: h264.parse_avcc(data), lambda: video_track(0, Codec.H264, data), lambda: h264.parse_sps(data),
            lambda: normalise_video(Codec.H264, nal.split_lengths(data), record), lambda: nal.split_annexb(data),
            lambda: normalise_video(Codec.H264, nal.split_annexb(data), b""), lambda: h264.codec_string(data),
            lambda: captions(Codec.H264, data),
        ):  # fmt: skip
            quietly(parser)

    return Target("h264", seeds, run, (), [CAPTIONS, b"\0\0\1", b"\0\0\3", b"\0\0\0\1\x67", b"\0\0\0\1\x68\xce"])


def _hevc() -> Target:
    video = [unit for unit in Clips.units("hevc") if unit.track.kind is TrackKind.VIDEO]
    record = video[0].track.config
    config = hevc.parse_hvcc(record)
    seeds = [record, *config.sps, *config.vps, *(unit.data[:2000] for unit in video[:4])]

    def run(data: bytes, _: Random) -> None:
        for parser in (
            lambda: hevc.parse_hvcc(data), lambda: video_track(0, Codec.HEVC, data), lambda: parse_hevc_sps(data),
            lambda: normalise_video(Codec.HEVC, nal.split_lengths(data), record), lambda: hevc.codec_string(data),
            lambda: normalise_video(Codec.HEVC, nal.split_annexb(data), b""), lambda: captions(Codec.HEVC, data),
        ):  # fmt: skip
            quietly(parser)

    return Target(
        "hevc", seeds, run, (), [b"\0\0\0\x13\x4e\x01" + CAPTIONS[5:], b"\0\0\1", b"\0\0\3", b"\0\0\0\1\x42\x01"]
    )


def _av1() -> Target:
    units = [bytes(obu) for obu in av1.iterate(Clips.get("av1"))]
    sequence = av1.sequence_obu(Clips.get("av1"))
    assert sequence is not None
    record = av1.build_av1c(sequence)
    seeds = [record, sequence.payload, b"".join(units[:3])[:3000], *(unit[:500] for unit in units[:6])]

    def run(data: bytes, _: Random) -> None:
        for parser in (
            lambda: av1.parse_av1c(data), lambda: video_track(0, Codec.AV1, data), lambda: list(av1.iterate(data)),
            lambda: parse_sequence_header(data), lambda: normalise_video(Codec.AV1, [data], record),
            lambda: av1.is_keyframe(data), lambda: av1.clean(data), lambda: av1.codec_string(data),
            lambda: captions(Codec.AV1, data),
        ):  # fmt: skip
            quietly(parser)

    return Target("av1", seeds, run, (), [b"\x2a\x0f\x04" + CAPTIONS[7:-1]])


def _audio() -> Target:
    """AudioSpecificConfig, ADTS, OpusHead and Opus packets."""
    head = opus.build_head(opus.OpusHead(2))
    seeds = [
        b"\x12\x10",
        bytes.fromhex("2b8a08000000"),
        b"\x13\x90\x56\xe5\xa0",
        head,
        b"\xfc" + bytes(30),
        b"\xff\x03ab",
    ]
    adts = b"\xff\xf1\x50\x80\x02\x1f\xfc" + bytes(9)
    seeds += [adts * 3, opus.build_head(opus.OpusHead(6, family=1, streams=4, coupled=2, mapping=b"\0\4\1\2\3\5"))]

    def run(data: bytes, _: Random) -> None:
        for parser in (
            lambda: aac.parse_asc(data), lambda: audio_track(100, Codec.AAC, data), lambda: aac.read_adts(data),
            lambda: opus.parse_head(data), lambda: audio_track(100, Codec.OPUS, data), lambda: aac.codec_string(data),
            lambda: opus.packet_duration(data), lambda: opus.to_dops(data), lambda: aac.split_adts(data),
        ):  # fmt: skip
            quietly(parser)

    return Target("audio", seeds, run, ())


TARGETS = (
    _h264,
    _hevc,
    _av1,
    _audio,
)
