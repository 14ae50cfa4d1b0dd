"""Packets of one rendition in, parts and segments out. Pure: no clock, no store, no playlist.

| | a segment starts at | a part ends |
|---|---|---|
| video | the first keyframe with pts at or after the cut | after a whole number of frames, counted from the last part |
| audio | the frame whose start is nearest to the cut | at the frame whose end is nearest to the grid from the cut |

What comes out are events in order: `Opened`, then `Made` for each part, then `Closed`; `Missed` for a segment of
which nothing came. The next number is always one higher.

Decode times are the packets' own, moved by one constant for all tracks (`cuts.ORIGIN_S`), so tfdt + composition offset
is always exactly the pts, without an edit list. At a discontinuity the first frame is decoded when it is shown, and
the few that follow are squeezed in behind it until the packets' own decode times are reached: hls.js maps the new
timeline by the first decode time, and would otherwise leave a hole as long as the reordering.

Offsets below zero appear only where even that leaves a first decode time below zero. Not everywhere, although they
would give all renditions the same tfdt at a cut: ffmpeg (5.1 and 9 alike) delays video by the largest negative offset
that it meets, and sound would be early by that much.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from fractions import Fraction

from media.clock import VIDEO_TIMESCALE, rescale
from media.packet import Packet
from media.rendition import Rendition
from media.track import Kind, Track
from packager.cmaf.fragment import STYP, Sample, chunk, emsg, prft
from packager.cmaf.init import init_segment
from packager.cuts import ORIGIN_S, Cuts
from packager.events import TimedEvent
from packager.grid import JITTER_S, Grid, nominal_rate
from packager.model import Boundary, Init, Part

MAX_STRETCH_S = 1
"""A hole up to this long is covered by the frame before it, where the part has room; else by parts without bytes."""

MAX_OVER_S = Fraction(45, 100)
"""A segment longer than nominal by more than this would round to more than EXT-X-TARGETDURATION."""

MAX_HELD = 500
"""Audio frames that wait for the first cut after an interruption: ten seconds, more than keyframes should be apart."""


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
        self.msn = above_msn
        """Of the newest segment that was opened or missed."""
        self.started = False
        self._cuts = cuts
        self._grid = grid
        self._epoch = epoch
        self._inits = inits
        self._init: Init | None = None
        self._track: Track | None = None
        self._current: Boundary | None = None
        self._samples: list[Sample] = []
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

    def resume(self, above_msn: int) -> None:
        """It slept, and what comes next has numbers above `above_msn`: what lies between is not missed."""
        self.msn = max(self.msn, above_msn)
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
        """Nothing more will come."""
        return self._finish()

    def miss(self, until_msn: int) -> list[Event]:
        """Declare every segment before `until_msn` missed that was not opened, as far as its cut is known."""
        events: list[Event] = []
        while self._current is None and self.started and self.msn + 1 < until_msn:
            boundary, following = self._cuts.get(self.msn + 1), self._cuts.get(self.msn + 2)
            self.msn += 1
            if boundary is None or following is None:
                continue
            start = rescale(boundary.pts, VIDEO_TIMESCALE, self.timescale)
            end = rescale(following.pts, VIDEO_TIMESCALE, self.timescale)
            if end < start:  # the last of a broadcast; the next one counts from zero
                continue
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


class Video(Lane):
    """A video rendition."""

    def __init__(
        self, rendition: Rendition, cuts: Cuts, grid: Grid, epoch: str, above_msn: int, inits: int = 0
    ) -> None:
        super().__init__(rendition, cuts, grid, epoch, above_msn, inits)
        self._shift = 0
        self._slack = 0
        self._floor = self._step = 0
        """Least decode time of the next frame, and how far it moves with each; a step of zero: as the packets say."""

    def write(self, packet: Packet) -> list[Event]:
        """Take one packet, in decode order."""
        events: list[Event] = []
        if packet.keyframe:
            scale = packet.track.timescale
            boundary = self._cuts.latest(packet.pts + ORIGIN_S * scale, scale, self.msn)
            if boundary is not None:
                events = self._start(boundary, packet)
        if self._current is None:
            self.dropped_packets += 1
            return events
        if not self._fits(packet.track):
            self.dropped_packets += 1
            return events + self.lose()  # a new configuration without a cut: nothing can be said of it until one
        dts = packet.dts + self._shift
        if self._step:
            dts = self._squeezed(dts)
        events += self._fit(dts)
        if self._current is None:
            self.dropped_packets += 1
            return events
        duration = packet.duration
        if self._samples and self._filled(dts + duration) > self._target:
            events += self._close_part()
            self._part_start = dts
        offset = packet.pts + ORIGIN_S * packet.track.timescale - dts
        self._samples.append(Sample(duration, offset, packet.keyframe, packet.data))
        self._end = dts + duration
        if self._filled(self._end) >= self._length - self._slack:
            events += self._close_part()
        return events

    def _squeezed(self, dts: int) -> int:
        """A later decode time for the first frames behind a discontinuity; never later than they are shown."""
        allowed, self._floor = self._floor, self._floor + self._step
        if dts >= allowed:
            self._step = 0
            return dts
        return allowed

    def _start(self, boundary: Boundary, packet: Packet) -> list[Event]:
        events: list[Event] = []
        anew = self._current is None or boundary.discontinuity or not self._fits(packet.track)
        origin = ORIGIN_S * packet.track.timescale
        shift = max(origin, -packet.dts) if anew else self._shift
        start = packet.dts + shift
        if not anew and self._samples:
            events += self._fit(start)
        events += self._begin(boundary, packet.track, start, packet.pts + origin)
        self._shift = shift
        self._step = 0
        if boundary.discontinuities and anew and self._lead > 0 and packet.duration > 0:
            reordered = -(-self._lead // packet.duration)
            self._floor, self._step = packet.pts + origin, packet.duration // (reordered + 1)
            self._part_lead = 0
        if anew:
            rate = nominal_rate(self.rendition, packet.track)
            scale = packet.track.timescale
            slack = Fraction(scale, 2) / rate if rate else JITTER_S * scale
            self._slack = min(int(slack), self._length // 8)
        return events


class Audio(Lane):
    """An audio rendition. Frames wait in `held` until it is certain to which segment they belong."""

    def __init__(
        self, rendition: Rendition, cuts: Cuts, grid: Grid, epoch: str, above_msn: int, inits: int = 0
    ) -> None:
        super().__init__(rendition, cuts, grid, epoch, above_msn, inits)
        self.held: deque[Packet] = deque()
        self._origin = 0

    def write(self, packet: Packet) -> None:
        """Take one packet; `pump` lets it through."""
        self.held.append(packet)

    def pump(self, safe_90k: int | None, wait_s: float, barrier_90k: int | None = None) -> list[Event]:
        """Let frames through. All cuts at or before `safe_90k` are known (None: those before the newest frame, for
        audio decides the cuts itself); frames `wait_s` older than the newest go through without that certainty.
        None passes `barrier_90k`: there something else begins, at a cut that is still to come."""
        held = self.held
        if not held:
            return []
        events: list[Event] = []
        scale = held[0].track.timescale
        safe = held[-1].pts
        if safe_90k is not None:
            safe = max(safe - int(wait_s * scale), rescale(safe_90k, VIDEO_TIMESCALE, scale) - ORIGIN_S * scale)
        if barrier_90k is not None:
            safe = min(safe, rescale(barrier_90k, VIDEO_TIMESCALE, scale) - ORIGIN_S * scale)
            while len(held) > MAX_HELD:
                held.popleft()
                self.dropped_packets += 1
        while held and held[0].pts + held[0].duration // 2 <= safe:
            self._frame(held.popleft(), events)
        return events

    def lose(self) -> list[Event]:
        self.dropped_packets += len(self.held)
        self.held.clear()
        return super().lose()

    def end(self) -> list[Event]:
        events: list[Event] = []
        while self.held:
            self._frame(self.held.popleft(), events)
        return events + super().end()

    def _frame(self, packet: Packet, events: list[Event]) -> None:
        half = packet.duration // 2
        scale = packet.track.timescale
        pts = packet.pts + ORIGIN_S * scale
        boundary = self._cuts.latest(pts + half, scale, self.msn)
        if boundary is not None:
            events += self._begin(boundary, packet.track, pts, pts)
            self._origin = rescale(boundary.pts, VIDEO_TIMESCALE, scale)
        if self._current is None or pts < 0:
            self.dropped_packets += 1
            return
        if not self._fits(packet.track):
            self.dropped_packets += 1
            events += self.lose()
            return
        events += self._fit(pts)
        if self._current is None:
            self.dropped_packets += 1
            return
        if self._samples and pts + packet.duration - self._part_start > self._target:
            events += self._close_part()
            self._part_start = pts
        self._samples.append(Sample(packet.duration, 0, True, packet.data))
        self._end = pts + packet.duration
        passed = self._end + half - self._origin
        if passed >= ((self._part_start + half - self._origin) // self._length + 1) * self._length:
            events += self._close_part()


def lane(rendition: Rendition, cuts: Cuts, grid: Grid, epoch: str, above_msn: int, inits: int = 0) -> Video | Audio:
    """The lane for a rendition's kind."""
    make = Video if rendition.kind is Kind.VIDEO else Audio
    return make(rendition, cuts, grid, epoch, above_msn, inits)


def _ticks(duration_s: float | None) -> int:
    """An emsg's duration; all ones where it is unknown (ISO/IEC 23009-1 5.10.3.3.4)."""
    return 0xFFFFFFFF if duration_s is None else min(round(duration_s * VIDEO_TIMESCALE), 0xFFFFFFFE)


def _header(track: Track) -> tuple[object, ...]:
    """What a CMAF header says of a track; other fields may change in mid-stream."""
    return track.codec, track.config, track.timescale, track.width, track.height, track.sample_aspect, track.channels
