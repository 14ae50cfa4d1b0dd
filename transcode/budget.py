"""What an encoder may spend that does not keep to a buffer by itself. Pure.

SVT-AV1 4.1 in constant bitrate minds no buffer, and sizes a keyframe by the easy scene before it; drivers promise
nothing. `Budget` says which pictures have to be left out so that a segment ends near its target. 4.2, which comes with
PyAV 19, needs that in hard scenes only. (A new encoder for each segment, with a floor under its quantizer learnt from
the last, kept keyframes smaller; but SVT-AV1 4.1 deadlocks about once in a hundred openings on a busy machine.)
"""

from __future__ import annotations

from media.clock import VIDEO_TIMESCALE

OVER_SHARE = 0.07
"""Of a segment's target, by which it may be over for another picture to be tried."""
PROMISE_SHARE = 0.1
"""By which it is never over: a picture that would take it there is thrown away, and so is all up to the next IDR."""


class Budget:
    """Bits spent in a segment, and in a buffer drained at the target. Times are pts in 90 kHz."""

    def __init__(self, bitrate: int, buffer_ms: int) -> None:
        self._bitrate = bitrate
        self._buffer_bits = bitrate * buffer_ms // 1000
        self._debt_bits = 0.0
        self._paid_until = 0
        self._segment_bits = 0
        self._usual_bits = 0.0
        """Of a picture that is not an IDR. Rises faster than it falls."""
        self._stopped = False
        self._idr_pts: int | None = None
        self._segment = 2 * VIDEO_TIMESCALE
        """Length of the last one."""

    def begin(self, pts: int) -> None:
        """A segment starts with the IDR at `pts`."""
        self._pay(pts)
        before, self._idr_pts = self._idr_pts, pts
        self._segment_bits = 0
        if before is not None and pts > before:
            self._segment = pts - before

    def takes(self, bits: int, *, keyframe: bool) -> bool:
        """A picture came out: whether it is handed over. Behind one that is not, nothing is up to the next keyframe, as
        it refers to it."""
        if keyframe:
            self._stopped = False
        elif self._segment_bits + bits > (1 + PROMISE_SHARE) * self._bits_of(self._segment):
            self._stopped = True
        if self._stopped:
            return False
        self._debt_bits += bits
        self._segment_bits += bits
        if not keyframe:
            weight = 2 if bits > self._usual_bits else 1
            self._usual_bits = ((4 - weight) * self._usual_bits + weight * bits) / 4 if self._usual_bits else bits
        return True

    def allows(self, pts: int) -> bool:
        """Whether there is room for the picture at `pts`, which is not an IDR.

        An IDR may fill the buffer; what it took is paid back until the segment's end.
        """
        self._pay(pts)
        if self._stopped:
            return False
        due = pts - (self._idr_pts or 0)
        left = max(0.0, 1 - due / self._segment)
        over = OVER_SHARE * self._bits_of(self._segment)
        over += max(0.0, self._buffer_bits - over) * left
        ahead = self._segment_bits - self._bits_of(due)
        if self._debt_bits + self._usual_bits <= self._buffer_bits and ahead + self._usual_bits <= over:
            return True
        self._usual_bits *= 0.9  # one large picture, as at a cut between scenes, must not stop all that come after it
        return False

    def _pay(self, pts: int) -> None:
        self._debt_bits = max(0.0, self._debt_bits - self._bits_of(max(0, pts - self._paid_until)))
        self._paid_until = pts

    def _bits_of(self, ticks: int) -> float:
        return self._bitrate * ticks / VIDEO_TIMESCALE
