"""What is measured of a source, and the words for it."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest

from control.health import HISTORY_S, Meter, Sample
from control.verdict import verdict
from media.packet import Packet
from media.track import Codec, Kind, Track

VIDEO = Track(0, Kind.VIDEO, Codec.H264, 90_000, width=1280, height=720, frame_rate=Fraction(30))
AUDIO = Track(100, Kind.AUDIO, Codec.AAC, 48_000)
GOOD = Sample(0.0, 3_000_000, 30.0, 2.0, 0.0, 0.0, 20.0, 0)


class Feed:
    """A source on a fake clock: 30 fps, a sound every 100 ms."""

    def __init__(self, gop: int = 60) -> None:
        self.meter = Meter()
        self.gop = gop
        self.frame = 0

    def run(self, seconds: int, *, late_s: float = 0.0, video: bool = True, audio: bool = True) -> Sample:
        sample = None
        for _ in range(seconds):
            for _ in range(30):
                at, n = self.frame / 30, self.frame
                if video:
                    p = Packet(VIDEO, n * 3000, n * 3000, 3000, n % self.gop == 0, b"v" * 1000)
                    self.meter.packet(p, at + late_s)
                if audio and n % 3 == 0:
                    self.meter.packet(Packet(AUDIO, n * 1600, n * 1600, 1024, True, b"a" * 100), at + late_s)
                self.frame += 1
            sample = self.meter.tick(self.frame / 30 + late_s, 1000.0 + self.frame / 30)
        assert sample is not None
        return sample


def test_rates_are_measured_by_kind() -> None:
    sample = Feed().run(6)
    assert sample.video_bitrate_bits == pytest.approx(240_000, rel=0.01)
    assert sample.audio_bitrate_bits == pytest.approx(8_000, rel=0.01)
    assert sample.frame_rate == pytest.approx(30, rel=0.01)
    assert (sample.keyframe_interval_s, sample.keyframe_spread_s) == (2.0, 0.0)
    assert sample.delay_ms == 0
    assert sample.silent == ()
    assert verdict([sample])["verdict"] == "excellent"


def test_a_tick_right_behind_a_late_one_measures_nothing() -> None:
    feed = Feed()
    feed.run(3)
    at = feed.frame / 30
    feed.meter.packet(Packet(VIDEO, feed.frame * 3000, feed.frame * 3000, 3000, False, b"v" * 1000), at + 0.004)
    assert feed.meter.tick(at + 0.005, 1000.0) is None
    feed.frame += 1
    sample = feed.run(1)
    assert sample.frame_rate == pytest.approx(30, rel=0.04)
    assert sample.media_s == pytest.approx(1, rel=0.04)


def test_a_long_gop_is_told_before_its_second_keyframe_has_come() -> None:
    sample = Feed(gop=240).run(6)
    assert sample.keyframe_age_s > 5
    assert verdict([sample])["reasons"] == [
        f"keyframes every {sample.keyframe_age_s:.1f} s: set the keyframe interval to 2 s"
    ]
    assert "keyframes every 8.0 s: set the keyframe interval to 2 s" in verdict([Feed(gop=240).run(12)])["reasons"]


def test_what_piles_up_on_the_way_is_delay_and_not_jitter() -> None:
    feed = Feed()
    feed.run(3)
    sample = feed.run(2, late_s=1.5)
    assert sample.delay_ms == pytest.approx(1500, abs=1)
    assert sample.jitter_ms < 50
    assert any("1.5 s late" in reason for reason in verdict([sample])["reasons"])


@pytest.mark.parametrize(("kind", "word"), [("video", "pictures"), ("audio", "sound")])
def test_a_track_that_stops_is_missed_and_welcomed_back(kind: str, word: str) -> None:
    feed = Feed()
    feed.run(3)
    sample = feed.run(4, video=kind != "video", audio=kind != "audio")
    assert sample.silent == (kind,)
    assert verdict([sample])["verdict"] == "poor"
    assert f"no {word}" in verdict([sample])["reasons"][0]
    assert feed.run(2).silent == ()


def test_frames_left_out_by_the_encoder_are_told() -> None:
    feed = Feed()
    feed.run(6)
    assert feed.meter.history[-1].rate_share > 0.95
    for n in range(0, 300, 2):
        feed.meter.packet(Packet(VIDEO, 600_000 + n * 3000, 600_000 + n * 3000, 6000, n % 60 == 0, b"v"), 6.7 + n / 30)
        if n % 30 == 28:
            feed.meter.tick(7.7 + (n - 28) / 30, 0.0)
    assert any("announced frames" in r for r in verdict(feed.meter.recent())["reasons"])


def test_counters_of_the_protocol_become_amounts_of_the_second() -> None:
    feed = Feed()
    feed.meter.report({"dropped_packets": 100, "retransmits": 5})
    assert feed.run(1).lost == 0  # what was there when we came is not of this second
    feed.meter.report({"dropped_packets": 103, "retransmits": 9, "rtt_ms": 12.5})
    sample = feed.run(1)
    assert (sample.lost, sample.sent_again) == (3, 4)
    assert sample.protocol["rtt_ms"] == 12.5
    assert feed.meter.lost_total == 3
    feed.meter.restart()
    feed.meter.report({"dropped_packets": 1})
    assert feed.run(1).lost == 0


def test_the_history_is_ten_minutes() -> None:
    meter = Meter()
    for n in range(HISTORY_S + 50):
        meter.packet(Packet(AUDIO, n * 48_000, n * 48_000, 1024, True, b"a"), float(n))
        meter.tick(n + 0.5, float(n))
    assert len(meter.history) == HISTORY_S
    assert meter.history[-1].time == HISTORY_S + 49


@pytest.mark.parametrize(
    ("changed", "word", "said"),
    [
        ({}, "excellent", ""),
        ({"keyframe_interval_s": 3.2}, "acceptable", "keyframes every 3.2 s"),
        ({"keyframe_spread_s": 1.4}, "acceptable", "scene detection"),
        ({"jitter_ms": 900.0}, "acceptable", "bursts"),
        ({"delay_ms": 4000.0}, "poor", "4.0 s late"),
        ({"av_offset_ms": -400.0}, "acceptable", "400 ms before their sound"),
        ({"av_offset_ms": 1400.0}, "poor", "1.4 s after their sound"),
        ({"gaps": 1}, "acceptable", "clock jumped"),
        ({"protocol": {"loss_ratio": 0.02}}, "acceptable", "2.0% of the packets are lost"),
        ({"protocol": {"loss_ratio": 0.2}}, "poor", "lower the bitrate"),
        ({"protocol": {"link_loss_ratio": 0.1}}, "acceptable", "sent again"),
        ({"protocol": {"rtt_ms": 800.0}}, "acceptable", "800 ms"),
        ({"lost": 4}, "acceptable", "4 packets"),
        ({"bitrate_bits": 9_000_000}, "poor", "9.0 Mb/s"),
    ],
)
def test_words(changed: dict[str, Any], word: str, said: str) -> None:
    found = verdict([replace(GOOD, **changed)], limit_bits=8_000_000)
    assert found["verdict"] == word
    assert len(found["reasons"]) == bool(said)
    assert said in " ".join(found["reasons"])


def test_an_instant_counts_for_some_seconds() -> None:
    assert verdict([replace(GOOD, gaps=1), GOOD, GOOD])["verdict"] == "acceptable"
    assert verdict([])["verdict"] == "unknown"
