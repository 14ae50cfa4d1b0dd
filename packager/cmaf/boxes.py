"""ISO base media file format boxes, as bytes (ISO/IEC 14496-12 4.2). Writing only; readers live in the tests."""

from __future__ import annotations

import struct

_HEADER = struct.Struct(">I4s")
_FULL = struct.Struct(">I4sI")


def box(kind: bytes, *payload: bytes) -> bytes:
    """A box with a 32-bit size. The payload's pieces are joined."""
    body = b"".join(payload)
    return _HEADER.pack(8 + len(body), kind) + body


def full(kind: bytes, version: int, flags: int, *payload: bytes) -> bytes:
    """A box with version (8 bits) and flags (24 bits)."""
    body = b"".join(payload)
    return _FULL.pack(12 + len(body), kind, version << 24 | flags) + body


def descriptor(tag: int, *payload: bytes) -> bytes:
    """An MPEG-4 descriptor (ISO/IEC 14496-1 8.3.3) with the four-byte size that every reader knows."""
    body = b"".join(payload)
    size = len(body)
    expanded = bytes((size >> 21 & 0x7F | 0x80, size >> 14 & 0x7F | 0x80, size >> 7 & 0x7F | 0x80, size & 0x7F))
    return bytes((tag,)) + expanded + body
