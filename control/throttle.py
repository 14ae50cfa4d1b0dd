"""Refused attempts per address: a bucket each, in bounded memory. Pure but for a lock; the clock is handed in.

An address may be refused `burst` times at once and then once every `refill_s`; beyond that it is turned away
before its key is looked at. The lock is there because SRT's handshake asks from a thread of its own.
"""

from __future__ import annotations

import ipaddress
import threading
from collections import OrderedDict

MAX_ADDRESSES = 4096
"""Addresses remembered; the one refused longest ago is forgotten first. About 1 MB."""


class Throttle:
    """Counts refusals. Thread-safe."""

    def __init__(self, *, burst: int = 20, refill_s: float = 3.0, max_addresses: int = MAX_ADDRESSES) -> None:
        self._burst = burst
        self._refill_s = refill_s
        self._max_addresses = max_addresses
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()
        self.turned_away = 0
        """How often `blocked` said yes."""

    def __len__(self) -> int:
        return len(self._buckets)

    def blocked(self, address: str, now: float) -> bool:
        """Whether attempts from `address` are refused unseen at the moment."""
        with self._lock:
            if self._level(_network(address), now) + 1 <= self._burst:
                return False
            self.turned_away += 1
            return True

    def refused(self, address: str, now: float) -> None:
        """Count one refusal of `address` at `now` (seconds on any monotonic clock)."""
        network = _network(address)
        with self._lock:
            level = min(self._level(network, now) + 1, float(self._burst))
            self._buckets[network] = (level, now)
            self._buckets.move_to_end(network)
            while len(self._buckets) > self._max_addresses:
                self._buckets.popitem(last=False)

    def _level(self, network: str, now: float) -> float:
        level, at = self._buckets.get(network, (0.0, now))
        return max(0.0, level - (now - at) / self._refill_s)


def _network(address: str) -> str:
    """IPv4 addresses as they are; an IPv6 host owns its /64, so that counts as one."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)
