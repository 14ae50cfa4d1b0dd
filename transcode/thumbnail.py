"""JPEG thumbnails of the source; in a worker in a thread of their own, where a picture that finds the last one
unfinished is left out."""

from __future__ import annotations

import queue
import threading
from fractions import Fraction

import av
import structlog
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame

from transcode.encoder import TIME_BASE
from transcode.output import Output
from transcode.scale import Scaler
from transcode.shot import Shot

log = structlog.get_logger(__name__)


class Jpeg:
    """Pictures of any kind in, small JPEGs out."""

    def __init__(self, height: int) -> None:
        """`height`: of the JPEG, or the picture's own where that is less; pixels."""
        self._height = height
        self._scaler: Scaler | None = None
        self._size = (0, 0)
        self._encoder: VideoCodecContext | None = None

    def __call__(self, source: VideoFrame, sample_aspect: Fraction) -> bytes:
        """A JPEG with square pixels. Raises `av.FFmpegError`."""
        height = max(2, min(self._height, source.height) // 2 * 2)
        aspect = Fraction(source.width, source.height) * sample_aspect
        width = max(2, round(height * aspect / 2) * 2)
        if self._scaler is None or self._size != (width, height):
            self._size = (width, height)
            self._scaler = Scaler(width, height, Fraction(1), jpeg=True)
        picture = self._scaler(source, sample_aspect)
        if self._encoder is None or (self._encoder.width, self._encoder.height) != (width, height):
            context = av.CodecContext.create("mjpeg", "w")
            assert isinstance(context, VideoCodecContext)
            context.width, context.height, context.pix_fmt = width, height, "yuvj420p"
            context.time_base = TIME_BASE
            context.color_range = 2
            context.options = {"qmin": "4", "qmax": "8"}
            self._encoder = context
        return b"".join(bytes(packet) for packet in self._encoder.encode(picture))


class Thumbnailer(threading.Thread):
    """Scales and writes one JPEG at a time."""

    def __init__(self, height: int, output: Output) -> None:
        super().__init__(name="thumbnail", daemon=True)
        self._jpeg = Jpeg(height)
        self._output = output
        self._queue: queue.Queue[Shot | None] = queue.Queue(1)

    def offer(self, shot: Shot) -> None:
        """Make a thumbnail of `shot`, or not, if busy. Never waits."""
        try:
            self._queue.put_nowait(shot)
        except queue.Full:
            log.debug("thumbnail_skipped", pts=shot.pts)

    def finish(self) -> None:
        """End the thread; waits for the picture at work."""
        self._queue.put(None)
        self.join()

    def run(self) -> None:
        while (shot := self._queue.get()) is not None:
            try:
                self._output.picture(shot.pts, self._jpeg(shot.picture, shot.sample_aspect))
            except av.FFmpegError as error:
                log.warning("thumbnail_failed", error=str(error))
