"""The video of a worker: decode once, hand every picture to every rung, turn cuts into IDRs, shed when behind.

One thread per source track. A cut arrives in front of the packets it concerns; the first picture in display order
at or after it is the IDR of every rung, and a plan that came with it holds from that picture on.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from weakref import WeakKeyDictionary

import structlog
from av.video.frame import VideoFrame

from media.clock import VIDEO_TIMESCALE
from media.packet import Gap, Packet
from media.track import Track
from transcode.decoder import DecoderError, VideoDecoder
from transcode.inbox import Inbox, Turn
from transcode.output import Output
from transcode.plan import Plan, VideoEncode
from transcode.rung import Rung
from transcode.scale import colour_of
from transcode.shed import Shedder
from transcode.shot import Shot, stack
from transcode.thumbnail import Thumbnailer

log = structlog.get_logger(__name__)

LAGGING_S = 0.3
"""More than pictures that wait their turn add up to."""


class VideoBranch(threading.Thread):
    """Everything that is made of one source video track."""

    def __init__(self, track_id: int, plan: Plan, output: Output, after: Sequence[threading.Thread] = ()) -> None:
        """`after`: what is to hand over its last pictures before ours, as those of the source before."""
        super().__init__(name=f"video-{track_id}", daemon=True)
        self._after = after
        self.inbox = Inbox()
        self.units = 0
        """Packets worked off."""
        self.frames = 0
        self.late_cuts = 0
        """Cuts whose first picture had gone by when they came."""
        self._track_id = track_id
        self._plan = plan
        self._output = output
        self._decoder: VideoDecoder | None = None
        self._decoders: tuple[str, ...] = ()
        """The plan's, as they were when the decoder was opened."""
        self._bad_decoders: set[str] = set()
        self._errors_before = 0
        self._turns: deque[Turn] = deque()
        self._live = False
        self._rungs: dict[str, Rung] = {}
        self._closing: dict[str, Rung] = {}
        self._last_pts = -1
        self._shedder = Shedder(plan.shed_after_s)
        self.viewers: Mapping[str, int] = {}
        """By rendition; replaced whole by the reader's thread."""
        self._seen: WeakKeyDictionary[Rung, tuple[float, float, int]] = WeakKeyDictionary()
        """Wall clock, seconds busy and media time when `values` were asked for last."""
        self._thumbnailer: Thumbnailer | None = None
        self._anew = False
        """Whether the next picture is the first behind a discontinuity."""

    # -- what the reader's thread asks ------------------------------------------------------------------------

    def values(self) -> dict[str, float | str]:
        """Figures for `Progress`."""
        rungs = list(self._rungs.values())
        speeds = self._speeds(rungs)
        decoder = self._decoder
        values: dict[str, float | str] = {
            "frames": self.frames,
            "dropped_frames": sum(r.dropped for r in rungs),
            "late_cuts": self.late_cuts,
            "decoder_errors": self._errors_before + (decoder.errors if decoder else 0),
            "worker_lag_s": round(self._lag_s(), 3),
            "shed_level": self._shedder.level,
            "rungs": len(rungs),
        }
        if speeds:
            values["speed_ratio"] = round(min(speeds), 2)
        for rung in rungs:
            values[f"frames_{rung.spec.name}"] = rung.frames
        return values

    def _speeds(self, rungs: Sequence[Rung]) -> list[float]:
        """Of each rung that had something to do: media time worked off against the time that it was busy, since asked
        last. While there is a backlog, against the wall clock: rungs that wait for a core or for the decoder do not see
        in their own figures that the whole is too slow."""
        now, behind = time.monotonic(), self._lag_s() >= LAGGING_S
        speeds = []
        for rung in rungs:
            figures = now, rung.busy_s, rung.media_ticks
            before, self._seen[rung] = self._seen.get(rung), figures
            then, busy_before, media_before = before or (now, 0.0, 0)
            spent_s = now - then if behind and before else figures[1] - busy_before
            if spent_s > 0:
                speeds.append((figures[2] - media_before) / VIDEO_TIMESCALE / spent_s)
        return speeds

    def _lag_s(self) -> float:
        positions = [r.position for r in list(self._rungs.values()) if r.position >= 0 and not r.failed]
        if not positions:
            return 0.0
        return max(0.0, (self.inbox.newest - min(positions)) / VIDEO_TIMESCALE)

    # -- our own thread ---------------------------------------------------------------------------------------

    def run(self) -> None:
        for branch in self._after:
            branch.join()
        self._after = ()
        while (item := self.inbox.get()) is not None:
            match item:
                case Packet():
                    self._packet(item)
                    self.units += 1
                case Turn():
                    self._turns.append(item)
                case Gap():
                    pass  # the cut after it says what to do
        if self._decoder is not None:
            self._show(self._decoder.flush(), self._decoder.track)
        for rung in self._rungs.values():
            rung.finish()
        for rung in (*self._closing.values(), *self._rungs.values()):
            rung.join()
        if self._thumbnailer is not None:
            self._thumbnailer.finish()

    def _packet(self, packet: Packet) -> None:
        decoder = self._decoder
        moved = packet.keyframe and decoder is not None and self._decoders != self._seats()
        if decoder is None or decoder.track != packet.track or moved:
            if decoder is not None:
                self._show(decoder.flush(), decoder.track)
                self._errors_before += decoder.errors
            self._decoders = self._seats()
            self._decoder = decoder = VideoDecoder(packet.track, self._decoders, self._decoder_failed)
        self._show(decoder.decode(packet), packet.track)

    def _seats(self) -> tuple[str, ...]:
        return tuple(seat for seat in self._plan.decoders if seat not in self._bad_decoders)

    def _decoder_failed(self, error: DecoderError, failed: str, then: str) -> None:
        if failed:
            self._bad_decoders.add(failed)
        self._output.notice("decoder_failed", f"{error.text}; {then} takes over.", failed)
        self._decoders = self._seats()

    def _show(self, pictures: list[VideoFrame], track: Track) -> None:
        for picture in pictures:
            pts = picture.pts
            assert pts is not None
            if pts <= self._last_pts:
                continue  # the decoder before this one was already past it
            self._last_pts = pts
            idr = self._turn(pts)
            if not self._live:
                continue
            self.frames += 1
            colour, anew = colour_of(picture), self._anew
            self._anew = False
            shot = Shot(picture, pts, picture.duration or 0, idr, track.sample_aspect, colour, anew)
            if idr:
                self._thumbnail(shot)
            self._shed()
            for rung in self._rungs.values():
                rung.offer(shot)

    def _turn(self, pts: int) -> bool:
        """Whether the picture at `pts` is the first after a cut; then what the cut brings is done."""
        idr = False
        while self._turns and pts >= self._turns[0].mark.pts:
            turn = self._turns.popleft()
            idr = self._live = True
            self._anew = self._anew or turn.mark.discontinuity
            if turn.plan is not None:
                self._plan = turn.plan
                self._shedder.after_s = turn.plan.shed_after_s
        if idr:
            self._arrange()
        return idr

    def _arrange(self) -> None:
        """Open and close rungs so that they are those of the plan, less what is shed. At cuts only."""
        specs = [s for s in self._plan.video if s.track_id == self._track_id]
        off = self._shedder.off(specs, self.viewers)
        wanted = {s.name: s for s in specs if s.name not in off}
        for name, rung in list(self._rungs.items()):
            if wanted.get(name) != rung.spec:
                rung.finish()
                self._closing[name] = self._rungs.pop(name)
        for name, spec in wanted.items():
            if name not in self._rungs:
                self._rungs[name] = self._start(spec)
        stack(rung.size for rung in self._rungs.values())
        thinned = self._shedder.thinned(specs)
        for name, rung in self._rungs.items():
            rung.thin = 2 if name in thinned else 1

    def _start(self, spec: VideoEncode) -> Rung:
        rung = Rung(spec, self._output, self._closing.pop(spec.name, None))
        rung.start()
        return rung

    def _shed(self) -> None:
        specs = [s for s in self._plan.video if s.track_id == self._track_id]
        change = self._shedder.look(self._lag_s(), time.monotonic(), specs, self.viewers)
        if not change:
            return
        self._output.notice("shedding", change)
        thinned = self._shedder.thinned(specs)
        for name, rung in self._rungs.items():
            rung.thin = 2 if name in thinned else 1

    def _thumbnail(self, shot: Shot) -> None:
        if self._plan.thumbnail_track != self._track_id:
            return
        if self._thumbnailer is None:
            self._thumbnailer = Thumbnailer(self._plan.thumbnail_height, self._output)
            self._thumbnailer.start()
        self._thumbnailer.offer(shot)
