"""One live stream from its first packet to its end, through every reconnect of its publisher.

| state | means | leaves by |
|---|---|---|
| `STARTING` | a publisher is admitted; its tracks are being found out | tracks known: `LIVE`; publisher gone: `ENDED` |
| `LIVE` | packets flow to the packager and the transcoder | publisher lost: `INTERRUPTED`; finished: `ENDED` |
| `INTERRUPTED` | no publisher; viewers are kept for the reconnect window | publisher back: `STARTING`; over: `ENDED` |
| `ENDED` | playlists are closed; the broadcast is history | |

Not here: who may publish (`control.gate`), which track goes where (`control.distributor`), what a player sees
(packager), how pictures are made (transcode), what the API says of it (`control.describe`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from enum import Enum

import structlog

from control.demand import Demand
from control.distributor import Distributor, Planner
from control.giving_up import Retry, encoded, lowered, shows_without
from control.health import Meter
from control.limits import Finding, Limits
from control.session import Session
from ingest.ports import EndReason, StopReason
from ingest.settings import LimitSettings
from media.clock import VIDEO_TIMESCALE, rescale
from media.errors import HeadraceError
from media.packet import Gap, Packet
from media.track import Kind
from packager.presentation import Presentation
from transcode.plan import Plan
from transcode.pool import Pool
from transcode.stills import Stills

log = structlog.get_logger(__name__)

TRACK_WAIT_S = 0.7
"""How long a second kind of track is waited for after the first packet; encoders announce both at once."""
MORE_TRACKS_S = {"srt": 0.4, "whip": 0.0}
"""Media time for which further tracks are waited for once there is video and audio, by protocol: MPEG-TS packs up to a
third of a second of sound into one unit; WebRTC has one track of each kind."""
MORE_TRACKS_ELSE_S = 0.1
HELD_PACKETS = 2000
"""Bound on packets held while tracks are found out and a worker is fetched; then the oldest is dropped."""
NOTICES = 20
SETTLE_S = 0.5
"""After a publisher is lost, what it sent last is given so long to come out of the encoders."""


class State(Enum):
    STARTING = "starting"
    LIVE = "live"
    INTERRUPTED = "interrupted"
    ENDED = "ended"


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
        limits: LimitSettings | None = None,
        rungs: str = "always",
        on_trouble: Callable[[str, str], None] = lambda seat, reason: None,
        stills: Stills | None = None,
    ) -> None:
        """`after`: the last work of the broadcast that used `presentation` before; it is waited for. `rungs`: see
        `TranscodeSettings.rungs`. `on_trouble`: is told which encoder or decoder failed, or of a worker that was lost
        (an empty name), and why. `stills`: makes pictures where no worker decodes; None: there are none then."""
        self._on_trouble = on_trouble
        self._rungs = rungs
        self.id = id
        self.stream = stream
        self.presentation = presentation
        self.state = State.STARTING
        self.started = time.time()
        self.ended: float | None = None
        self.end_reason = ""
        self.limit = ""
        """Which limit ended it (`control.limits`); empty for none."""
        self.notices: list[str] = []
        self.meter = Meter()
        self.session: Session | None = None
        self.sessions = 0
        self.last_key_id = ""
        self.dropped_packets = 0
        self.reconnect_window_s = reconnect_window_s
        self.transcode_stats: dict[str, float | str] = {}
        self.viewers: dict[str, int] = {}
        """At our own edge, by rendition."""
        bare = None if stills is None else lambda keyframe: stills.offer(stream, keyframe, self.thumbnail)
        self.distributor = Distributor(presentation, planner, segment_s=segment_s, notice=self.notice, bare=bare)
        self._limit_settings = limits or LimitSettings()
        self._limits = Limits(self._limit_settings)
        self._pool = pool
        self._on_end = on_end
        self._after = after
        self._planner = planner
        self._retry = Retry(self._reopen)
        """While it waits nothing is encoded. Another publisher is tried at once."""
        self._planned = self._shown = False
        self._opening: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._held: list[Packet | Gap] | None = []
        self._settled_pts: int | None = None
        self._end_pts = 0
        self._last_arrival = time.monotonic()

    @property
    def plan(self) -> Plan:
        """What is copied and what is encoded now."""
        return self.distributor.plan

    @property
    def max_bitrate_bits(self) -> int:
        """The limit that holds for its publisher."""
        return self._limit_settings.max_bitrate_bits

    # -- publishers come and go -------------------------------------------------------------------------------

    def attach(self, session: Session) -> None:
        """Make `session` the source; whoever was it is told to go."""
        before, self.session = self.session, session
        if before is not None:
            before.stop(StopReason.TAKEOVER, "another encoder took over this stream with a valid key")
        self.sessions += 1
        self.last_key_id = session.key_id
        self._cancel_timer()
        self._limits = Limits(self._limit_settings)
        self.meter.restart()
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
        if final or not self._planned or self.reconnect_window_s <= 0:
            self.end(stopped.value if stopped else reason.value)
            return
        self.state = State.INTERRUPTED
        self._cancel_timer()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(min(SETTLE_S, self.reconnect_window_s), self._settle)

    def _settle(self) -> None:
        """The publisher is gone and its last pictures are through the encoders: viewers need not wait for more."""
        self.presentation.pause()
        left_s = max(0.0, self.reconnect_window_s - SETTLE_S)
        self._timer = asyncio.get_running_loop().call_later(left_s, self.end, "reconnect_window_over")

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
        self._retry.cancel()
        self._log().info("broadcast_ended", reason=reason, seconds=round(self.ended - self.started, 1))
        self._on_end(self)

    async def finish(self) -> None:
        """Let the worker hand over what it still has, then close the presentation. Called once, after `end`."""
        await self._retry.close()
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.gather(self._opening, return_exceptions=True)
        if self.distributor.job is not None:
            await self.distributor.job.close(drain=True)
            self.distributor.job = None
        self.distributor.close()
        self._held = None  # a broadcast of the past holds no media
        if not self._shown:  # whoever comes next waits for us alone, but the one before may still be at it
            if self._after is not None:
                await asyncio.wait({self._after})
            return
        if self.end_reason == StopReason.DRAIN.value:
            self.presentation.suspend()  # the publisher may find us again in a moment, and its viewers with it
        else:
            self.presentation.end()

    def use(self, planner: Planner) -> None:
        """Another ladder; takes effect at the next cut, or when the transcoder is tried again."""
        self._planner = planner
        if not self._retry.waits:
            self.distributor.use(planner)

    # -- packets ----------------------------------------------------------------------------------------------

    def write(self, session: Session, item: Packet | Gap) -> None:
        """Take one packet or gap from the current session."""
        if session is not self.session or self.state is State.ENDED:
            return
        now = time.monotonic()
        if isinstance(item, Packet):
            if item.track is not self.distributor.tracks.get(item.track.id) and not self._allowed(item):
                return
            self._last_arrival = now
            end = rescale(max(item.dts, item.pts) + item.duration, item.track.timescale, VIDEO_TIMESCALE)
            self._end_pts = max(self._end_pts, end)
            self.meter.packet(item, now)
        else:
            self.meter.gap()
        if self._held is None:
            self.distributor.take(item)
            return
        self._held.append(item)
        if len(self._held) > HELD_PACKETS:
            self.dropped_packets += 1
            self._held.pop(0)
        if isinstance(item, Packet) and self._opening is None:
            self._find_tracks(item)

    def _allowed(self, packet: Packet) -> bool:
        """Whether the packet's track, which is new or changed, keeps to the limits."""
        finding = self._limits.track(packet.track)
        if finding is not None:
            self._enforce(finding)
        return finding is None

    def _enforce(self, finding: Finding) -> None:
        self.notice(finding.text)
        if finding.final and self.session is not None:
            self.limit = finding.slug
            self.session.stop(StopReason.LIMIT, finding.text)

    def tick(self, now: float, wall: float) -> None:
        """Once a second: measure, and look at the limits. `now`: monotonic; `wall`: since the epoch; seconds."""
        sample = self.meter.tick(now, wall)
        if sample is not None and self.session is not None and not self.session.stopping:
            for finding in self._limits.second(sample):
                self._enforce(finding)

    def _hold(self, items: list[Packet | Gap]) -> None:
        """Keep what comes until the tracks of the session are known and its worker is there. What is still held of
        another session was never shown, and is not any more."""
        self.dropped_packets += sum(isinstance(item, Packet) for item in self._held or ())
        self._held = items
        self._settled_pts = None
        self._retry.cancel()
        self.distributor.reset()
        self.distributor.use(self._planner)

    def _find_tracks(self, packet: Packet) -> None:
        tracks, track = self.distributor.tracks, packet.track
        first = not len(tracks)
        tracks.put(track)
        if tracks.kinds == {Kind.VIDEO, Kind.AUDIO}:
            at = rescale(packet.dts, track.timescale, VIDEO_TIMESCALE)
            if self._settled_pts is None:
                protocol = self.session.protocol if self.session else ""
                self._settled_pts = at + int(MORE_TRACKS_S.get(protocol, MORE_TRACKS_ELSE_S) * VIDEO_TIMESCALE)
            if at >= self._settled_pts:
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
        plan = self.distributor.begin()
        self._planned = True
        if self.distributor.job is None:
            self._opening = asyncio.get_running_loop().create_task(self._open(plan), name=f"open-{self.id}")
            return
        self.distributor.declare()
        self._go_live()

    async def _open(self, plan: Plan) -> None:
        if self._after is not None:
            await asyncio.wait({self._after})
        if self.presentation.ended:
            self.presentation.restart()
        self._shown = True
        self.distributor.declare()
        await self._employ(plan)
        self._opening = None
        self._go_live()

    async def _employ(self, plan: Plan) -> None:
        """Open the transcoder's job; without one where that fails."""
        try:
            if self._rungs == "watched":
                demand = Demand(plan, self, self.presentation, self._pool, self._pool.settings, self.stream)
                self.distributor.job = await demand.start()
            else:
                self.distributor.job = await self._pool.open(plan, self, name=self.stream)
        except HeadraceError as error:
            self.failed(error.text, "")

    def _go_live(self) -> None:
        held, self._held = self._held or [], None
        self.state = State.LIVE if self.session is not None else State.INTERRUPTED
        self._log().info("broadcast_live", renditions=[r.name for r in self.plan.renditions])
        for item in held:
            self.distributor.take(item)

    # -- the transcoder's news (transcode.ports.Sink) ---------------------------------------------------------

    def packet(self, rendition: str, packet: Packet) -> None:
        self.presentation.write(rendition, packet)

    def restarted(self, reason: str, log: str) -> None:
        self._log().warning("transcoder_restarted", reason=reason, worker_log=log)
        self.notice(f"the transcoder was replaced: {reason}")
        self.transcode_stats.pop("speed_ratio", None)
        self.presentation.lost([r.name for r in self.plan.renditions if not r.passthrough])
        self.distributor.cutter.mark("transcoder_restart")
        if self.session is not None:
            self.session.want_keyframe()
        if reason != "overrun":
            self._on_trouble("", reason)

    def failed(self, reason: str, log: str) -> None:
        """Lower the ladder to what is passed through. Where that is no picture, viewers see that it stands still, as
        while the publisher is away."""
        self._log().error("transcoder_failed", reason=reason, worker_log=log)
        shows = shows_without(self.plan)
        left = "only what the encoder sends is on air" if shows else "nothing is on air, as this source must be encoded"
        words = f"the transcoder gave up: {reason}; {left}"
        self.distributor.job = None
        self.transcode_stats.pop("speed_ratio", None)
        self.notice(f"{words}; it is tried again in {self._retry.arm():.0f} s")
        self.presentation.lost(encoded(self.plan))
        if shows:
            self.distributor.use(lowered(self._planner, f"{words}."))
        else:
            self.presentation.pause()

    async def _reopen(self) -> None:
        await self._employ(self.plan)
        if self.distributor.job is None:
            return  # in vain, and told
        for name in encoded(self.plan):
            self.presentation.wake(name, 0)  # what slept when it failed
        self.distributor.cutter.mark("transcoder_restart")
        self.distributor.use(self._planner)

    def stats(self, values: Mapping[str, float | str]) -> None:
        notice, failed = values.get("notice"), values.get("failed")
        if notice is not None:
            self.notice(f"transcoder: {notice}")
        if failed:
            self._on_trouble(str(failed), str(notice))
        self.transcode_stats.update((k, v) for k, v in values.items() if k != "failed")

    def thumbnail(self, jpeg: bytes) -> None:
        self.presentation.picture(jpeg)

    # ---------------------------------------------------------------------------------------------------------

    def notice(self, text: str) -> None:
        """Something an operator and the publisher should know. What repeats itself is told once in a row."""
        if self.notices[-1:] != [text]:
            self.notices.append(text)
            del self.notices[:-NOTICES]
        self._log().warning("broadcast_notice", text=text)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _log(self) -> structlog.stdlib.BoundLogger:
        bound: structlog.stdlib.BoundLogger = log.bind(stream=self.stream, broadcast=self.id)
        return bound
