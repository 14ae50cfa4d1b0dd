"""SegmentTimeline: which segments of one representation lie in one Period, as runs of `S` elements (5.3.9.6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from packager.model import Segment, Window


@dataclass(frozen=True, slots=True)
class Run:
    """`count` segments that follow each other and all last `duration`. Ticks of the track."""

    start: int
    duration: int
    count: int


def segments_of(window: Window, era: int) -> list[Segment]:
    """Segments of the Period that stands for discontinuity number `era`, without gaps at its ends.

    A gap in the middle stays, as an entry that answers 404: `$Number$` counts entries. The segment in the making is
    told with the length that it will probably have; the next MPD tells the real one.
    """
    found = [s for s in window.shown if s.boundary.discontinuities == era]
    while found and found[-1].gap:
        found.pop()
    while found and found[0].gap:
        found.pop(0)
    return found


def length_of(segment: Segment, window: Window) -> int:
    """Ticks that `segment` lasts, or will last."""
    if segment.complete:
        return segment.duration
    for known in reversed(window.segments):
        if not known.gap and known.timescale == segment.timescale:
            return max(known.duration, segment.duration)
    return max(window.target_s * segment.timescale, segment.duration)


def runs(segments: Sequence[Segment], window: Window) -> list[Run]:
    """Neighbours of equal length joined."""
    found: list[Run] = []
    for segment in segments:
        length = length_of(segment, window)
        if found:
            last = found[-1]
            if last.duration == length and last.start + last.duration * last.count == segment.start:
                found[-1] = Run(last.start, last.duration, last.count + 1)
                continue
        found.append(Run(segment.start, length, 1))
    return found
