"""The pool: owns every worker process of this core, and keeps one warm spare so that nobody waits for imports."""

from __future__ import annotations

import asyncio

import structlog

from transcode.job import Job, Stats
from transcode.link import Link
from transcode.plan import Plan
from transcode.ports import Sink
from transcode.process import Process, WorkerError
from transcode.remote import Guests
from transcode.settings import TranscodeSettings

log = structlog.get_logger(__name__)

__all__ = ["Job", "Pool", "Stats"]

RETRY_S = 5.0
"""Pause before another spare is started after one could not be, or died waiting."""


class Pool:
    """Opens jobs. `start` before the first, `stop` after the last; both on the core's event loop."""

    def __init__(self, settings: TranscodeSettings, guests: Guests | None = None) -> None:
        """`guests`: workers on other machines, taken before those of this one."""
        self._settings = settings
        self._guests = guests
        self._jobs: set[Job] = set()
        self._spare: Process | None = None
        self._warming: asyncio.Task[None] | None = None
        self._running = False
        self._pausing = False
        """The warming task sits out `RETRY_S`."""

    @property
    def settings(self) -> TranscodeSettings:
        """What holds for all jobs."""
        return self._settings

    @property
    def jobs(self) -> frozenset[Job]:
        """Jobs that are open."""
        return frozenset(self._jobs)

    @property
    def spare_pid(self) -> int:
        """Process id of the waiting spare; 0 without one."""
        return self._spare.pid if self._spare is not None and not self._spare.exited else 0

    async def start(self) -> None:
        """Begin to warm the spare; does not wait for it."""
        self._running = True
        self._warm()

    async def stop(self) -> None:
        """Close what is still open, without draining, and end every process."""
        self._running = False
        warming, self._warming = self._warming, None
        if warming is not None:
            warming.cancel()
            await asyncio.gather(warming, return_exceptions=True)
        await asyncio.gather(*(job.close(drain=False) for job in list(self._jobs)))
        spare, self._spare = self._spare, None
        if spare is not None:
            await spare.kill()

    async def open(self, plan: Plan, sink: Sink, *, name: str, settings: TranscodeSettings | None = None) -> Job:
        """A job for `plan`, whose output goes to `sink`; `name` is for logs. Raises `WorkerError`. `settings`: other
        bounds for its queue than the pool's own.

        The job encodes from the first cut that is written to it. A plan that encodes nothing costs no process.
        """
        job = Job(plan, sink, name, settings or self._settings, self._take, self._jobs.discard)
        await job.start()
        self._jobs.add(job)
        return job

    async def _take(self, local: bool) -> Link:
        """A guest unless `local`, else the spare, else a fresh worker. Raises `WorkerError`."""
        if not local and self._guests is not None and (guest := self._guests.take()) is not None:
            return guest
        warming = self._warming
        if self._spare is None and warming is not None:
            if self._pausing:  # the last spare died: whoever needs a worker now does not sit out that pause
                self._warming, self._pausing = None, False
                warming.cancel()
            else:  # a spare that is half way there is sooner ready than one that is started now
                await asyncio.wait({warming}, timeout=RETRY_S)
        spare, self._spare = self._spare, None
        if spare is None or spare.exited:
            spare = await Process.start(self._settings)
        self._warm()
        return spare

    def _warm(self, delay_s: float = 0.0) -> None:
        if not (self._running and self._settings.warm_spare) or self._spare is not None or self._warming is not None:
            return
        self._pausing = delay_s > 0
        self._warming = asyncio.get_running_loop().create_task(self._warm_one(delay_s), name="warm-spare")

    async def _warm_one(self, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        self._pausing = False
        try:
            spare = await Process.start(self._settings)
        except WorkerError as error:
            self._warming = None
            log.error("spare_not_started", error=error.text)
            self._warm(RETRY_S)
            return
        self._warming = None
        self._spare = spare
        spare.on_exit = lambda reason: self._lost(spare, reason)

    def _lost(self, spare: Process, reason: str) -> None:
        if self._spare is spare:
            self._spare = None
            log.warning("spare_lost", pid=spare.pid, reason=reason)
            self._warm(RETRY_S)
