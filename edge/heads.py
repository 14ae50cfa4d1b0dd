"""What was parsed once and will come again, by its exact bytes: whole heads, header blocks, targets.

Players of one kind send the same head for the same object (a herd), and one player sends the same header block
with every request. Each memo has two generations: when the young one is full it becomes the old.
"""

from __future__ import annotations

from typing import Generic, TypeVar

from edge import request, target
from edge.request import Fields, Request
from edge.target import Target

PER_GENERATION = 2048
"""At 2 kB to 3 kB an entry: about 30 MB for all memos together, if every viewer says something else each time."""
MAX_HEAD_BYTES = 2048
"""Longer heads are parsed each time; they are rare, and would cost the memory of many."""

K = TypeVar("K", bytes, str)
V = TypeVar("V")


class Memo(Generic[K, V]):
    """A bounded dictionary that forgets what was not asked for during a whole generation."""

    __slots__ = ("_old", "_size", "_young")

    def __init__(self, size: int = PER_GENERATION) -> None:
        self._young: dict[K, V] = {}
        self._old: dict[K, V] = {}
        self._size = size

    def get(self, key: K) -> V | None:
        found = self._young.get(key)
        if found is None:
            found = self._old.get(key)
            if found is not None:
                self.put(key, found)
        return found

    def put(self, key: K, value: V) -> None:
        if len(self._young) >= self._size:
            self._old, self._young = self._young, {}
        self._young[key] = value


class Heads:
    """Parses request heads, remembering. `get` is on the short path."""

    __slots__ = ("_blocks", "_heads", "_keys", "_max_target", "_targets", "get")

    def __init__(self, query_keys: frozenset[str], max_target: int) -> None:
        self._keys, self._max_target = query_keys, max_target
        self._heads: Memo[bytes, Request] = Memo()
        self._blocks: Memo[bytes, Fields] = Memo()
        self._targets: Memo[str, Target] = Memo()
        self.get = self._heads.get
        """The request that these very bytes were parsed to before, if they are remembered."""

    def parse(self, head: bytes) -> Request:
        """Parse a whole head. Raises ProtocolError."""
        line, _, block = head.partition(b"\r\n")
        method, raw_target, http10 = request.parse_line(line, self._max_target)
        where = self._targets.get(raw_target)
        if where is None:
            where = target.parse(raw_target, self._keys)
            if len(raw_target) <= MAX_HEAD_BYTES and not where.token:
                self._targets.put(raw_target, where)
        said = None if http10 else self._blocks.get(block)
        if said is None:
            said = request.parse_fields(block, http10)
            if len(block) <= MAX_HEAD_BYTES and not http10 and not said.bearer:
                self._blocks.put(block, said)
        asked = request.build(method, where, said, http10)
        if asked.plain and len(head) <= MAX_HEAD_BYTES:
            self._heads.put(head, asked)
        return asked
