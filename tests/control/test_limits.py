"""Limits of a publisher, each with its warning, its end and the words."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest

from control.health import Sample
from control.limits import Finding, Limits
from ingest.settings import LimitSettings
from media.track import Codec, Kind, Track

VIDEO = Track(0, Kind.VIDEO, Codec.H264, 90_000, width=1920, height=1080, frame_rate=Fraction(30))
SECOND = Sample(0.0, 5_000_000, 30.0, 2.0, 0.0, 0.0, 0.0, 0)


def run(limits: Limits, seconds: int, start: int = 0, **changed: float) -> list[tuple[int, Finding]]:
    found = []
    for n in range(start, start + seconds):
        found += [(n, f) for f in limits.second(replace(SECOND, time=float(n), **changed))]  # type: ignore[arg-type]
    return found


@pytest.mark.parametrize(
    ("changed", "slug"),
    [
        ({"width": 3842}, "size"),
        ({"width": 1080, "height": 3900}, "size"),
        ({"width": 2400, "height": 2400}, "size"),
        ({"frame_rate": Fraction(144)}, "frame_rate"),
        ({}, ""),
        ({"width": 2160, "height": 3840}, ""),
        ({"width": 0, "height": 0, "frame_rate": None}, ""),
    ],
)
def test_size_and_declared_rate(changed: dict[str, object], slug: str) -> None:
    finding = Limits(LimitSettings()).track(replace(VIDEO, **changed))  # type: ignore[arg-type]
    assert (finding.slug if finding else "") == slug
    assert finding is None or finding.final


def test_bitrate_warns_first_and_ends_after_the_time_that_was_given() -> None:
    limits = Limits(LimitSettings(max_bitrate_bits=4_000_000, bitrate_warning_s=10))
    found = run(limits, 25)
    assert [(n, f.final) for n, f in found[:2]] == [(9, False), (19, True)]
    assert "5.0 Mb/s" in found[0][1].text
    assert "4.0 Mb/s" in found[1][1].text


def test_a_short_burst_is_no_offence_and_a_second_offence_is_warned_again() -> None:
    limits = Limits(LimitSettings(max_bitrate_bits=4_000_000, bitrate_warning_s=10))
    assert run(limits, 5) == []
    assert run(limits, 15, 5, bitrate_bits=1_000_000) == []
    first = run(limits, 12, 20)
    assert [f.final for _, f in first] == [False]
    assert run(limits, 15, 32, bitrate_bits=1_000_000) == []
    assert [f.final for _, f in run(limits, 12, 47)] == [False]


def test_measured_frame_rate_counts_where_none_is_declared() -> None:
    limits = Limits(LimitSettings(max_frame_rate=60))
    assert run(limits, 20, frame_rate=61.0) == []
    assert [f.slug for _, f in run(limits, 15, 20, frame_rate=90.0)][:1] == ["frame_rate"]


def test_what_a_stalled_network_held_is_no_frame_rate() -> None:
    limits = Limits(LimitSettings(max_frame_rate=60))
    assert run(limits, 10, frame_rate=30.0, media_s=1.0) == []
    assert run(limits, 9, 10, frame_rate=0.0) == []
    assert run(limits, 1, 19, frame_rate=3000.0, media_s=100.0) == []
    assert run(limits, 20, 20, frame_rate=30.0, media_s=1.0) == []


def test_long_keyframe_interval_is_told_once() -> None:
    limits = Limits(LimitSettings(max_keyframe_interval_s=8))
    found = run(limits, 30, keyframe_interval_s=2.0, keyframe_age_s=9.0)
    assert [(f.slug, f.final) for _, f in found] == [("keyframe_interval", False)]
