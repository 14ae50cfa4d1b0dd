"""Reads bits, most significant first, and the Exp-Golomb codes of H.264 and HEVC (Rec. ITU-T H.264 9.1)."""

from __future__ import annotations

from media.errors import ProtocolError

MAX_LEADING_ZEROS = 32
"""A ue(v) of the video codecs has 32 bits at most."""


class Bits:
    """A cursor over `data`. Every method raises `ProtocolError` past the end. Each read costs O(bits read)."""

    __slots__ = ("_data", "_end", "_position")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0
        self._end = 8 * len(data)

    @property
    def left(self) -> int:
        """Bits not yet read."""
        return self._end - self._position

    @property
    def position(self) -> int:
        """Bits read so far."""
        return self._position

    def u(self, count: int) -> int:
        """Unsigned integer of `count` bits."""
        start, stop = self._position, self._position + count
        if stop > self._end:
            raise ProtocolError("The bitstream ends in the middle of a field.", slug="truncated_bitstream")
        self._position = stop
        value = int.from_bytes(self._data[start >> 3 : (stop + 7) >> 3], "big")
        return (value >> (-stop & 7)) & ((1 << count) - 1)

    def flag(self) -> bool:
        """One bit."""
        return self.u(1) == 1

    def skip(self, count: int) -> None:
        """Pass over `count` bits."""
        if count > self.left:
            raise ProtocolError("The bitstream ends in the middle of a field.", slug="truncated_bitstream")
        self._position += count

    def align(self) -> None:
        """Pass over the bits up to the next byte."""
        self._position += -self._position & 7

    def ue(self) -> int:
        """Unsigned Exp-Golomb code."""
        zeros = 0
        while not self.u(1):
            zeros += 1
            if zeros > MAX_LEADING_ZEROS:
                raise ProtocolError("An Exp-Golomb code is longer than 32 bits.", slug="bad_bitstream")
        return (1 << zeros) - 1 + self.u(zeros)

    def se(self) -> int:
        """Signed Exp-Golomb code."""
        value = self.ue()
        return (value + 1) >> 1 if value & 1 else -(value >> 1)
