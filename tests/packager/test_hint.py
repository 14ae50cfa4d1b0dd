"""The hinted part where the end of the segment in the making is not known yet."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from types import SimpleNamespace

import pytest

from media.rendition import Rendition
from media.track import Codec, Kind
from packager.model import Boundary, Init, Part, Segment
from packager.shelf import Shelf

INIT = Init("init.mp4", SimpleNamespace(), b"")  # type: ignore[arg-type]
PART = Part(0, 0, 45_000, True, b"x", 1)


def segment(msn: int, halves: int, *, anew: bool = False, gap: bool = False) -> Segment:
    boundary = Boundary(msn, msn * 180_000, 0, anew, 0)
    return Segment(boundary, INIT, 90_000, 0, halves * 45_000, (PART,) * halves, complete=True, gap=gap)


@pytest.mark.parametrize(
    ("listed", "anew", "hinted"),
    [
        ([], False, (9, 2)),
        ([segment(7, 4), segment(8, 4)], False, (9, 2)),
        ([segment(7, 2), segment(8, 2)], False, (10, 0)),
        ([segment(7, 4), segment(8, 2)], True, (9, 2)),
        ([segment(6, 4), segment(7, 2), segment(8, 4, anew=True, gap=True)], False, (9, 2)),
        ([segment(8, 2)], True, (9, 2)),
    ],
    ids=[
        "first",
        "as before",
        "as short as before",
        "behind a break",
        "behind a break and a gap",
        "nothing else known",
    ],
)
def test_a_segment_is_as_long_as_the_last_that_no_break_cut_short(
    listed: list[Segment], anew: bool, hinted: tuple[int, int]
) -> None:
    shelf = Shelf(Rendition("source", Kind.VIDEO, Codec.H264, passthrough=True), 10)
    for item in listed:
        shelf._list(item, 0.0)
    shelf.current = replace(segment(9, 2, anew=anew), complete=False)
    assert shelf.window("e", 1, 2, Fraction(1, 2), ended=False).next_part == hinted
