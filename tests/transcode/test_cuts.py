"""Cuts: nearest IDR when the source is passed through, the nominal grid otherwise, discontinuities where told."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from media.cut import Cut
from media.packet import Packet
from media.track import Codec, Kind, Track
from transcode.cuts import Cutter, Mode

VIDEO = Track(0, Kind.VIDEO, Codec.H264, 90_000)
AUDIO = Track(100, Kind.AUDIO, Codec.AAC, 44_100)
NOMINAL = 180_000


def cutter(mode: Mode = Mode.KEYFRAMES) -> Cutter:
    return Cutter(2, lambda: 1_000_000_000, mode)


def frames(rate: Fraction, seconds: int, gop: int, start: int = 0) -> list[Packet]:
    step = 90_000 / rate
    count = int(seconds * rate)
    return [Packet(VIDEO, p := start + int(i * step), p, int(step), i % gop == 0, b"") for i in range(count)]


def cuts(cut: Cutter, packets: list[Packet]) -> list[Cut]:
    return [c for p in packets if (c := cut.feed(p))]


@pytest.mark.parametrize("rate", [Fraction(25), Fraction(30), Fraction(30000, 1001), Fraction(60), Fraction(50)])
def test_two_second_gops_are_cut_at_every_keyframe(rate: Fraction) -> None:
    gop = round(2 * rate)
    got = cuts(cutter(), frames(rate, 60, gop))
    assert [c.pts for c in got] == [int(i * gop * 90_000 / rate) for i in range(len(got))]
    assert [c.index for c in got] == list(range(len(got)))
    assert not any(c.discontinuity for c in got)
    assert len(got) >= 29


def test_one_second_gops_are_cut_at_every_second_keyframe() -> None:
    got = cuts(cutter(), frames(Fraction(30), 20, 30))
    assert [c.pts for c in got] == [i * NOMINAL for i in range(10)]


def test_wall_clock_is_one_anchor_carried_by_media_time() -> None:
    got = cuts(cutter(), frames(Fraction(30), 10, 60))
    assert [c.wall_us - 1_000_000_000 for c in got] == [i * 2_000_000 for i in range(5)]


def test_missing_keyframes_switch_to_the_grid_at_a_discontinuity_before_the_target_is_passed() -> None:
    cut = cutter()
    got = cuts(cut, frames(Fraction(30), 12, 150))
    assert cut.mode is Mode.GRID
    assert got[1].discontinuity
    assert got[1].reason == "keyframe_interval"
    assert NOMINAL < got[1].pts - got[0].pts < NOMINAL + 45_000
    assert {b.pts - a.pts for a, b in pairwise(got[1:])} == {NOMINAL}
    assert not any(c.discontinuity for c in got[2:])


def test_grid_does_not_care_for_keyframes_or_for_display_order() -> None:
    packets = frames(Fraction(25), 9, 10_000)
    packets[49], packets[51] = packets[51], packets[49]  # a reordered frame beyond the grid comes early
    got = cuts(cutter(Mode.GRID), packets)
    assert [c.pts for c in got] == [0, 180_000, 360_000, 540_000, 720_000]


def test_nothing_is_cut_before_the_first_keyframe() -> None:
    packets = frames(Fraction(25), 5, 10_000)[1:]
    assert cuts(cutter(), packets) == []


def test_restart_waits_for_a_keyframe_and_sets_the_wall_clock_anew() -> None:
    now = [0]
    cut = Cutter(2, lambda: now[0])
    cuts(cut, frames(Fraction(30), 3, 60))
    now[0] = 50_000_000
    cut.restart("publisher_reconnect")
    later = frames(Fraction(30), 4, 60, start=90_000 * 20)
    got = cuts(cut, later[1:])
    assert got[0].pts == later[60].pts
    assert (got[0].discontinuity, got[0].reason, got[0].index) == (True, "publisher_reconnect", 2)
    assert got[0].wall_us == 50_000_000


def test_mark_makes_the_next_regular_cut_a_discontinuity_without_moving_it() -> None:
    cut = cutter()
    packets = frames(Fraction(30), 8, 60)
    before = cuts(cut, packets[:70])
    cut.mark("transcoder_restart")
    after = cuts(cut, packets[70:])
    assert [c.pts for c in before + after] == [0, NOMINAL, 2 * NOMINAL, 3 * NOMINAL]
    assert [c.discontinuity for c in after] == [True, False]


def test_audio_alone_is_cut_on_the_grid() -> None:
    packets = [Packet(AUDIO, i * 1024, i * 1024, 1024, True, b"") for i in range(500)]
    got = cuts(cutter(Mode.GRID), packets)
    assert [c.pts for c in got] == [i * NOMINAL for i in range(6)]


@given(st.lists(st.tuples(st.integers(1, 20_000), st.booleans()), min_size=1, max_size=600))
def test_any_source_gives_rising_cuts_and_segments_that_round_to_the_target(steps: list[tuple[int, bool]]) -> None:
    cut, pts, got = cutter(), 0, []
    for step, keyframe in steps:
        if c := cut.feed(Packet(VIDEO, pts, pts, step, keyframe, b"")):
            got.append(c)
        pts += step
    assert [c.index for c in got] == list(range(len(got)))
    for a, b in pairwise(got):
        assert 0 < b.pts - a.pts < NOMINAL + 45_000 + 20_000


def test_a_source_with_b_frames_leaves_passing_through_before_a_segment_grows_past_the_target() -> None:
    cut = cutter()
    # Decode order of a GOP with four B-frames between the frames that they refer to: each such frame is 5/30 s on.
    order = [0] + [n for p in range(5, 200, 5) for n in (p, p - 2, p - 4, p - 3, p - 1)]
    packets = [Packet(VIDEO, n * 3000, i * 3000 - 9000, 3000, n == 0, b"") for i, n in enumerate(order)]
    found = cuts(cut, packets)
    assert cut.mode is Mode.GRID
    assert found[1].discontinuity
    assert found[1].pts - found[0].pts < 2.5 * 90_000
