"""Stands where the transcoder's pool would, and makes of every picture what a rung would hand out: same pts, IDRs at
the cuts, a lag, and packets held until the next picture tells their duration. No bytes are coded."""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

from encoded import aac_track, avc_track

from media.clock import VIDEO_TIMESCALE, rescale
from media.cut import Cut
from media.packet import Gap, Packet
from media.track import Kind, Track
from transcode.plan import AudioEncode, Plan, VideoEncode
from transcode.settings import TranscodeSettings

FRAME = 1024


class EncoderPool:
    """`lag_s`: how long after a picture came its packet is handed over, asked each time."""

    def __init__(self, lag_s: Callable[[], float] = lambda: 0.0) -> None:
        self.settings = TranscodeSettings()
        self.lag_s = lag_s
        self.jobs: list[EncoderJob] = []

    async def open(self, plan: Plan, sink: Any, *, name: str, settings: Any = None) -> EncoderJob:
        job = EncoderJob(self, plan, sink)
        self.jobs.append(job)
        return job


class EncoderJob:
    """Has the interface of `transcode.pool.Job`."""

    def __init__(self, pool: EncoderPool, plan: Plan, sink: Any) -> None:
        self.pool = pool
        self.sink = sink
        self.pictures = False
        self._plan = plan
        self._changed: Plan | None = None
        self._out: deque[tuple[float, str, Packet]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._begin()

    def _begin(self) -> None:
        """A worker that knows nothing."""
        self._awaits_cut = True
        self._not_before = -(1 << 60)
        self._branches: dict[int, _Video | _Audio] = {}

    # -- as a job ---------------------------------------------------------------------------------------------

    def change(self, plan: Plan) -> None:
        self._changed = plan

    def watched(self, viewers: Any) -> None:
        pass

    def write(self, item: Packet | Cut | Gap) -> None:
        if self._closed or isinstance(item, Gap):
            return
        if isinstance(item, Cut):
            if self._awaits_cut:
                self._not_before = item.pts
            self._awaits_cut = False
            plan, self._changed = self._changed or self._plan, None
            self._plan = plan
            for track_id in self._branches.keys() - plan.tracks:
                self._branches.pop(track_id).finish()
            for track_id in plan.tracks - self._branches.keys():
                kind = _Video if any(e.track_id == track_id for e in plan.video) else _Audio
                self._branches[track_id] = kind(track_id, self._made)
            for branch in self._branches.values():
                branch.turns.append((item, plan))
        elif not self._awaits_cut and item.track.id in self._branches:
            self._branches[item.track.id].packet(item)

    async def close(self, drain: bool = True) -> None:
        if drain and not self._closed:
            for branch in self._branches.values():
                branch.finish()
            if self._out:
                await asyncio.sleep(self._out[-1][0] - asyncio.get_running_loop().time())
                self._hand_over()
        self._closed = True
        self._out.clear()

    # -- as a worker ------------------------------------------------------------------------------------------

    def die(self) -> None:
        """What it has is lost; another takes over at the next cut."""
        self._out.clear()
        self._begin()
        self.sink.restarted("killed", "")

    def _made(self, name: str, packet: Packet) -> None:
        start = rescale(packet.pts, packet.track.timescale, VIDEO_TIMESCALE)
        if start < self._not_before - (0 if packet.track.kind is Kind.VIDEO else VIDEO_TIMESCALE // 20):
            return
        loop = asyncio.get_running_loop()
        at = loop.time() + self.pool.lag_s()
        if self._out:
            at = max(at, self._out[-1][0])
        self._out.append((at, name, packet))
        self._arm()

    def _arm(self) -> None:
        if self._timer is None and self._out:
            self._timer = asyncio.get_running_loop().call_at(self._out[0][0], self._hand_over)

    def _hand_over(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        while self._out and self._out[0][0] <= now + 1e-6:
            _, name, packet = self._out.popleft()
            self.sink.packet(name, packet)
        self._arm()


Made = Callable[[str, Packet], None]


class _Video:
    def __init__(self, track_id: int, made: Made) -> None:
        self.turns: deque[tuple[Cut, Plan]] = deque()
        self._track_id = track_id
        self._made = made
        self._track: Track | None = None
        self._reorder: list[tuple[int, int, bytes]] = []
        self._last_pts = -(1 << 60)
        self._live = False
        self._rungs: dict[str, _Rung] = {}

    def packet(self, packet: Packet) -> None:
        if self._track != packet.track:
            self._show(1 << 60)
            self._track = packet.track
        heapq.heappush(self._reorder, (packet.pts, packet.duration, packet.data))
        self._show(packet.dts)

    def finish(self) -> None:
        self._show(1 << 60)
        for rung in self._rungs.values():
            rung.finish()

    def _show(self, until: int) -> None:
        while self._reorder and self._reorder[0][0] <= until:
            pts, _, data = heapq.heappop(self._reorder)
            if pts > self._last_pts:
                self._last_pts = pts
                self._picture(pts, data)

    def _picture(self, pts: int, data: bytes) -> None:
        idr = anew = False
        while self.turns and pts >= self.turns[0][0].pts:
            cut, plan = self.turns.popleft()
            idr, self._live, anew = True, True, anew or cut.discontinuity
            wanted = {e.name: e for e in plan.video if e.track_id == self._track_id}
            for name in [n for n, r in self._rungs.items() if wanted.get(n) != r.spec]:
                self._rungs.pop(name).finish()
            for name in wanted.keys() - self._rungs.keys():
                self._rungs[name] = _Rung(wanted[name], self._made)
        if self._live:
            for rung in self._rungs.values():
                rung.take(pts, data, idr=idr, anew=anew)


class _Rung:
    def __init__(self, spec: VideoEncode, made: Made) -> None:
        self.spec = spec
        self._made = made
        rate = spec.frame_rate or spec.max_rate
        self._nominal = int(VIDEO_TIMESCALE / rate)
        self._track = replace(picture_track(0, spec.width, spec.height), frame_rate=spec.frame_rate)
        self._held: tuple[int, bytes, bool] | None = None

    def take(self, pts: int, data: bytes, *, idr: bool, anew: bool) -> None:
        if self._held is not None:
            self._release(self._held[0] + self._nominal if anew else pts)
        self._held = pts, data, idr

    def finish(self) -> None:
        if self._held is not None:
            self._release(self._held[0] + self._nominal)

    def _release(self, end: int) -> None:
        assert self._held is not None
        (pts, data, idr), self._held = self._held, None
        self._made(self.spec.name, Packet(self._track, pts, pts, end - pts, idr, data))


class _Audio:
    def __init__(self, track_id: int, made: Made) -> None:
        self.turns: deque[tuple[Cut, Plan]] = deque()
        self._track_id = track_id
        self._made = made
        self._specs: list[AudioEncode] = []
        self._next: int | None = None
        self._end = -(1 << 60)
        self._expected = 0
        self._before = b""

    def finish(self) -> None:
        pass

    def packet(self, packet: Packet) -> None:
        start = rescale(packet.pts, packet.track.timescale, 48_000)
        length = rescale(packet.duration, packet.track.timescale, 48_000)
        while self.turns and (start + length // 2) * 15 >= self.turns[0][0].pts * 8:
            cut, plan = self.turns.popleft()
            self._specs = [e for e in plan.audio if e.track_id == self._track_id]
            if cut.discontinuity:
                self._next = None
        if self._next is None or abs(start - self._expected) > 48_000:
            self._next = start
        self._expected = start + length
        while self._next + FRAME <= start + length:
            if self._next >= self._end:
                data = packet.data if self._next >= start else self._before
                for spec in self._specs:
                    made = Packet(sound_track(self._track_id), self._next, self._next, FRAME, True, data)
                    self._made(spec.name, made)
                self._end = self._next + FRAME
            self._next += FRAME
        self._before = packet.data


@cache
def picture_track(track_id: int, width: int, height: int) -> Track:
    """H.264 of that size; nothing is encoded."""
    return avc_track(track_id, width, height)


@cache
def sound_track(track_id: int = 100) -> Track:
    """AAC at 48 kHz."""
    return aac_track(track_id)
