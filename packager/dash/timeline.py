"""SegmentTimeline: what of one representation lies in one Period, as runs of `S` elements (ISO/IEC 23009-1 5.3.9.6)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from media.clock import VIDEO_TIMESCALE, rescale
from packager.model import Boundary, Run, Segment, Window


def runs_of(window: Window, init: str, first_msn: int, until_msn: int | None) -> list[Run]:
    """What follows each other without a hole among the segments of that header from `first_msn` on, before
    `until_msn`: a Period's numbers have no holes, since `$Number$` counts entries.

    The segment in the making is told with the length that it will probably have; the next MPD tells the real one.
    """
    found: list[Run] = []
    for run in _parts_of(window, first_msn, until_msn):
        if run.first.gap or run.first.init is None or run.first.init.name != init:
            if found:
                break
        elif found and run.first.msn != found[-1].first.msn + found[-1].count:
            break
        elif found and found[-1].takes(run.first):
            found[-1] = Run(found[-1].first, found[-1].count + run.count)
        else:
            found.append(run)
    return found


def reaches(runs: Sequence[Run], msn: int) -> bool:
    """Whether segment `msn` is among them."""
    return bool(runs) and runs[0].first.msn <= msn < runs[-1].first.msn + runs[-1].count


def _parts_of(window: Window, first_msn: int, until_msn: int | None) -> Iterator[Run]:
    for run in window.runs:
        skip = max(0, first_msn - run.first.msn)
        count = run.count if until_msn is None else min(run.count, until_msn - run.first.msn)
        if skip < count:
            yield Run(nth(run, skip), count - skip)
    current = window.current
    inside = current is not None and first_msn <= current.msn and (until_msn is None or current.msn < until_msn)
    if current is not None and current.parts and inside:
        yield Run(_as_whole(current, window), 1)


def nth(run: Run, place: int) -> Segment:
    """The segment at that place of a run."""
    if place == 0:
        return run.first
    first, cut = run.first, run.first.boundary
    ticks = place * first.duration
    later_90k = rescale(ticks, first.timescale, VIDEO_TIMESCALE)
    boundary = Boundary(
        cut.msn + place, cut.pts + later_90k, cut.wall_us + later_90k * 100 // 9, False, cut.discontinuities
    )
    return replace(first, boundary=boundary, start=first.start + ticks)


def shown_from(window: Window, first_msn: int) -> dict[int, Segment]:
    """What is shown from `first_msn` on, gaps included, by number; complete ones without their parts."""
    found: dict[int, Segment] = {}
    for run in reversed(window.runs):
        if run.first.msn + run.count <= first_msn:
            break
        for place in range(max(0, first_msn - run.first.msn), run.count):
            found[run.first.msn + place] = nth(run, place)
    current = window.current
    if current is not None and current.parts and current.msn >= first_msn:
        found[current.msn] = current
    return found


def foretold(window: Window, cut: Boundary) -> list[Run]:
    """Of a rendition that is late: the segment that will begin at `cut`; nothing once that has left the window. Sound
    will begin up to half a frame from there."""
    shown = window.shown
    if not shown or shown[0].msn > cut.msn:
        return []
    last = shown[-1]
    start = rescale(cut.pts, VIDEO_TIMESCALE, last.timescale)
    return [Run(_as_whole(Segment(cut, last.init, last.timescale, start, 0, ()), window), 1)]


def _as_whole(current: Segment, window: Window) -> Segment:
    """The segment in the making as if it lasted as long as the last whole one."""
    known = next((s for s in reversed(window.segments) if not s.gap and s.timescale == current.timescale), None)
    usual = known.duration if known is not None else window.target_s * current.timescale
    return Segment(current.boundary, current.init, current.timescale, current.start, max(usual, current.duration), ())
