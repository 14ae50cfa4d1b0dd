"""One open video encoder, whatever makes it: the options that give live, closed-GOP, cut-aligned streams, and Tracks.

Every encoder here is told the same: no B-frames, an IDR only where asked for, a capped buffer, no frame held back.
Runs in a worker's threads (libav releases the GIL while it encodes).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction

import av
from av.codec.context import Flags
from av.video.codeccontext import VideoCodecContext
from av.video.frame import PictureType, VideoFrame

from media.clock import VIDEO_TIMESCALE
from media.errors import HeadraceError, ProtocolError
from media.track import Kind, Track
from transcode.bitstream import config_in, config_of, sample_of
from transcode.device import CPU, accel, cuda_index, family_of, split
from transcode.plan import VideoEncode

TIME_BASE = Fraction(1, VIDEO_TIMESCALE)
RATE_IF_UNKNOWN = Fraction(30)
_NO_KEYFRAMES = 1 << 30
SVT_MIN_QP = 36
"""Of SVT-AV1's 63, for as long as the encoder is open: without a floor an easy scene brings it to quantizers so fine
that the next change costs more than its segment has. What an encoder comes to says nothing about another's floor."""


class EncoderError(HeadraceError):
    """An encoder cannot be opened, or failed. `text` has libav's words."""

    default_slug = "encoder_failed"


@dataclass(frozen=True, slots=True)
class Colour:
    """What the pictures are tagged with (ISO/IEC 23091-2 code points; 2 is unspecified)."""

    primaries: int = 2
    transfer: int = 2
    matrix: int = 2


@dataclass(frozen=True, slots=True)
class Coded:
    """One coded picture, ready to be a `media.packet.Packet`."""

    pts: int
    keyframe: bool
    data: bytes


class Encoder:
    """Encodes pictures of `spec`'s size in yuv420p to packets without reordering."""

    def __init__(self, spec: VideoEncode, name: str, colour: Colour) -> None:
        """Open the encoder `name`: libav's, with the device that it runs on (`transcode.device`). Raises
        `EncoderError`."""
        self.name = name
        self._codec = spec.codec
        try:
            self._context = _open(spec, name, colour)
            config = config_of(spec.codec, bytes(self._context.extradata or b""))
        except (av.FFmpegError, ValueError, NotImplementedError, ProtocolError) as error:
            raise EncoderError(f"{name} cannot be opened: {error}") from error
        self.track = Track(
            id=spec.track_id,
            kind=Kind.VIDEO,
            codec=spec.codec,
            timescale=VIDEO_TIMESCALE,
            config=config,
            width=spec.width,
            height=spec.height,
            frame_rate=spec.frame_rate,
            sample_aspect=spec.sample_aspect,
            bitrate=spec.bitrate,
        )

    def encode(self, picture: VideoFrame, *, idr: bool) -> Iterator[Coded]:
        """Give one picture; take what comes out. Raises `EncoderError`."""
        picture.pict_type = PictureType.I if idr else PictureType.NONE
        return self._run(picture)

    def flush(self) -> Iterator[Coded]:
        """What the encoder still holds; it is closed after that."""
        return self._run(None)

    def _run(self, picture: VideoFrame | None) -> Iterator[Coded]:
        try:
            for packet in self._context.encode(picture):
                assert packet.pts is not None
                data = sample_of(self._codec, bytes(packet))
                if packet.is_keyframe:
                    self._check_config(data)
                yield Coded(packet.pts, packet.is_keyframe, data)
        except (av.FFmpegError, ProtocolError) as error:
            raise EncoderError(f"{self.name} failed: {error}") from error

    def _check_config(self, data: bytes) -> None:
        # SVT-AV1 announces a sequence header that differs in a few bits from the one it then uses; AV1-ISOBMFF 2.3.4
        # wants them identical.
        config = config_in(self._codec, data)
        if config is not None and config != self.track.config:
            self.track = replace(self.track, config=config)


def _open(spec: VideoEncode, seat: str, colour: Colour) -> VideoCodecContext:
    name, device = split(seat)
    context = av.CodecContext.create(name, "w", hwaccel=accel(name, device) if device != CPU else None)
    assert isinstance(context, VideoCodecContext)
    context.width, context.height = spec.width, spec.height
    context.pix_fmt = _pixels(name)
    context.time_base = TIME_BASE
    context.framerate = spec.frame_rate or RATE_IF_UNKNOWN
    context.sample_aspect_ratio = spec.sample_aspect
    context.bit_rate = spec.bitrate
    context.gop_size = _NO_KEYFRAMES
    context.max_b_frames = 0
    context.flags |= Flags.global_header.value | Flags.closed_gop.value
    context.color_range = 1  # limited ("mpeg"): what every player expects
    context.color_primaries = colour.primaries
    context.color_trc = colour.transfer
    context.colorspace = colour.matrix
    threads = spec.threads or _threads(spec)
    context.thread_count = threads
    context.options = options(spec, name, threads) | _where(name, device)
    context.open()
    return context


def _pixels(name: str) -> str:
    """What the encoder is given: yuv420p, or nv12 where it takes no other. PyAV converts, and uploads where that is
    what the encoder wants."""
    taken = [pixels.name for pixels in av.Codec(name, "w").video_formats or ()]
    return "yuv420p" if not taken or "yuv420p" in taken else "nv12"


def _where(name: str, device: str) -> dict[str, str]:
    """How an encoder that finds its device itself is told which one."""
    return {"gpu": cuda_index(device)} if family_of(name) == "nvenc" and device != CPU else {}


def _threads(spec: VideoEncode) -> int:
    """One thread per rung suffices up to 720p at 30: rungs run side by side. Larger ones get slices of a picture."""
    pixels_per_s = spec.width * spec.height * (spec.frame_rate or RATE_IF_UNKNOWN)
    wanted = 1 if pixels_per_s <= 1280 * 720 * 31 else 2 if pixels_per_s <= 1920 * 1080 * 31 else 4
    return max(1, min(wanted, os.cpu_count() or 1))


def options(spec: VideoEncode, name: str, threads: int) -> dict[str, str]:
    """libav options of encoder `name`, by the family it belongs to."""
    buffer_bits = spec.bitrate * spec.buffer_ms // 1000
    common = {"maxrate": str(spec.bitrate), "bufsize": str(buffer_bits)}
    if name == "libx264":
        return common | _x264(spec, threads)
    if name == "libx265":
        return _x265(spec, threads, buffer_bits)
    if name == "libsvtav1":
        return {"preset": spec.preset, "svtav1-params": _svtav1(spec, threads)}
    common |= {"profile": spec.profile} if name.startswith("h264") else {}
    if name in ("h264_nvenc", "hevc_nvenc", "h264_vaapi", "hevc_vaapi"):
        common |= {"level": f"{spec.level // 10}.{spec.level % 10}"}  # what the CPU's encoder would say
    if name.endswith("_nvenc"):
        return common | {
            "preset": "p4", "tune": "ll", "rc": "cbr", "forced-idr": "1", "no-scenecut": "1", "bf": "0",
            "delay": "0", "zerolatency": "1", "strict_gop": "1",
        }  # fmt: skip
    if name.endswith("_qsv"):
        return common | {"preset": "faster", "forced_idr": "1", "async_depth": "1", "bf": "0", "adaptive_i": "0"}
    if name.endswith("_vaapi"):
        return common | {"rc_mode": "CBR", "async_depth": "1", "bf": "0"}
    if name.endswith("_amf"):
        return common | {"usage": "lowlatency", "rc": "cbr", "forced_idr": "1", "bf": "0"}
    if name.endswith("_ni_quadra_enc"):
        # gopPresetIdx 9: each picture refers to the one before; without GenHdrs there is no global header.
        return {
            "xcoder-params": "RcEnable=1:gopPresetIdx=9:lowDelay=1:forceFrameType=1:GenHdrs=1:intraPeriod=0:"
            f"vbvBufferSize={spec.buffer_ms}"
        }
    if name.endswith("_videotoolbox"):
        return {"realtime": "1", "profile": spec.profile}
    return common


def _x264(spec: VideoEncode, threads: int) -> dict[str, str]:
    # With a variable frame rate x264 keeps one frame back, to know how long each lasts (force-cfr=0); its rate
    # control then counts time instead of frames. A nominal rate, where there is one, saves that frame.
    parameters = {
        "keyint": "infinite",
        "scenecut": "0",
        "open-gop": "0",
        "bframes": "0",
        "rc-lookahead": str(spec.lookahead_frames),
        "sync-lookahead": "0",
        "mbtree": "1" if spec.lookahead_frames else "0",
        "sliced-threads": "1" if threads > 1 else "0",
        "force-cfr": "1" if spec.frame_rate is not None else "0",
    }
    return {
        "preset": spec.preset,
        "profile": spec.profile,
        "level": f"{spec.level // 10}.{spec.level % 10}",
        "forced-idr": "1",
        "x264-params": ":".join(f"{key}={value}" for key, value in parameters.items()),
    }


def _x265(spec: VideoEncode, threads: int, buffer_bits: int) -> dict[str, str]:
    parameters = {
        "keyint": "-1",
        "min-keyint": "1",
        "scenecut": "0",
        "open-gop": "0",
        "bframes": "0",
        "b-adapt": "0",
        "rc-lookahead": str(spec.lookahead_frames),
        "lookahead-slices": "0",
        "cutree": "1" if spec.lookahead_frames else "0",
        "frame-threads": "1",
        "pools": str(threads),
        "repeat-headers": "0",
        "level-idc": f"{spec.level // 10}.{spec.level % 10}",
        "high-tier": "0",
        "vbv-maxrate": str(spec.bitrate // 1000),
        # x265 oversteps its buffer after easy scenes: +11 % in a segment at 300 ms, +7 % at 240 (bench: --hard).
        "vbv-bufsize": str(buffer_bits * 4 // 5 // 1000),
        "log-level": "error",
    }
    return {
        "preset": spec.preset,
        "forced-idr": "1",
        "x265-params": ":".join(f"{key}={value}" for key, value in parameters.items()),
    }


def _svtav1(spec: VideoEncode, threads: int) -> str:
    # Low delay (pred-struct=1) with constant bitrate (rc=2) is SVT-AV1's real-time mode. On more threads than it needs
    # it spends half as much again (level of parallelism 2 instead of 1 at 480p) and is no quicker.
    parameters = {
        "rtc": "1",
        "pred-struct": "1",
        "rc": "2",
        "keyint": "-1",
        "scd": "0",
        "lookahead": "0",
        "min-qp": str(SVT_MIN_QP),
        # A first keyframe comes to one and a half to three times this much of the target.
        "buf-initial-sz": "150",
        "buf-optimal-sz": "600",
        "buf-sz": str(max(spec.buffer_ms, 600)),
        # It pays back what a large picture took more quickly, and is slower to spend it.
        "overshoot-pct": "0",
        "undershoot-pct": "100",
        "lp": str(min(threads, 3)),
    }
    return ":".join(f"{key}={value}" for key, value in parameters.items())
