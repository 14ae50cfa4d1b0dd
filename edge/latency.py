"""How long viewers waited: histograms of fixed buckets, merged over workers by adding."""

from __future__ import annotations

from bisect import bisect_left

BOUNDS_S = (0.001, 0.005, 0.02, 0.1, 0.3, 1.0, 3.0, 10.0)
"""A hit, an origin near by, a part's time, a segment's, and what no player waits for."""


class Histogram:
    """Counts per bucket, the last without bound, and the sum."""

    __slots__ = ("counts", "total_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_S) + 1)
        self.total_s = 0.0

    def observe(self, value_s: float) -> None:
        self.counts[bisect_left(BOUNDS_S, value_s)] += 1
        self.total_s += value_s

    def snapshot(self) -> list[float]:
        """The counts, then the sum."""
        return [*self.counts, self.total_s]


class Latencies:
    """What one worker measures. Hits of the short path take microseconds and are not timed."""

    __slots__ = ("blocked", "first_byte", "wake")

    def __init__(self) -> None:
        self.first_byte = Histogram()
        """From a request that the cache did not answer to the first byte of its answer."""
        self.blocked = Histogram()
        """The same of those that joined a fetch under way: blocked playlists, hinted parts, a herd."""
        self.wake = Histogram()
        """From the end of a fetch until the last of a crowd on it was written to."""

    def snapshot(self) -> dict[str, list[float]]:
        return {name: getattr(self, name).snapshot() for name in self.__slots__}
