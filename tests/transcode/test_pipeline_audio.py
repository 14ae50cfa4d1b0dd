"""Sound through a worker's pipeline: AAC-LC at 48 kHz, at the right time to the sample, whatever comes in."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import pytest

from media.codecs import aac
from media.cut import Cut
from media.packet import Packet
from transcode.ladder import PRESETS
from transcode.plan import AudioEncode, Plan
from transcode.planner import make_plan
from transcode.settings import TranscodeSettings

BEEP_S = 0.5
PLAN = Plan(audio=(AudioEncode("audio", 100, 128_000),))


def beep(seconds: float, rate: int, at_s: float = BEEP_S) -> list[float]:
    """Silence, from `at_s` on a loud tone of 1 kHz."""
    return [
        0.5 * math.sin(2 * math.pi * 1000 * n / rate) if n >= at_s * rate else 0.0 for n in range(int(seconds * rate))
    ]


def onset_s(kit: Any, packets: list[Packet]) -> float:
    """When the tone begins, on the stream's timeline."""
    start, samples = kit.decode_audio(packets)
    first = next(n for n, value in enumerate(samples) if abs(value) > 0.2)
    return float(start + first) / packets[0].track.timescale


@pytest.mark.parametrize(
    ("encoder", "rate", "channels"),
    [
        ("aac", 44_100, 2),
        ("aac", 48_000, 1),
        ("aac", 48_000, 6),
        ("aac", 22_050, 1),
        ("libopus", 48_000, 2),
        ("libopus", 48_000, 1),
    ],
)
def test_a_beep_stays_where_it_was(kit: Any, encoder: str, rate: int, channels: int) -> None:
    source = kit.code_audio(beep(2, rate), rate, encoder=encoder, channels=channels, start=10 * rate)
    out = kit.transcode(PLAN, kit.interleave(source.packets, [Cut(0, 10 * 90_000, 0)]))
    packets = out.packets["audio"]
    track = packets[0].track
    asc = aac.parse_asc(track.config)
    assert (asc.object_type, asc.sample_rate, asc.channels) == (aac.AAC_LC, 48_000, 2)
    assert (track.timescale, track.sample_rate, track.channels) == (48_000, 48_000, 2)
    out.assert_continuous("audio")
    assert all(p.duration == 1024 and p.keyframe for p in packets)
    assert abs(packets[0].pts / 48_000 - 10) < 0.025
    assert onset_s(kit, packets) == pytest.approx(10 + BEEP_S, abs=0.003)
    assert out.values["audio_decoder_errors"] == 0


def test_lost_packets_become_silence_of_the_same_length(kit: Any) -> None:
    source = kit.code_audio(beep(3, 48_000, at_s=2.0), 48_000)
    kept = [p for p in source.packets if not 20_000 <= p.pts < 40_000]
    out = kit.transcode(PLAN, kit.interleave(kept, [Cut(0, 0, 0)]))
    out.assert_continuous("audio")
    assert onset_s(kit, out.packets["audio"]) == pytest.approx(2.0, abs=0.003)


def test_a_long_hole_is_left_open_and_time_is_right_behind_it(kit: Any) -> None:
    source = kit.code_audio(beep(3, 48_000, at_s=2.0), 48_000)
    late = [p if p.pts < 48_000 else replace(p, pts=p.pts + 480_000, dts=p.dts + 480_000) for p in source.packets]
    out = kit.transcode(PLAN, kit.interleave(late, [Cut(0, 0, 0), Cut(1, 11 * 90_000, 0, True, "test")]))
    packets = out.packets["audio"]
    behind = [p for p in packets if p.pts > 400_000]
    assert len(packets) < 160
    assert all(b.pts >= a.pts + a.duration for a, b in itertools.pairwise(packets))
    assert onset_s(kit, behind) == pytest.approx(12.0, abs=0.003)


def test_a_clock_that_drifts_is_followed_without_a_break(kit: Any) -> None:
    # Timestamps that run 0.2 % faster than the samples: 20 ms over these 10 s.
    source = kit.code_audio(beep(10, 48_000, at_s=9.0), 48_000)
    drifting = [replace(p, pts=p.pts + p.pts // 500, dts=p.pts + p.pts // 500) for p in source.packets]
    out = kit.transcode(PLAN, kit.interleave(drifting, [Cut(0, 0, 0)]))
    out.assert_continuous("audio")
    assert onset_s(kit, out.packets["audio"]) == pytest.approx(9.0 * 1.002, abs=0.008)


def test_broken_packets_are_survived(kit: Any) -> None:
    source = kit.code_audio(beep(2, 48_000, at_s=1.5), 48_000)
    packets = [
        replace(p, data=bytes((n * 7 + i * 13) & 255 for i in range(50))) if 20 <= n < 25 else p
        for n, p in enumerate(source.packets)
    ]
    packets[30] = replace(packets[30], data=b"")
    out = kit.transcode(PLAN, kit.interleave(packets, [Cut(0, 0, 0)]))
    out.assert_continuous("audio")
    assert out.values["audio_decoder_errors"] > 0
    assert onset_s(kit, out.packets["audio"][70:]) == pytest.approx(1.5, abs=0.006)


def test_what_is_aac_lc_already_needs_no_worker(kit: Any) -> None:
    settings = TranscodeSettings()
    lc = kit.code_audio(beep(0.2, 44_100), 44_100).track
    opus = kit.code_audio(beep(0.2, 48_000), 48_000, encoder="libopus").track
    for track, passed in ((lc, True), (opus, False), (replace(lc, config=bytes((0x2B, 0x92, 0x08, 0x00))), False)):
        plan = make_plan(None, track, PRESETS["default"], passthrough=True, hardware=None, settings=settings)
        assert [r.passthrough for r in plan.renditions] == [passed]
        assert plan.encodes is not passed
