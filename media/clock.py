"""Media time: integers in a named timescale (ticks per second). Rescaling, and unwrapping of wrapped counters."""

from __future__ import annotations

VIDEO_TIMESCALE = 90_000
"""Ticks per second of every video track, of cuts and of the stream's common timeline."""


def rescale(value: int, from_scale: int, to_scale: int) -> int:
    """`value` ticks of `from_scale` in ticks of `to_scale`, rounded half up. Exact for integers of any size."""
    if from_scale == to_scale:
        return value
    return (2 * value * to_scale + from_scale) // (2 * from_scale)


class Unwrapper:
    """Turns a counter of `bits` bits into an integer that goes on past the wrap.

    Each value is placed at the point nearest to the one before, forwards or backwards (RFC 1982 arithmetic),
    so that packets slightly out of order around the wrap are placed rightly. Not thread-safe.
    """

    def __init__(self, bits: int) -> None:
        self._modulus = 1 << bits
        self._last: int | None = None

    def __call__(self, value: int) -> int:
        value %= self._modulus
        if self._last is not None:
            half = self._modulus >> 1
            value = self._last + (value - self._last + half) % self._modulus - half
        self._last = value
        return value
