"""What was parsed once and will come again, by its exact bytes: request lines, header blocks, targets.

Players of one kind send the same head for the same object (a herd), and one player sends the same header block
with every request. Each memo has two generations: when the young one is full it becomes the old.
"""

from __future__ import annotations

import re
from typing import TypeVar

from edge import codings, request, target
from edge.request import Bad, Fields, Request
from edge.target import Target

PER_GENERATION = 2048
"""At 2 kB to 3 kB an entry: about 30 MB for all memos together, if every viewer says something else each time."""
MAX_HEAD_BYTES = 2048
"""Longer heads are parsed each time; they are rare, and would cost the memory of many."""

Short = tuple[str, str, Fields | None]
"""Cache key and content coding: all of a plain request that matters. And what to compare the next with."""

K = TypeVar("K", bytes, str)
V = TypeVar("V")


class Memo(dict[K, V | None]):
    """A bounded dictionary that forgets what was not asked for during a whole generation. `memo[key]` may be None."""

    __slots__ = ("_old", "_size")

    def __init__(self, size: int = PER_GENERATION) -> None:
        super().__init__()
        self._old: dict[K, V | None] = {}
        self._size = size

    def __missing__(self, key: K) -> V | None:
        found = self._old.get(key)
        if found is not None:
            self.put(key, found)
        return found

    def put(self, key: K, value: V) -> None:
        if len(self) >= self._size:
            self._old = dict(self)
            self.clear()
        self[key] = value


class Targets:
    """Parses request targets, remembering. Viewers with a token each share what is behind it; no token is kept."""

    def __init__(self, query_keys: frozenset[str]) -> None:
        self._keys = query_keys
        self._found: Memo[str, Target] = Memo()

    def find(self, raw: str) -> Target:
        """As `target.parse`. Raises ProtocolError."""
        match = _TOKEN.match(raw)
        if match is None:
            return self._find(raw)
        bare = self._find(raw[match.end() - 1 :])
        # What has a second token in the path or the query is for the strict reading of the whole.
        return Target(bare.path, bare.query, match[1]) if not bare.token else target.parse(raw, self._keys)

    def _find(self, raw: str) -> Target:
        where = self._found[raw]
        if where is None:
            where = target.parse(raw, self._keys)
            if len(raw) <= MAX_HEAD_BYTES and not where.token:
                self._found.put(raw, where)
        return where


_TOKEN = re.compile(r"/t/([A-Za-z0-9_-][A-Za-z0-9_.-]*)/")


class Heads:
    """Parses request heads, remembering. `short` is the short path."""

    __slots__ = ("_blocks", "_judged", "_lines", "_max_head", "_max_target", "_once", "_plain", "_targets")

    def __init__(self, query_keys: frozenset[str], max_target: int, max_head: int) -> None:
        self._max_target, self._max_head = max_target, max_head
        self._plain: Memo[bytes, tuple[str, Target]] = Memo()
        """Cache key and target by request line, of those that the short path can answer."""
        self._blocks: Memo[bytes, Fields] = Memo()
        self._once: set[int] = set()
        """Hashes of header blocks that came once: they are remembered when they come again."""
        self._lines: request.Lines = {}
        self._judged: dict[bytes, str] = {}
        """What header lines mean for `_scan`; emptied when full."""
        self._targets = Targets(query_keys)

    def short(self, head: bytes, last: Fields | None) -> Short | None:
        """What a plain request asks for, by request line and header block apart: a player changes only the first.

        `last` is what the connection said before: mostly it says the same again. None: `parse` has to look at it.
        """
        if last is not None and last.ordinary and head.endswith(last.tail):
            found = self._plain[head[: -len(last.tail)]]
            return None if found is None else (found[0], last.coding, last)
        line, _, block = head.partition(b"\r\n")
        found = self._plain[line]
        if found is None:
            return None
        said = self._blocks[block]
        if said is not None:
            return (found[0], said.coding, said) if said.ordinary else None
        if len(head) > self._max_head or self._seen(block):
            return None  # too long, or `parse` remembers it
        coding = self._scan(block)
        return None if coding is None else (found[0], coding, last)

    def parse(self, head: bytes, last: Fields | None = None) -> tuple[Request, Fields]:
        """Parse a whole head; `last` as for `short`. Raises ProtocolError."""
        line, _, block = head.partition(b"\r\n")
        found = self._plain[line]
        if found is not None:
            method, where, http10 = "GET", found[1], False
        else:
            method, raw_target, http10 = request.parse_line(line, self._max_target)
            where = self._targets.find(raw_target)
        known = last is not None and not http10 and block == last.block
        said = last if known and last is not None else self._fields(block, http10)
        if found is None and method == "GET" and not http10 and not where.token and len(line) <= MAX_HEAD_BYTES:
            self._plain.put(line, (where.key, where))
        return request.build(method, where, said, http10), said

    def _fields(self, block: bytes, http10: bool) -> Fields:
        said = None if http10 else self._blocks[block]
        if said is None:
            said = request.parse_fields(block, http10, self._lines)
            if len(block) <= MAX_HEAD_BYTES and not http10 and not said.bearer:
                said.block, said.tail = block, b"\r\n" + block
                if self._seen(block):
                    self._blocks.put(block, said)
        return said

    def _scan(self, block: bytes) -> str | None:
        """The content coding that an ordinary block asks for; None for all that needs a closer look.

        As strict as `request.parse_fields` about what it lets through, but without making anything of it.
        """
        if block[-4:] != b"\r\n\r\n":
            return None
        lines = block[:-4].split(b"\r\n")
        if len(lines) > request.MAX_FIELDS:
            return None
        judged = self._judged
        hosts, packed = 0, ""
        for raw in lines:
            meaning = judged.get(raw)
            if meaning is None:
                meaning = self._judge(raw)
            if meaning:
                if meaning is _HOST:
                    hosts += 1
                elif meaning is _OTHER or packed:
                    return None
                else:
                    packed = meaning
        return packed[1:] if hosts == 1 else None

    def _judge(self, raw: bytes) -> str:
        """Empty for a harmless line; `_HOST`, `_OTHER`, or a `+` and the coding of Accept-Encoding."""
        try:
            name, value = request.field_line(raw)
        except Bad:
            return _OTHER
        if name == "host":
            meaning = _HOST if request.is_host(value) else _OTHER
        elif name == "accept-encoding":
            meaning = "+" + codings.choose(value)
        elif name == "connection" and value.lower() == "keep-alive":
            meaning = ""
        else:
            meaning = _OTHER if name in request.MATTERS else ""
        if len(raw) <= request.MAX_LINE_BYTES and name != "cookie":
            if len(self._judged) >= request.MAX_LINES:
                self._judged.clear()
            self._judged[raw] = meaning
        return meaning

    def _seen(self, block: bytes) -> bool:
        """Whether a block came before, lately; from now on it did."""
        number = hash(block)
        if number in self._once:
            return True
        if len(self._once) >= 4 * PER_GENERATION:
            self._once.clear()
        self._once.add(number)
        return False


_HOST, _OTHER = "host", "other"
