"""A cut: the instant at which a segment starts, the same in every rendition. Decided in one place (transcode.cuts)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cut:
    """Segment `index` starts here.

    In each video rendition the segment starts at the first frame in display order with `pts >= this pts`, and
    that frame is an IDR; in each audio rendition at the audio frame whose start is nearest to it.

    `index` counts from 0 over the life of a broadcast, without holes, and is the media sequence number.
    `pts` is in 90 kHz ticks on the stream's timeline. `wall_us` is the wall clock (UTC, microseconds since
    the Unix epoch) of that instant: one anchor, carried forward by media time, and set anew only at a
    discontinuity. `discontinuity` marks a break between this segment and the one before, in all renditions.
    """

    index: int
    pts: int
    wall_us: int
    discontinuity: bool = False
    reason: str = ""
    """Why there is a discontinuity: a stable slug, empty without one."""
