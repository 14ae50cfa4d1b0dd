"""Video times: on the source's frame grid where it has one, else as stated, one frame behind for its duration.

FREE    no grid: a frame is held until the next one says how long it lasts.
LOCKED  on a grid: a frame leaves at once, its duration is known.
A claimed rate (SPS, metadata) locks with the second frame if the two agree; a rate that nobody claims after a dozen,
and after twice as many each time that a lock did not hold.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace

from ingest.cadence import TIGHT, WINDOW, Grid, find, fits
from ingest.lanes import Counters, same_configuration
from ingest.reorder import DecodeOrder
from ingest.sample import Sample
from media.clock import VIDEO_TIMESCALE
from media.packet import Gap, Packet
from media.track import Track

_PROOF = 12
"""Frames that must fit a grid that nobody claimed."""
_GUESS = 3000
"""Ticks: duration of a lone frame of unknown rate."""
_MOST_AHEAD = 10 * VIDEO_TIMESCALE
"""Ticks that a picture may be shown after it is decoded: sixteen pictures (`reorder`) at under two a second. More is a
broken offset, which would have everything up to its time count as passed."""
_LONGEST_GUESS = 81_000
"""Ticks: 0.9 s. A screen that stood still for longer may move with the next frame: a guess that reached beyond it would
make that frame look like one that the clock had passed long ago."""


class VideoLane:
    """See the module."""

    def __init__(self, track: Track, floor: int, counters: Counters) -> None:
        self._track = track
        self._floor = floor
        self._counters = counters
        self._grid: Grid | None = None
        self._held: Packet | None = None
        self._last_dts: int | None = None
        self._end = floor
        self._duration = 0
        self._step = _LONGEST_GUESS
        """Between the last two frames that came at their stated times: a claimed rate may be far too low."""
        self._times: deque[int] = deque(maxlen=WINDOW)
        self._proof = 2 if track.frame_rate else _PROOF
        self._rephase = True
        self._order: DecodeOrder | None = None

    @property
    def track(self) -> Track:
        return self._track

    @property
    def end(self) -> int:
        return self._end

    def rephase(self) -> None:
        self._rephase = True
        self._order = None

    def flush(self) -> list[Packet | Gap]:
        if self._held is None:
            return []
        held, self._held = self._held, None
        return [_lasting(held, self._end - held.dts)]

    def push(self, sample: Sample, dts: int | None, pts: int) -> list[Packet | Gap]:
        out: list[Packet | Gap] = []
        if sample.track is not self._track:
            self._change(sample.track, out)
        dts = self._decode_time(dts, pts)
        if pts - dts > _MOST_AHEAD:
            self._counters.repaired += 1
            pts = dts
        if self._rephase:
            out += self.flush()
            self._leave_grid(dts)
            self._rephase = False
        if self._grid is not None:
            placed = self._grid.place(dts)
            if placed is not None:
                self._counters.skipped_frames += placed[1]
                self._emit_on_grid(sample, dts, pts, out)
                return out
            self._proof = min(WINDOW, max(_PROOF, 2 * self._proof))
            self._leave_grid(dts)
        self._times.append(dts)
        if len(self._times) >= self._proof and self._lock(dts):
            assert self._grid is not None
            if self._held is not None:
                held, self._held = self._held, None
                offset = self._grid.composed(held.pts - held.dts)
                shown = held.pts if offset is None else held.dts + offset
                out.append(replace(held, pts=max(shown, self._floor), duration=max(1, self._grid.next - held.dts)))
            self._emit_on_grid(sample, dts, pts, out)
            return out
        self._hold(sample, dts, pts, out)
        return out

    def _decode_time(self, dts: int | None, pts: int) -> int:
        """The stated decoding time, or one made from the presentation times where it is missing or impossible."""
        if self._order is None and (dts is None or pts < dts - TIGHT):
            self._order = DecodeOrder()
        if self._order is not None:
            dts = self._order.decode_time(pts)
        assert dts is not None
        return dts

    def _lock(self, dts: int) -> bool:
        """Find a grid for the frames remembered, the newest of which has `dts`."""
        claimed = self._track.frame_rate
        if len(self._times) >= _PROOF:
            rate = find(self._times, claimed)
        else:  # a few frames prove a claim, but would fit many a rate that nobody claims
            rate = claimed if claimed and fits(self._times, claimed) is not None else None
        if rate is None:
            return False
        start = dts
        if self._held is not None:
            # From the frame before, so that durations add up; it was put within the rounding of the grid.
            step = 90_000 * rate.denominator // rate.numerator
            if abs(self._held.dts + step - dts) <= TIGHT:
                start = self._held.dts + step
        if self._last_dts is not None and start <= self._last_dts:
            return False
        self._grid = Grid(rate, start)
        self._grid.place(dts)
        return True

    def _emit_on_grid(self, sample: Sample, stated: int, pts: int, out: list[Packet | Gap]) -> None:
        assert self._grid is not None
        dts = self._grid.next
        offset = self._grid.composed(pts - stated)
        if offset is None:
            offset = pts - stated
        duration = self._grid.advance()
        self._last_dts, self._end, self._duration = dts, dts + duration, duration
        out.append(self._packet(sample, dts, dts + offset, duration))

    def _hold(self, sample: Sample, stated: int, pts: int, out: list[Packet | Gap]) -> None:
        dts = max(stated, self._floor)
        if self._last_dts is not None:
            # Behind a frame that left with a known duration the next one never comes before its end.
            least = self._last_dts + 1 if self._held is not None else max(self._end, self._last_dts + 1)
            dts = max(dts, least)
        if dts != stated:
            self._counters.repaired += 1
        if self._held is not None:
            self._duration = dts - self._held.dts
            if dts == stated:
                self._step = self._duration
            out.append(_lasting(self._held, self._duration))
        rate = self._track.frame_rate
        guess = int(VIDEO_TIMESCALE / rate) if rate else self._duration or _GUESS
        guess = min(guess, self._step, _LONGEST_GUESS)
        self._held = self._packet(sample, dts, pts if dts == stated else max(pts, dts), guess)
        self._last_dts, self._end = dts, dts + guess

    def _leave_grid(self, dts: int) -> None:
        self._grid = None
        self._times.clear()

    def _change(self, track: Track, out: list[Packet | Gap]) -> None:
        old, self._track = self._track, track
        if not same_configuration(old, track):
            out += self.flush()
            out.append(Gap(track.id, self._end, self._end, "config_change"))
        if old.frame_rate != track.frame_rate:
            self._grid = None
            self._times.clear()
            self._proof = 2 if track.frame_rate else _PROOF

    def _packet(self, sample: Sample, dts: int, pts: int, duration: int) -> Packet:
        return Packet(self._track, max(pts, self._floor), dts, duration, sample.keyframe, sample.data)


def _lasting(packet: Packet, duration: int) -> Packet:
    return replace(packet, duration=max(1, duration))
