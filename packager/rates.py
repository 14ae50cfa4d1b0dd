"""Measured bit rates of a rendition, as playlists declare them (RFC 8216bis 4.1)."""

from __future__ import annotations

import math
from collections import deque

from packager.model import Segment


class Rates:
    """Peak: the highest rate of any run of segments that lasts 0.5 to 1.5 target durations. Average: of all."""

    def __init__(self, target_s: int, floor: int) -> None:
        """`floor`: the encoder's target in bits per second; 0 where nothing is known."""
        self._target_s = target_s
        self._floor = floor
        self._recent: deque[tuple[int, float]] = deque(maxlen=16)
        self._peak = 0.0
        self._bits = 0
        self._seconds = 0.0

    def add(self, segment: Segment) -> None:
        """A complete segment; gaps do not count."""
        if segment.gap or segment.duration <= 0:
            return
        self._recent.append((segment.size_bytes * 8, segment.duration / segment.timescale))
        self._bits += self._recent[-1][0]
        self._seconds += self._recent[-1][1]
        bits, seconds = 0, 0.0
        for more_bits, more_seconds in reversed(self._recent):
            bits, seconds = bits + more_bits, seconds + more_seconds
            if seconds > 1.5 * self._target_s + 0.01:
                break
            if seconds >= 0.5 * self._target_s:
                self._peak = max(self._peak, bits / seconds)

    def peak(self, current: Segment | None) -> int:
        """Bits per second, rounded up. Before the first whole segment: the target with headroom, or what the parts so
        far say."""
        stated = self._floor * 1.1
        measured = self._peak
        if self._seconds >= 2 * self._target_s:  # many segments that were cut short are in no run, and yet were sent
            measured = max(measured, self._bits / self._seconds)
        if not self._peak and not stated and current is not None and current.duration:
            return math.ceil(current.size_bytes * 8 * current.timescale / current.duration)
        return max(1, math.ceil(max(measured, stated)))

    def average(self, current: Segment | None) -> int:
        """Bits per second."""
        if self._seconds >= 2 * self._target_s:
            return max(1, round(self._bits / self._seconds))
        return self._floor or self.peak(current)
