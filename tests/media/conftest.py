"""Real streams for the codec tests, made by libav's encoders once a session."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from math import sin

import av
import pytest


@dataclass(frozen=True)
class Clip:
    """What one encoder put out."""

    extradata: bytes
    packets: tuple[bytes, ...]
    keyframes: tuple[bool, ...]


VIDEO_SHAPES: Mapping[str, tuple[str, str, dict[str, str]]] = {
    "h264": ("libx264", "yuv420p", {"preset": "ultrafast", "x264-params": "keyint=4:min-keyint=4"}),
    "h264-high": ("libx264", "yuv420p", {"preset": "medium", "profile": "high", "g": "4"}),
    "h264-422-10": ("libx264", "yuv422p10le", {"preset": "fast", "g": "4"}),
    "h264-hrd": ("libx264", "yuv420p", {"x264-params": "nal-hrd=cbr:vbv-maxrate=500:vbv-bufsize=500:bitrate=500"}),
    "h264-fields": ("libx264", "yuv420p", {"x264-params": "tff=1:keyint=4"}),
    "hevc": ("libx265", "yuv420p", {"preset": "ultrafast", "x265-params": "keyint=4:log-level=error:open-gop=0"}),
    "hevc-open": (
        "libx265",
        "yuv420p",
        {"preset": "fast", "x265-params": "keyint=6:min-keyint=6:log-level=error:b-adapt=0:bframes=2:scenecut=0"},
    ),
    "hevc-10": (
        "libx265",
        "yuv420p10le",
        {"preset": "fast", "x265-params": "log-level=error:hrd=1:vbv-bufsize=500:vbv-maxrate=500:bitrate=500"},
    ),
    "av1": ("libsvtav1", "yuv420p", {"preset": "12", "svtav1-params": "keyint=4:pred-struct=1"}),
    "av1-10": ("libsvtav1", "yuv420p10le", {"preset": "12"}),
}


@cache
def video(shape: str, width: int = 318, height: int = 182, rate: int = 25) -> Clip:
    encoder, pixels, options = VIDEO_SHAPES[shape]
    context = av.CodecContext.create(encoder, "w")
    context.width, context.height, context.pix_fmt = width, height, pixels
    context.framerate, context.time_base = Fraction(rate), Fraction(1, rate)
    context.color_range, context.color_primaries, context.color_trc, context.colorspace = 1, 1, 1, 1
    context.flags |= av.codec.context.Flags.global_header
    context.options = options
    context.thread_count = 1
    packets = []
    for index in range(9):
        frame = av.VideoFrame(width, height, pixels)
        for number, plane in enumerate(frame.planes):
            plane.update(bytes((20 * index + number + 1,)) * plane.buffer_size)
        frame.pts, frame.time_base = index, Fraction(1, rate)
        packets += context.encode(frame)
    packets += context.encode(None)
    return Clip(bytes(context.extradata or b""), tuple(map(bytes, packets)), tuple(p.is_keyframe for p in packets))


@cache
def audio(encoder: str, rate: int = 48_000, layout: str = "stereo") -> Clip:
    context = av.CodecContext.create(encoder, "w")
    context.sample_rate, context.layout, context.format = rate, layout, "s16" if encoder == "libopus" else "fltp"
    context.time_base = Fraction(1, rate)
    context.flags |= av.codec.context.Flags.global_header
    context.open()
    fifo = av.AudioFifo()
    resampler = av.AudioResampler(format=context.format.name, layout=layout, rate=rate)
    raw = av.AudioFrame(format="s16", layout="mono", samples=rate // 4, align=1)
    raw.planes[0].update(array("h", (int(8000 * sin(n / 20)) for n in range(rate // 4))).tobytes())
    raw.sample_rate = rate
    packets = []
    for frame in resampler.resample(raw):
        frame.pts = None
        fifo.write(frame)
    while (frame := fifo.read(context.frame_size or 960)) is not None:
        packets += context.encode(frame)
    packets += context.encode(None)
    return Clip(bytes(context.extradata or b""), tuple(map(bytes, packets)), ())


@pytest.fixture(scope="session")
def clip() -> Callable[..., Clip]:
    """`clip("hevc")`: nine frames of 318 x 182 at 25 fps from a real encoder, with global headers."""
    return video


@pytest.fixture(scope="session")
def sound() -> Callable[..., Clip]:
    """`sound("aac", 44100, "mono")`: a quarter of a second of tone."""
    return audio
