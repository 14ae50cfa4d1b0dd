"""The segments of one rendition in memory: a sliding window, and after it what the rules still ask for.

| a segment is | in the playlist | fetchable |
|---|---|---|
| current | its parts | its parts; its own URL streams |
| listed | yes | yes |
| stored | yes | from disk; its bytes have left the memory |
| kept | no | until its duration plus the longest playlist's have passed (RFC 8216bis 6.2.2) |
| gone | no | no |
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

from media.clock import VIDEO_TIMESCALE, rescale
from media.rendition import Rendition
from packager.archive import Reel
from packager.lane import Closed, Event, Made, Missed, Opened
from packager.model import Boundary, Init, Part, Run, Segment, Window, absent_until

MIN_LISTED = 6
"""APPLE 8.11: a live playlist holds at least six segments."""

GUESS_SLACK_S = 0.04
"""Segments of one rendition differ by up to an audio frame; a part is longer than this by far."""


class Shelf:
    """One per rendition; `now` in seconds of any steady clock."""

    def __init__(self, rendition: Rendition, limit: int, reel: Reel | None = None, long_limit: int = 0) -> None:
        """`limit`: segments held in memory and listed; with a `reel`, `long_limit` are listed, the older from disk."""
        self.rendition = rendition
        self.listed: deque[Segment] = deque()
        self.current: Segment | None = None
        self.inits: dict[str, Init] = {}
        self.inits_seen = 0
        self.size_bytes = 0
        self.first_msn: int | None = None
        self.reel = reel
        self.long_limit = long_limit
        self._limit = limit
        self._on_disk: set[int] = set()
        self._listed_s = 0.0
        self._texts: dict[int, str] = {}
        self._pictures: dict[int, str] = {}
        self._runs: deque[Run] = deque()
        self._shown: tuple[tuple[Segment, ...], tuple[Run, ...]] | None = None
        """`listed` and `_runs` as windows hold them; made anew once a segment, not once a part."""
        self._kept: deque[tuple[float, Segment]] = deque()
        self._by_msn: dict[int, Segment] = {}
        self._longest_s = 0.0

    @property
    def shows(self) -> bool:
        """Whether there is something to list."""
        return bool(self.listed) or (self.current is not None and bool(self.current.parts))

    def apply(self, event: Event, now: float) -> Segment | None:
        """Take what is published; answers the segment that this completed, if any."""
        match event:
            case Opened(boundary, init, start):
                if init.name not in self.inits:
                    self.inits[init.name] = init
                    self.inits_seen += 1
                self._note(boundary.msn)
                self.current = Segment(boundary, init, init.track.timescale, start, 0, ())
            case Made(part):
                current = self.current
                assert current is not None
                self.size_bytes += len(part.data)
                self.current = replace(
                    current,
                    parts=(*current.parts, part),
                    duration=current.duration + part.duration,
                    size_bytes=current.size_bytes + len(part.data),
                    lead_bytes=current.lead_bytes or part.lead_bytes,
                )
            case Closed():
                done, self.current = self.current, None
                if done is not None and done.parts:
                    return self._list(replace(done, complete=True), now)
            case Missed(boundary, init, timescale, start, duration):
                self._note(boundary.msn)
                gap = Segment(boundary, init, timescale, start, duration, (), complete=True, gap=True)
                return self._list(gap, now)
        return None

    def _note(self, msn: int) -> None:
        if self.first_msn is None:
            self.first_msn = msn

    def _list(self, segment: Segment, now: float) -> Segment:
        self._append(segment)
        self._longest_s = max(self._longest_s, self._listed_s)
        if self.reel is not None and self.long_limit > self._limit:
            self.reel.save(self.rendition.name, segment, lambda good: self._saved(segment.msn, good))
            self._age(now)
        limit = max(self._limit, self.long_limit if self.reel is not None else 0)
        while len(self.listed) > limit:
            self.unlist(now)
        return segment

    def _append(self, segment: Segment) -> None:
        self.listed.append(segment)
        self._by_msn[segment.msn] = segment
        self._listed_s += segment.duration / segment.timescale
        if self._runs and self._runs[-1].takes(segment):
            self._runs[-1] = replace(self._runs[-1], count=self._runs[-1].count + 1)
        else:
            self._runs.append(Run(replace(segment, parts=()), 1))
        self._shown = None

    def _saved(self, msn: int, good: bool) -> None:
        if good:
            self._on_disk.add(msn)

    def _age(self, now: float) -> None:
        """Let the bytes go that are safe on disk; what is not there when its time comes takes all older ones along."""
        place = len(self.listed) - self._limit - 1
        if place < 0:
            return
        old = self.listed[place]
        if old.stored or old.gap:
            return
        if old.msn not in self._on_disk:
            for _ in range(place + 1):
                self.unlist(now)
            return
        slim = replace(old, parts=(), stored=True)
        self.listed[place] = self._by_msn[old.msn] = slim
        self._shown = None
        self.size_bytes -= old.size_bytes

    def unlist(self, now: float) -> None:
        """Take the oldest segment out of the playlist; its bytes stay for as long as they must."""
        old = self.listed.popleft()
        self._listed_s -= old.duration / old.timescale
        self._texts.pop(old.msn, None)
        self._pictures.pop(old.msn, None)
        run = self._runs[0]
        if run.count == 1:
            self._runs.popleft()
        else:
            self._runs[0] = Run(replace(self.listed[0], parts=()), run.count - 1)
        self._shown = None
        self._kept.append((now + old.duration / old.timescale + self._longest_s, old))

    def clear(self, now: float) -> None:
        """List nothing any more; what comes next need not follow on what was there."""
        while self.listed:
            self.unlist(now)
        self.first_msn = None

    def pad(self, until_msn: int, cut: Callable[[int], Boundary | None], segment_s: int, now: float) -> None:
        """List gaps up to `until_msn`, so that the next number follows on; where a cut is forgotten, list nothing."""
        while self.listed and self.listed[-1].msn < until_msn:
            last = self.listed[-1]
            boundary, following = cut(last.msn + 1), cut(last.msn + 2)
            if boundary is None:
                self.clear(now)
                return
            start = rescale(boundary.pts, VIDEO_TIMESCALE, last.timescale)
            length = rescale(absent_until(boundary, following, segment_s), VIDEO_TIMESCALE, last.timescale) - start
            self._list(Segment(boundary, last.init, last.timescale, start, length, (), complete=True, gap=True), now)

    def fade(self, now: float) -> None:
        """A segment has passed of which nothing was made here: the oldest that is listed goes, as it always does."""
        if self.listed:
            self.unlist(now)
        self.expire(now)

    def expire(self, now: float) -> None:
        """Forget what nobody may ask for any more."""
        while self._kept and self._kept[0][0] <= now:
            self.forget()

    def forget(self) -> bool:
        """Drop the oldest segment that is not listed; False if there is none."""
        if not self._kept:
            return False
        _, old = self._kept.popleft()
        del self._by_msn[old.msn]
        if not old.stored:
            self.size_bytes -= old.size_bytes
        if self.reel is not None and old.msn in self._on_disk:
            self._on_disk.discard(old.msn)
            self.reel.drop(self.rendition.name, old)
        if len(self.inits) > 1:
            following = self._kept[0][1] if self._kept else self.listed[0] if self.listed else self.current
            if old.init is not None and following is not None and following.init is not old.init:
                used = {s.init.name for s in self._by_msn.values() if s.init}
                if self.current and self.current.init:
                    used.add(self.current.init.name)
                self.inits = {name: init for name, init in self.inits.items() if name in used}
        return True

    def window(
        self, epoch: str, version: int, target_s: int, part_target: Fraction, ended: bool, next_cut: int | None = None
    ) -> Window:
        """The immutable view from which playlists are rendered. `next_cut`: where (90 kHz) the segment in the making
        will end, if that is known."""
        first = self.listed[0].msn if self.listed else self.first_msn or 0
        if self._shown is None:
            self._shown = tuple(self.listed), tuple(self._runs)
        segments, runs = self._shown
        return Window(
            rendition=self.rendition,
            epoch=epoch,
            version=version,
            target_s=target_s,
            part_target=part_target,
            segments=segments,
            current=self.current,
            ended=ended,
            next_part=self._next_part(target_s, part_target, next_cut),
            first_msn=first,
            texts=self._texts,
            pictures=self._pictures,
            runs=runs,
            length_s=self._listed_s,
            rewind=len(self.listed) > max(self._limit, MIN_LISTED),
        )

    def _next_part(self, target_s: int, part_target: Fraction, next_cut: int | None) -> tuple[int, int]:
        """The part to hint. Where the segment's end is not known yet: as the last whole one is the best guess."""
        current = self.current
        if current is None:
            return (self.listed[-1].msn + 1 if self.listed else self.first_msn or 0), 0
        if next_cut is not None and current.parts:
            left_s = Fraction(next_cut, VIDEO_TIMESCALE) - Fraction(current.start + current.duration, current.timescale)
            more = left_s > min(Fraction(1, 20), part_target / 4)
            return (current.msn, len(current.parts)) if more else (current.msn + 1, 0)
        length_s, following = float(target_s), current
        for segment in reversed(self.listed):
            if not segment.gap and not following.boundary.discontinuity:
                length_s = segment.duration / segment.timescale
                break
            following = segment  # what a break cut short says nothing
        if current.parts and current.duration / current.timescale >= length_s - GUESS_SLACK_S:
            return current.msn + 1, 0
        return current.msn, len(current.parts)

    def restore(self, segments: list[Segment]) -> None:
        """Take over what an earlier run left on disk."""
        for segment in segments:
            if segment.init is not None:
                self.inits.setdefault(segment.init.name, segment.init)
            self._note(segment.msn)
            self._append(segment)
            self._on_disk.add(segment.msn)
            if self.reel is not None:
                self.reel.size_bytes += segment.size_bytes
        self._longest_s = self._listed_s
        numbers = [int(name.rsplit("-", 1)[1].split(".")[0]) for name in self.inits]
        self.inits_seen = max(numbers, default=-1) + 1

    def segment(self, msn: int) -> Segment | None:
        """A segment whose bytes are still here, complete or current."""
        if self.current is not None and self.current.msn == msn:
            return self.current
        return self._by_msn.get(msn)

    def part(self, msn: int, index: int) -> Part | None:
        """A part whose bytes are still here."""
        segment = self.segment(msn)
        if segment is None or not 0 <= index < len(segment.parts):
            return None
        return segment.parts[index]
