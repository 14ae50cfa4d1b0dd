"""What no real stream has, and a hostile one is made of: each is refused in less time than its bytes took to come."""

from __future__ import annotations

from fractions import Fraction

import pytest

from media.codecs import aac, audio_track, av1, h264, nal, normalise_video, opus, video_track, vui
from media.codecs.bits import Bits
from media.errors import ProtocolError
from media.track import Codec

SPS = bytes.fromhex("6764001eacd940a02ff9610000030001000003003c8f162d96")
PPS = bytes.fromhex("68ebe3cb22c0")
SLICE = b"\x41\x9a"
MEGABYTE = 1 << 20


def test_millions_of_nal_units() -> None:
    with pytest.raises(ProtocolError, match="more NAL units"):
        nal.split_lengths(b"\0\0\0\1\x41" * (MEGABYTE // 5))
    with pytest.raises(ProtocolError, match="more NAL units"):
        nal.split_lengths(bytes(MEGABYTE))
    with pytest.raises(ProtocolError, match="more NAL units"):
        nal.split_annexb(b"\0\0\1\x41" * (MEGABYTE // 4))
    many = [b"\x41"] * nal.MAX_UNITS
    assert nal.split_lengths(nal.join_lengths(many)) == nal.split_annexb(nal.join_annexb(many)) == many


def test_millions_of_obus() -> None:
    with pytest.raises(ProtocolError, match="more OBUs"):
        normalise_video(Codec.AV1, [b"\x2a\0" * (MEGABYTE // 2)])
    assert len(list(av1.iterate(b"\x2a\0" * av1.MAX_OBUS))) == av1.MAX_OBUS


def test_large_parameter_sets() -> None:
    sets = [SPS + bytes((index,)) * 3000 for index in range(1, 7)]
    with pytest.raises(ProtocolError, match="parameter sets"):
        normalise_video(Codec.H264, [*sets, PPS, SLICE])


def test_a_configuration_of_megabytes() -> None:
    with pytest.raises(ProtocolError, match="larger than any real one"):
        audio_track(100, Codec.AAC, bytes.fromhex("1190") + bytes(MEGABYTE))
    with pytest.raises(ProtocolError, match="larger than any real one"):
        video_track(0, Codec.H264, h264.build_avcc([SPS], [PPS]) + bytes(MEGABYTE))


@pytest.mark.parametrize("rate", [1, 3_999])
def test_an_audio_frame_lasts_no_minutes(rate: int) -> None:
    """1024 samples at one a second: the stream's clock would be a quarter of an hour ahead with each frame."""
    asc = aac.AacConfig(2, rate, 2)
    with pytest.raises(ProtocolError, match="sample rate"):
        aac.parse_asc(aac.build_asc(asc))


@pytest.mark.parametrize(
    ("units", "scale", "rate"),
    [
        (1, 50, Fraction(25)),
        (1001, 120_000, Fraction(60_000, 1001)),
        (1, 600, Fraction(300)),
        (1, 90_000, None),  # the tick of a clock, as encoders with variable rates state it
        (1, 2_000, None),
        (0, 50, None),
    ],
)
def test_a_stated_frame_rate_is_one_that_can_be(units: int, scale: int, rate: Fraction | None) -> None:
    stated = units.to_bytes(4, "big") + scale.to_bytes(4, "big")
    assert vui.read_frame_rate(Bits(stated), 2) == rate


@pytest.mark.parametrize(
    ("codec", "units"),
    [
        (Codec.H264, [b"\x06\x05\x01\xff\x80"]),
        (Codec.H264, [b"\x09\xf0", SPS, PPS]),
        (Codec.HEVC, [b"\x4e\x01\x05\x01\xff\x80"]),
        (Codec.AV1, [b"\x2a\x03\x04\xb5\x00"]),
    ],
)
def test_messages_on_their_own_are_no_picture(codec: Codec, units: list[bytes]) -> None:
    """Some encoders send an SEI unit in a message of its own: it would take a picture's place, and show nothing."""
    assert normalise_video(codec, units).data == b""


@pytest.mark.parametrize(("mapping", "good"), [(b"\0\1\2", True), (b"\0\1\xff", True), (b"\0\1\3", False)])
def test_an_opus_channel_of_a_stream_that_is_not_there(mapping: bytes, good: bool) -> None:
    """libopus refuses it: the transcoder would be started again and again."""
    head = opus.build_head(opus.OpusHead(3, family=1, streams=2, coupled=1, mapping=mapping))
    if good:
        assert opus.parse_head(head).mapping == mapping
    else:
        with pytest.raises(ProtocolError, match="not there"):
            opus.parse_head(head)
