"""Renditions on demand: which are asleep, and which are awake again but not yet up with the others. Pure.

| a rendition is | its playlist | in the multivariant playlist and the MPD |
|---|---|---|
| awake | what it has | the same |
| asleep: nobody asks for it, nothing comes of it | not there; who asks waits | what the awake ones have |
| waking: it comes again | the same | the same |
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from fractions import Fraction

from media.rendition import Rendition
from packager.model import Init, Run, Window

WAKE_S = 1.5
"""A rendition that was asleep is not shown before it has caught up with the others; after this, to within a segment."""
WAKE_LIMIT_S = 4.0
"""One that has not caught up by then is treated as any that is late: it gets gaps."""


class Sleepers:
    """`now` in seconds of any steady clock."""

    def __init__(self) -> None:
        self.asleep: dict[str, Init] = {}
        """The CMAF header that each had last."""
        self._waking: dict[str, float] = {}

    def __contains__(self, name: object) -> bool:
        return name in self.asleep or name in self._waking

    def __iter__(self) -> Iterator[str]:
        yield from (*self.asleep, *self._waking)

    @property
    def waking(self) -> tuple[str, ...]:
        return tuple(self._waking)

    def put(self, name: str, init: Init) -> None:
        """It falls asleep."""
        self._waking.pop(name, None)
        self.asleep[name] = init

    def rouse(self, name: str, now: float) -> bool:
        """It comes again; False where it was not asleep."""
        if self.asleep.pop(name, None) is None:
            return False
        self._waking[name] = now
        return True

    def forget(self) -> None:
        """All are awake."""
        self.asleep.clear()
        self._waking.clear()

    def keep(self, names: Collection[str]) -> None:
        """Those that are asleep under other names are expected no more."""
        self.asleep = {name: init for name, init in self.asleep.items() if name in names}

    def risen(self, name: str, late_s: float, part_s: Fraction, segment_s: int, now: float) -> bool:
        """Whether one that is waking and `late_s` behind the others may be shown; it is awake then."""
        waited_s = now - self._waking[name]
        near = late_s < part_s or (waited_s > WAKE_S and late_s < segment_s)
        if not near and waited_s <= WAKE_LIMIT_S:
            return False
        del self._waking[name]
        return True


def stand_in(awake: Window, rendition: Rendition, init: Init | None) -> Window:
    """What there would be of a rendition that is asleep: all video is cut alike."""
    runs = tuple(Run(replace(run.first, init=init), run.count) for run in awake.runs)
    current = replace(awake.current, init=init) if awake.current else None
    return replace(awake, rendition=rendition, runs=runs, current=current)


def newest(windows: Mapping[str, Window], names: Collection[str]) -> Window | None:
    """The furthest of the named windows that shows something."""
    shown = [w for n, w in windows.items() if n in names and w.shown]
    return max(shown, key=lambda w: w.last_part, default=None)
