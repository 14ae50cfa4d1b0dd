"""One live stream from its first packet to its end, through every reconnect of its publisher.

| state | means | leaves by |
|---|---|---|
| `STARTING` | a publisher is admitted; its tracks are being found out | tracks known: `LIVE`; publisher gone: `ENDED` |
| `LIVE` | packets flow to the packager and the transcoder | publisher lost: `INTERRUPTED`; finished: `ENDED` |
| `INTERRUPTED` | no publisher; viewers are kept for the reconnect window | publisher back: `STARTING`; over: `ENDED` |
| `ENDED` | playlists are closed; the broadcast is history | |

Not here: who may publish (`control.gate`), what a player sees (packager), how pictures are made (transcode).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from enum import Enum
from typing import Any

import structlog

from control.health import Meter, verdict
from control.session import Session
from ingest.ports import EndReason, StopReason
from media.clock import VIDEO_TIMESCALE, rescale
from media.cut import Cut
from media.errors import HeadraceError
from media.packet import Gap, Packet
from media.track import Kind, Track
from packager.presentation import Presentation
from transcode.cuts import Cutter, Mode
from transcode.plan import Plan
from transcode.pool import Job, Pool

log = structlog.get_logger(__name__)

TRACK_WAIT_S = 0.7
"""How long a second kind of track is waited for after the first packet; encoders announce both at once."""
HELD_PACKETS = 2000
"""Bound on packets held while tracks are found out and a worker is fetched; then the oldest GOP is dropped."""


class State(Enum):
    STARTING = "starting"
    LIVE = "live"
    INTERRUPTED = "interrupted"
    ENDED = "ended"


Planner = Callable[[Track | None, Track | None, bool], Plan]
"""(video, audio, may the video be passed through) -> what is copied and what is encoded."""


class Broadcast:
    """Fans one source out to packager and transcoder. Lives on the core's event loop; nothing here waits."""

    def __init__(
        self,
        id: str,
        stream: str,
        presentation: Presentation,
        pool: Pool,
        planner: Planner,
        *,
        segment_s: int,
        reconnect_window_s: float,
        on_end: Callable[[Broadcast], None],
        after: asyncio.Task[None] | None = None,
    ) -> None:
        """`after`: the last work of the broadcast that used `presentation` before; it is waited for."""
        self.id = id
        self.stream = stream
        self.presentation = presentation
        self.state = State.STARTING
        self.started = time.time()
        self.ended: float | None = None
        self.end_reason = ""
        self.notices: list[str] = []
        self.meter = Meter()
        self.session: Session | None = None
        self.sessions = 0
        self.last_key_id = ""
        self.dropped_packets = 0
        self.reconnect_window_s = reconnect_window_s
        self.transcode_stats: dict[str, float | str] = {}
        self._pool = pool
        self._planner = planner
        self._on_end = on_end
        self._after = after
        self._cutter = Cutter(segment_s, lambda: time.time_ns() // 1000)
        self._plan: Plan | None = None
        self._job: Job | None = None
        self._opening: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._held: list[Packet | Gap] | None = []
        self._tracks: dict[int, Track] = {}
        self._video: Track | None = None
        self._audio: Track | None = None
        self._passed: dict[Kind, str] = {}
        self._tail = ""
        """The rendition that was passed through until the cut at `_tail_pts`: frames shown before that are its own."""
        self._tail_pts = 0
        self._end_pts = 0
        self._last_arrival = time.monotonic()

    # -- publishers come and go -------------------------------------------------------------------------------

    def attach(self, session: Session) -> None:
        """Make `session` the source; whoever was it is told to go."""
        before, self.session = self.session, session
        if before is not None:
            before.stop(StopReason.TAKEOVER, "another encoder took over this stream with a valid key")
        self.sessions += 1
        self.last_key_id = session.key_id
        self._cancel_timer()
        if self.sessions > 1:
            self._hold([Gap(None, self._end_pts, self._end_pts, "publisher_reconnect")])
        self.state = State.STARTING
        self._log().info("publisher_attached", protocol=session.protocol, address=session.address, agent=session.agent)

    def origin(self) -> int:
        """Media time of a session's first packet: zero, or after all that was there, by the wall clock."""
        if self._end_pts == 0:
            return 0
        away = time.monotonic() - self._last_arrival
        return self._end_pts + int(away * VIDEO_TIMESCALE)

    def detach(self, session: Session, stopped: StopReason | None, reason: EndReason, text: str) -> None:
        """The session's connection is over."""
        self._log().info("publisher_detached", reason=reason.value, text=text)
        if session is not self.session:
            return
        self.session = None
        if self.state is State.ENDED:
            return
        final = reason is EndReason.FINISHED or stopped in (StopReason.KICKED, StopReason.UNUSABLE, StopReason.LIMIT)
        if final or self._plan is None or self.reconnect_window_s <= 0:
            self.end(stopped.value if stopped else reason.value)
            return
        self.state = State.INTERRUPTED
        self._cancel_timer()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self.reconnect_window_s, self.end, "reconnect_window_over")

    def stop(self, reason: StopReason, text: str) -> None:
        """End the broadcast from our side."""
        if self.session is not None:
            self.session.stop(reason, text)
        self.end(reason.value)

    def end(self, reason: str) -> None:
        """Close the playlists. Idempotent."""
        if self.state is State.ENDED:
            return
        self.state = State.ENDED
        self.ended = time.time()
        self.end_reason = reason
        self._cancel_timer()
        self._log().info("broadcast_ended", reason=reason, seconds=round(self.ended - self.started, 1))
        self._on_end(self)

    async def finish(self) -> None:
        """Let the worker hand over what it still has, then close the presentation. Called once, after `end`."""
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.gather(self._opening, return_exceptions=True)
        if self._job is not None:
            await self._job.close(drain=True)
            self._job = None
            self.presentation.end()

    # -- packets ----------------------------------------------------------------------------------------------

    def write(self, session: Session, item: Packet | Gap) -> None:
        """Take one packet or gap from the current session."""
        if session is not self.session or self.state is State.ENDED:
            return
        now = time.monotonic()
        if isinstance(item, Packet):
            self._last_arrival = now
            end = rescale(item.dts + item.duration, item.track.timescale, VIDEO_TIMESCALE)
            self._end_pts = max(self._end_pts, end, rescale(item.pts, item.track.timescale, VIDEO_TIMESCALE))
            self.meter.packet(item, now)
        else:
            self.meter.gap()
        if self._held is None:
            self.take(item)
            return
        self._held.append(item)
        if len(self._held) > HELD_PACKETS:
            self.dropped_packets += 1
            self._held.pop(0)
        if isinstance(item, Packet) and self._opening is None:
            self._find_tracks(item.track)

    def _hold(self, items: list[Packet | Gap]) -> None:
        """Keep what comes until the tracks of the session are known and its worker is there."""
        self._held = items + (self._held or [])
        self._tracks = {}

    def _find_tracks(self, track: Track) -> None:
        first = not self._tracks
        self._tracks[track.id] = track
        if {t.kind for t in self._tracks.values()} == {Kind.VIDEO, Kind.AUDIO}:
            self._assemble()
        elif first:
            self._cancel_timer()
            self._timer = asyncio.get_running_loop().call_later(TRACK_WAIT_S, self._assemble)

    def _assemble(self) -> None:
        """The tracks are known: plan, declare, and open a job; one with nothing to encode costs no process, and is
        there when the source turns out not to be fit for passing through."""
        self._cancel_timer()
        if self.state is State.ENDED or self._opening is not None:
            return
        self._video = self._primary(Kind.VIDEO)
        self._audio = self._primary(Kind.AUDIO)
        self._cutter.mode = Mode.KEYFRAMES if self._video else Mode.GRID
        plan = self._replan()
        if self._job is None:
            self._opening = asyncio.get_running_loop().create_task(self._open(plan), name=f"open-{self.id}")
            return
        self.presentation.declare(plan.renditions)
        self._job.change(plan)
        self._go_live()

    def _primary(self, kind: Kind) -> Track | None:
        return min((t for t in self._tracks.values() if t.kind is kind), key=lambda t: t.id, default=None)

    def _replan(self) -> Plan:
        plan = self._planner(self._video, self._audio, self._cutter.mode is Mode.KEYFRAMES)
        if not any(r.passthrough for r in plan.renditions if r.kind is Kind.VIDEO):
            self._cutter.mode = Mode.GRID
        self._passed = {r.kind: r.name for r in plan.renditions if r.passthrough}
        self._plan = plan
        return plan

    async def _open(self, plan: Plan) -> None:
        if self._after is not None:
            await asyncio.wait({self._after})
        if self.presentation.ended:
            self.presentation.restart()
        self.presentation.declare(plan.renditions)
        try:
            self._job = await self._pool.open(plan, self, name=self.stream)
        except HeadraceError as error:
            self.failed(error.text, "")
        self._opening = None
        self._go_live()

    def _go_live(self) -> None:
        held, self._held = self._held or [], None
        self.state = State.LIVE if self.session is not None else State.INTERRUPTED
        self._log().info("broadcast_live", renditions=[r.name for r in self._plan.renditions] if self._plan else [])
        for item in held:
            self.take(item)

    def _track_changed(self, track: Track) -> None:
        """A track that was not there before, or whose configuration is another: plan anew from the next cut on."""
        known = self._tracks.get(track.id)
        self._tracks[track.id] = track
        if track != self._primary(track.kind):
            return  # not one of those that are shown
        self._log().info("track_changed", track=track.id, kind=track.kind.value, new=known is None)
        if known is None or track.kind is Kind.VIDEO:
            self._cutter.restart("track_added" if known is None else "config_change")
        else:
            self._cutter.mark("config_change")
        self._held = self._held or []
        self._assemble()

    def take(self, item: Packet | Gap) -> None:
        """Hand one item to cutter, packager and transcoder."""
        if isinstance(item, Gap):
            self._cutter.restart(item.reason)
            if item.reason == "publisher_reconnect":
                self.presentation.interrupted(item.start)
            if self._job is not None:
                self._job.write(item)
            return
        if self._held is None and item.track is not self._tracks.get(item.track.id):
            if item.track != self._tracks.get(item.track.id):
                self._track_changed(item.track)
                if self._held is not None:
                    self._held.append(item)
                    return
            self._tracks[item.track.id] = item.track
        reference = self._video or self._audio
        if reference is not None and item.track.id == reference.id:
            cut = self._cutter.feed(item)
            if cut is not None:
                self._cut(cut)
        if self._cutter.last is None:
            return  # nothing can be shown before the first keyframe
        name = self._passed.get(item.track.kind)
        if item.track is self._video and item.pts < self._tail_pts:
            name = self._tail
        if name is not None:
            self.presentation.write(name, item)
        if self._job is not None:
            self._job.write(item)

    def _cut(self, cut: Cut) -> None:
        passed = Kind.VIDEO in self._passed
        if passed and self._cutter.mode is Mode.GRID and self._video is not None:
            self._notice("keyframes are too far apart or irregular: the source is encoded anew; set 2 s in the encoder")
            self._tail, self._tail_pts = self._passed[Kind.VIDEO], cut.pts
            plan = self._replan()
            self.presentation.declare(plan.renditions)
            if self._job is not None:
                self._job.change(plan)
        self.presentation.cut(cut)
        if self._job is not None:
            self._job.write(cut)

    # -- the transcoder's news (transcode.ports.Sink) ---------------------------------------------------------

    def packet(self, rendition: str, packet: Packet) -> None:
        self.presentation.write(rendition, packet)

    def restarted(self, reason: str, log: str) -> None:
        self._log().warning("transcoder_restarted", reason=reason, worker_log=log)
        self._notice(f"the transcoder was replaced: {reason}")
        if self._plan is not None:
            self.presentation.lost([r.name for r in self._plan.renditions if not r.passthrough])
        self._cutter.mark("transcoder_restart")
        if self.session is not None:
            self.session.want_keyframe()

    def failed(self, reason: str, log: str) -> None:
        self._log().error("transcoder_failed", reason=reason, worker_log=log)
        self._notice(f"the transcoder gave up: {reason}; only what the encoder sends is on air")
        self._job = None

    def stats(self, values: Mapping[str, float | str]) -> None:
        self.transcode_stats.update(values)

    def thumbnail(self, jpeg: bytes) -> None:
        self.presentation.thumbnail = jpeg

    # -- what operators see -----------------------------------------------------------------------------------

    def describe(self) -> dict[str, Any]:
        """The broadcast for API and dashboard; JSON-able."""
        sample = self.meter.history[-1] if self.meter.history else None
        session = self.session
        return {
            "id": self.id,
            "stream": self.stream,
            "state": self.state.value,
            "started": self.started,
            "ended": self.ended,
            "end_reason": self.end_reason,
            "publisher": session and session.describe(),
            "sessions": self.sessions,
            "video": self._video and _describe(self._video),
            "audio": self._audio and _describe(self._audio),
            "source": sample
            and {
                "bitrate_bits": sample.bitrate_bits,
                "frame_rate": sample.frame_rate,
                "keyframe_interval_s": sample.keyframe_interval_s,
                "av_offset_ms": sample.av_offset_ms,
                "jitter_ms": sample.jitter_ms,
                "gaps": self.meter.gaps_total,
                "bytes": self.meter.bytes_total,
                **sample.protocol,
            },
            "health": verdict(sample, self._video),
            "renditions": [
                {"name": r.name, "codec": r.codec.value, "passthrough": r.passthrough, "width": r.width,
                 "height": r.height, "bitrate_bits": r.bitrate}
                for r in (self._plan.renditions if self._plan else ())
            ],
            "cutting": self._cutter.mode.value,
            "dropped_packets": self.dropped_packets,
            "transcode": dict(self.transcode_stats),
            "notices": self.notices[-20:],
        }  # fmt: skip

    def history(self) -> list[dict[str, Any]]:
        """The last ten minutes of the source, a sample a second."""
        return [{**asdict(sample), "protocol": dict(sample.protocol)} for sample in self.meter.history]

    def _notice(self, text: str) -> None:
        self.notices.append(text)
        del self.notices[:-20]
        self._log().warning("broadcast_notice", text=text)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _log(self) -> structlog.stdlib.BoundLogger:
        bound: structlog.stdlib.BoundLogger = log.bind(stream=self.stream, broadcast=self.id)
        return bound


def _describe(track: Track) -> dict[str, Any]:
    if track.kind is Kind.VIDEO:
        rate = float(track.frame_rate) if track.frame_rate else None
        return {"codec": track.codec.value, "width": track.width, "height": track.height, "frame_rate": rate}
    return {"codec": track.codec.value, "sample_rate": track.sample_rate, "channels": track.channels}
