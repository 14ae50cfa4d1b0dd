"""Publication in step: what is ready in one rendition waits until the others have reached the same media time.

A player that switches renditions, or follows a rendition report, then finds the part that it asks for. Whoever is too
slow is waited for a bounded time, and after that no more until it has caught up. Pure: time comes in as `now`.

| a rendition is | it holds back the others |
|---|---|
| absent: nothing has come yet | at the very start only, up to `start_wait_s` |
| in step | up to `wait_s` |
| behind, or taken out (`leave`) | no |
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from enum import Enum

from packager.lane import Event, Opened


class Pace(Enum):
    ABSENT = "absent"
    IN_STEP = "in_step"
    BEHIND = "behind"


@dataclass(slots=True)
class _Runner:
    pace: Pace = Pace.ABSENT
    reached: int = 0
    """90 kHz: end of the newest event."""
    waiting: deque[tuple[Event, float]] = field(default_factory=deque)
    """Events with the instant (seconds) at which they were ready."""


class Lockstep:
    """Bounded by `wait_s`: nothing stays in here longer."""

    def __init__(self, wait_s: float, start_wait_s: float, tolerance_90k: int) -> None:
        self._wait_s = wait_s
        self._start_wait_s = start_wait_s
        self._tolerance = tolerance_90k
        self._runners: dict[str, _Runner] = {}
        self._published = False
        self.late_releases = 0
        """Times that something was published without waiting any longer for a slow rendition."""

    def join(self, name: str) -> None:
        """A rendition that is expected."""
        self._runners.setdefault(name, _Runner())

    def leave(self, name: str) -> None:
        """Wait for this one no more, until its next event."""
        runner = self._runners.get(name)
        if runner is not None and runner.pace is Pace.IN_STEP:
            runner.pace = Pace.BEHIND

    def remove(self, name: str) -> None:
        """A rendition that will not come back."""
        self._runners.pop(name, None)

    def push(self, name: str, events: list[Event], now: float) -> None:
        """Events that are ready, if there are any."""
        if not events:
            return
        runner = self._runners[name]
        runner.waiting.extend((event, now) for event in events)
        runner.reached = max(runner.reached, events[-1].end_90k)
        if runner.pace is Pace.ABSENT or (runner.pace is Pace.BEHIND and runner.reached >= self._front()):
            runner.pace = Pace.IN_STEP

    def _front(self) -> float:
        reached = [r.reached for r in self._runners.values() if r.pace is Pace.IN_STEP]
        return max(reached, default=0) - self._tolerance

    def _reached_by_all(self) -> float:
        if not self._published and any(r.pace is Pace.ABSENT for r in self._runners.values()):
            return -math.inf
        in_step = [r.reached for r in self._runners.values() if r.pace is Pace.IN_STEP]
        return min(in_step, default=math.inf) + self._tolerance

    def release(self, now: float) -> list[tuple[str, Event]]:
        """What may be published now, in order within each rendition."""
        out: list[tuple[str, Event]] = []
        limit = self._reached_by_all()
        while True:
            for name, runner in self._runners.items():
                waiting = runner.waiting
                while waiting and waiting[0][0].end_90k <= limit:
                    out.append((name, waiting.popleft()[0]))
            overdue = self._overdue(now)
            if overdue is None:
                break
            self.late_releases += 1
            for runner in self._runners.values():
                if runner.pace is Pace.IN_STEP and runner.reached + self._tolerance < overdue:
                    runner.pace = Pace.BEHIND
            self._published = True
            limit = max(self._reached_by_all(), overdue)
        if any(not isinstance(event, Opened) for _, event in out):
            self._published = True
        return out

    def flush(self) -> list[tuple[str, Event]]:
        """Everything, at the end."""
        out = [(name, event) for name, runner in self._runners.items() for event, _ in runner.waiting]
        for runner in self._runners.values():
            runner.waiting.clear()
        return out

    def deadline(self) -> float | None:
        """When `release` is to be called at the latest, if nothing is pushed before; None where nothing waits."""
        ready = [runner.waiting[0][1] for runner in self._runners.values() if runner.waiting]
        return min(ready) + self._patience() if ready else None

    def _patience(self) -> float:
        return self._wait_s if self._published else max(self._start_wait_s, self._wait_s)

    def _overdue(self, now: float) -> int | None:
        """Up to which media time events have waited too long."""
        patience = self._patience()
        late = [
            event.end_90k
            for r in self._runners.values()
            for event, ready in r.waiting
            if ready + patience <= now + 1e-6
        ]
        return max(late, default=None)
