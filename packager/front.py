"""How far the timeline is certain: up to which time all cuts are known, and what is done where video or publisher fail.

Sound is held until it is certain to which segment it belongs. Cuts come with the video, so

| | sound passes up to |
|---|---|
| there is video | the video's front |
| there is no video rendition | the newest frame: sound decides the cuts itself |
| video is silent | the newest frame less `audio_wait_s`, and a cut is invented where video would have cut |
| the publisher was away and is back | where it came back; what is later waits for the cut there |
"""

from __future__ import annotations

from media.clock import VIDEO_TIMESCALE, rescale
from media.packet import Packet
from packager.cuts import ORIGIN_S, Cuts
from packager.lane import Event
from packager.segmenter import Audio
from packager.settings import PackagerSettings

MAX_STRETCH_S = 0.45
"""A segment longer than nominal by more than this would round to more than EXT-X-TARGETDURATION."""

_ORIGIN = ORIGIN_S * VIDEO_TIMESCALE


class Front:
    """One per presentation. Times in 90 kHz."""

    def __init__(self, cuts: Cuts, settings: PackagerSettings) -> None:
        self.own_cuts = 0
        """Cuts that were invented."""
        self._cuts = cuts
        self._settings = settings
        self.restart()

    def restart(self) -> None:
        """Another broadcast begins."""
        self._begin = self._end = -_ORIGIN
        self._barrier: int | None = None

    @property
    def pts(self) -> int:
        """Of the newest picture, on the packaged timeline."""
        return self._begin + _ORIGIN

    def saw(self, packet: Packet) -> None:
        """A packet of any video rendition."""
        if packet.dts > self._begin:
            self._begin, self._end = packet.dts, packet.dts + packet.duration

    def interrupted(self, pts: int) -> None:
        """The publisher was away and is back: what is shown from `pts` on belongs to the next cut."""
        self._barrier = pts + _ORIGIN

    def cut(self) -> None:
        """A cut has come."""
        self._barrier = None

    def pass_on(self, audio: Audio, has_video: bool) -> list[Event]:
        """Let those frames of an audio rendition through that may go."""
        safe = self._safe() if has_video else None
        return audio.pump(safe, self._settings.audio_wait_s, self._barrier)

    def _safe(self) -> int:
        front, end = self._begin + _ORIGIN, self._end + _ORIGIN
        last = self._cuts.last
        if last is None or not self._cuts.started:
            return front
        # A cut that is not known yet lies at a frame still to come, or on the regular grid before such a frame.
        regular = last.pts + self._settings.segment_s * VIDEO_TIMESCALE - 1
        return max(last.pts, front, min(end, regular))

    def guard(self, packet: Packet) -> None:
        """Audio goes on while video is silent: cut where video would have, so that no segment grows too long."""
        last = self._cuts.last
        if last is None or not self._cuts.started or self._barrier is not None:
            return
        pts = rescale(packet.pts, packet.track.timescale, VIDEO_TIMESCALE) + _ORIGIN
        longest_s = self._settings.segment_s + MAX_STRETCH_S + self._settings.audio_wait_s
        while pts - last.pts > longest_s * VIDEO_TIMESCALE:
            last = self._cuts.invent(self._settings.segment_s)
            self.own_cuts += 1
