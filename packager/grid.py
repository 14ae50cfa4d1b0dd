"""The grid on which parts are cut: one length for all renditions, fixed before the first part and never changed.

RFC 8216bis 4.4.3.7 and 4.4.4.9: no part may last longer than PART-TARGET, and all but a segment's last must reach
85 % of it. So the length is a whole number of frames of the slowest video, and PART-TARGET is that length and one
audio frame more, because audio is cut at the frame next to the grid.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

from media.rendition import Rendition
from media.track import Kind, Track

JITTER_S = Fraction(2, 1000)
"""Room for timestamps that were rounded to milliseconds."""

AUDIO_FRAME_S = Fraction(1024, 44_100)
"""Room for one audio frame. Longer frames (low sample rates) fit too: their parts end a frame earlier instead, and a
larger PART-TARGET would put video parts below 85 % of it."""

MAX_RATE = 300
"""Frames per second; beyond this it is a timebase, not a rate."""


@dataclass(frozen=True, slots=True)
class Grid:
    """`length_s`: distance of part boundaries from each other, counted from the cut. `target_s`: PART-TARGET.
    `segment_s`: nominal length of a segment."""

    length_s: Fraction
    target_s: Fraction
    segment_s: int


def choose(part_s: float, segment_s: int, renditions: Iterable[Rendition], measured: Fraction | None = None) -> Grid:
    """The grid for a broadcast. `measured`: frames per second that were seen, where what is declared may be wrong."""
    renditions = list(renditions)
    rates = [r.frame_rate for r in renditions if r.kind is Kind.VIDEO and r.frame_rate and r.frame_rate <= MAX_RATE]
    if measured:
        rates.append(measured)
    length = Fraction(part_s).limit_denominator(1000)
    if rates:
        rate = min(rates)
        parts = max(1, round(segment_s / length))
        length = max(1, math.ceil(Fraction(max(1, round(segment_s * rate)), parts))) / rate
    target = length + JITTER_S
    if any(r.kind is Kind.AUDIO for r in renditions):
        target = max(target, length + min(AUDIO_FRAME_S, length / 10))
    return Grid(length, Fraction(math.ceil(target * 100_000), 100_000), segment_s)


def slow(grid: Grid, frame_s: Fraction) -> bool:
    """Whether frames of this length are so long that parts of whole frames could miss both bounds of `grid`."""
    return frame_s > grid.target_s * Fraction(15, 100) and frame_s <= grid.segment_s


def nominal_rate(rendition: Rendition, track: Track) -> Fraction | None:
    """Frames per second as declared; None where that is unknown or cannot be.

    x264 with a timebase of 1/90000 writes a VUI that says 90 000 frames per second.
    """
    rates = (rendition.frame_rate, track.frame_rate)
    return next((rate for rate in rates if rate and rate <= MAX_RATE), None)
