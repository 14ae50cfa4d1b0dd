"""PES packets: put together from TS packets within a bound, and their head read (ISO/IEC 13818-1 2.4.3.6)."""

from __future__ import annotations

from typing import NamedTuple

from media.errors import ProtocolError

_WITHOUT_HEADER = frozenset((0xBC, 0xBE, 0xBF, 0xF0, 0xF1, 0xF2, 0xF8, 0xFF))
"""stream_id without the optional header (table 2-21): maps, padding, private_stream_2, entitlements."""

_FULL = 184
"""Payload of a TS packet without an adaptation field."""


class Pes(NamedTuple):
    """A PES packet."""

    pts: int | None
    """Raw, 33 bits."""
    dts: int | None
    """Raw; None where there is none of its own."""
    payload: bytes


def _stamp(raw: bytes) -> int:
    return (raw[0] >> 1 & 7) << 30 | raw[1] << 22 | raw[2] >> 1 << 15 | raw[3] << 7 | raw[4] >> 1


def parse_pes(data: bytes) -> Pes | None:
    """Read a whole PES packet; None for kinds that carry no media. Raises `ProtocolError`."""
    if len(data) < 6 or data[:3] != b"\0\0\1":
        raise ProtocolError("A PES packet does not begin with its start code.", slug="bad_pes")
    if data[3] in _WITHOUT_HEADER:
        return None
    if len(data) < 9 or data[6] & 0xC0 != 0x80:
        raise ProtocolError("A PES packet has no header of MPEG-2.", slug="bad_pes")
    flags, first = data[7] >> 6, 9 + data[8]
    needed = {2: 14, 3: 19}.get(flags, 9)
    if first > len(data) or first < needed or flags == 1:
        raise ProtocolError("The header of a PES packet is cut short.", slug="bad_pes")
    pts = _stamp(data[9:14]) if flags & 2 else None
    dts = _stamp(data[14:19]) if flags == 3 else None
    return Pes(pts, dts, data[first:])


class Assembler:
    """Collects the PES packets of one PID. Its fields are public for the demuxer's fast path.

    A packet is over when its length says so, or when the next one starts; video has no length as a rule.
    """

    __slots__ = ("_bound", "chunks", "expected", "limit", "open", "pid", "size")

    def __init__(self, pid: int, bound: int) -> None:
        self.pid = pid
        self._bound = bound
        self.expected = -1
        """Fourth byte of the next packet if it is a plain continuation: 0x10 | counter. -1 before the first."""
        self.open = False
        """Whether a PES packet has begun."""
        self.chunks: list[bytes] = []
        self.size = 0
        self.limit = bound
        """Size at which something must happen: the packet is whole, or too large."""

    @property
    def whole(self) -> bool:
        """Whether as many bytes are here as the packet's length says."""
        return self.open and self.limit <= self._bound and self.size >= self.limit

    @property
    def too_large(self) -> bool:
        return self.open and self.size > self._bound

    @property
    def cut_off(self) -> bool:
        """At the end of the stream: whether the packet that is open was not yet over.

        Without a length only the stuffing tells: a packet's last TS packet is hardly ever full.
        """
        return self.open and not self.whole and (self.limit <= self._bound or len(self.chunks[-1]) == _FULL)

    def begin(self, payload: bytes) -> None:
        """Start a packet with the payload of the TS packet that begins it."""
        self.chunks = [payload]
        self.size = len(payload)
        self.open = True
        length = int.from_bytes(payload[4:6], "big") if len(payload) >= 6 else 0
        self.limit = min(6 + length, self._bound + 1) if length else self._bound + 1

    def add(self, payload: bytes) -> None:
        self.chunks.append(payload)
        self.size += len(payload)

    def take(self) -> bytes:
        """The packet as far as it is here; none is open afterwards."""
        data = b"".join(self.chunks)
        if self.limit <= self._bound:
            data = data[: self.limit]
        self.drop()
        return data

    def drop(self) -> None:
        self.chunks = []
        self.size = 0
        self.open = False
