"""Whether a job's worker lives: what it has done of what it was given, and how often one died. Pure; `now` in seconds
of any steady clock."""

from __future__ import annotations

from collections import deque

MAX_IDLE_DEATHS = 5
"""Workers in a row that may die before they were given anything; each further one counts as a crash."""


class Vigil:
    """One per job, over all its workers. `window_s`: how long a crash counts; `most`: so many are too many."""

    def __init__(self, window_s: float, most: int) -> None:
        self._window_s, self._most = window_s, most
        self._given = self._done = 0
        self._progressed = 0.0
        self._crashes: deque[float] = deque()
        self._idle_deaths = 0

    def begin(self, now: float) -> None:
        """Another worker."""
        self._given = self._done = 0
        self._progressed = now

    def gave(self, now: float) -> None:
        """The worker was given a packet."""
        if self._given == self._done:
            self._progressed = now
        self._given += 1

    def did(self, packets: int, now: float) -> None:
        """The worker has done so many of them."""
        if packets != self._done:
            self._done = packets
            self._progressed = now

    def stuck_s(self, now: float) -> float:
        """How long the worker has made no progress although it has work; 0 without work."""
        return now - self._progressed if self._given > self._done else 0.0

    def died(self, now: float) -> None:
        """The worker is lost."""
        # One that died before it was given anything was not ended by what this source sends; but a machine on which
        # none lives must not be tried for ever.
        idle = self._given == 0
        self._idle_deaths = self._idle_deaths + 1 if idle else 0
        if not idle or self._idle_deaths > MAX_IDLE_DEATHS:
            self._crashes.append(now)
        while self._crashes and self._crashes[0] < now - self._window_s:
            self._crashes.popleft()

    @property
    def crashes(self) -> int:
        """Of late, as of the last one."""
        return len(self._crashes)

    @property
    def hopeless(self) -> bool:
        """Whether another worker would die too."""
        return len(self._crashes) >= self._most
