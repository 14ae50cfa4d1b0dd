"""A job: one broadcast's transcoding as the core sees it. Bounded, never waiting, outliving its workers.

| state | means | leaves by |
|---|---|---|
| `IDLE` | the plan encodes nothing: no worker | `change` to a plan that does: `AWAIT_CUT` |
| `AWAIT_CUT` | what is written is left out until a cut | cut: `AWAIT_VIDEO`, or `RUNNING` without video |
| `AWAIT_VIDEO` | the cut is held until the video packet after it shows whether decoding can start there | `RUNNING` |
| `RUNNING` | items go to the worker, or wait for one that is being started | worker lost, queue full: `AWAIT_CUT` |
| `FAILED` | workers died too often: everything is ignored | |
| `CLOSED` | | |

A decoder that starts at a cut without a keyframe is first given what came since the last one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial

import structlog

from media.clock import VIDEO_TIMESCALE, rescale
from media.cut import Cut
from media.packet import Gap, Packet
from media.track import Kind, Track
from transcode import messages as m
from transcode.backlog import Backlog, Gop, Queued
from transcode.link import Link
from transcode.plan import Plan
from transcode.ports import Sink
from transcode.process import WorkerError
from transcode.settings import TranscodeSettings
from transcode.vigil import Vigil

log = structlog.get_logger(__name__)

CHECK_S = 0.5
"""How often a worker's progress is looked at."""
AUDIO_SLACK_TICKS = VIDEO_TIMESCALE // 20
"""An audio frame that belongs to a segment may begin a little before its cut."""


class State(Enum):
    IDLE = "idle"
    AWAIT_CUT = "await_cut"
    AWAIT_VIDEO = "await_video"
    RUNNING = "running"
    FAILED = "failed"
    CLOSED = "closed"


@dataclass(slots=True)
class Stats:
    """Counters of a job since it was opened. `Job.stats` gives a copy."""

    state: str = State.IDLE.value
    worker_pid: int = 0
    queue_bytes: int = 0
    queue_s: float = 0.0
    restarts: int = 0
    overruns: int = 0
    """How often the queue was full and what waited was dropped."""
    dropped_packets: int = 0
    """Packets dropped by overruns, and those that came between a loss and the next cut."""
    packets_in: int = 0
    packets_out: int = 0
    bytes_out: int = 0


class Job:
    """Made by `Pool.open`. Every method is called on the core's event loop."""

    def __init__(
        self,
        plan: Plan,
        sink: Sink,
        name: str,
        settings: TranscodeSettings,
        take: Callable[[bool], Awaitable[Link]],
        on_closed: Callable[[Job], None],
    ) -> None:
        self._plan = plan
        self._sink = sink
        self._settings = settings
        self._take = take
        """A worker; True: of this machine. After a loss the next is: a machine that comes and goes costs one crash."""
        self._on_closed = on_closed
        self._state = State.AWAIT_CUT if plan.encodes else State.IDLE
        self._stats = Stats()
        self._name = name
        self._log = log.bind(stream=name)
        self._process: Link | None = None
        self._fetching: asyncio.Task[None] | None = None
        self._backlog = Backlog(settings.queue_bytes, settings.queue_s)
        self._keys: dict[Track, int] = {}
        self._next_key = 0
        self._gop = Gop()
        self._held: list[Packet | Gap | Cut] = []
        self._changed: Plan | None = None
        self._not_before = 0
        self._vigil = Vigil(settings.crash_window_s, settings.crashes)
        self._timer: asyncio.TimerHandle | None = None
        self._done = asyncio.Event()
        self._retired: set[Link] = set()
        """Workers that are handing over their last packets."""

    @property
    def stats(self) -> Stats:
        """Counters, as they are now."""
        return replace(
            self._stats,
            state=self._state.value,
            worker_pid=self._process.pid if self._process else 0,
            queue_bytes=self._backlog.size_bytes,
            queue_s=self._backlog.length_s,
        )

    @property
    def pictures(self) -> bool:
        """Whether its worker makes thumbnails: of video that it decodes anyway, from the latest cut on."""
        return self._state is not State.FAILED and self._plan.thumbnail_track is not None and bool(self._plan.video)

    async def start(self) -> None:
        """Fetch the first worker. Raises `WorkerError`."""
        if self._state is not State.IDLE:
            self._attach(await self._take(False))

    # -- input ------------------------------------------------------------------------------------------------

    def write(self, item: Packet | Cut | Gap) -> None:
        """Hand over one item of the source, in order. Never waits.

        A full queue (`queue_bytes`, `queue_s`) is dropped whole: the sink is told `restarted("overrun")`, and the
        job goes on at the next cut. Packets of tracks that the plan does not encode are passed over.
        """
        if self._state in (State.FAILED, State.CLOSED):
            return
        if isinstance(item, Packet):
            self._gop.add(item)
            if item.track.id not in self._plan.tracks and (
                self._changed is None or item.track.id not in self._changed.tracks
            ):
                return
            self._stats.packets_in += 1
        if isinstance(item, Cut) and self._changed is not None:
            self._turn_plan()
        match self._state:
            case State.AWAIT_CUT:
                self._await_cut(item)
            case State.AWAIT_VIDEO:
                self._await_video(item)
            case State.RUNNING:
                self._put(item)

    def change(self, plan: Plan) -> None:
        """`plan` holds from the next cut on: encoders that it adds start there, those that it drops end there."""
        self._changed = plan

    def watched(self, viewers: Mapping[str, int]) -> None:
        """How many watch which rendition, for the order in which a worker sheds. Ignored while there is none."""
        if self._process is not None and self._process.writable:
            self._process.send(m.Watched(dict(viewers)))

    def _turn_plan(self) -> None:
        """A cut comes and there is another plan."""
        plan, self._changed = self._changed, None
        assert plan is not None
        self._plan = plan
        if not plan.encodes:
            self._retire()
        elif self._state is not State.IDLE:
            self._enqueue(m.Change(plan), b"", 0)
        elif plan.encodes:
            self._state = State.AWAIT_CUT
            self._fetch()

    def _retire(self) -> None:
        """Nothing is to be encoded any more: the worker hands over what it has, and ends."""
        process, self._process = self._process, None
        waiting = [*self._backlog, Queued(m.Close(), b"", 0)]
        self._state = State.IDLE
        self._drop()
        self._backlog.clear()
        if process is None:
            return
        for queued in waiting:
            process.send(queued.message, queued.payload)
        process.on_writable = lambda: None
        process.on_exit = lambda reason: self._retired.discard(process)
        self._retired.add(process)
        asyncio.get_running_loop().call_later(self._settings.drain_timeout_s, process.kill_soon, "was not done in time")

    def _await_cut(self, item: Packet | Cut | Gap) -> None:
        if isinstance(item, Packet):
            self._stats.dropped_packets += 1
        elif isinstance(item, Cut):
            self._held = [item]
            self._not_before = item.pts
            self._state = State.AWAIT_VIDEO
            if not self._plan.video:
                self._resume([])

    def _await_video(self, item: Packet | Cut | Gap) -> None:
        if isinstance(item, Packet) and item.track.kind is Kind.VIDEO:
            self._resume([] if item.keyframe else self._gop.before)
            self._put(item)
            return
        self._held.append(item)
        if len(self._held) > 2000:
            self._overrun()

    def _resume(self, before: list[Packet]) -> None:
        self._state = State.RUNNING
        held, self._held = self._held, []
        for packet in before:
            self._put(packet)
        for item in held:
            self._put(item)

    def _put(self, item: Packet | Cut | Gap) -> None:
        match item:
            case Packet():
                key = self._keys.get(item.track)
                if key is None:
                    self._next_key += 1
                    self._keys = {track: key for track, key in self._keys.items() if track.id != item.track.id}
                    key = self._keys[item.track] = self._next_key
                    self._enqueue(m.Describe(key, item.track), b"", 0)
                pts = rescale(item.pts, item.track.timescale, VIDEO_TIMESCALE)
                unit = m.Unit(key, item.pts, item.dts, item.duration, item.keyframe)
                self._enqueue(unit, item.data, pts)
            case Cut():
                self._enqueue(m.Mark(item.index, item.pts, item.discontinuity), b"", item.pts)
            case Gap():
                self._enqueue(m.Hole(item.track_id, item.start, item.end, item.reason), b"", 0)

    def _enqueue(self, message: m.Message, payload: bytes, pts: int) -> None:
        if self._process is not None and self._process.writable and not self._backlog:
            self._hand_over(message, payload)
            return
        self._backlog.put(message, payload, pts)
        if self._backlog.full:
            self._overrun()

    def _hand_over(self, message: m.Message, payload: bytes) -> None:
        assert self._process is not None
        if isinstance(message, m.Unit):
            self._vigil.gave(time.monotonic())
        self._process.send(message, payload)

    def _on_writable(self) -> None:
        while self._backlog and self._process is not None and self._process.writable:
            queued = self._backlog.take()
            self._hand_over(queued.message, queued.payload)

    def _drop(self) -> None:
        """Forget what waits; tracks are described anew."""
        self._stats.dropped_packets += self._backlog.drop()
        self._keys.clear()
        self._held = []

    def _overrun(self) -> None:
        self._stats.overruns += 1
        self._log.warning(
            "transcode_overrun", queue_bytes=self._backlog.size_bytes, queue_s=round(self._backlog.length_s, 1)
        )
        self._drop()
        self._state = State.AWAIT_CUT
        self._sink.restarted("overrun", "")

    # -- workers ----------------------------------------------------------------------------------------------

    def _attach(self, process: Link) -> None:
        self._process = process
        process.on_message = partial(self._on_message, process, {})
        process.on_writable = self._on_writable
        process.on_exit = self._on_exit
        self._vigil.begin(time.monotonic())
        self._done.clear()
        process.send(m.Open(self._plan, self._name))
        self._on_writable()
        if process.exited:
            self._on_exit(process.exit_reason)
            return
        self._watch()

    def _fetch(self) -> None:
        if self._fetching is None and self._process is None:
            self._fetching = asyncio.get_running_loop().create_task(self._fetch_one(), name=f"fetch-{self._name}")

    async def _fetch_one(self) -> None:
        try:
            process = await self._take(bool(self._vigil.crashes))
        except WorkerError as error:
            self._fetching = None
            self._give_up(error.text, "")
            return
        self._fetching = None
        if self._state in (State.CLOSED, State.FAILED):
            await process.kill()
            return
        self._attach(process)

    def _watch(self) -> None:
        """Every `CHECK_S`: has the worker, if it has work, made progress?"""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(CHECK_S, self._watch)
        process = self._process
        stuck_s = self._vigil.stuck_s(time.monotonic())
        if process is not None and stuck_s > self._settings.stall_timeout_s:
            process.kill_soon(f"stalled for {stuck_s:.0f} s")

    def _on_exit(self, reason: str) -> None:
        process, self._process = self._process, None
        if process is None or self._state in (State.CLOSED, State.FAILED):
            self._done.set()
            return
        self._vigil.died(time.monotonic())
        self._stats.restarts += 1
        self._log.warning("worker_lost", pid=process.pid, place=process.place, reason=reason, worker_log=process.log)
        self._drop()
        self._backlog.clear()
        if self._vigil.hopeless:
            times, window_s = self._vigil.crashes, self._settings.crash_window_s
            self._give_up(f"{times} workers died within {window_s:.0f} s, the last: {reason}", process.log)
            return
        self._state = State.AWAIT_CUT if self._plan.encodes else State.IDLE
        if self._plan.encodes:
            self._fetch()
        self._sink.restarted(reason, process.log)

    def _give_up(self, reason: str, worker_log: str) -> None:
        self._state = State.FAILED
        self._release()
        self._sink.failed(reason, worker_log)

    def _release(self) -> None:
        """Let go of everything but the process."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._backlog.clear()
        self._held = []
        self._gop.clear()
        self._on_closed(self)

    async def close(self, drain: bool = True) -> None:
        """End the job; with `drain`, after the worker has handed over what it has (`drain_timeout_s`). Idempotent."""
        if drain and self._state is State.RUNNING:
            try:
                async with asyncio.timeout(self._settings.drain_timeout_s):
                    await self._drain()
            except TimeoutError:
                self._log.warning("worker_drain_timeout", worker_log=self._process.log if self._process else "")
        fetching, self._fetching = self._fetching, None
        if fetching is not None:
            fetching.cancel()
            await asyncio.gather(fetching, return_exceptions=True)
        process = self._process
        if self._state not in (State.CLOSED, State.FAILED):
            self._state = State.CLOSED
            self._release()
        retired = list(self._retired)
        if process is not None:
            retired.append(process)
        await asyncio.gather(*(each.kill() for each in retired))

    async def _drain(self) -> None:
        if self._fetching is not None:
            await asyncio.wait({self._fetching})
        if self._process is not None:
            self._enqueue(m.Close(), b"", 0)
            await self._done.wait()

    # -- output -----------------------------------------------------------------------------------------------

    def _on_message(self, process: Link, known: dict[int, m.Made], message: m.Message, payload: bytes) -> None:
        """`process` may be one that was let go and still hands over what it has. `known`: what it has said it makes."""
        match message:
            case m.Encoded():
                made = known.get(message.key)
                if made is None or self._is_stale(made.track, message.pts):
                    return
                self._stats.packets_out += 1
                self._stats.bytes_out += len(payload)
                packet = Packet(made.track, message.pts, message.dts, message.duration, message.keyframe, payload)
                self._sink.packet(made.rendition, packet)
            case m.Made():
                known[message.key] = message
                self._log.info("encoder_started", rendition=message.rendition, encoder=message.encoder)
            case m.Progress():
                if process is self._process:
                    self._on_progress(message)
            case m.Picture():
                self._sink.thumbnail(payload)
            case m.Notice():
                self._log.debug("worker_notice", slug=message.slug, text=message.text)  # the sink tells it
                # What failed on another machine says nothing about the devices of this one.
                self._sink.stats({"notice": message.text, "failed": "" if process.place else message.failed})
            case m.Done():
                if process is self._process:
                    self._done.set()
            case _:
                self._log.error("worker_message_unexpected", kind=type(message).__name__)

    def _is_stale(self, track: Track, pts: int) -> bool:
        """After an overrun the worker still hands over what lies before the hole: too late for every viewer."""
        if self._state is State.AWAIT_CUT:
            return True
        start = rescale(pts, track.timescale, VIDEO_TIMESCALE)
        slack = 0 if track.kind is Kind.VIDEO else AUDIO_SLACK_TICKS
        return start < self._not_before - slack

    def _on_progress(self, progress: m.Progress) -> None:
        self._vigil.did(progress.units, time.monotonic())
        stats = self.stats
        self._sink.stats(
            progress.values
            | {
                "queue_bytes": stats.queue_bytes,
                "queue_s": round(stats.queue_s, 3),
                "restarts": stats.restarts,
                "overruns": stats.overruns,
                "dropped_packets": stats.dropped_packets,
                "worker_pid": stats.worker_pid,
                "worker_place": self._process.place if self._process else "",
            }
        )
