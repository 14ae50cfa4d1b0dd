"""Decoding times for sources that state none: the presentation times, sorted, as many places late as B-frames need."""

from __future__ import annotations

from bisect import bisect_right, insort

_DEPTH = 16
"""No codec reorders over more pictures (H.264 A.3.1, HEVC A.4.2)."""


class DecodeOrder:
    """Learns how far the source reorders; until it has, a picture may come before its own decoding time."""

    def __init__(self) -> None:
        self._sorted: list[int] = []
        self._depth = 0
        self._last: int | None = None

    def decode_time(self, pts: int) -> int:
        """The decoding time of the picture that comes next and is shown at `pts`. Strictly increases."""
        later = len(self._sorted) - bisect_right(self._sorted, pts)
        self._depth = min(_DEPTH, max(self._depth, later))
        insort(self._sorted, pts)
        del self._sorted[: -2 * _DEPTH]
        dts = self._sorted[max(0, len(self._sorted) - 1 - self._depth)]
        if self._last is not None:
            dts = max(dts, self._last + 1)
        self._last = dts
        return dts
