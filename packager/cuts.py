"""The cuts of a presentation, numbered: a short memory that all renditions look up.

Indexes of a broadcast become media sequence numbers; a later broadcast under the same presentation goes on counting,
and a cut of our own (audio must go on while video is silent) moves all that follow by one.
"""

from __future__ import annotations

from collections import deque

from media.clock import VIDEO_TIMESCALE, rescale
from media.cut import Cut
from packager.model import Boundary

ORIGIN_S = 1
"""Where zero of the stream's timeline lies on the packaged one. An encoder that reorders frames decodes the first one
before it is shown, at a time below zero, which tfdt cannot hold: hence this second, added to every pts and dts alike.
"""

REMEMBERED = 128
"""Cuts kept for renditions that lag: minutes, where seconds are normal."""


class Cuts:
    """Not thread-safe; one per presentation."""

    def __init__(self) -> None:
        self._known: deque[Boundary] = deque(maxlen=REMEMBERED)
        self._first_of_broadcast = True
        self._paused = False
        self.barrier: int | None = None
        """Where, in 90 kHz, all ended that was before, while the publisher is back and has made no cut yet: what is
        shown from there on belongs to no segment so far."""
        self.eras: dict[int, Boundary] = {}
        """For each discontinuity number the cut that opened it; the newest `REMEMBERED` of them."""
        self.start_us = 0
        """Wall clock of the very first cut."""

    @property
    def last(self) -> Boundary | None:
        return self._known[-1] if self._known else None

    @property
    def started(self) -> bool:
        """Whether the current broadcast has a cut."""
        return not self._first_of_broadcast

    @property
    def running(self) -> bool:
        """Whether the current broadcast has a cut, and neither a barrier nor a pause since."""
        return self.started and self.barrier is None and not self._paused

    def pause(self) -> None:
        """Nothing more comes of what was cut so far."""
        self._paused = True

    def interrupt(self, pts: int) -> None:
        """The publisher was away and is back: what is shown from `pts` on is not of what was before. Where it was back
        before and made no cut, all that it sent then belongs nowhere."""
        if self.barrier is None:
            self.barrier = pts + ORIGIN_S * VIDEO_TIMESCALE

    def add(self, cut: Cut) -> Boundary:
        """A cut that was decided upstream. Its index is its number, unless an earlier broadcast or `invent` took it."""
        last = self.last
        since, self.barrier, self._paused = self.barrier, None, False
        pts, discontinuity = cut.pts + ORIGIN_S * VIDEO_TIMESCALE, cut.discontinuity
        if self._first_of_broadcast:
            self._first_of_broadcast = False
            msn = last.msn + 1 if last else cut.index
            return self._append(msn, pts, cut.wall_us, last is not None or discontinuity)
        assert last is not None
        if pts <= last.pts:  # video came back before a cut of our own
            pts, discontinuity = last.pts + 1, True
        return self._append(last.msn + 1, pts, cut.wall_us, discontinuity, since)

    def invent(self, length_s: int) -> Boundary:
        """A cut of our own, one nominal length after the last."""
        last = self.last
        assert last is not None
        pts, wall_us = last.pts + length_s * VIDEO_TIMESCALE, last.wall_us + length_s * 1_000_000
        return self._append(last.msn + 1, pts, wall_us, False)

    def recall(self, known: list[Boundary], start_us: int) -> None:
        """Go on after the cuts of an earlier run of the server, oldest first."""
        self._known.extend(known)
        for boundary in known:
            self.eras.setdefault(boundary.discontinuities, boundary)
        self.start_us = start_us

    def restart(self) -> None:
        """The next cut is the first of another broadcast, with a timeline of its own."""
        self.barrier = None
        self._first_of_broadcast = True

    def _append(self, msn: int, pts: int, wall_us: int, discontinuity: bool, since: int | None = None) -> Boundary:
        last = self.last
        count = (last.discontinuities if last else 0) + (1 if discontinuity else 0)
        boundary = Boundary(msn, pts, wall_us, discontinuity, count, since)
        self._known.append(boundary)
        if last is None:
            self.start_us = wall_us
        if self.eras.setdefault(count, boundary) is boundary and len(self.eras) > REMEMBERED:
            del self.eras[min(self.eras)]
        return boundary

    def after(self, msn: int) -> list[Boundary]:
        """All known cuts with a higher number, oldest first."""
        return [known for known in self._known if known.msn > msn]

    def latest(self, pts: int, timescale: int, above: int) -> Boundary | None:
        """The newest cut at or before `pts` with a number higher than `above`; None if there is none."""
        for known in reversed(self._known):
            if known.msn <= above:
                return None
            if rescale(known.pts, VIDEO_TIMESCALE, timescale) <= pts:
                return known
        return None

    def nowhere(self, pts: int, timescale: int) -> bool:
        """Whether `pts` lies where the publisher was away, or had come back and not made its first cut."""
        if self.barrier is not None and rescale(self.barrier, VIDEO_TIMESCALE, timescale) <= pts:
            return True
        for known in reversed(self._known):
            if rescale(known.pts, VIDEO_TIMESCALE, timescale) <= pts:
                return False
            if known.since is not None and rescale(known.since, VIDEO_TIMESCALE, timescale) <= pts:
                return True
        return False

    def get(self, msn: int) -> Boundary | None:
        """The cut of that number, if it is still remembered."""
        if not self._known:
            return None
        place = msn - self._known[0].msn
        return self._known[place] if 0 <= place < len(self._known) else None
