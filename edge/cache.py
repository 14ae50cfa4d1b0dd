"""The store: entries by key within a byte budget. No network, no clock of its own, no waiting.

Two pools share the budget: text (playlists, manifests, pages) and the rest (parts, segments), each pushing out
only its own kind, so that a flood of segments never costs a playlist, nor the other way round. Within a pool
the second-chance rule picks: of the oldest entries those not used since the last look go, the largest first.
"""

from __future__ import annotations

import heapq

from edge.entry import OVERHEAD_BYTES, Entry

LOOK = 8
"""Oldest entries looked at for each eviction: enough to let size count, few enough to stay cheap."""


class _Pool:
    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.bytes = 0
        self.order: dict[str, int] = {}
        """Key to counted bytes, oldest first."""


class Cache:
    """Entries by key. `entries` is read directly by the short path of a connection."""

    def __init__(self, memory_bytes: int, text_share: float, max_objects: int) -> None:
        text = int(memory_bytes * text_share)
        self.entries: dict[str, Entry] = {}
        self._text, self._media = _Pool(text), _Pool(memory_bytes - text)
        self._max_objects = max_objects
        self._ends: list[tuple[float, str]] = []
        self._rules: dict[str, tuple[str, ...]] = {}
        self.evictions = 0

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def bytes(self) -> int:
        """Bytes counted for all entries."""
        return self._text.bytes + self._media.bytes

    @property
    def budget(self) -> int:
        return self._text.budget + self._media.budget

    def key(self, key: str, headers: dict[str, str]) -> str:
        """The key under which a request's entry lies, given what is known of `Vary` for its path and query."""
        names = self._rules.get(key)
        return key if names is None else vary_key(key, names, headers)

    def put(self, entry: Entry, primary: str) -> None:
        """Store an entry under `entry.key`, in the place of the one before. Too large for its pool: not stored.

        `primary` is the key without the fields of `Vary`.
        """
        self.discard(entry.key)
        if entry.vary:
            self.discard(primary)
            self._rules[primary] = entry.vary
        else:
            self._rules.pop(primary, None)
        pool = self._text if entry.squeezable else self._media
        # Packed variants come later; count them from the start as if it were as large as the body.
        size = entry.size + (len(entry.body) if entry.squeezable else 0)
        if size > pool.budget:
            return
        while pool.bytes + size > pool.budget or len(self.entries) >= self._max_objects:
            self._evict(pool if pool.order else self._other(pool))
        self.entries[entry.key] = entry
        pool.order[entry.key] = size
        pool.bytes += size
        end = max(entry.fresh_until, entry.revalidate_until, entry.error_until)
        heapq.heappush(self._ends, (end, entry.key))

    def discard(self, key: str) -> None:
        """Forget the entry under `key`, if there is one."""
        if self.entries.pop(key, None) is not None:
            for pool in (self._text, self._media):
                pool.bytes -= pool.order.pop(key, 0)

    def purge(self, prefix: str) -> int:
        """Forget every entry whose path and query start with `prefix`; how many there were."""
        keys = [key for key in self.entries if key.startswith(prefix)]
        for key in keys:
            self.discard(key)
        for key in [key for key in self._rules if key.startswith(prefix)]:
            del self._rules[key]
        return len(keys)

    def expire(self, now: float, limit: int = 10_000) -> int:
        """Forget entries that can no longer serve in any way, at most `limit` at a time; how many there were."""
        count = 0
        while self._ends and self._ends[0][0] <= now and limit > 0:
            limit -= 1
            _, key = heapq.heappop(self._ends)
            entry = self.entries.get(key)
            if entry is None:
                continue
            end = max(entry.fresh_until, entry.revalidate_until, entry.error_until)
            if end > now:
                heapq.heappush(self._ends, (end, key))
            elif entry.etag and now < end + KEEP_VALIDATED_S:
                heapq.heappush(self._ends, (end + KEEP_VALIDATED_S, key))
            else:
                self.discard(key)
                count += 1
        if len(self._ends) > 4 * len(self.entries) + 1024:
            self._ends = [(self.entries[key].error_until, key) for key in self.entries]
            heapq.heapify(self._ends)
        if len(self._rules) > self._max_objects:
            self._rules.clear()
        return count

    def _other(self, pool: _Pool) -> _Pool:
        return self._media if pool is self._text else self._text

    def _evict(self, pool: _Pool) -> None:
        while True:
            victim, largest = "", 0
            for key in list(_first(pool.order, LOOK)):
                entry = self.entries[key]
                if entry.used:
                    entry.used = False
                    pool.order[key] = pool.order.pop(key)
                elif pool.order[key] > largest:
                    victim, largest = key, pool.order[key]
            if victim:
                self.discard(victim)
                self.evictions += 1
                return


KEEP_VALIDATED_S = 10.0
"""An entry with an ETag is kept so long past its use: a 304 then saves its body."""


def _first(order: dict[str, int], count: int) -> list[str]:
    keys = []
    for key in order:
        keys.append(key)
        if len(keys) == count:
            break
    return keys


def vary_key(key: str, names: tuple[str, ...], headers: dict[str, str]) -> str:
    """`key` with the request's values of the fields that the response varies on (RFC 9111 4.1)."""
    return key + "".join(f"\0{name}:{' '.join(headers.get(name, chr(0)).split())}" for name in names)


__all__ = ["OVERHEAD_BYTES", "Cache", "vary_key"]
