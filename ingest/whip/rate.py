"""A token bucket per address, bounded in memory. No clock inside."""

from __future__ import annotations

from collections import OrderedDict

MAX_ADDRESSES = 8_192
"""Buckets that are kept; the least recently used one goes first. An attacker with more addresses than this is not
stopped by a rate per address anyway."""


class Rate:
    """Allows `per_minute` requests in a minute from each address, up to `burst` of them at once."""

    def __init__(self, per_minute: int, burst: int) -> None:
        self._per_minute = per_minute
        self._burst = burst
        self._buckets: OrderedDict[str, tuple[float, int]] = OrderedDict()
        self.refused = 0

    def take(self, address: str, now_us: int) -> int:
        """0 if a request is allowed now, else the seconds to wait."""
        left, at_us = self._buckets.pop(address, (float(self._burst), now_us))
        left = min(float(self._burst), left + (now_us - at_us) * self._per_minute / 60e6)
        allowed = left >= 1
        self._buckets[address] = (left - 1 if allowed else left, now_us)
        if len(self._buckets) > MAX_ADDRESSES:
            self._buckets.popitem(last=False)
        if allowed:
            return 0
        self.refused += 1
        return max(1, round((1 - left) * 60 / self._per_minute))
