"""The Huffman code of HPACK (RFC 7541 5.2, appendix B): bytes in, bytes out. No framing, no state between strings.

The code is canonical: within a length the codes count up in the order of the symbols, and each length goes on
where the shorter one ended. So the lengths alone are kept here, and the codes follow from them.
"""

from __future__ import annotations

from functools import cache

from media.errors import ProtocolError

_TEXT = """
13 23 28 28 28 28 28 28 28 24 30 28 28 30 28 28 28 28 28 28 28 28 30 28 28 28 28 28 28 28 28 28
6 10 10 12 13 6 8 11 10 10 8 11 8 6 6 6 5 5 5 6 6 6 6 6 6 6 7 8 15 6 12 10
13 6 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 8 7 8 13 19 13 14 6
15 5 6 5 6 5 6 6 6 5 7 7 6 6 6 5 6 7 6 5 5 6 7 7 7 7 7 15 11 14 13 28
20 22 20 20 22 22 22 23 22 23 23 23 23 23 24 23 24 24 22 23 24 23 23 23 23 21 22 23 22 23 23 24
22 21 20 22 22 23 23 21 23 22 22 24 21 22 23 23 21 21 22 21 23 22 23 23 20 22 22 22 23 22 22 23
26 26 20 19 22 23 22 25 26 26 26 27 27 26 24 25 19 21 26 27 27 26 27 24 21 21 26 26 28 27 27 27
20 24 20 21 22 21 21 23 22 22 25 25 24 24 26 23 26 27 26 26 27 27 27 27 27 28 27 27 27 27 27 26
30
"""
_LENGTHS = tuple(map(int, _TEXT.split()))
"""Bits of each symbol's code; the last is the end of string, which must not occur (5.2)."""

_EOS = 256
_Row = list[tuple[int, bytes] | None]


def _codes() -> list[tuple[int, int]]:
    """Code and length by symbol."""
    found = [(0, 0)] * len(_LENGTHS)
    code = length = 0
    for symbol in sorted(range(len(_LENGTHS)), key=lambda item: (_LENGTHS[item], item)):
        code <<= _LENGTHS[symbol] - length
        length = _LENGTHS[symbol]
        found[symbol] = (code, length)
        code += 1
    return found


CODES = _codes()


def _tree() -> list[list[int]]:
    """Inner nodes as pairs of successors: a node's number, or minus one minus a symbol."""
    nodes: list[list[int]] = [[0, 0]]
    for symbol, (code, length) in enumerate(CODES):
        at = 0
        for bit in range(length - 1, 0, -1):
            side = code >> bit & 1
            if not nodes[at][side]:
                nodes.append([0, 0])
                nodes[at][side] = len(nodes) - 1
            at = nodes[at][side]
        nodes[at][code & 1] = -1 - symbol
    return nodes


_NODES = _tree()


def _ends() -> frozenset[int]:
    """Nodes at which a text may end: at most seven bits, all ones, since the last symbol."""
    at, found = 0, {0}
    for _ in range(7):
        at = _NODES[at][1]
        found.add(at)
    return frozenset(found)


_ENDS = _ends()


@cache
def _row(start: int) -> _Row:
    """What each byte does to a decoder at node `start`: next node and symbols; None for the end-of-string code.

    Made when first needed: ordinary text needs a dozen of the 256.
    """
    row: _Row = []
    for byte in range(256):
        at, out, good = start, bytearray(), True
        for bit in range(7, -1, -1):
            at = _NODES[at][byte >> bit & 1]
            if at == -1 - _EOS:
                good = False
                break
            if at < 0:
                out.append(-1 - at)
                at = 0
        row.append((at, bytes(out)) if good else None)
    return row


def decode(data: bytes) -> bytes:
    """The text of a Huffman string. Raises ProtocolError for a bad padding or the end-of-string code."""
    at = 0
    out = []
    for byte in data:
        step = _row(at)[byte]
        if step is None:
            raise ProtocolError("The end-of-string code is in a header string.", slug="bad_huffman")
        at, text = step
        out.append(text)
    if at not in _ENDS:
        raise ProtocolError("A header string is padded wrongly.", slug="bad_huffman")
    return b"".join(out)


def encode(text: bytes) -> bytes:
    """The Huffman string of a text, padded with ones."""
    bits = count = 0
    for byte in text:
        code, length = CODES[byte]
        bits = bits << length | code
        count += length
    pad = -count % 8
    return (bits << pad | (1 << pad) - 1).to_bytes((count + pad) // 8, "big")
