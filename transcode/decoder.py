"""A video decoder for packets as they come from the network: never crashes its rungs, never adds latency."""

from __future__ import annotations

from typing import cast

import av
import structlog
from av.codec.context import ThreadType
from av.packet import Packet as AvPacket
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from media.packet import Packet
from media.track import Codec, Track
from transcode.encoder import TIME_BASE
from transcode.scale import Deinterlacer

log = structlog.get_logger(__name__)

_NAMES = {Codec.H264: "h264", Codec.HEVC: "hevc", Codec.AV1: "libdav1d", Codec.VP8: "vp8"}

THREADS = 2
"""Slices of one picture side by side. Threads that work on several pictures would add a picture of latency each."""


class VideoDecoder:
    """Packets of one `Track` in, pictures in display order out, pts strictly rising."""

    def __init__(self, track: Track) -> None:
        self.track = track
        self.errors = 0
        self.misordered = 0
        self._last: int | None = None
        self._deinterlacer = Deinterlacer()
        self._context = self._open(track)

    @staticmethod
    def _open(track: Track) -> VideoCodecContext:
        context = av.CodecContext.create(_NAMES[track.codec], "r")
        assert isinstance(context, VideoCodecContext)
        if track.config:
            context.extradata = track.config
        context.thread_type = ThreadType.SLICE
        context.thread_count = THREADS
        if track.codec is Codec.AV1:
            context.options = {"max_frame_delay": "1"}
        return context

    def decode(self, packet: Packet) -> list[VideoFrame]:
        """Pictures that are ready. Broken packets give none, and are counted."""
        if not packet.data:
            self.errors += 1  # libav would take it for the end of the stream
            return []
        unit = cast("AvPacket[VideoStream]", AvPacket(packet.data))
        unit.pts, unit.dts, unit.duration = packet.pts, packet.dts, packet.duration
        unit.time_base = TIME_BASE
        return self._run(unit)

    def flush(self) -> list[VideoFrame]:
        """The pictures that wait for others; the decoder is of no use after that."""
        pictures = self._run(None)
        return pictures + self._in_order(self._deinterlacer.flush())

    def _run(self, unit: AvPacket[VideoStream] | None) -> list[VideoFrame]:
        try:
            decoded = self._context.decode(unit)
        except av.FFmpegError as error:
            self.errors += 1
            if self.errors & (self.errors - 1) == 0:  # the 1st, 2nd, 4th, 8th ...: a broken source has thousands
                log.warning("decoder_error", errors=self.errors, error=str(error))
            return []
        pictures: list[VideoFrame] = []
        for picture in decoded:
            if picture.pts is not None:
                picture.time_base = TIME_BASE
                pictures += self._deinterlacer.feed(picture)
        return self._in_order(pictures)

    def _in_order(self, pictures: list[VideoFrame]) -> list[VideoFrame]:
        # A stream that does not tell how far it reorders has its first pictures put out before that is known.
        ordered: list[VideoFrame] = []
        for picture in pictures:
            assert picture.pts is not None
            if self._last is not None and picture.pts <= self._last:
                self.misordered += 1
                continue
            self._last = picture.pts
            ordered.append(picture)
        return ordered
