"""One clock for audio and video of a WebRTC peer, from arrival at first and then from RTCP sender reports.

RTP timestamps of two tracks start at random numbers. A sender report (RFC 3550 6.4.1) names one instant on both
the sender's wall clock and the track's RTP clock; two tracks with reports can be laid over each other exactly.
Until both have one, the first packets are taken to have been captured when they arrived.

Audio is the master and is never moved, because a hole in audio is heard. Video is led to its right place by
at most `SLEW` of a tick per tick, so that its timestamps go on rising.
"""

from __future__ import annotations

from dataclasses import dataclass

from media.clock import VIDEO_TIMESCALE, Unwrapper, rescale
from media.track import Kind

MICROS = 1_000_000
NEVER_MORE_US = 5 * MICROS
"""A correction beyond this is a sender with unusable reports (zero or unrelated wall clocks): not believed."""
SLEW = 8
"""Video is moved by at most 1/8 of the time that passes: 100 ms are made up in 0.8 s, unseen."""

SMOOTH = 8
"""Reports are averaged over about so many: senders stamp them with milliseconds of noise."""
DEADBAND = 4 * VIDEO_TIMESCALE // 1000
"""4 ms, a fifth of what may be off: below it video is left alone, so that its frames keep to their grid."""
JUMP = 10 * VIDEO_TIMESCALE
"""A step of video beyond this is a source whose clock started anew: nothing to lead it along."""


@dataclass(slots=True)
class _Line:
    """What is known of one track."""

    timescale: int
    unwrap: Unwrapper
    first: int
    base: int
    """Position of `first` on the common clock, in the track's ticks."""
    last: int
    report_rtp: int | None = None
    report_us: int = 0


class LipSync:
    """Places RTP timestamps on the session's common clock, whose zero is the arrival of the first packet."""

    def __init__(self) -> None:
        self._lines: dict[Kind, _Line] = {}
        self._zero_us: int | None = None
        self._offset = 0
        self._target = 0
        self._error_us = 0
        self._last_video: int | None = None
        self.reports = 0
        self.refused_reports = 0
        self.arrival_error_us = 0
        """By how much the assumption from arrival was wrong, once reports told (video against audio)."""
        self.synchronised = False

    def place(self, kind: Kind, timestamp: int, timescale: int, now_us: int) -> int:
        """`timestamp` (32 bits, in `timescale`) on the common clock, in ticks of `timescale`."""
        line = self._line(kind, timestamp, timescale, now_us)
        line.last = line.unwrap(timestamp)
        position = line.base + line.last - line.first
        if kind is Kind.AUDIO:
            return position
        return position + self._slewed(position)

    def report(self, kind: Kind, ntp: int, timestamp: int) -> None:
        """A sender report: `ntp` is 64 bits (32.32 seconds), `timestamp` the same instant in RTP ticks."""
        line = self._lines.get(kind)
        if line is None or ntp == 0:
            self.refused_reports += 1
            return
        self.reports += 1
        # Nearest to the last packet: reports are no packets and must not move the unwrapping on.
        ahead = (timestamp - line.last + (1 << 31)) % (1 << 32) - (1 << 31)
        line.report_rtp = line.last + ahead
        line.report_us = (ntp * MICROS) >> 32
        self._aim()

    def restart(self, kind: Kind) -> None:
        """The track goes on with new, unrelated timestamps (another SSRC)."""
        self._lines.pop(kind, None)
        if kind is Kind.VIDEO:
            self._offset = self._target = 0
            self._last_video = None
            self.synchronised = False

    @property
    def offset_us(self) -> int:
        """How far video has been moved against its place by arrival."""
        return rescale(self._offset, VIDEO_TIMESCALE, MICROS)

    def _line(self, kind: Kind, timestamp: int, timescale: int, now_us: int) -> _Line:
        line = self._lines.get(kind)
        if line is None:
            if self._zero_us is None:
                self._zero_us = now_us
            unwrap = Unwrapper(32)
            first = unwrap(timestamp)
            base = rescale(now_us - self._zero_us, MICROS, timescale)
            line = self._lines[kind] = _Line(timescale, unwrap, first, base, first)
        return line

    def _aim(self) -> None:
        """Where video belongs against audio, by both tracks' latest reports."""
        audio, video = self._lines.get(Kind.AUDIO), self._lines.get(Kind.VIDEO)
        if audio is None or video is None or audio.report_rtp is None or video.report_rtp is None:
            return
        audio_at = audio.base + audio.report_rtp - audio.first
        audio_us = rescale(audio_at, audio.timescale, MICROS) - audio.report_us
        video_at = video.base + video.report_rtp - video.first
        video_us = rescale(video_at, video.timescale, MICROS) - video.report_us
        error_us = audio_us - video_us
        # Against what is known so far: a slow drift may add up to any length over the hours.
        if abs(error_us - self._error_us) > NEVER_MORE_US:
            self.refused_reports += 1
            return
        if not self.synchronised:
            self.arrival_error_us = self._error_us = error_us
        self.synchronised = True
        self._error_us += (error_us - self._error_us) // SMOOTH
        wanted = rescale(self._error_us, MICROS, video.timescale)
        if abs(wanted - self._target) > DEADBAND:
            self._target = wanted

    def _slewed(self, position: int) -> int:
        if self._last_video is None or abs(position - self._last_video) > JUMP:
            self._offset = self._target
            self._last_video = position
        else:
            step = max(0, position - self._last_video) // SLEW
            self._offset += max(-step, min(step, self._target - self._offset))
        self._last_video = max(position, self._last_video)
        return self._offset
