"""The frame grid of a video source: found from stated times, kept exactly in integers. Pure arithmetic.

RTMP states milliseconds: 33, 33, 34 for 30 frames per second. A grid that fits all of them to the millisecond is
the source's own, and 90 kHz times on it are exact. Variable rates fit none, and stay as stated.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from fractions import Fraction

from media.clock import VIDEO_TIMESCALE

TIGHT = 92
"""Ticks that the stated times of a constant rate spread around their grid: one millisecond of rounding, and two."""
WINDOW = 128
"""Frames remembered: enough to tell 60 from 59.94 frames per second in spite of the rounding."""
_CHECK_EVERY = 16
"""Frames of a drifting source between two looks at whether its rate still fits: a look goes over the whole window."""
_FASTEST = 300
"""Frames per second beyond which there is no grid to find in milliseconds."""


def fits(times: Sequence[int], rate: Fraction) -> tuple[int, int] | None:
    """Least and greatest distance (ticks) of the times from the grid that starts at the first; None if it is none."""
    low = high = 0
    ticks, per = VIDEO_TIMESCALE * rate.denominator, rate.numerator
    for index, time in enumerate(times):
        off = time - times[0] - index * ticks // per
        low, high = min(low, off), max(high, off)
        if high - low > TIGHT:
            return None
    return low, high


def candidates(times: Sequence[int], nominal: Fraction | None) -> Iterator[Fraction]:
    """Rates to try, likeliest first: what the source claims, whole and half rates, and their NTSC relatives."""
    if nominal:
        yield nominal
    span = times[-1] - times[0]
    if span <= 0:
        return
    measured = Fraction(VIDEO_TIMESCALE * (len(times) - 1), span)
    whole, half, ntsc = round(measured), Fraction(round(2 * measured), 2), round(measured * 1001 / 1000)
    for rate in (Fraction(whole), half, Fraction(ntsc * 1000, 1001)):
        if 0 < rate <= _FASTEST:
            yield rate


def find(times: Sequence[int], nominal: Fraction | None) -> Fraction | None:
    """The first rate whose grid fits every time, or None."""
    return next((rate for rate in candidates(times, nominal) if fits(times, rate) is not None), None)


class Grid:
    """A grid of exact frame times that follows a slow drift of its source, and is given up when it stops fitting."""

    _DRIFT, _CALM = 108, 45
    """Ticks of mean difference from which a drift is followed (more than rounding can make), and to which."""
    _SKIPS = 4
    """Skipped frames among the last `WINDOW` after which the rate is no longer called constant."""

    def __init__(self, rate: Fraction, start: int) -> None:
        """`start`: time of the next frame."""
        self._set(rate)
        self._position = start * self._per
        self._mean = 0  # of the difference stated - grid, times 16
        self._drifting = False
        self._times: deque[int] = deque(maxlen=WINDOW)
        self._since_skip = WINDOW
        self._skips = 0
        self._until_check = 0

    def _set(self, rate: Fraction) -> None:
        self.rate = rate
        self._step, self._per = VIDEO_TIMESCALE * rate.denominator, rate.numerator  # in 1/_per ticks

    @property
    def next(self) -> int:
        """Time of the next frame, ticks."""
        return self._position // self._per

    def place(self, stated: int) -> tuple[int, int] | None:
        """(time, frames skipped before it) of a frame; None where the source is not on a grid any more.

        Never further from `stated` than half a frame and the millisecond of rounding.
        """
        position, skipped = self._position, 0
        off = stated * self._per - position
        if 2 * off < -self._step - 2 * TIGHT * self._per:
            return None
        if 2 * off > self._step:
            skipped = (2 * off + self._step) // (2 * self._step)
            position += skipped * self._step
            self._skips = 1 if self._since_skip >= WINDOW else self._skips + 1
            self._since_skip = 0
            self._times.clear()
            if self._skips > self._SKIPS:
                return None
        self._since_skip += 1
        self._position = position
        self._times.append(stated)
        self._mean += ((stated - position // self._per) * 16 - self._mean) // 16
        return position // self._per, skipped

    def advance(self) -> int:
        """Go on to the next frame; the duration of this one in ticks, with the tick or two that a drift asks for."""
        nudge = 0
        mean = self._mean // 16
        self._drifting = abs(mean) > (self._CALM if self._drifting else self._DRIFT)
        if self._drifting:
            self._until_check -= 1
            if self._until_check <= 0 and len(self._times) == WINDOW:
                self._until_check = _CHECK_EVERY
                if fits(self._times, self.rate) is None:
                    self._retune()
            most = max(1, self._step // self._per // 1000)
            nudge = max(-most, min(most, mean // 16 or (1 if mean > 0 else -1)))
            self._mean -= nudge * 16
        here = self.next
        self._position += self._step + nudge * self._per
        return self.next - here

    def composed(self, offset: int) -> int | None:
        """A composition offset from this frame on, on the grid; None where it is not a whole number of frames."""
        frames = (2 * offset * self._per + self._step) // (2 * self._step)
        exact = (self._position + frames * self._step) // self._per - self.next
        return exact if abs(exact - offset) <= TIGHT + 45 else None

    def _retune(self) -> None:
        """The drift is no drift but a rate that lies near by, as 29.97 lies near 30."""
        rate = find(self._times, None)
        if rate is not None and rate != self.rate:
            here = self.next
            self._set(rate)
            self._position = here * self._per
