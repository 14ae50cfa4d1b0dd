"""Parsed request heads by their exact bytes, in two generations: when the young one is full it becomes the old."""

from __future__ import annotations

from edge.request import Request

PER_GENERATION = 8192
"""At about 1 kB a head: 8 MB per generation at most."""
MAX_HEAD_BYTES = 2048
"""Longer heads are parsed each time; they are rare, and would cost the memory of many."""


class Heads:
    """A bounded memo. `get` is on the short path."""

    __slots__ = ("_old", "_young")

    def __init__(self) -> None:
        self._young: dict[bytes, Request] = {}
        self._old: dict[bytes, Request] = {}

    def get(self, head: bytes) -> Request | None:
        """The request that these bytes were once parsed to."""
        found = self._young.get(head)
        if found is None:
            found = self._old.get(head)
            if found is not None:
                self.put(head, found)
        return found

    def put(self, head: bytes, request: Request) -> None:
        if len(head) > MAX_HEAD_BYTES:
            return
        if len(self._young) >= PER_GENERATION:
            self._old, self._young = self._young, {}
        self._young[head] = request
