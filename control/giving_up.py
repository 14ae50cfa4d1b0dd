"""What is left on air of a broadcast whose transcoder was given up, and when it is tried again.

Three workers that die within a minute are most often one picture that libav cannot stand, and it is soon gone by: so
the ladder comes back by itself, but each time after twice the pause, that nothing loops.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from control.distributor import Planner
from media.track import Kind, Track
from transcode.plan import Plan

FIRST_S, MAX_S = 60.0, 3600.0
"""The first pause, and what doubling it ends at."""


class Retry:
    """The next try of one broadcast. Lives on the core's event loop."""

    def __init__(self, work: Callable[[], Awaitable[None]]) -> None:
        """`work` tries again."""
        self._work = work
        self._next_s = FIRST_S
        self._task: asyncio.Task[None] | None = None

    @property
    def waits(self) -> bool:
        """Whether a try is still to come, or is being made."""
        return self._task is not None and not self._task.done()

    def arm(self) -> float:
        """Try again after a pause. Returns its length in seconds."""
        pause_s, self._next_s = self._next_s, min(2 * self._next_s, MAX_S)
        self._task = asyncio.get_running_loop().create_task(self._run(pause_s), name="transcoder-retry")
        return pause_s

    async def _run(self, pause_s: float) -> None:
        await asyncio.sleep(pause_s)
        await self._work()

    def cancel(self) -> None:
        """No try, then."""
        if self._task is not None:
            self._task.cancel()

    async def close(self) -> None:
        """The broadcast is over."""
        self.cancel()
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)


def encoded(plan: Plan) -> list[str]:
    """Names of what stands still without a worker."""
    return [r.name for r in plan.renditions if not r.passthrough]


def shows_without(plan: Plan) -> bool:
    """Whether viewers still have something: the picture as it is published; of a source without one, its sound."""
    passed = {r.kind for r in plan.renditions if r.passthrough}
    return Kind.VIDEO in passed or (Kind.AUDIO in passed and not any(r.kind is Kind.VIDEO for r in plan.renditions))


def lowered(planner: Planner, why: str) -> Planner:
    """The same plans with nothing encoded, as long as something is left of them."""

    def plan(video: Sequence[Track], audio: Sequence[Track], passthrough: bool) -> Plan:
        made = planner(video, audio, passthrough)
        if not shows_without(made):
            return made
        left = [r for r in made.renditions if r.passthrough]
        if not any(r.default for r in left if r.kind is Kind.AUDIO):
            left = [replace(r, default=r.default or r.kind is Kind.AUDIO) for r in left]
        return replace(
            made,
            renditions=tuple(left),
            video=(),
            audio=(),
            thumbnail_track=None,
            decoders=(),
            reasons=(*made.reasons, why),
        )

    return plan
