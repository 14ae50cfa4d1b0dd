"""The frames of HTTP/2 (RFC 9113 4, 6): names, numbers and their bytes. No state."""

from __future__ import annotations

import struct
from enum import IntEnum

from media.errors import ProtocolError

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""What a client says first (3.4)."""
HEADER_BYTES = 9
DEFAULT_WINDOW = 65_535
DEFAULT_FRAME_BYTES = 16_384
MAX_WINDOW = 2**31 - 1


class Kind:
    """Frame types (6); plain numbers, for an enumeration's members cost more to look up than a frame to read."""

    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


class Flag:
    """Bits of a frame's flags; plain numbers, for those of an enumeration cost half a microsecond to combine."""

    END_STREAM = 0x1
    ACK = 0x1
    END_HEADERS = 0x4
    PADDED = 0x8
    PRIORITY = 0x20


class Setting(IntEnum):
    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6
    NO_RFC7540_PRIORITIES = 9
    """RFC 9218 2.1: the old priority tree is not looked at."""


class Code(IntEnum):
    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12
    HTTP_1_1_REQUIRED = 13


class Broken(ProtocolError):
    """The connection cannot go on: GOAWAY with `code`."""

    def __init__(self, code: Code, text: str, slug: str) -> None:
        super().__init__(text, slug=slug)
        self.code = code


_HEADER = struct.Struct(">HBBBI")
_SETTING = struct.Struct(">HI")
_PAIR = struct.Struct(">II")
_NUMBER = struct.Struct(">I")


def read_header(buffer: bytes, at: int) -> tuple[int, int, int, int]:
    """Length, type, flags and stream of the frame header at `at`, which must be whole."""
    high, low, kind, flags, stream = _HEADER.unpack_from(buffer, at)
    return high << 8 | low, kind, flags, stream & 0x7FFFFFFF


def start(length: int, kind: int, flags: int) -> bytes:
    """A frame header without its last four bytes, the stream."""
    return _HEADER.pack(length >> 8, length & 0xFF, kind, flags, 0)[:5]


def number(value: int) -> bytes:
    """Four bytes: a stream, an increment, a code."""
    return _NUMBER.pack(value)


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """A whole frame."""
    length = len(payload)
    return _HEADER.pack(length >> 8, length & 0xFF, kind, flags, stream) + payload


def settings(values: dict[Setting, int]) -> bytes:
    """A SETTINGS frame."""
    return frame(Kind.SETTINGS, 0, 0, b"".join(_SETTING.pack(name, value) for name, value in values.items()))


def read_settings(payload: bytes) -> list[tuple[int, int]]:
    """Names and values of a SETTINGS payload whose length is a multiple of six."""
    return list(_SETTING.iter_unpack(payload))


def reset(stream: int, code: Code) -> bytes:
    """A RST_STREAM frame."""
    return frame(Kind.RST_STREAM, 0, stream, _NUMBER.pack(code))


def goaway(last: int, code: Code) -> bytes:
    """A GOAWAY frame; `last` is the highest stream that was or will be handled."""
    return frame(Kind.GOAWAY, 0, 0, _PAIR.pack(last, code))


def window_update(stream: int, increment: int) -> bytes:
    """A WINDOW_UPDATE frame."""
    return frame(Kind.WINDOW_UPDATE, 0, stream, _NUMBER.pack(increment))


def headers(stream: int, block: bytes, *, ended: bool, limit: int = DEFAULT_FRAME_BYTES) -> bytes:
    """HEADERS, with CONTINUATION where the block is larger than a frame of `limit` bytes."""
    flags = Flag.END_STREAM if ended else 0
    if len(block) <= limit:
        return frame(Kind.HEADERS, flags | Flag.END_HEADERS, stream, block)
    parts = [frame(Kind.HEADERS, flags, stream, block[:limit])]
    for at in range(limit, len(block), limit):
        last = Flag.END_HEADERS if at + limit >= len(block) else 0
        parts.append(frame(Kind.CONTINUATION, last, stream, block[at : at + limit]))
    return b"".join(parts)
