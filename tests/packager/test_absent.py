"""A segment of which a rendition has nothing lasts until the next cut, but not through the time without a publisher."""

from __future__ import annotations

from fractions import Fraction
from types import SimpleNamespace

import pytest
from encoded import aac_track

from media.cut import Cut
from media.packet import Packet
from media.rendition import Rendition
from media.track import Codec, Kind
from packager.cuts import ORIGIN_S, Cuts
from packager.grid import Grid
from packager.lane import Missed, Opened
from packager.model import Init, Segment
from packager.segmenter import Audio, Video
from packager.shelf import Shelf

AWAY_S = 6


@pytest.fixture
def cuts() -> Cuts:
    """At 0, 2 and 4 s; the publisher goes half a second later, and is back after `AWAY_S`, when 2 s more follow."""
    found = Cuts()
    for index, (at_s, anew) in enumerate(((0, False), (2, False), (4, False), (4.5 + AWAY_S, True), (12.5, False))):
        cut = Cut(index, int(at_s * 90_000), int(at_s * 1_000_000), discontinuity=anew)
        if anew:
            found.interrupt(int(4.5 * 90_000))
        found.add(cut)
    return found


def test_a_rung_that_comes_after_a_break_is_filled_up_with_gaps(cuts: Cuts) -> None:
    shelf = Shelf(Rendition("360p", Kind.VIDEO, Codec.H264, passthrough=False), 10)
    first = cuts.get(0)
    assert first is not None
    init = Init("init.mp4", SimpleNamespace(), b"")  # type: ignore[arg-type]
    shelf._list(Segment(first, init, 90_000, first.pts, 180_000, (), complete=True), 0.0)
    shelf.pad(4, cuts.get, 2, 0.0)
    assert [segment.duration / 90_000 for segment in shelf.listed] == [2, 2, 0.5, 2, 2]
    assert [segment.start for segment in shelf.listed][3] == cuts.get(3).pts  # type: ignore[union-attr]


def test_a_rung_that_was_away_during_a_break_is_told_as_gaps(cuts: Cuts) -> None:
    lane = Video(
        Rendition("360p", Kind.VIDEO, Codec.H264, passthrough=False),
        cuts,
        Grid(Fraction(1, 2), Fraction(1, 2), 2),
        "e",
        -1,
    )
    lane.started, lane.msn = True, 0
    missed = [event for event in lane.miss(4) if isinstance(event, Missed)]
    assert [event.boundary.msn for event in missed] == [1, 2, 3]
    assert [event.duration / event.timescale for event in missed] == [2, 0.5, 2]


def test_sound_that_is_back_before_the_picture_does_not_end_what_was_before(cuts: Cuts) -> None:
    """The publisher went right behind a cut, so the last segment has a picture and no sound. The first sound of its
    return filled it: four seconds after the picture, without a discontinuity, and hls.js 1.5 stood still."""
    track = aac_track()
    lane = Audio(
        Rendition("audio", Kind.AUDIO, Codec.AAC, passthrough=True),
        cuts,
        Grid(Fraction(1, 2), Fraction(53, 100), 2),
        "e",
        -1,
    )
    back = int((4.5 + AWAY_S) * 48_000)
    for start in (*range(0, 4 * 48_000 - 1024, 1024), *range(back - 600 - 3 * 1024, back + 48_000, 1024)):
        lane.write(Packet(track, start, start, 1024, True, b"\0\0"))
    events = [*lane.pump(None), *lane.end()]
    assert [event.boundary.msn for event in events if isinstance(event, Opened)] == [0, 1, 3]
    (missed,) = (event for event in events if isinstance(event, Missed))
    assert (missed.boundary.msn, missed.duration / missed.timescale) == (2, 0.5)
    start = next(e.start for e in events if isinstance(e, Opened) and e.boundary.msn == 3)
    assert abs(start - back - ORIGIN_S * 48_000) <= 512
    assert lane.dropped_packets == 4
