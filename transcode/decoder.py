"""A video decoder for packets as they come from the network: never crashes its rungs, never adds latency.

With help of a device where the plan names one. A device that fails is replaced by the next in line, which is given
what came since the last keyframe: no picture is lost. Pictures come in system memory whoever decoded them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import cast

import av
import structlog
from av.codec.context import ThreadType
from av.packet import Packet as AvPacket
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from media.errors import HeadraceError
from media.packet import Packet
from media.track import Codec, Track
from transcode.device import CPU, accel, device_of, split
from transcode.encoder import TIME_BASE
from transcode.hardware import codec_of
from transcode.scale import Deinterlacer, tame

log = structlog.get_logger(__name__)

_SOFTWARE = {Codec.H264: "h264", Codec.HEVC: "hevc", Codec.AV1: "libdav1d", Codec.VP8: "vp8"}
_OWN_NAME = ("qsv", "amf", "v4l2m2m", "ni_quadra_dec")
"""Families whose decoders libav lists under names of their own; the others help the codec's native decoder."""

THREADS = 2
"""Slices of one picture side by side. Threads that work on several pictures would add a picture of latency each."""
ERRORS_IN_A_ROW = 3
SILENT_PACKETS = 40
"""Packets without a picture, after which a device counts as failed: more than any reordering holds back."""
KEPT_PACKETS = 600
KEPT_BYTES = 16 * 1024 * 1024
"""Since the last keyframe, for whoever takes over from a device; with more, it starts at the next keyframe."""


class DecoderError(HeadraceError):
    """A decoder cannot be opened, or failed. `text` has libav's words."""

    default_slug = "decoder_failed"


def libav_name(name: str) -> str:
    """libav's decoder of a name as in `hardware.DECODERS`."""
    codec, _, help_ = name.partition("+")
    if help_ == "ni_quadra_dec" and codec == "hevc":
        return f"h265_{help_}"
    if help_ in _OWN_NAME:
        return f"{codec}_{help_}"
    return _SOFTWARE.get(Codec(codec), codec) if not help_ else codec


class OneDecoder:
    """One open decoder; packets of one track in, pictures in its own order out."""

    def __init__(self, track: Track, seat: str) -> None:
        """Raises `DecoderError`."""
        self.seat = seat
        name, device = split(seat)
        try:
            help_ = accel(name, device) if device != CPU else None
            context = av.CodecContext.create(libav_name(name), "r", hwaccel=help_)
        except (av.FFmpegError, ValueError, NotImplementedError) as error:
            raise DecoderError(f"{seat} cannot be opened: {error}") from error
        assert isinstance(context, VideoCodecContext)
        if help_ is not None and not context.is_hwaccel:
            raise DecoderError(f"{seat} cannot be opened: libav has no such help for this codec")
        if track.config:
            context.extradata = track.config
        context.thread_type = ThreadType.SLICE
        context.thread_count = THREADS if device == CPU else 1
        if libav_name(name) == "libdav1d":
            context.options = {"max_frame_delay": "1"}
        self._context = context

    def decode(self, packet: Packet) -> list[VideoFrame]:
        """Pictures that are ready. Raises `DecoderError`."""
        unit = cast("AvPacket[VideoStream]", AvPacket(packet.data))
        unit.pts, unit.dts, unit.duration = packet.pts, packet.dts, packet.duration
        unit.time_base = TIME_BASE
        return self._run(unit)

    def flush(self) -> list[VideoFrame]:
        """The pictures that wait for others; the decoder is of no use after that."""
        return self._run(None)

    def _run(self, unit: AvPacket[VideoStream] | None) -> list[VideoFrame]:
        try:
            decoded = self._context.decode(unit)
        except av.FFmpegError as error:
            raise DecoderError(f"{self.seat} failed: {error}") from error
        shown = [picture for picture in decoded if picture.pts is not None]
        for picture in shown:
            picture.time_base = TIME_BASE
            tame(picture)
        return shown


class VideoDecoder:
    """Packets of one `Track` in, pictures in display order out, pts strictly rising."""

    def __init__(
        self, track: Track, seats: Sequence[str] = (), on_failed: Callable[[DecoderError, str, str], None] | None = None
    ) -> None:
        """`seats`: decoders, best first (`Plan.decoders`); the CPU's is always the last. `on_failed`: is told the
        error, the seat that is to blame (empty where the source is), and the one that takes over."""
        self.track = track
        self.errors = 0
        self.misordered = 0
        fitting = [s for s in seats if device_of(s) != CPU and codec_of(split(s)[0]) is track.codec]
        self._seats = deque([*fitting, track.codec.value])
        self._on_failed = on_failed
        self._last: int | None = None
        self._deinterlacer = Deinterlacer()
        self._kept: deque[Packet] = deque()
        self._kept_bytes = 0
        self._in_a_row = self._silent = 0
        self._decoder = self._open()

    @property
    def seat(self) -> str:
        """Who decodes."""
        return self._decoder.seat

    def _open(self) -> OneDecoder:
        while True:
            try:
                return OneDecoder(self.track, self._seats[0])
            except DecoderError as error:
                failed = self._seats.popleft()
                if not self._seats:
                    raise
                self._tell(error, failed)

    def _tell(self, error: DecoderError, failed: str) -> None:
        if self._on_failed is not None:
            self._on_failed(error, failed, self._seats[0])

    def decode(self, packet: Packet) -> list[VideoFrame]:
        """Pictures that are ready. Broken packets give none, and are counted."""
        if not packet.data:
            self.errors += 1  # libav would take it for the end of the stream
            return []
        helped = len(self._seats) > 1
        if helped:
            self._keep(packet)
        try:
            pictures = self._decoder.decode(packet)
        except DecoderError as error:
            self._count(error)
            self._in_a_row += 1
            if helped and (self._last is None or self._in_a_row >= ERRORS_IN_A_ROW):
                return self._replace(error)
            return []
        self._in_a_row = 0
        self._silent = 0 if pictures else self._silent + 1
        if helped and self._silent > SILENT_PACKETS:
            return self._replace(DecoderError(f"{self.seat} gave no picture for {self._silent} packets"))
        return self._show(pictures)

    def flush(self) -> list[VideoFrame]:
        """The pictures that wait for others; the decoder is of no use after that."""
        try:
            pictures = self._decoder.flush()
        except DecoderError as error:
            self._count(error)
            pictures = []
        return self._show(pictures) + self._in_order(self._deinterlacer.flush())

    def _count(self, error: DecoderError) -> None:
        self.errors += 1
        if self.errors & (self.errors - 1) == 0:  # the 1st, 2nd, 4th, 8th ...: a broken source has thousands
            log.warning("decoder_error", errors=self.errors, error=error.text)

    def _keep(self, packet: Packet) -> None:
        if packet.keyframe and not self._silent:  # else the pictures before it have not been seen yet
            self._kept.clear()
            self._kept_bytes = 0
        self._kept.append(packet)
        self._kept_bytes += len(packet.data)
        if len(self._kept) > KEPT_PACKETS or self._kept_bytes > KEPT_BYTES:
            self._kept.clear()
            self._kept_bytes = 0

    def _replace(self, error: DecoderError) -> list[VideoFrame]:
        """The next in line goes on where this one failed. The device is to blame only if the CPU can do better."""
        failed = self._seats.popleft()
        self._in_a_row = self._silent = 0
        self._decoder = self._open()
        kept, self._kept = self._kept, deque()
        pictures: list[VideoFrame] = []
        broken = 0
        for packet in kept:
            try:
                pictures += self._decoder.decode(packet)
            except DecoderError as other:
                self._count(other)
                broken += 1
        if len(self._seats) > 1:
            self._kept = kept  # another device: it may fail too
        blame = failed if not broken else ""
        log.warning("decoder_replaced", failed=failed, by=self.seat, broken=broken, error=error.text)
        self._tell(error, blame)
        return self._show(pictures)

    def _show(self, decoded: Sequence[VideoFrame]) -> list[VideoFrame]:
        pictures: list[VideoFrame] = []
        for picture in decoded:
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
