"""SegmentTimeline: what of one representation lies in one Period, as runs of `S` elements (ISO/IEC 23009-1 5.3.9.6)."""

from __future__ import annotations

from packager.model import Run, Segment, Window


def runs_of(window: Window, era: int) -> list[Run]:
    """The Period that stands for discontinuity number `era`, without gaps at its ends.

    A gap in the middle stays, as an entry that answers 404: `$Number$` counts entries. The segment in the making is
    told with the length that it will probably have; the next MPD tells the real one.
    """
    found = [run for run in window.runs if run.era == era]
    current = window.current
    if current is not None and current.parts and current.boundary.discontinuities == era:
        whole = _as_whole(current, window)
        if found and found[-1].takes(whole):
            found[-1] = Run(found[-1].first, found[-1].count + 1)
        else:
            found.append(Run(whole, 1))
    while found and found[-1].first.gap:
        found.pop()
    while found and found[0].first.gap:
        found.pop(0)
    return found


def eras_of(window: Window) -> set[int]:
    """Discontinuity numbers of what is shown."""
    found = {run.era for run in window.runs}
    if window.current is not None and window.current.parts:
        found.add(window.current.boundary.discontinuities)
    return found


def _as_whole(current: Segment, window: Window) -> Segment:
    """The segment in the making as if it lasted as long as the last whole one."""
    known = next((s for s in reversed(window.segments) if not s.gap and s.timescale == current.timescale), None)
    usual = known.duration if known is not None else window.target_s * current.timescale
    return Segment(current.boundary, current.init, current.timescale, current.start, max(usual, current.duration), ())
