"""HPACK (RFC 7541): header blocks to name and value pairs, and back. Sans-IO; one `Decoder` per connection.

We announce a dynamic table of size 0, so that, once a client has heard it, equal blocks always mean the same
fields: `stateless` says so, and what was read of a block may then be remembered for all connections. Until
then a client may fill a table of 4096 bytes (RFC 9113 6.5.2), which is kept here. What we send never refers to
a table, so that one prepared block is good for every viewer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from edge.h2 import huffman
from edge.h2.frames import Broken, Code
from media.errors import ProtocolError

DEFAULT_TABLE_BYTES = 4096
ENTRY_OVERHEAD = 32
"""What an entry counts beside its text (4.1)."""
MAX_INTEGER = 2**21
"""Larger than any length or index that could be meant here; more digits are an attack (7.4)."""

Field = tuple[bytes, bytes]

_STATIC_TEXT = """:authority|:method GET|:method POST|:path /|:path /index.html|:scheme http|:scheme https
:status 200|:status 204|:status 206|:status 304|:status 400|:status 404|:status 500|accept-charset
accept-encoding gzip, deflate|accept-language|accept-ranges|accept|access-control-allow-origin|age|allow
authorization|cache-control|content-disposition|content-encoding|content-language|content-length
content-location|content-range|content-type|cookie|date|etag|expect|expires|from|host|if-match
if-modified-since|if-none-match|if-range|if-unmodified-since|last-modified|link|location|max-forwards
proxy-authenticate|proxy-authorization|range|referer|refresh|retry-after|server|set-cookie
strict-transport-security|transfer-encoding|user-agent|vary|via|www-authenticate"""

STATIC: tuple[Field, ...] = (
    (b"", b""),
    *(
        (name.encode(), value.encode())
        for name, _, value in (item.partition(" ") for item in _STATIC_TEXT.replace("\n", "|").split("|"))
    ),
)
"""Appendix A; index 0 is unused."""
_NAMES = {name: index for index, (name, _) in reversed(list(enumerate(STATIC)))}
_WHOLE = {field: index for index, field in reversed(list(enumerate(STATIC)))}


def _bad(text: str) -> Broken:
    return Broken(Code.COMPRESSION_ERROR, text, "bad_header_block")


def integer(data: bytes, at: int, bits: int) -> tuple[int, int]:
    """The integer whose prefix of `bits` bits is at `at` (5.1), and where it ends. Raises Broken."""
    try:
        mask = (1 << bits) - 1
        value = data[at] & mask
        at += 1
        if value < mask:
            return value, at
        shift = 0
        while True:
            byte = data[at]
            at += 1
            value += (byte & 0x7F) << shift
            if value > MAX_INTEGER or shift > 21:
                raise _bad("An integer in a header block is too large.")
            if byte < 0x80:
                return value, at
            shift += 7
    except IndexError:
        raise _bad("A header block ends within an integer.") from None


def _string(data: bytes, at: int) -> tuple[bytes, int]:
    length, begin = integer(data, at, 7)
    end = begin + length
    if end > len(data):
        raise _bad("A header block ends within a string.")
    raw = data[begin:end]
    if data[at] & 0x80:
        try:
            return huffman.decode(raw), end
        except ProtocolError as error:
            raise _bad(str(error)) from None
    return raw, end


class Decoder:
    """The dynamic table of one connection."""

    def __init__(self) -> None:
        self._table: deque[Field] = deque()
        """Newest first."""
        self._bytes = 0
        self._size = DEFAULT_TABLE_BYTES

    @property
    def stateless(self) -> bool:
        """Nothing but the block decides what a block means, from here on."""
        return not self._size

    def field(self, data: bytes, at: int) -> tuple[Field | None, int]:
        """The field at `at` and where the next begins; None for a change of the table's size. Raises Broken."""
        first = data[at]
        if first & 0x80:
            index, at = integer(data, at, 7)
            return self._at(index), at
        if first & 0xE0 == 0x20:
            size, at = integer(data, at, 5)
            if size > DEFAULT_TABLE_BYTES:
                raise _bad("A header block wants a larger table than was allowed.")
            self._size = size
            self._evict(size)
            return None, at
        keep = first & 0x40
        index, at = integer(data, at, 6 if keep else 4)
        if index:
            name = self._at(index)[0]
        else:
            name, at = _string(data, at)
        value, at = _string(data, at)
        if keep:
            self._add((name, value))
        return (name, value), at

    def decode(self, data: bytes, limit: int) -> list[Field]:
        """All fields of a block. `limit`: most bytes of names and values. Raises Broken."""
        at = total = 0
        fields: list[Field] = []
        while at < len(data):
            found, at = self.field(data, at)
            if found is None:
                if fields:
                    raise _bad("The table's size changes within a header block.")
                continue
            total += len(found[0]) + len(found[1])
            if total > limit:
                raise Broken(Code.ENHANCE_YOUR_CALM, "A header list is too large.", "head_too_large")
            fields.append(found)
        return fields

    def _at(self, index: int) -> Field:
        if 0 < index < len(STATIC):
            return STATIC[index]
        index -= len(STATIC)
        if not 0 <= index < len(self._table):
            raise _bad("A header block refers to an entry that does not exist.")
        return self._table[index]

    def _add(self, field: Field) -> None:
        size = len(field[0]) + len(field[1]) + ENTRY_OVERHEAD
        self._evict(self._size - size)
        if size <= self._size:
            self._table.appendleft(field)
            self._bytes += size

    def _evict(self, size: int) -> None:
        while self._table and self._bytes > size:
            name, value = self._table.pop()
            self._bytes -= len(name) + len(value) + ENTRY_OVERHEAD


def _put_integer(value: int, bits: int, pattern: int) -> bytes:
    mask = (1 << bits) - 1
    if value < mask:
        return bytes((pattern | value,))
    out = bytearray((pattern | mask,))
    value -= mask
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def encode(status: int, *groups: Iterable[Field]) -> bytes:
    """A response's header block, without Huffman codes and without the dynamic table. Names are lower case."""
    parts = [_one((b":status", b"%d" % status))]
    for fields in groups:
        parts.extend(_one(field) for field in fields)
    return b"".join(parts)


def _one(field: Field) -> bytes:
    whole = _WHOLE.get(field)
    if whole is not None:
        return bytes((0x80 | whole,))
    name, value = field
    index = _NAMES.get(name, 0)
    out = _put_integer(index, 4, 0)
    if not index:
        out += _put_integer(len(name), 7, 0) + name
    return out + _put_integer(len(value), 7, 0) + value
