"""Where segments start: the one place that decides it, in front of the encoders, for every rendition at once.

Pure and synchronous: packets of the reference track in arrival order in, `Cut`s out. Two ways to cut:

| mode | a segment starts at | when |
|---|---|---|
| `KEYFRAMES` | a source IDR, the one that makes the segment nearest to its nominal length | source passed through |
| `GRID` | every nominal length of media time; encoders force an IDR at the first frame from there | all encoded |

The target is counted from the cut before, not from zero: a GOP of 60 frames at 29.97 fps lasts 2.002 s, and a
fixed grid would drift half a GOP away from it within minutes.

A source whose IDRs stay away for longer than the target duration allows (EXTINF rounded must not pass
EXT-X-TARGETDURATION, RFC 8216bis 6.2.1) leaves `KEYFRAMES` for `GRID` by itself, at a discontinuity; the composer
sees `mode` change together with the returned cut and has the source's own rendition encoded from there.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from media.clock import VIDEO_TIMESCALE, rescale
from media.cut import Cut
from media.packet import Packet


class Mode(Enum):
    KEYFRAMES = "keyframes"
    GRID = "grid"


MAX_STRETCH_TICKS = VIDEO_TIMESCALE * 45 // 100
"""How far a segment may outgrow its nominal length: below the half second at which EXTINF would round up."""

MAX_STRIDE_TICKS = VIDEO_TIMESCALE // 4
"""More than encoders reorder; a longer pause is a source that stopped for a moment."""

MIN_SHARE = 0.45
"""No IDR nearer to the last cut than this share of the nominal length starts a segment of its own."""


class Cutter:
    """Decides cuts for one broadcast, through all its publishing sessions; indexes never repeat or skip."""

    def __init__(self, segment_s: int, now_us: Callable[[], int], mode: Mode = Mode.KEYFRAMES) -> None:
        """`segment_s`: nominal segment length in seconds. `now_us`: wall clock, microseconds since the epoch."""
        self.mode = mode
        self._now_us = now_us
        self._nominal = segment_s * VIDEO_TIMESCALE
        self._last: Cut | None = None
        self._last_keyframe = 0
        self._top = 0
        self._stride = 0
        self._pending = ""
        self._restart = False

    @property
    def last(self) -> Cut | None:
        """The latest cut."""
        return self._last

    def restart(self, reason: str) -> None:
        """What comes next does not continue what was before (a gap, another publisher): cut as soon as possible,
        as a discontinuity. In `KEYFRAMES` mode that is the next IDR, in `GRID` mode the next packet."""
        self._pending = reason
        self._restart = True

    def mark(self, reason: str) -> None:
        """Make the next regular cut a discontinuity (a worker was replaced; the source itself is whole)."""
        self._pending = self._pending or reason

    def feed(self, packet: Packet) -> Cut | None:
        """The cut to apply before `packet` (and to every rendition), or None.

        `packet` belongs to the reference track: the video that is transcoded or passed through, or the audio
        where there is no video (every audio packet counts as a keyframe then).
        """
        pts = rescale(packet.pts, packet.track.timescale, VIDEO_TIMESCALE)
        if pts > self._top:
            # How far the frames that others refer to lie apart: B-frames between them come later, and are shown before.
            self._stride = min(pts - self._top, MAX_STRIDE_TICKS)
            self._top = pts
        cut = self._decide(pts, packet.keyframe)
        if packet.keyframe:
            self._last_keyframe = pts
        return cut

    def _decide(self, pts: int, keyframe: bool) -> Cut | None:
        last = self._last
        if last is None:
            return self._cut(pts) if keyframe else None
        if self._restart and (keyframe or self.mode is Mode.GRID):
            # A frame that was reordered past the break may still lie before the last cut.
            return self._cut(max(pts, last.pts + 1), self._pending)
        if self._restart:
            return None
        elapsed = pts - last.pts
        if self.mode is Mode.GRID:
            return self._on_grid(last, elapsed)
        if keyframe:
            return self._on_keyframe(last, pts, elapsed)
        if pts == self._top and elapsed + self._stride > self._nominal + MAX_STRETCH_TICKS:
            # The next frame to cut at would lie too far.
            self.mode = Mode.GRID
            # One tick later: this frame, and the reordered ones that refer to it, end the segment that was passed
            # through; the first frame behind them starts the one that is encoded.
            return self._cut(pts + 1, self._pending or "keyframe_interval")
        return None

    def _on_grid(self, last: Cut, elapsed: int) -> Cut | None:
        if elapsed < self._nominal:
            return None
        if elapsed >= 2 * self._nominal:  # the source was silent for a whole segment
            return self._cut(last.pts + elapsed, self._pending or "source_silent")
        return self._cut(last.pts + self._nominal, self._pending)

    def _on_keyframe(self, last: Cut, pts: int, elapsed: int) -> Cut | None:
        longest = self._nominal + MAX_STRETCH_TICKS
        if elapsed > longest:
            return self._cut(pts, self._pending or "source_silent")
        following = elapsed + pts - max(self._last_keyframe, last.pts)  # where the next IDR is to be expected
        nearest = abs(elapsed - self._nominal) <= abs(following - self._nominal)
        if following > longest or (nearest and elapsed >= MIN_SHARE * self._nominal):
            return self._cut(pts, self._pending)
        return None

    def _cut(self, pts: int, reason: str = "") -> Cut:
        last = self._last
        if last is None:
            cut = Cut(index=0, pts=pts, wall_us=self._now_us())
        else:
            wall_us = last.wall_us + rescale(pts - last.pts, VIDEO_TIMESCALE, 1_000_000)
            if reason:
                wall_us = max(wall_us, self._now_us()) if self._restart else wall_us
            cut = Cut(last.index + 1, pts, wall_us, discontinuity=bool(reason), reason=reason)
        self._pending = ""
        self._restart = False
        self._last = cut
        return cut
