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

KEEP_EACH = 16
"""Of heads found by their halves, one in so many is remembered whole: a herd's at once, a lone viewer's hardly."""

Short = tuple[str, str]
"""Cache key, and the content coding it takes: all of a plain request that matters."""

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
    """Parses request heads, remembering. `get` and `halves` are the short path."""

    __slots__ = ("_blocks", "_found", "_heads", "_keys", "_lines", "_max_target", "_once", "_plain", "_targets", "get")

    def __init__(self, query_keys: frozenset[str], max_target: int) -> None:
        self._keys, self._max_target = query_keys, max_target
        self._heads: Memo[bytes, Short] = Memo()
        self._plain: Memo[bytes, str] = Memo()
        """Cache keys by request line, of those that the short path can answer."""
        self._blocks: Memo[bytes, Fields] = Memo()
        self._once: set[int] = set()
        """Hashes of header blocks that came once: they are remembered when they come again."""
        self._lines: request.Lines = {}
        self._targets: Memo[str, Target] = Memo()
        self._found = 0
        self.get = self._heads.get
        """What these very bytes ask for, if they are a plain request that is remembered."""

    def halves(self, head: bytes) -> Short | None:
        """The same by request line and header block apart: a player changes only the first."""
        line, _, block = head.partition(b"\r\n")
        key = self._plain.get(line)
        if key is None:
            return None
        said = self._blocks.get(block)
        if said is None or not said.ordinary:
            return None
        short = key, said.coding
        self._found += 1
        if not self._found % KEEP_EACH:
            self._heads.put(head, short)
        return short

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
            said = request.parse_fields(block, http10, self._lines)
            if len(block) <= MAX_HEAD_BYTES and not http10 and not said.bearer:
                self._remember(block, said)
        elif method == "GET" and not where.token and len(line) <= MAX_HEAD_BYTES:
            self._plain.put(line, where.key)
        return request.build(method, where, said, http10)

    def _remember(self, block: bytes, said: Fields) -> None:
        number = hash(block)
        if number in self._once:
            self._blocks.put(block, said)
            return
        if len(self._once) >= 4 * PER_GENERATION:
            self._once.clear()
        self._once.add(number)
