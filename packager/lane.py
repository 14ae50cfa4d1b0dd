"""What video and audio renditions have in common: the open segment, the part being filled, and their numbers.

What comes out are events in order: `Opened`, then `Made` for each part, then `Closed`; `Missed` for a segment of
which nothing came. The next number is always one higher. Pure: no clock, no store, no playlist.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from fractions import Fraction

from media.clock import VIDEO_TIMESCALE, rescale
from media.codecs.captions import Captions
from media.packet import Packet
from media.rendition import Rendition
from media.track import Track
from packager.cmaf.fragment import STYP, Sample, chunk, emsg, prft
from packager.cmaf.init import init_segment
from packager.cuts import Cuts
from packager.events import TimedEvent
from packager.grid import Grid
from packager.model import Boundary, Init, Part, absent_until

MAX_STRETCH_S = 1
"""A hole up to this long is covered by the frame before it, where the part has room; else by parts without bytes."""

MAX_OVER_S = Fraction(45, 100)
"""A segment longer than nominal by more than this is not waited for; it is near to what follows."""
ROUNDS_UP_S = Fraction(1, 2)
"""A segment longer than nominal by this would round to more than EXT-X-TARGETDURATION: none is let grow so far."""

LATE_S = Fraction(1, 2)
"""What begins so much later after a cut waits for the next one: players that align renditions by the numbers of their
segments would be off by as much."""

MAX_PENDING = 100
"""Events that wait for their part, in one rendition."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A segment starts."""

    boundary: Boundary
    init: Init
    start: int
    end_90k: int


@dataclass(frozen=True, slots=True)
class Made:
    """A part of the open segment is whole."""

    part: Part
    end_90k: int


@dataclass(frozen=True, slots=True)
class Closed:
    """The open segment is whole."""

    end_90k: int


@dataclass(frozen=True, slots=True)
class Missed:
    """Nothing came for this segment."""

    boundary: Boundary
    init: Init | None
    timescale: int
    start: int
    duration: int
    end_90k: int


Event = Opened | Made | Closed | Missed


class Lane:
    """What video and audio have in common: the open segment, the part being filled, and their numbers."""

    def __init__(
        self, rendition: Rendition, cuts: Cuts, grid: Grid, epoch: str, above_msn: int, inits: int = 0
    ) -> None:
        self.rendition = rendition
        self.dropped_packets = 0
        self.holes = 0
        self.lost = False
        """True from a call of `lose` to the next segment that starts."""
        self.captions: Captions | None = None
        """Closed captions within the pictures, once some were seen."""
        self.msn = above_msn
        """Of the newest segment that was opened or missed."""
        self._over = above_msn
        """Of the newest segment that is no longer waited for."""
        self.started = False
        self._cuts = cuts
        self._grid = grid
        self._epoch = epoch
        self._inits = inits
        self._init: Init | None = None
        self._track: Track | None = None
        self._current: Boundary | None = None
        self._samples: list[Sample] = []
        self._opened = 0
        """When the open segment's first frame is shown."""
        self._part_start = 0
        self._part_index = 0
        self._end = 0
        self._sequence = 0
        self._length = self._target = 0
        self._lead = 0
        """How much later than they are decoded a segment's frames are shown, without those that were squeezed."""
        self._pending: deque[TimedEvent] = deque()
        self._repeated: list[TimedEvent] = []
        """Carried within the open segment: the next one repeats them at its start, for whoever joins there."""
        self._part_lead = 0
        """The same of the part's first frame."""

    @property
    def timescale(self) -> int:
        return self._track.timescale if self._track else VIDEO_TIMESCALE

    @property
    def track(self) -> Track | None:
        """The newest segment's track."""
        return self._track

    @property
    def end_90k(self) -> int:
        """Where the newest packet ends, in presentation time."""
        return rescale(self._end + self._lead, self.timescale, VIDEO_TIMESCALE)

    @property
    def init(self) -> Init | None:
        """The CMAF header in use."""
        return self._init

    def use(self, grid: Grid) -> None:
        """Another grid, before anything has come."""
        self._grid = grid

    def resume(self, above_msn: int) -> None:
        """It slept, and what comes next has numbers above `above_msn`: what lies between is not missed."""
        self.msn = max(self.msn, above_msn)
        self._over = self.msn
        self.lost = False

    def announce(self, event: TimedEvent) -> None:
        """Carry an event in the part that is shown at its time, or in the next one."""
        self._pending.append(event)
        if len(self._pending) > MAX_PENDING:
            self._pending.popleft()

    def _messages(self, until: int) -> bytes:
        """The events of a part that is shown until `until`."""
        found: list[TimedEvent] = []
        if self._part_index == 0:
            found, self._repeated = self._repeated, []
        while self._pending and rescale(self._pending[0].pts, VIDEO_TIMESCALE, self.timescale) < until:
            event = self._pending.popleft()
            found.append(event)
            if self._part_index:
                self._repeated.append(event)
        return b"".join(
            emsg(e.scheme, e.value, VIDEO_TIMESCALE, e.pts, _ticks(e.duration_s), e.number, e.message) for e in found
        )

    def lose(self) -> list[Event]:
        """Its source died: the open segment ends where it is; the next starts at a cut."""
        events = self._finish()
        self.lost = True
        return events

    def end(self) -> list[Event]:
        """Nothing more will come of what is cut so far: an encoder that hands it over later comes too late."""
        self.give_up()
        return self._finish()

    def give_up(self) -> None:
        """What is cut so far is waited for no longer."""
        last = self._cuts.last
        self._over = last.msn if last is not None else self._over

    def miss(self, until_msn: int) -> list[Event]:
        """Declare every segment before `until_msn` missed that was not opened, as far as its cut is known."""
        events: list[Event] = []
        while self._current is None and self.started and self.msn + 1 < until_msn:
            boundary, following = self._cuts.get(self.msn + 1), self._cuts.get(self.msn + 2)
            self.msn += 1
            if boundary is None or following is None:
                continue
            if following.pts < boundary.pts:  # the last of a broadcast; the next one counts from zero
                continue
            start = rescale(boundary.pts, VIDEO_TIMESCALE, self.timescale)
            end = rescale(absent_until(boundary, following, self._grid.segment_s), VIDEO_TIMESCALE, self.timescale)
            events.append(Missed(boundary, self._init, self.timescale, start, end - start, following.pts))
        return events

    def _begin(self, boundary: Boundary, track: Track, start: int, shown: int) -> list[Event]:
        events = self._finish()
        events += self.miss(boundary.msn)
        self._use(track)
        self._current = boundary
        self.msn = boundary.msn
        self.started = True
        self.lost = False
        self._part_index = 0
        self._end = start
        self._lead = self._part_lead = shown - start
        self._opened = shown
        assert self._init is not None
        events.append(Opened(boundary, self._init, shown, boundary.pts))
        return events

    def _use(self, track: Track) -> None:
        fits = self._fits(track)
        self._track = track
        if not fits:
            self._init = Init(f"init-{self._epoch}-{self._inits}.mp4", track, init_segment(track))
            self._inits += 1
            scale = track.timescale
            self._length = int(self._grid.length_s * scale)
            self._target = int(self._grid.target_s * scale)

    def _next_cut(self, pts: int, timescale: int) -> Boundary | None:
        """The newest cut at or before `pts` of which nothing came yet."""
        return self._cuts.latest(pts, timescale, max(self.msn, self._over))

    def _late(self, boundary: Boundary, shown: int, packet: Packet) -> bool:
        """Whether a segment that begins with `packet` lies apart from those of its number: by more than slow pictures
        need."""
        after = shown - rescale(boundary.pts, VIDEO_TIMESCALE, packet.track.timescale) - packet.duration
        return after > LATE_S * packet.track.timescale

    def _fits(self, track: Track) -> bool:
        """Whether the CMAF header in use describes `track` too."""
        before = self._track
        return before is track or (before is not None and _header(before) == _header(track))

    def _finish(self) -> list[Event]:
        if self._current is None:
            return []
        events = self._close_part()
        events.append(Closed(self.end_90k))
        self._current = None
        return events

    def _close_part(self) -> list[Event]:
        if not self._samples:
            return []
        boundary, scale = self._current, self.timescale
        assert boundary is not None
        cut_us = boundary.pts * 1_000_000 // VIDEO_TIMESCALE
        shown = self._part_start + self._part_lead
        wall_us = boundary.wall_us + shown * 1_000_000 // scale - cut_us
        prefix = prft(self._part_start, wall_us)
        if self._part_index == 0:
            prefix = STYP + prefix
        if self._pending or self._repeated:
            prefix += self._messages(shown + self._filled(self._end))
        self._sequence += 1
        data = chunk(self._sequence, self._part_start, self._samples, prefix)
        samples = self._samples
        lead_bytes = len(data) - sum(len(sample.data) for sample in samples[1:])
        part = Part(self._part_index, shown, self._filled(self._end), samples[0].sync, data, len(samples), lead_bytes)
        self._part_index += 1
        self._part_lead = self._lead
        self._samples = []
        return [Made(part, self.end_90k)]

    def _filled(self, end: int) -> int:
        """How long the part is shown if it ends at decode time `end`."""
        return end + self._lead - self._part_start - self._part_lead

    def _fit(self, dts: int) -> list[Event]:
        """Let the timeline reach `dts` without a hole: durations told with the packet may prove wrong."""
        hole = dts - self._end
        if hole == 0 and self._samples:
            return []
        if not self._samples:
            if hole <= 0 or self._part_index == 0:
                self._part_start = self._end = dts
                return []
            return self._absent(dts)
        last = self._samples[-1]
        duration = last.duration + hole
        if duration <= 0:
            self.holes += 1
            events = self._close_part()
            self._part_start = self._end = dts
            return events
        if hole > MAX_STRETCH_S * self.timescale or self._filled(dts) > self._target:
            return self._close_part() + self._absent(dts)
        self._samples[-1] = last._replace(duration=duration)
        self._end = dts
        return []

    def _overgrown(self, end: int) -> bool:
        """Whether the open segment would round to more than EXT-X-TARGETDURATION if it went on to decode time `end`: a
        cut is overdue, and what comes until it belongs to no segment."""
        return end + self._lead - self._opened >= (self._grid.segment_s + ROUNDS_UP_S) * self.timescale

    def _absent(self, until: int) -> list[Event]:
        """Parts without bytes (GAP=YES) up to decode time `until`; where the segment would become too long, it ends
        here, and the rest is dropped up to the next cut."""
        assert self._current is not None
        self.holes += 1
        opened = rescale(self._current.pts, VIDEO_TIMESCALE, self.timescale)
        if until + self._lead - opened > (self._grid.segment_s + MAX_OVER_S) * self.timescale:
            return self.lose()
        events: list[Event] = []
        while self._end < until:
            length = min(self._target, until - self._end)
            part = Part(self._part_index, self._end + self._lead, length, False, b"", 0)
            self._part_index += 1
            self._end += length
            events.append(Made(part, self.end_90k))
        self._part_start, self._part_lead = until, self._lead
        return events


def _ticks(duration_s: float | None) -> int:
    """An emsg's duration; all ones where it is unknown (ISO/IEC 23009-1 5.10.3.3.4)."""
    return 0xFFFFFFFF if duration_s is None else min(round(duration_s * VIDEO_TIMESCALE), 0xFFFFFFFE)


def _header(track: Track) -> tuple[object, ...]:
    """What a CMAF header says of a track; other fields may change in mid-stream."""
    return track.codec, track.config, track.timescale, track.width, track.height, track.sample_aspect, track.channels
