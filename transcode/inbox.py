"""The queue in front of a worker's decoders: bounded in bytes and media time; whoever fills it waits.

Waiting is right here: the reader of the socket is the only one that puts, and while it waits the socket fills and
the core's own queue grows, which has the policy (`job`).
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass

from media.packet import Gap, Packet
from transcode.messages import Mark
from transcode.plan import Plan

MAX_BYTES = 16 * 1024 * 1024
MAX_ITEMS = 2000
MAX_S = 2
"""Media time: what a worker is behind by more than this waits in the core, which may drop it."""


@dataclass(frozen=True, slots=True)
class Turn:
    """A cut, with the plan that holds from it on; None for the plan as it is."""

    mark: Mark
    plan: Plan | None = None


Item = Packet | Gap | Turn


class Inbox:
    """One producer, one consumer."""

    def __init__(self) -> None:
        self._items: deque[Item | None] = deque()
        self._oldest = 0
        self._bytes = 0
        self._changed = threading.Condition()
        self.newest = 0
        """Pts of the newest packet, in its track's timescale."""

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: Item | None) -> None:
        """Add an item; None is the end. Waits for room."""
        size = len(item.data) if isinstance(item, Packet) else 0
        with self._changed:
            while self._items and self._full(item, size):
                self._changed.wait()
            self._items.append(item)
            self._bytes += size
            if isinstance(item, Packet):
                if not self._bytes:
                    self._oldest = item.pts
                self.newest = max(self.newest, item.pts)
            self._changed.notify_all()

    def get(self) -> Item | None:
        """The next item; waits for one."""
        with self._changed:
            while not self._items:
                self._changed.wait()
            item = self._items.popleft()
            if isinstance(item, Packet):
                self._bytes -= len(item.data)
                self._oldest = item.pts
            self._changed.notify_all()
            return item

    def _full(self, item: Item | None, size: int) -> bool:
        if self._bytes + size > MAX_BYTES or len(self._items) >= MAX_ITEMS:
            return True
        return (
            isinstance(item, Packet) and self._bytes > 0 and self.newest - self._oldest > MAX_S * item.track.timescale
        )
