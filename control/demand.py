"""Only what is watched: a transcoding job whose rungs are encoded while somebody asks for them.

Stands between distributor and pool, as a job to the one and as a sink to the other.

| a rung is | encoded by | leaves by |
|---|---|---|
| `ON` | the broadcast's own job | nobody asked for `linger_s`: at the next cut, `ENDING` |
| `ENDING` | the job, up to that cut | its last picture, or `LEAVE_S` later: `OFF` |
| `OFF` | nobody; it stays listed | a request: `STARTING` |
| `DUE` | nobody yet: the pinned one, because another is watched | next cut: `ON`; a request: `STARTING` |
| `STARTING` | a job of its own, from the source kept | at the next cut the broadcast's job takes over: `JOINING` |
| `JOINING` | its own job up to that cut, the other (held so long) from there on | `ON` |

The rendition `source` is never off, nor is sound. With `rungs_pinned = "lowest"` the lowest rung is on while anybody
watches anything of the stream. With nothing to encode there is no worker.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import partial
from typing import Any

import structlog

from control.lately import KEPT_BYTES, Lately
from media.clock import VIDEO_TIMESCALE, rescale
from media.cut import Cut
from media.errors import HeadraceError
from media.packet import Gap, Packet
from media.track import Kind
from packager.presentation import Presentation
from transcode.plan import SOURCE, Plan, VideoEncode
from transcode.pool import Job, Pool, Stats
from transcode.ports import Sink
from transcode.settings import TranscodeSettings

log = structlog.get_logger(__name__)

LEAVE_S = 5.0
"""How long after a cut the worker may still hand over what lies before it; a busy machine's is seconds behind."""
HELD_PACKETS = 600
"""Of one rung, while it is taken over."""
FIRST_S = 3.0
"""So long a rung is encoded at first though nobody asks for it: the playlists that list it tell its codec."""


class Rung(Enum):
    ON = "on"
    ENDING = "ending"
    OFF = "off"
    DUE = "due"
    STARTING = "starting"
    JOINING = "joining"


_ABSENT = (Rung.ENDING, Rung.OFF, Rung.DUE, Rung.STARTING)
"""States in which the broadcast's own job does not make the rung."""


@dataclass
class _State:
    rung: Rung = Rung.ON
    asked: float = 0.0
    until: int = 1 << 62
    """90 kHz: where the broadcast's own job takes over."""
    ends: int = 0
    """90 kHz: the cut before which its last picture lies."""
    job: Job | None = None
    held: list[Packet] = field(default_factory=list)


class Demand:
    """Has the interface of a `Job`. Lives on the core's event loop."""

    def __init__(
        self,
        plan: Plan,
        sink: Sink,
        presentation: Presentation,
        pool: Pool,
        settings: TranscodeSettings,
        name: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._plan = plan
        self._sink = sink
        self._presentation = presentation
        self._pool = pool
        # A replay hands over seconds of source at once, and must not be thinned for being late.
        self._replaying = settings.model_copy(update={"queue_s": 60.0, "queue_bytes": 2 * KEPT_BYTES})
        self._linger_s = settings.rungs_linger_s
        self._pins = settings.rungs_pinned == "lowest"
        self._name = name
        self._job: Job | None = None
        self._states: dict[str, _State] = {}
        self._lately = Lately()
        self._watched = self._unasked()
        self._tasks: set[asyncio.Task[None]] = set()
        self._timers: set[asyncio.TimerHandle] = set()
        self._closed = False

    async def start(self) -> Demand:
        """Open the broadcast's own job. Raises `WorkerError`."""
        self._note_rungs(self._unasked())
        self._job = await self._pool.open(self._plan, _Own(self, self._sink), name=self._name)
        self._presentation.on_demand = self.asked
        return self

    @property
    def stats(self) -> Stats:
        """Those of the broadcast's own job."""
        return self._job.stats if self._job is not None else Stats()

    @property
    def pictures(self) -> bool:
        """Whether the broadcast's own job makes thumbnails now."""
        return self._job is not None and self._job.pictures

    @property
    def rungs(self) -> Mapping[str, str]:
        """The state of each rung that may be off."""
        return {name: state.rung.value for name, state in self._states.items()}

    # -- viewers ----------------------------------------------------------------------------------------------

    def asked(self, rendition: str) -> None:
        """A request arrived at the origin."""
        self._watched = self._clock()
        state = self._states.get(rendition)
        if state is not None:
            state.asked = self._watched
            if state.rung in (Rung.OFF, Rung.DUE):
                self._begin(rendition, state)
        for name in self._pinned():
            state = self._states.get(name)
            if state is not None and state.rung is Rung.OFF:
                state.rung = Rung.DUE

    def _may_be_off(self) -> list[VideoEncode]:
        return [e for e in self._plan.video if e.name != SOURCE and e.sheddable]

    def _pinned(self) -> list[str]:
        return [e.name for e in sorted(self._may_be_off(), key=lambda e: e.bitrate)[:1]] if self._pins else []

    def _unasked(self) -> float:
        """When a rung was asked for that is to be on for `FIRST_S` from now."""
        return self._clock() - self._linger_s + FIRST_S

    def _note_rungs(self, asked: float) -> None:
        names = {e.name for e in self._may_be_off()}
        for name in self._states.keys() - names:
            self._abandon(name, self._states.pop(name))
        for name in names - self._states.keys():
            self._states[name] = _State(asked=asked)

    def _wanted(self, name: str, state: _State, now: float) -> bool:
        asked = self._watched if name in self._pinned() else state.asked
        return now - asked < self._linger_s

    # -- the source -------------------------------------------------------------------------------------------

    def change(self, plan: Plan) -> None:
        """Another plan from the next cut on; rungs that it adds begin as watched."""
        for encode in plan.video:
            state = self._states.get(encode.name)
            if state is not None and encode not in self._plan.video and state.rung is not Rung.ON:
                self._abandon(encode.name, state)
                self._presentation.wake(encode.name, 0)
                self._states[encode.name] = _State(asked=self._clock())
        self._plan = plan
        self._note_rungs(self._clock())
        self._tell()

    def _tell(self) -> None:
        off = {n for n, s in self._states.items() if s.rung in _ABSENT}
        if self._job is not None:
            self._job.change(replace(self._plan, video=tuple(e for e in self._plan.video if e.name not in off)))

    def watched(self, viewers: Mapping[str, int]) -> None:
        """How many watch which rendition."""
        if self._job is not None:
            self._job.watched(viewers)

    def write(self, item: Packet | Cut | Gap) -> None:
        """One item of the source, in order."""
        if isinstance(item, Cut):
            self._turn(item)
        self._lately.keep(item)
        for state in self._states.values():
            if state.job is not None and (isinstance(item, Cut) or _is_video(item)):
                self._feed(state, item)
        if self._job is not None:
            self._job.write(item)

    def _turn(self, cut: Cut) -> None:
        """At a cut rungs leave the broadcast's job, or come to it."""
        now = self._clock()
        changed = False
        for name, state in self._states.items():
            if state.rung is Rung.ON and not self._wanted(name, state, now):
                state.rung, state.ends, changed = Rung.ENDING, cut.pts, True
                self._later(partial(self._ended, name, state))
            elif state.rung is Rung.DUE:
                state.rung, changed = Rung.ON, True
                self._presentation.wake(name, 0)
            elif state.rung is Rung.STARTING and state.job is not None:
                state.rung, state.until, changed = Rung.JOINING, cut.pts, True
                state.held = []
        if changed:
            self._tell()
            self._report()

    def _report(self) -> None:
        """For operators: what each rung does, among the broadcast's other figures."""
        self._sink.stats({f"rung_{name}": state for name, state in self.rungs.items()})

    def _later(self, what: Callable[[], None]) -> None:
        def run() -> None:
            self._timers.discard(timer)
            what()

        timer = asyncio.get_running_loop().call_later(LEAVE_S, run)
        self._timers.add(timer)

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work, name=f"rung-{self._name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _ended(self, name: str, state: _State) -> None:
        if state.rung is not Rung.ENDING or self._states.get(name) is not state:
            return
        if not self._presentation.sleep(name):
            state.rung = Rung.ON
            self._tell()
            return
        state.rung = Rung.OFF
        log.info("rung_off", stream=self._name, rendition=name)
        self._report()
        now = self._clock()
        if now - state.asked < self._linger_s:
            self._begin(name, state)
        elif self._wanted(name, state, now):
            state.rung = Rung.DUE

    # -- a rung starts ----------------------------------------------------------------------------------------

    def _begin(self, name: str, state: _State) -> None:
        encode = next((e for e in self._plan.video if e.name == name), None)
        if encode is None or self._closed:
            return
        state.rung, state.until, state.held = Rung.STARTING, 1 << 62, []
        self._do(self._start(name, state, encode))

    async def _start(self, name: str, state: _State, encode: VideoEncode) -> None:
        plan = Plan(video=(encode,))
        try:
            job = await self._pool.open(plan, _Replay(self, name, state), name=self._name, settings=self._replaying)
        except HeadraceError as error:
            log.error("rung_not_started", stream=self._name, rendition=name, reason=error.text)
            state.rung = Rung.OFF
            return
        if self._states.get(name) is not state or state.rung is not Rung.STARTING or self._closed:
            await job.close(drain=False)  # nobody needs it any more, or it died on the way here (`broken`)
            return
        items, segments = self._lately.replay()
        log.info("rung_on", stream=self._name, rendition=name, segments=segments)
        self._report()
        self._presentation.wake(name, max(0, segments - 1))
        state.job = job
        for item in items:
            job.write(item)

    def _feed(self, state: _State, item: Packet | Cut | Gap) -> None:
        """The replaying job gets the source until just behind the cut at which it is relieved."""
        job = state.job
        assert job is not None
        if state.rung is Rung.JOINING:
            if not isinstance(item, Packet):
                return
            if rescale(item.dts, item.track.timescale, VIDEO_TIMESCALE) >= state.until:
                state.job = None
                self._do(self._relieve(state, job))
                return
        job.write(item)

    async def _relieve(self, state: _State, job: Job) -> None:
        await job.close(drain=True)
        self._join(state)

    def _join(self, state: _State) -> None:
        """The broadcast's own job makes the rung from here on."""
        if state.rung is not Rung.JOINING:
            return
        held, state.held = state.held, []
        state.rung, state.until = Rung.ON, 0
        name = next((n for n, s in self._states.items() if s is state), None)
        if name is None or self._closed:
            return
        log.info("rung_joined", stream=self._name, rendition=name, held=len(held))
        self._report()
        for packet in held:
            self._sink.packet(name, packet)

    def replayed(self, name: str, state: _State, packet: Packet) -> None:
        """A packet from a replaying job."""
        if packet.pts < state.until and self._states.get(name) is state:
            self._sink.packet(name, packet)

    def broken(self, name: str, state: _State, reason: str) -> None:
        """A replaying job lost its worker: the broadcast's own takes over at the next cut."""
        log.warning("rung_replay_lost", stream=self._name, rendition=name, reason=reason)
        job, state.job = state.job, None
        if self._states.get(name) is not state:
            return
        if state.rung is Rung.STARTING:
            state.rung = Rung.ON
            self._presentation.wake(name, 0)
            self._tell()
        elif state.rung is Rung.JOINING:
            self._join(state)
        if job is not None:
            self._do(job.close(drain=False))

    def _abandon(self, name: str, state: _State) -> None:
        job, state.job = state.job, None
        if job is not None:
            self._do(job.close(drain=False))

    async def close(self, drain: bool = True) -> None:
        """End everything. Idempotent."""
        self._closed = True
        if self._presentation.on_demand == self.asked:
            self._presentation.on_demand = lambda rendition_name: None
        for timer in self._timers:
            timer.cancel()
        for name, state in self._states.items():
            self._abandon(name, state)
        await asyncio.gather(*self._tasks, return_exceptions=True)
        job, self._job = self._job, None
        if job is not None:
            await job.close(drain=drain)

    def made(self, rendition: str, packet: Packet) -> None:
        """A packet from the broadcast's own job."""
        state = self._states.get(rendition)
        if state is not None and state.rung is Rung.JOINING:
            state.held.append(packet)
            if len(state.held) > HELD_PACKETS:
                self._join(state)
            return
        if state is not None and state.rung in (Rung.OFF, Rung.DUE, Rung.STARTING):
            return
        self._sink.packet(rendition, packet)
        if state is not None and state.rung is Rung.ENDING and packet.pts + packet.duration * 3 // 2 >= state.ends:
            self._ended(rendition, state)

    def gone(self) -> None:
        """The broadcast's own job has given up."""
        self._closed = True
        self._presentation.on_demand = lambda rendition_name: None
        for timer in self._timers:
            timer.cancel()
        for name, state in self._states.items():
            self._abandon(name, state)


@dataclass
class _Own:
    """`Sink` of the broadcast's own job."""

    demand: Demand
    sink: Sink

    def packet(self, rendition: str, packet: Packet) -> None:
        self.demand.made(rendition, packet)

    def restarted(self, reason: str, log: str) -> None:
        self.sink.restarted(reason, log)

    def failed(self, reason: str, log: str) -> None:
        self.demand.gone()
        self.sink.failed(reason, log)

    def stats(self, values: Mapping[str, float | str]) -> None:
        self.sink.stats(values)

    def thumbnail(self, jpeg: bytes) -> None:
        self.sink.thumbnail(jpeg)


def _is_video(item: Packet | Gap) -> bool:
    return isinstance(item, Packet) and item.track.kind is Kind.VIDEO


@dataclass
class _Replay:
    """`Sink` of a replaying job."""

    demand: Demand
    name: str
    state: _State

    def packet(self, rendition: str, packet: Packet) -> None:
        self.demand.replayed(self.name, self.state, packet)

    def restarted(self, reason: str, log: str) -> None:
        self.demand.broken(self.name, self.state, reason)

    def failed(self, reason: str, log: str) -> None:
        self.demand.broken(self.name, self.state, reason)

    def stats(self, values: Mapping[str, float | str]) -> None:
        pass

    def thumbnail(self, jpeg: bytes) -> None:
        pass
