"""How far the timeline is certain: up to which time all cuts are known, and what is done where video or publisher fail.

Sound is held until it is certain to which segment it belongs. Cuts come with the video, so

| | sound passes up to |
|---|---|
| there is video | the video's front, however far behind the sound it is |
| there is no video rendition | the newest frame of the first: its sound decides the cuts |
| video is silent, counted by arrival | the newest frame less `audio_wait_s`; cuts are invented where video would cut |
| video is back, later than a segment may last | the same, up to the cut where it is back |
| the publisher was away and is back | where it came back; what is later waits for the cut there |
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from media.clock import VIDEO_TIMESCALE, rescale
from media.packet import Packet
from packager.cuts import ORIGIN_S, Cuts
from packager.lane import Event
from packager.model import Boundary
from packager.segmenter import Audio
from packager.settings import PackagerSettings

MAX_STRETCH_S = 0.45
"""A segment longer than nominal by more than this would round to more than EXT-X-TARGETDURATION."""

_ORIGIN = ORIGIN_S * VIDEO_TIMESCALE


class Front:
    """One per presentation. Times in 90 kHz; `clock` in steady seconds."""

    def __init__(self, cuts: Cuts, settings: PackagerSettings, clock: Callable[[], float]) -> None:
        self.own_cuts = 0
        """Cuts that were invented."""
        self._cuts = cuts
        self._settings = settings
        self._clock = clock
        self.restart()

    def restart(self) -> None:
        """Another broadcast begins."""
        self._begin = self._end = -_ORIGIN
        self._due = math.inf
        """When the next picture will be overdue."""

    @property
    def pts(self) -> int:
        """Of the newest picture, on the packaged timeline."""
        return self._begin + _ORIGIN

    def saw(self, packet: Packet) -> None:
        """A packet of any video rendition."""
        if packet.dts > self._begin:
            self._begin, self._end = packet.dts, packet.dts + packet.duration
        usual_s = min(packet.duration / packet.track.timescale, self._settings.segment_s / 2)
        self._due = self._clock() + usual_s + self._settings.audio_wait_s

    def pass_on(self, audio: Audio, leader: Audio | None) -> list[Event]:
        """Let those frames of an audio rendition through that may go. `leader`: whose sound decides the cuts, where
        there is no video."""
        if leader is None:
            return audio.pump(self._safe(), self._settings.audio_wait_s if self._silent else None)
        if audio is leader or not leader.held:
            return audio.pump(None)
        newest = leader.held[-1]
        heard = rescale(newest.pts, newest.track.timescale, VIDEO_TIMESCALE) + _ORIGIN
        return audio.pump(heard, self._settings.audio_wait_s)

    @property
    def _silent(self) -> bool:
        """Whether video has stopped. What counts is when packets come: many sources send sound seconds ahead."""
        return self._clock() > self._due

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
        if last is None or not self._cuts.running or not self._silent:
            return
        pts = rescale(packet.pts, packet.track.timescale, VIDEO_TIMESCALE) + _ORIGIN
        self._invent(last, pts - int(self._settings.audio_wait_s * VIDEO_TIMESCALE))

    def catch_up(self, audios: Iterable[Audio], until: float = math.inf) -> None:
        """What was before ends: at `until` (90 kHz) a cut is about to be added, or nothing more comes for now. Sound
        that went on since the last cut gets those that video left out."""
        last = self._cuts.last
        heard = [rescale(a.held[-1].pts, a.held[-1].track.timescale, VIDEO_TIMESCALE) for a in audios if a.held]
        if last is not None and self._cuts.running and heard:
            self._invent(last, int(min(until, max(heard))) + _ORIGIN)

    def _invent(self, last: Boundary, until: int) -> None:
        longest = int((self._settings.segment_s + MAX_STRETCH_S) * VIDEO_TIMESCALE)
        while until - last.pts > longest:
            last = self._cuts.invent(self._settings.segment_s)
            self.own_cuts += 1
