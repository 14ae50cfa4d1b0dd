"""What is passed through and what is encoded, by which encoders."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest

from media.track import Codec, Kind, Track
from transcode.hardware import Hardware, Trial
from transcode.ladder import PRESETS
from transcode.plan import Plan
from transcode.planner import make_plan
from transcode.profile import pick_level
from transcode.settings import TranscodeSettings


@pytest.fixture(scope="module")
def video() -> Track:
    """1080p30 with the configuration of an 8-bit 4:2:0 High stream (x264's)."""
    from media.codecs import h264

    sps = bytes.fromhex("6764001facd9405005bb011000000300100000030320f1831960")
    pps = bytes.fromhex("68ebe3cb22c0")
    config = h264.build_avcc([sps], [pps])
    return Track(0, Kind.VIDEO, Codec.H264, 90_000, config, 1920, 1080, Fraction(30))


def plan_of(video: Track | None, audio: Track | None = None, ladder: str = "default", **kwargs: Any) -> Plan:
    settings = kwargs.pop("settings", TranscodeSettings())
    return make_plan(
        video,
        audio,
        PRESETS[ladder],
        passthrough=kwargs.pop("passthrough", True),
        hardware=kwargs.pop("hardware", None),
        settings=settings,
    )


def test_a_usual_source_is_passed_through_above_its_rungs(video: Track) -> None:
    plan = plan_of(video)
    assert [(r.name, r.passthrough) for r in plan.renditions] == [
        ("source", True),
        ("720p", False),
        ("480p", False),
        ("360p", False),
    ]
    assert [(v.name, v.width, v.height, v.profile, v.level) for v in plan.video] == [
        ("720p", 1280, 720, "high", 31),
        ("480p", 854, 480, "main", 31),
        ("360p", 640, 360, "main", 30),
    ]
    assert plan.tracks == {0}
    assert plan.thumbnail_track == 0


@pytest.mark.parametrize(
    ("change", "kwargs"),
    [
        ({}, {"passthrough": False}),
        ({}, {"settings": TranscodeSettings(passthrough=False)}),
        ({"codec": Codec.VP8, "config": b""}, {}),
        ({"codec": Codec.HEVC, "config": b"\1"}, {}),
        ({"config": b"nonsense"}, {}),
    ],
)
def test_what_cannot_be_passed_through_is_encoded(video: Track, change: dict[str, Any], kwargs: dict[str, Any]) -> None:
    plan = plan_of(replace(video, **change), **kwargs)
    assert next((r.name, r.passthrough, r.codec) for r in plan.renditions) == ("source", False, Codec.H264)
    assert [v.name for v in plan.video] == ["source", "720p", "480p", "360p"]
    assert [v.sheddable for v in plan.video] == [False, True, True, True]
    assert plan.reasons


def test_without_an_encoder_only_what_is_playable_is_offered(video: Track) -> None:
    settings = TranscodeSettings(enabled=False)
    opus = Track(100, Kind.AUDIO, Codec.OPUS, 48_000, b"OpusHead")
    assert [r.name for r in plan_of(video, opus, settings=settings).renditions] == ["source"]
    assert plan_of(video, opus, settings=settings).encodes is False
    assert plan_of(replace(video, codec=Codec.VP8), opus, settings=settings).renditions == ()


def test_a_source_above_the_limit_is_made_smaller_where_it_is_encoded(video: Track) -> None:
    plan = plan_of(replace(video, width=3840, height=2160), passthrough=False)
    assert [(v.name, v.height) for v in plan.video] == [("source", 1080), ("720p", 720), ("480p", 480), ("360p", 360)]
    assert plan_of(replace(video, width=3840, height=2160)).video[0].name == "1080p"


def test_hardware_goes_first_and_the_cpu_stands_behind_it(video: Track) -> None:
    trials = [
        Trial("h264_nvenc", "encode", "h264", "cuda:0", works=True),
        Trial("h264_nvenc", "encode", "h264", "cuda:1", works=True),
        Trial("h264_qsv", "encode", "h264", "/dev/dri/renderD128", works=False, reason="no"),
        Trial("libx264", "encode", "h264", "cpu", works=True),
        Trial("h264+cuda", "decode", "h264", "cuda:0", works=True),
    ]
    hardware = Hardware(2, tuple(trials))
    nvenc = ("h264_nvenc@cuda:0", "h264_nvenc@cuda:1")
    assert plan_of(video, hardware=hardware).video[0].encoders == (*nvenc, "libx264")
    assert plan_of(video, hardware=hardware).decoders == ("h264+cuda@cuda:0",)
    off = TranscodeSettings(hardware=False)
    assert plan_of(video, hardware=hardware, settings=off).video[0].encoders == ("libx264",)
    preferred = TranscodeSettings(encoders=("h264_amf", "libx264"))
    assert plan_of(video, hardware=hardware, settings=preferred).video[0].encoders == ("libx264", *nvenc)


def test_a_rung_does_not_cost_more_than_its_source(video: Track) -> None:
    assert [v.bitrate for v in plan_of(replace(video, bitrate=1_000_000)).video] == [750_000, 750_000, 600_000]


def test_av1_rungs(video: Track) -> None:
    plan = plan_of(video, ladder="modern")
    assert {v.codec for v in plan.video} == {Codec.AV1, Codec.H264}
    assert plan.video[0].encoders == ("libsvtav1",)


def test_audio_only() -> None:
    plan = plan_of(None, Track(100, Kind.AUDIO, Codec.OPUS, 48_000, b"OpusHead", channels=2))
    assert [(r.name, r.codec, r.bitrate) for r in plan.renditions] == [("audio", Codec.AAC, 128_000)]
    assert plan.thumbnail_track is None


@pytest.mark.parametrize(
    ("codec", "width", "height", "rate", "level"),
    [
        (Codec.H264, 1280, 720, Fraction(30), 31),
        (Codec.H264, 1280, 720, Fraction(60), 32),
        (Codec.H264, 1920, 1080, Fraction(30), 40),
        (Codec.H264, 1920, 1080, Fraction(60), 42),
        (Codec.H264, 3840, 2160, None, 52),
        (Codec.H264, 8192, 8192, Fraction(60), 52),
        (Codec.HEVC, 1280, 720, Fraction(30), 31),
        (Codec.HEVC, 1920, 1080, Fraction(60), 41),
        (Codec.AV1, 1920, 1080, Fraction(60), 0),
    ],
)
def test_levels(codec: Codec, width: int, height: int, rate: Fraction | None, level: int) -> None:
    assert pick_level(codec, width, height, rate, 3_000_000) == level
