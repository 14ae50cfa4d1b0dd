"""Packets of one rendition in, parts and segments out. Pure: no clock, no store, no playlist.

| | a segment starts at | a part ends |
|---|---|---|
| video | the first keyframe with pts at or after the cut | after a whole number of frames, counted from the last part |
| audio | the frame whose start is nearest to the cut | at the frame whose end is nearest to the grid from the cut |

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
from fractions import Fraction

from media.clock import VIDEO_TIMESCALE, rescale
from media.codecs.captions import captions
from media.packet import Packet
from media.rendition import Rendition
from media.track import Kind
from packager.cmaf.fragment import Sample
from packager.cuts import ORIGIN_S, Cuts
from packager.grid import JITTER_S, Grid, nominal_rate
from packager.lane import Event, Lane
from packager.model import Boundary

MAX_HELD = 1500
"""Audio frames that wait for their cut, half a minute: sound may come far ahead of the picture, and after an
interruption the first cut lies as far away as the next keyframe. Beyond it the oldest are dropped, counted."""


class Video(Lane):
    """A video rendition."""

    def __init__(
        self, rendition: Rendition, cuts: Cuts, grid: Grid, epoch: str, above_msn: int, inits: int = 0
    ) -> None:
        super().__init__(rendition, cuts, grid, epoch, above_msn, inits)
        self._from_dts = 0
        """Of the open segment's first packet."""
        self._shift = 0
        self._slack = 0
        self._floor = self._step = 0
        """Least decode time of the next frame, and how far it moves with each; a step of zero: as the packets say."""

    def write(self, packet: Packet) -> list[Event]:
        """Take one packet, in decode order."""
        events: list[Event] = []
        scale = packet.track.timescale
        shown = packet.pts + ORIGIN_S * scale
        if self._cuts.nowhere(shown, scale):
            self.dropped_packets += 1
            return self._finish() if self._current is not None and shown >= self._opened else events
        if packet.keyframe:
            if self.captions is None and self.rendition.passthrough:  # encoders of ours pass none on
                self.captions = captions(packet.track.codec, packet.data)
            boundary = self._next_cut(shown, scale)
            if boundary is not None and self._late(boundary, shown, packet):
                self.dropped_packets += 1
                return self._finish()
            if boundary is not None:
                events = self._start(boundary, packet)
        if self._current is None:
            self.dropped_packets += 1
            return events
        fits = self._fits(packet.track)
        if packet.dts < self._from_dts or (not fits and shown < rescale(self._current.pts, VIDEO_TIMESCALE, scale)):
            self.dropped_packets += 1
            return events  # of an encoder that hands over what it has left: the source is passed through meanwhile
        if not fits:
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
        if self._overgrown(dts + duration):
            self.dropped_packets += 1
            return events + self.lose()
        if self._samples and self._filled(dts + duration) > self._target:
            events += self._close_part()
            self._part_start = dts
        offset = shown - dts
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
        self._from_dts = packet.dts
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

    def pump(self, safe_90k: int | None, wait_s: float | None = None) -> list[Event]:
        """Let frames through. All cuts at or before `safe_90k` are known (None: those before the newest frame, for
        audio decides the cuts itself); with `wait_s`, frames so much older than the newest go through without that
        certainty. None passes a barrier: there something else begins, at a cut that is still to come."""
        held = self.held
        if not held:
            return []
        events: list[Event] = []
        scale = held[0].track.timescale
        safe = held[-1].pts
        if safe_90k is not None:
            certain = rescale(safe_90k, VIDEO_TIMESCALE, scale) - ORIGIN_S * scale
            safe = certain if wait_s is None else max(safe - int(wait_s * scale), certain)
        if self._cuts.barrier is not None:
            safe = min(safe, rescale(self._cuts.barrier, VIDEO_TIMESCALE, scale) - ORIGIN_S * scale)
        while held and held[0].pts + held[0].duration // 2 <= safe:
            self._frame(held.popleft(), events)
        while len(held) > MAX_HELD:
            held.popleft()
            self.dropped_packets += 1
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
        late = self._current is not None and pts + half < self._origin  # of an encoder, as with pictures
        if late or self._cuts.nowhere(pts + half, scale):
            self.dropped_packets += 1
            return
        boundary = self._next_cut(pts + half, scale)
        if boundary is not None and self._late(boundary, pts, packet):
            self.dropped_packets += 1
            events += self._finish()
            return
        if boundary is not None:
            events += self._begin(boundary, packet.track, pts, pts)
            self._origin = rescale(boundary.pts, VIDEO_TIMESCALE, scale)
            self._opened = min(pts, self._origin)
        if self._current is None or pts < 0:
            self.dropped_packets += 1
            return
        if not self._fits(packet.track):
            self.dropped_packets += 1
            events += self.lose()
            return
        events += self._fit(pts)
        if self._current is not None and self._overgrown(pts + packet.duration):
            events += self._finish()
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
