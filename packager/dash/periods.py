"""Which Periods there are, and which renditions each of them offers. Pure; remembers what was told.

The AdaptationSets and Representations of a Period stay the same through all updates of the MPD (ISO/IEC 23009-1
5.3.2, DASH-IF IOP 4.3): so a Period ends, and the next begins, at the first segment boundary at which

| | for instance |
|---|---|
| there is a discontinuity | a publisher came back |
| a rendition has no segment any more | another ladder; a rung that is shed |
| a rendition has segments that was not offered | another ladder; a rung that is back; a track that comes later |
| a rendition has another CMAF header | an encoder that was started anew |
| there are pictures for the seek bar, of another size than before | the first one, seconds after the start |

What was told is never taken back: a segment number stays in the Period in which it was shown first. Where a rendition
fails or comes within a segment that is shown already, the next boundary counts.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from media.clock import VIDEO_TIMESCALE
from packager.dash.timeline import reaches, runs_of, shown_from
from packager.hls.multivariant import Entry
from packager.model import Boundary, Segment, Window

PATIENCE_PARTS = 2
"""A Period begins when all renditions that go on have reached it; at the latest when one has so many parts of it."""

Ends = Mapping[str, float]
"""Renditions of which more is expected, with the number of their last segment; infinite where none is known."""


@dataclass(frozen=True, slots=True)
class Pictures:
    """One to a segment, in a track of their own."""

    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Period:
    """A stretch of segments throughout which the same is offered."""

    cut: Boundary
    """Where it begins."""
    start_s: Fraction
    """Seconds from availabilityStartTime."""
    entries: tuple[Entry, ...]
    inits: Mapping[str, str]
    """Name of the CMAF header by rendition."""
    follows: str
    """Id of the Period before, where media goes on from it; empty otherwise."""
    same: Mapping[str, bool]
    """Of renditions that the Period before had as well: whether with the same header. Empty where nothing goes on."""
    until: int
    """Number of the first segment that is not in it; of the newest one, so far."""
    pictures: Pictures | None

    @property
    def id(self) -> str:
        return f"p{self.cut.msn}"

    @property
    def era(self) -> int:
        return self.cut.discontinuities


class Periods:
    """Those of one presentation, oldest first."""

    def __init__(self) -> None:
        self.told: list[Period] = []
        self._next = 0
        """Number of the first segment that belongs to no Period yet."""
        self._sets: dict[str, int] = {}

    def place(self, rendition_name: str) -> int:
        """A number for an audio rendition that stays the same whatever comes and goes."""
        return self._sets.setdefault(rendition_name, len(self._sets))

    def update(
        self,
        entries: Sequence[Entry],
        windows: Mapping[str, Window],
        expected: Ends,
        cut: Callable[[int], Boundary | None],
        opened: Mapping[int, Boundary],
        start_us: int,
        pictures: Callable[[int], Pictures | None],
    ) -> Sequence[Period]:
        """Those that there are now. `entries`: all renditions that have a window. `opened`: for each discontinuity
        number its first cut, from which clocks are counted. `pictures`: of a segment."""
        shown = {e.rendition.name: shown_from(windows[e.rendition.name], self._next) for e in entries}
        numbers = {msn for found in shown.values() for msn in found}
        for msn in range(min(numbers, default=0), max(numbers, default=-1) + 1):
            here = {name: found[msn] for name, found in shown.items() if msn in found}
            whole = {name: s for name, s in here.items() if not s.gap and s.init is not None}
            boundary = cut(msn) or _boundary(here, windows)
            if boundary is None or not whole:
                continue
            late = {name for name, last_msn in expected.items() if name not in here and last_msn >= msn}
            offer = whole | _latecomers(late, windows, boundary)
            if not self._covers(msn, whole, offer, windows, boundary, pictures(msn)):
                if self.told and late and not any(s.complete or len(s.parts) >= PATIENCE_PARTS for s in whole.values()):
                    break
                self._open(boundary, entries, offer, opened, start_us, pictures(msn))
            self._next = msn + 1
            self.told[-1] = replace(self.told[-1], until=self._next)
        self._refresh(entries)
        oldest = min((w.shown[0].msn for w in windows.values() if w.shown), default=0)
        while len(self.told) > 1 and self.told[1].cut.msn <= oldest:
            self.told.pop(0)
        return self.told

    def _covers(
        self,
        msn: int,
        whole: Mapping[str, Segment],
        offer: Mapping[str, Segment],
        windows: Mapping[str, Window],
        boundary: Boundary,
        pictures: Pictures | None,
    ) -> bool:
        """Whether segment `msn` can lie in the newest Period: all that is offered is a member, and the other way
        round, and what there is of it follows on what the Period has."""
        if not self.told or self.told[-1].era != boundary.discontinuities or self._next != msn:
            return False
        last = self.told[-1]
        if pictures != last.pictures:
            return False
        return offer.keys() == last.inits.keys() and all(
            reaches(runs_of(windows[name], last.inits[name], last.cut.msn, None), msn) for name in whole
        )

    def _open(
        self,
        boundary: Boundary,
        entries: Sequence[Entry],
        offer: Mapping[str, Segment],
        opened: Mapping[int, Boundary],
        start_us: int,
        pictures: Pictures | None,
    ) -> None:
        before = self.told[-1] if self.told else None
        if before is not None and (before.era != boundary.discontinuities or self._next != boundary.msn):
            before = None
        inits = {name: s.init for name, s in offer.items() if s.init is not None}
        members = tuple(replace(e, track=inits[e.rendition.name].track) for e in entries if e.rendition.name in inits)
        era = opened.get(boundary.discontinuities, boundary)
        wall_us = era.wall_us - start_us + Fraction((boundary.pts - era.pts) * 1_000_000, VIDEO_TIMESCALE)
        names = {name: init.name for name, init in inits.items()}
        shared = before.inits.keys() & names.keys() if before else ()
        self.told.append(
            Period(
                boundary,
                wall_us / 1_000_000,
                members,
                names,
                before.id if before else "",
                {name: before.inits[name] == names[name] for name in shared} if before else {},
                boundary.msn,
                pictures,
            )
        )

    def _refresh(self, entries: Sequence[Entry]) -> None:
        """Bit rates of what is offered now are measured while it goes on."""
        if not self.told:
            return
        known = {e.rendition.name: e for e in entries}
        last = self.told[-1]
        fresh = tuple(replace(e, peak=max(e.peak, known.get(e.rendition.name, e).peak)) for e in last.entries)
        if fresh != last.entries:
            self.told[-1] = replace(last, entries=fresh)


def _latecomers(names: Collection[str], windows: Mapping[str, Window], boundary: Boundary) -> dict[str, Segment]:
    """Of those that will have the segment at `boundary`, the newest that they have: of another header nothing is
    known yet. Behind a discontinuity everything may be another."""
    newest = {name: windows[name].shown[-1] for name in names if name in windows and windows[name].shown}
    return {
        name: s
        for name, s in newest.items()
        if s.init is not None and not s.gap and s.boundary.discontinuities == boundary.discontinuities
    }


def _boundary(here: Mapping[str, Segment], windows: Mapping[str, Window]) -> Boundary | None:
    """The cut of a segment that is too old to be remembered: video lies on it exactly."""
    names = sorted(here, key=lambda name: windows[name].rendition.kind.value, reverse=True)
    return here[names[0]].boundary if names else None
