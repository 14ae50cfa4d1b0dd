"""One clock for a publishing session: raw time stamps in, packets and gaps on the stream's timeline out.

The source's clock is mapped by epochs: pairs (raw time, stream time) that all tracks share. A track whose stamps jump
opens a new epoch at the point that the stream has reached; a second track that makes the same jump, sooner or later,
falls into that epoch, and so keeps its distance to the first. A track that does not jump stays in the old one; and one
whose stamps meet those of such a track again, having jumped alone, returns to it: its samples had been sent early
(ffmpeg 7.1 sends the first sound behind a long silence at once). What happens inside an epoch is the lanes' work:
`audio_lane` counts samples, `video_lane` finds the frame grid.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from ingest.audio_lane import AudioLane
from ingest.lanes import MS, Counters, Lane
from ingest.sample import RawClock, Sample
from ingest.video_lane import VideoLane
from media.clock import VIDEO_TIMESCALE, rescale
from media.packet import Gap, Packet
from media.track import Kind

_BACK_S = 1.0
"""A step back that is no longer than this is disorder, mended by the lane; a longer one is a jump."""
_LAG_S, _PATIENCE = 0.1, 12
"""So many samples in a row whose time had long been passed are no disorder either: the clock was set back."""
_EPOCHS = 4
"""How many epochs a late track may still fall into."""
_PAUSE_S = 1.0
"""After a silence longer than this a new epoch starts later by the silence: wall clock and media stay together."""
_FORGET = 0.001
"""Seconds a second by which the least delay of a track is forgotten: a source's clock may drift, by far less."""


class _Epoch(NamedTuple):
    raw: int
    at: int

    def place(self, raw: int, hz: int) -> int:
        return self.at + rescale(raw - self.raw, hz, VIDEO_TIMESCALE)


class _Line:
    """A track's place on the source's clock."""

    __slots__ = ("behind", "epoch", "lag", "lane", "late", "least", "now", "raw")

    def __init__(self, lane: Lane, epoch: _Epoch, raw: int, now: float) -> None:
        self.lane = lane
        self.epoch = epoch
        self.raw = raw
        self.now = now
        self.lag: float | None = None
        self.least: float | None = None
        """The shortest time from stamp to arrival in this epoch, seconds on no scale."""
        self.late = 0.0
        """By how much longer the newest sample took: a stalled network delivers what it held all at once."""
        self.behind = 0


class Timeline:
    """The clock of one publishing session. Not thread-safe; no clock of its own, no waiting for a missing track."""

    def __init__(self, origin: Callable[[], int] | int, clock: RawClock, *, jump_limit_s: float = 3.0) -> None:
        """`origin`: where (90 kHz) the session's first sample goes; a callable is asked once, at that sample.

        `jump_limit_s`: how far stamps may run ahead of their arrival (`LimitSettings.max_timestamp_jump_s`).
        """
        self._origin = origin
        self._clock = clock
        self._limit_s = jump_limit_s
        self._floor = 0
        self._lines: dict[int, _Line] = {}
        self._epochs: deque[_Epoch] = deque(maxlen=_EPOCHS)
        self._last: _Line | None = None
        self.counters = Counters()

    @property
    def av_offset_ms(self) -> float | None:
        """How much later audio arrives than video of the same time stamp (ms, smoothed); None without both.

        For the first video and the first audio track. A constant value is the encoder's interleaving; one that
        grows says that the source's two clocks drift apart.
        """
        video, audio = (
            next((line.lag for _, line in sorted(self._lines.items()) if line.lane.track.kind is kind), None)
            for kind in (Kind.VIDEO, Kind.AUDIO)
        )
        return None if video is None or audio is None else (audio - video) * 1000

    @property
    def end(self) -> int:
        """Where the stream has got to: the latest end of any track, 90 kHz."""
        return max((line.lane.end for line in self._lines.values()), default=self._floor)

    def feed(self, sample: Sample, now: float) -> list[Packet | Gap]:
        """Put one sample in its place. `now`: its arrival on a monotonic clock, seconds."""
        raw = sample.dts if sample.dts is not None else sample.pts
        out: list[Packet | Gap] = []
        if raw is None:
            self.counters.dropped += 1
            return out
        line = self._lines.get(sample.track.id)
        if line is None:
            raw = self._clock.nearest(raw, self._last.raw) if self._last else raw
            line = self._open(sample, raw, now)
        else:
            raw = self._clock.nearest(raw, line.raw)
            behind_stamp = rescale(sample.offset_samples, sample.track.timescale, VIDEO_TIMESCALE)
            self._follow(line, raw, behind_stamp, now, out)
        waited_s = now - line.now
        line.raw, line.now = raw, now
        self._last = line

        hz = self._clock.hz
        at = line.epoch.place(raw, hz)
        dts: int | None = at
        if sample.pts is None:
            pts = line.epoch.place(raw + sample.cts, hz)
        elif sample.dts is None:
            pts, dts = at, None
        else:
            pts = line.epoch.place(self._clock.nearest(sample.pts, raw), hz)
        pts += sample.offset_ns * VIDEO_TIMESCALE // 1_000_000_000
        out += line.lane.push(sample, dts, pts)
        lag = now - at / VIDEO_TIMESCALE
        line.lag = lag if line.lag is None else line.lag + (lag - line.lag) / 64
        line.least = lag if line.least is None else min(lag, line.least + waited_s * _FORGET)
        line.late = lag - line.least
        return out

    def flush(self) -> list[Packet | Gap]:
        """The session is over: give out what was held back for its duration."""
        return [item for line in self._lines.values() for item in line.lane.flush()]

    def _open(self, sample: Sample, raw: int, now: float) -> _Line:
        """A track's first sample."""
        if self._last is None:
            self._floor = self._origin() if callable(self._origin) else self._origin
            here = self._floor
        else:
            here = self._last.epoch.place(self._last.raw, self._clock.hz)
        epoch = self._fitting(raw, here, now - self._last.now) if self._last else None
        if epoch is None:
            # The first of all, or a track with a clock of its own: what arrives now belongs here.
            epoch = _Epoch(raw, here)
            self._epochs.append(epoch)
            self.counters.jumps += self._last is not None
        make = VideoLane if sample.track.kind is Kind.VIDEO else AudioLane
        line = _Line(make(sample.track, self._floor, self.counters), epoch, raw, now)
        self._lines[sample.track.id] = line
        return line

    def _follow(self, line: _Line, raw: int, behind_stamp: int, now: float, out: list[Packet | Gap]) -> None:
        """Find out whether the track's clock jumped, and if so, into which epoch.

        `behind_stamp`: ticks from the stamp to the sample, where several share one.
        """
        hz = self._clock.hz
        elapsed_s = max(0.0, now - line.now)
        step = raw - line.raw
        if (epoch := self._left_alone(line, raw)) is not None:
            line.epoch, line.least, line.behind = epoch, None, 0
            line.lane.rephase()
            return
        at, end = line.epoch.place(raw, hz), line.lane.end
        # Many small steps back add up to a jump too: the stream cannot wait for the source's clock forever.
        passed = end - at - behind_stamp if at >= self._floor else 0
        line.behind = line.behind + 1 if passed > _LAG_S * VIDEO_TIMESCALE else 0
        behind = passed > _BACK_S * VIDEO_TIMESCALE or line.behind > _PATIENCE
        if -_BACK_S * hz <= step <= (self._limit_s + elapsed_s + line.late) * hz and not behind:
            return
        line.behind = 0
        epoch = self._fitting(raw, end, elapsed_s, other_than=line.epoch)
        if epoch is None:
            out += line.lane.flush()
            end = line.lane.end
            pause = int(elapsed_s * VIDEO_TIMESCALE) if elapsed_s > _PAUSE_S else 0
            epoch = _Epoch(raw, end + pause)
            self._epochs.append(epoch)
            self.counters.jumps += 1
            out.append(Gap(None, end, epoch.at, "timestamp_jump"))
        line.epoch, line.least = epoch, None
        line.lane.rephase()

    def _left_alone(self, line: _Line, raw: int) -> _Epoch | None:
        """The epoch of the track that was heard last, if `raw` fits there and now, and does not in its own track's."""
        other, hz, near = self._last, self._clock.hz, _BACK_S * VIDEO_TIMESCALE
        if other is None or other.epoch is line.epoch:
            return None
        here = other.epoch.place(other.raw, hz)
        at = other.epoch.place(raw, hz)
        fits = abs(at - here) <= near < abs(line.epoch.place(raw, hz) - here)
        return other.epoch if fits and at >= line.lane.end else None

    def _fitting(self, raw: int, here: int, elapsed_s: float, other_than: _Epoch | None = None) -> _Epoch | None:
        """The newest epoch that puts `raw` about `here`."""
        behind = int(self._limit_s * VIDEO_TIMESCALE)
        ahead = behind + int(elapsed_s * VIDEO_TIMESCALE)
        for epoch in reversed(self._epochs):
            if epoch is not other_than and -behind <= epoch.place(raw, self._clock.hz) - here <= ahead:
                return epoch
        return None


__all__ = ["MS", "Counters", "RawClock", "Sample", "Timeline"]
