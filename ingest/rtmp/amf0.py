"""AMF0 values ([AMF0] 2): the numbers, strings and objects of RTMP commands. No AMF3.

Python's values: float, bool, str, None (null and undefined), dict (object, typed object), `EcmaArray`, list (strict
array). Dates become their milliseconds, XML its text.
"""

from __future__ import annotations

import struct
from typing import TypeAlias, Union

from media.errors import ProtocolError

Value: TypeAlias = Union[float, bool, str, dict[str, "Value"], list["Value"], None]  # noqa: UP007 (recursive)

MAX_DEPTH = 16
"""Nesting of objects and arrays. Real commands have up to four levels."""
MAX_VALUES = 10_000
"""Values in one message: a strict array of one-byte nulls would otherwise cost fifty times its size in memory."""


class EcmaArray(dict[str, Value]):
    """An object that is written as an ECMA array (marker 8)."""


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0
        self.left = MAX_VALUES

    def take(self, size: int) -> bytes:
        end = self.at + size
        if end > len(self.data):
            raise ProtocolError("An AMF0 value ends too early.", slug="bad_amf")
        piece = self.data[self.at : end]
        self.at = end
        return piece

    def text(self, size: int) -> str:
        length = int.from_bytes(self.take(size), "big")
        return self.take(length).decode("utf-8", "replace")

    def value(self, depth: int) -> Value:
        self.left -= 1
        if depth > MAX_DEPTH or self.left < 0:
            raise ProtocolError("An AMF0 value is nested too deeply or has too many parts.", slug="bad_amf")
        match self.take(1)[0]:
            case 0:
                return float(struct.unpack(">d", self.take(8))[0])
            case 1:
                return self.take(1) != b"\0"
            case 2:
                return self.text(2)
            case 3:
                return self.members({}, depth)
            case 5 | 6 | 13:  # null, undefined, unsupported
                return None
            case 8:
                self.take(4)  # the count is a hint only
                return self.members(EcmaArray(), depth)
            case 10:
                count = int.from_bytes(self.take(4), "big")
                if count > len(self.data) - self.at:
                    raise ProtocolError("An AMF0 array is longer than its message.", slug="bad_amf")
                return [self.value(depth + 1) for _ in range(count)]
            case 11:
                date = float(struct.unpack(">d", self.take(8))[0])
                self.take(2)  # time zone, reserved
                return date
            case 12 | 15:
                return self.text(4)
            case 16:
                self.text(2)  # class name
                return self.members({}, depth)
            case marker:
                raise ProtocolError(f"AMF0 marker {marker} is not supported.", slug="bad_amf")

    def members(self, into: dict[str, Value], depth: int) -> dict[str, Value]:
        while True:
            name = self.text(2)
            if not name and self.data[self.at : self.at + 1] == b"\x09":
                self.at += 1
                return into
            into[name] = self.value(depth + 1)


def decode(data: bytes) -> list[Value]:
    """All values of a message. Raises `ProtocolError`."""
    reader = _Reader(data)
    values: list[Value] = []
    while reader.at < len(data):
        values.append(reader.value(0))
    return values


def encode(*values: Value) -> bytes:
    """The bytes of the values, one after the other."""
    out = bytearray()
    for value in values:
        _write(out, value)
    return bytes(out)


def _write(out: bytearray, value: Value) -> None:
    if value is None:
        out.append(5)
    elif isinstance(value, bool):
        out += bytes((1, value))
    elif isinstance(value, int | float):
        out.append(0)
        out += struct.pack(">d", value)
    elif isinstance(value, str):
        text = value.encode()
        out += b"\x02" + len(text).to_bytes(2, "big") if len(text) < 0x10000 else b"\x0c" + len(text).to_bytes(4, "big")
        out += text
    elif isinstance(value, list):
        out += b"\x0a" + len(value).to_bytes(4, "big")
        for item in value:
            _write(out, item)
    else:
        out += b"\x08" + len(value).to_bytes(4, "big") if isinstance(value, EcmaArray) else b"\x03"
        for name, item in value.items():
            key = name.encode()[:0xFFFF]
            out += len(key).to_bytes(2, "big") + key
            _write(out, item)
        out += b"\0\0\x09"


def members(value: Value) -> dict[str, Value]:
    """The value where it is an object or ECMA array, else an empty one: either may stand for the other."""
    return value if isinstance(value, dict) else {}


def text(value: Value) -> str:
    """The value where it is a string, else an empty one."""
    return value if isinstance(value, str) else ""


def number(value: Value) -> float:
    """The value where it is a finite number, else 0."""
    good = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")
    return float(value) if good else 0.0  # type: ignore[arg-type]
