"""One encoded video rendition in a worker: its own thread, which scales, encodes and times packets.

    pictures -> [queue, bounded: the decoder waits] -> scale -> encode -> durations -> Output

A packet leaves when the picture after it is known: only then its duration is, exactly, whatever the frame rate.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Iterable
from fractions import Fraction

import av
import structlog

from media.clock import VIDEO_TIMESCALE
from media.packet import Packet
from transcode.budget import Budget
from transcode.encoder import Coded, Colour, Encoder, EncoderError
from transcode.output import Output
from transcode.plan import VideoEncode
from transcode.shot import Shot, Size

log = structlog.get_logger(__name__)

BUFFERED = ("libx264", "libx265")
"""Encoders that keep to `bufsize` themselves; all others are kept to it by `transcode.budget`."""

HOLE_TICKS = VIDEO_TIMESCALE
"""Between two pictures: more is counted as missing, as after an overrun of the core's queue."""

QUEUE_PICTURES = 6
"""Decoded pictures that wait for one rung: enough to even out a slow IDR, few enough for memory and latency."""


class Rung(threading.Thread):
    """Encodes what it is offered. The first picture must be an IDR (`Shot.idr`)."""

    def __init__(self, spec: VideoEncode, output: Output, after: Rung | None = None) -> None:
        """`after`: a rung of the same name that is being closed; its packets go out before ours."""
        super().__init__(name=f"rung-{spec.name}", daemon=True)
        self.spec = spec
        self.frames = 0
        self.dropped = 0
        self.busy_s = 0.0
        self.media_ticks = 0
        """Media time worked off, without what never came: a hole is no speed."""
        self.position = -1
        """Pts of the picture encoded last."""
        self.failed = False
        self._output = output
        self._after = after
        self._queue: queue.Queue[Shot | None] = queue.Queue(QUEUE_PICTURES)
        self.size = Size(spec)
        self._encoder: Encoder | None = None
        self._candidates = deque(spec.encoders)
        self._owes_idr = False
        self._last_kept: int | None = None
        self._taken: deque[int] = deque()
        """Pts of the pictures that the encoder was given and whose packets have not left; not of a guarded encoder."""
        self._held: deque[Coded] = deque()
        self._min_step = 0
        self._budget = Budget(spec.bitrate, spec.buffer_ms)
        self.thin = 1
        """Keep only every so many pictures: raised while the worker sheds load."""
        rate = spec.frame_rate or spec.max_rate
        if spec.divide > 1 or spec.frame_rate is None:
            self._min_step = int(VIDEO_TIMESCALE * Fraction(3, 4) / rate)
        self._nominal = int(VIDEO_TIMESCALE / rate)

    # -- the decoder's thread ---------------------------------------------------------------------------------

    def offer(self, shot: Shot) -> None:
        """Take or leave out one picture. Waits while the queue is full."""
        if self._wanted(shot):
            self._last_kept = shot.pts
            self._queue.put(shot)
        else:
            self.dropped += 1

    def _wanted(self, shot: Shot) -> bool:
        if shot.idr or self._last_kept is None:
            return True
        step = self._min_step
        if self.thin > 1:
            step = max(step, self._nominal * 3 // 4) + self._nominal * (self.thin - 1)
        return shot.pts - self._last_kept >= step

    @property
    def waiting(self) -> int:
        """Pictures in the queue."""
        return self._queue.qsize()

    def finish(self) -> None:
        """Nothing more comes; the thread ends when all is handed over. Waits while the queue is full."""
        self._queue.put(None)

    # -- our own thread ---------------------------------------------------------------------------------------

    def run(self) -> None:
        if self._after is not None:
            self._after.join()
            self._after = None
        while (shot := self._queue.get()) is not None:
            started = time.monotonic()
            self._take(shot)
            self.busy_s += time.monotonic() - started
        self._close()

    def _take(self, shot: Shot) -> None:
        step = shot.pts - self.position
        if self.position >= 0 and step < HOLE_TICKS:
            self.media_ticks += step
        idr = shot.idr or self._owes_idr
        if self._encoder is not None and not idr and not self._affordable(shot.pts):
            self.dropped += 1  # its time goes to the picture before
            self.position = shot.pts
            return
        if shot.anew and self.position >= 0:
            self._release(self.position + self._nominal)
        elif not self._guarded:
            self._release(shot.pts)
        if idr:
            self._budget.begin(shot.pts)
        if self._encoder is None and not (idr and self._open(shot.colour)):
            self.dropped += 1
            self.position = shot.pts  # who waits for another encoder is not behind
            return
        assert self._encoder is not None
        try:
            picture = self.size.of(shot)
        except av.FFmpegError as error:
            # A picture that libav cannot convert. If it was to be an IDR, the next one is.
            self._owes_idr = idr
            self.dropped += 1
            self.position = shot.pts
            log.warning("picture_not_scaled", rendition=self.spec.name, error=str(error))
            return
        self._owes_idr = False
        if not self._guarded:
            self._taken.append(shot.pts)
        try:
            self._keep(self._encoder.encode(picture, idr=idr))
        except EncoderError as error:
            self._replace(error, shot.pts)
            self.position = shot.pts
            return
        self.position = shot.pts
        self.frames += 1

    @property
    def _guarded(self) -> bool:
        """Whether the encoder has to be kept to its budget."""
        return self._encoder is not None and self._encoder.name not in BUFFERED

    def _affordable(self, pts: int) -> bool:
        return not self._guarded or self._budget.allows(pts)

    def _open(self, colour: Colour) -> bool:
        while self._candidates:
            name = self._candidates[0]
            try:
                self._encoder = Encoder(self.spec, name, colour)
            except EncoderError as error:
                self._candidates.popleft()
                self._output.notice("encoder_unusable", f"{self.spec.name}: {error.text}", name)
                continue
            return True
        if not self.failed:
            self.failed = True
            self._output.notice("rung_failed", f"{self.spec.name}: no encoder works; the rung is left out.")
        return False

    def _replace(self, error: EncoderError, pts: int) -> None:
        """The encoder failed in mid-stream, at the picture `pts`: the next best goes on at the next cut."""
        if self._guarded:
            self._release(pts)
        failed = self._candidates[0]
        self._encoder = None
        self._taken.clear()
        self._held.clear()
        if len(self._candidates) > 1:
            self._candidates.popleft()
        then = f"{self._candidates[0]} takes over"
        self._output.notice("encoder_failed", f"{self.spec.name}: {error.text}; {then}.", failed)

    def _keep(self, coded: Iterable[Coded]) -> None:
        for packet in coded:
            bits = 8 * len(packet.data)
            if self._guarded and not self._budget.takes(bits, keyframe=packet.keyframe):
                self.dropped += 1
                continue
            self._held.append(packet)
        self._release()

    def _release(self, following: int | None = None) -> None:
        """Hand over every packet whose duration is known. `following`: pts of the picture behind all of them."""
        while self._held and self._encoder is not None:
            if self._guarded:
                # Only what has come out counts: the next may prove too large, and its time goes to this one.
                ends = self._held[1].pts if len(self._held) > 1 else following
            else:
                while self._taken[0] != self._held[0].pts:
                    self._taken.popleft()  # left out by the encoder
                ends = self._taken[1] if len(self._taken) > 1 else following
            if ends is None:
                return
            coded = self._held.popleft()
            if not self._guarded:
                self._taken.popleft()
            packet = Packet(self._encoder.track, coded.pts, coded.pts, ends - coded.pts, coded.keyframe, coded.data)
            self._output.made(self.spec.name, packet, self._encoder.name)

    def _close(self) -> None:
        if self._encoder is None:
            return
        try:
            self._keep(self._encoder.flush())
        except EncoderError as error:
            log.warning("encoder_flush_failed", rendition=self.spec.name, error=error.text)
        if self._held:
            self._release(max(self._held[-1].pts, self.position) + self._nominal)
        self._encoder = None
