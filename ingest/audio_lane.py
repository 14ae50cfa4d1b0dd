"""Audio time from sample counts: frames follow each other without seams, and the stated times only steer.

Three answers to a difference between the counted and the stated time:
a slow drift is followed by frames that are a tick or a few longer or shorter; a hole is filled with a whole number of
frames that a decoder conceals, or that are silent (a long one becomes a `Gap`); frames for a time that is already
filled are dropped.
"""

from __future__ import annotations

from ingest.lanes import Counters, same_configuration
from ingest.sample import Sample
from media.clock import VIDEO_TIMESCALE, rescale
from media.codecs import aac, opus
from media.errors import ProtocolError
from media.packet import Gap, Packet
from media.track import Codec, Track

_SMOOTH = 16
"""Samples over which the difference is averaged: the rounding of RTMP to milliseconds vanishes in it."""
_SLEW_START_S, _SLEW_STOP_S = 1 / 100, 1 / 400
"""A drift is followed from 10 ms on (lip sync is noticed from about 20 ms) until 2.5 ms."""
_MOST_SLEW = 256
"""At most one part in 256 longer or shorter: far below what is heard, far above the drift of any crystal."""
_WIDEST_S = 1 / 5
"""Sources that stamp unsteadily get a wider tolerance, but never more than 200 ms."""
_FILLED_S = 1
"""A hole up to this long is filled: packets that a bad network lost, or that a silent source did not send."""
_MOST_FILLED = 100
"""Frames for one hole: a second of AAC at 96 kHz. The shortest of Opus would be 400, work to be had for nothing."""


class AudioLane:
    """See the module. All inner times are in ticks of the track's timescale."""

    def __init__(self, track: Track, floor: int, counters: Counters) -> None:
        self._floor = floor
        self._counters = counters
        self._next: int | None = None
        self._mean = self._jitter = 0  # of the difference, times _SMOOTH
        self._slewing = False
        self._rephase = True
        self._configure(track)

    @property
    def track(self) -> Track:
        return self._track

    @property
    def end(self) -> int:
        if self._next is None:
            return self._floor
        return rescale(self._next, self._track.timescale, VIDEO_TIMESCALE)

    def rephase(self) -> None:
        self._rephase = True

    def flush(self) -> list[Packet | Gap]:
        return []

    def push(self, sample: Sample, dts: int | None, pts: int) -> list[Packet | Gap]:
        out: list[Packet | Gap] = []
        if sample.track is not self._track:
            self._change(sample.track, out)
        length = sample.duration_samples or self._length(sample.data)
        if not length:
            self._counters.dropped += 1
            return out
        stated = rescale(pts, VIDEO_TIMESCALE, self._track.timescale) + sample.offset_samples
        if not self._steer(sample, stated, length, out):
            self._counters.dropped += 1
            return out
        assert self._next is not None
        length += self._slew(length)
        out.append(Packet(self._track, self._next, self._next, length, True, sample.data))
        self._next += length
        return out

    def _steer(self, sample: Sample, stated: int, length: int, out: list[Packet | Gap]) -> bool:
        """Decide where the frame goes, in `_next`; False to drop it."""
        if self._rephase or self._next is None:
            floor = rescale(self._floor, VIDEO_TIMESCALE, self._track.timescale) if self._next is None else self._next
            if 2 * (floor - stated) > length:
                return False
            self._next = max(floor, stated)
            self._rephase = self._slewing = False
            self._mean = self._jitter = 0
            return True
        if sample.estimated:
            return True
        error = stated - self._next
        # Wider for a source that stamps unsteadily, so that its jitter is not taken for holes.
        limit = min(3 * length // 2 + 4 * self._jitter // _SMOOTH, max(2 * length, int(self._rate * _WIDEST_S)))
        if error < -limit:
            return False
        if error > limit:
            hole = (2 * error + length) // (2 * length) * length
            error -= hole
            self._counters.holes += 1
            self._fill(hole, sample.data, out)
        self._jitter += (abs(error * _SMOOTH - self._mean) - self._jitter) // _SMOOTH
        self._mean += (error * _SMOOTH - self._mean) // _SMOOTH
        return True

    def _fill(self, hole: int, following: bytes, out: list[Packet | Gap]) -> None:
        assert self._next is not None
        until = self._next + hole
        frame = self._stand_in(following) if hole <= self._rate * _FILLED_S else b""
        length = self._length(frame) if frame else hole + 1
        while hole // length <= _MOST_FILLED and self._next + length <= until:
            out.append(Packet(self._track, self._next, self._next, length, True, frame))
            self._next += length
        if self._next < until:
            start, self._next = self.end, until
            out.append(Gap(self._track.id, start, self.end, "packet_loss"))

    def _stand_in(self, following: bytes) -> bytes:
        """A frame for one that never came; empty where none can be made. `following`: the next that did."""
        try:
            if self._track.codec is Codec.OPUS:
                return opus.lost_frame(following, self._track.config)
            return aac.silent_frame(self._track.config)
        except ProtocolError:
            return b""

    def _slew(self, length: int) -> int:
        mean = self._mean // _SMOOTH
        threshold = _SLEW_STOP_S if self._slewing else _SLEW_START_S
        self._slewing = abs(mean) > self._rate * threshold
        if not self._slewing:
            return 0
        most = max(1, length // _MOST_SLEW)
        step = max(-most, min(most, mean // 64 or (1 if mean > 0 else -1)))
        self._mean -= step * _SMOOTH
        self._counters.slewed += 1
        return step

    def _change(self, track: Track, out: list[Packet | Gap]) -> None:
        old, end = self._track, self.end
        self._configure(track)
        if self._next is not None:
            self._next = -(-self._next * track.timescale // old.timescale)  # rounded up: never before the last end
            if not same_configuration(old, track):
                self._mean = self._jitter = 0
                out.append(Gap(track.id, end, self.end, "config_change"))

    def _configure(self, track: Track) -> None:
        self._track = track
        self._rate = track.timescale
        self._frame = 0
        if track.codec is Codec.AAC:
            self._frame = aac.parse_asc(track.config).frame_length if track.config else 1024

    def _length(self, data: bytes) -> int:
        if self._frame:
            return self._frame
        try:
            return opus.packet_duration(data)
        except ProtocolError:
            return 0  # a broken packet: dropped and counted by the caller
