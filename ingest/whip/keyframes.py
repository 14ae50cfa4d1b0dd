"""When to ask the peer for a keyframe: near a 2 s grid, and fast after loss. No clock and no I/O inside."""

from __future__ import annotations

ANSWER_WITHIN_US = 700_000
"""A keyframe that comes this soon after a request is taken as its answer."""
URGENT_RETRY_US = 400_000
"""While nothing can be shown. Chromium answers at most one request in 300 ms."""
RETRY_US = 1_000_000
"""An encoder that does not answer (ffmpeg's WHIP muxer does not) is asked no more often than this."""
SLACK = 10
"""An encoder whose last two keyframes, unasked, show an interval of its own like ours gets 1/10 more before it is
asked. Nobody else: a browser makes one when it changes its size, and the next must not be late for the segment."""


class Pacer:
    """Decides for one video track.

    An encoder that makes keyframes by itself at `interval_us` or sooner is never asked. One that only answers
    requests (browsers) is asked on a fixed grid, so that its keyframes do not drift by a round trip each time.
    """

    def __init__(self, interval_us: int) -> None:
        self._interval_us = interval_us
        self._due_us: int | None = None
        self._asked_us: int | None = None
        self._answered = True
        self.requests = 0
        self.keyframes = 0
        self._unasked_us: int | None = None
        """When the newest keyframe was made, if nobody had asked for it."""

    def keyframe(self, now_us: int, late_us: int = 0) -> None:
        """A keyframe has arrived, `late_us` later than pictures usually do: large ones take longer on the way."""
        self.keyframes += 1
        made, before, self._unasked_us = now_us - late_us, self._unasked_us, None
        asked, interval, slack = self._asked_us, self._interval_us, self._interval_us // SLACK
        if asked is not None and not self._answered and now_us - asked <= ANSWER_WITHIN_US:
            self._due_us = asked + interval
        else:
            self._unasked_us = made
            regular = before is not None and abs(made - before - interval) <= slack
            self._due_us = made + interval + (slack if regular else 0)
        self._answered = True

    def hasten(self, by_us: int) -> None:
        """The newest keyframe was made earlier than was thought: those behind it took so much less on the way."""
        if self._due_us is not None and self._unasked_us is not None:
            self._due_us -= by_us
            self._unasked_us -= by_us

    def wants(self, now_us: int, *, urgent: bool) -> bool:
        """True if a request is to be sent now. `urgent`: nothing can be shown before the next keyframe."""
        if urgent:
            wanted = self._asked_us is None or now_us - self._asked_us >= URGENT_RETRY_US
        elif self._due_us is None:
            wanted = False
        else:
            retry_ok = self._asked_us is None or now_us - self._asked_us >= RETRY_US
            wanted = now_us >= self._due_us and retry_ok
        if wanted:
            self._asked_us = now_us
            self._answered = False
            self.requests += 1
        return wanted

    def ask(self, now_us: int) -> bool:
        """The server wants one now (a new viewer, a cut). True if a request is to be sent."""
        if self._asked_us is not None and now_us - self._asked_us < URGENT_RETRY_US:
            return False
        self._asked_us = now_us
        self._answered = False
        self.requests += 1
        return True
