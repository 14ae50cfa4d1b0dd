"""A segment of which a rendition has nothing lasts until the next cut, but not through the time without a publisher."""

from __future__ import annotations

from fractions import Fraction
from types import SimpleNamespace

import pytest

from media.cut import Cut
from media.rendition import Rendition
from media.track import Codec, Kind
from packager.cuts import Cuts
from packager.grid import Grid
from packager.lane import Missed
from packager.model import Init, Segment
from packager.segmenter import Video
from packager.shelf import Shelf

AWAY_S = 6


@pytest.fixture
def cuts() -> Cuts:
    """At 0, 2 and 4 s; the publisher goes half a second later, and is back after `AWAY_S`, when 2 s more follow."""
    found = Cuts()
    for index, (at_s, anew) in enumerate(((0, False), (2, False), (4, False), (4.5 + AWAY_S, True), (12.5, False))):
        found.add(Cut(index, int(at_s * 90_000), int(at_s * 1_000_000), discontinuity=anew))
    return found


def test_a_rung_that_comes_after_a_break_is_filled_up_with_gaps(cuts: Cuts) -> None:
    shelf = Shelf(Rendition("360p", Kind.VIDEO, Codec.H264, passthrough=False), 10)
    first = cuts.get(0)
    assert first is not None
    init = Init("init.mp4", SimpleNamespace(), b"")  # type: ignore[arg-type]
    shelf._list(Segment(first, init, 90_000, first.pts, 180_000, (), complete=True), 0.0)
    shelf.pad(4, cuts.get, 2, 0.0)
    assert [segment.duration / 90_000 for segment in shelf.listed] == [2, 2, 2, 2, 2]
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
    assert [event.duration / event.timescale for event in missed] == [2, 2, 2]
