"""Tries encoders and decoders on this machine, in a process of its own: a driver that hangs or crashes takes only that
along. Prints one line of JSON for each: `works`, `pixels_per_s`, `sessions`, `reason`. Started by `hardware` with a
time limit.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import av
from av.filter import Graph
from av.video.frame import VideoFrame

from media.codecs.tracks import video_track
from media.errors import HeadraceError
from media.packet import Packet
from media.track import Codec
from transcode import realtime
from transcode.decoder import DecoderError, OneDecoder, libav_name
from transcode.device import CPU, cpus, device_of, split
from transcode.encoder import TIME_BASE, Coded, Colour, Encoder, EncoderError
from transcode.hardware import DECODERS, codec_of
from transcode.plan import CPU_ENCODERS, VideoEncode
from transcode.scale import Scaler

WIDTH, HEIGHT = 1280, 720
WARM_UP = 5
FRAMES = 40
MAX_SESSIONS = 8
"""Sessions opened side by side to find a driver's limit; consumer GPUs stop at 3 to 12."""
MAX_CPUS = 16
"""CPUs that are measured side by side, at most."""
TOGETHER = 3
"""Sessions that a device's speed is measured with: many have more than one engine."""

PRESETS = {"libx264": "veryfast", "libx265": "superfast", "libsvtav1": "11"}
_TEST = {"libx264": "ultrafast", "libx265": "ultrafast", "libsvtav1": "13"}

Result = dict[str, float | str | bool]


def no(reason: str) -> Result:
    """What does not work, and why."""
    return {"works": False, "reason": reason}


# -- encoders ---------------------------------------------------------------------------------------------------------


def try_encoder(seat: str, preset: str = "") -> Result:
    """Encode some moving noise with an IDR in the middle. Never raises for what an encoder does wrong."""
    name = split(seat)[0]
    codec = codec_of(name)
    if codec is None:
        return no("not an encoder that Headrace uses")
    spec = _spec(codec, seat, preset or PRESETS.get(name, ""))
    pictures = _pictures()
    try:
        if device_of(seat) == CPU:
            return _on_cpu(lambda: _encode(spec, seat, pictures), WIDTH * HEIGHT * FRAMES)
        speed = _encode(spec, seat, pictures)
        sessions = _sessions(lambda: Encoder(spec, seat, Colour()))
        together = _together(lambda: _encode(spec, seat, pictures), min(TOGETHER, sessions))
    except EncoderError as error:
        return no(error.text)
    return {"works": True, "pixels_per_s": round(max(speed, together)), "sessions": sessions, "reason": ""}


def _spec(codec: Codec, seat: str, preset: str) -> VideoEncode:
    return VideoEncode(
        "trial", 0, codec, (seat,), WIDTH, HEIGHT, 3_000_000, 400,
        profile="high" if codec is Codec.H264 else "main", level=31, frame_rate=Fraction(30), preset=preset,
    )  # fmt: skip


def _pictures(width: int = WIDTH, height: int = HEIGHT, count: int = FRAMES) -> list[VideoFrame]:
    """Moving shapes under a little noise: measured as hard for x264 and x265 as an animated film."""
    graph = Graph()
    nodes = [
        graph.add("testsrc2", f"size={width}x{height}:rate=30"),
        graph.add("noise", "alls=5:allf=t"),
        graph.add("format", "yuv420p"),
        graph.add("buffersink"),
    ]
    graph.link_nodes(*nodes).configure()
    pictures = []
    for number in range(count):
        picture = graph.vpull()
        assert isinstance(picture, VideoFrame)
        picture.pts, picture.time_base = number * 3000, TIME_BASE
        pictures.append(picture)
    return pictures


def _encode(spec: VideoEncode, seat: str, pictures: Sequence[VideoFrame]) -> float:
    """Pixels per second. Raises `EncoderError`, also where what comes out is not what was asked for."""
    encoder = Encoder(spec, seat, Colour(1, 1, 1))
    coded: list[Coded] = []
    started = time.perf_counter()
    for number in range(FRAMES):
        if number == WARM_UP:
            started = time.perf_counter()
        coded += encoder.encode(pictures[number], idr=number in (0, FRAMES // 2))
    elapsed = max(time.perf_counter() - started, 1e-6)
    coded += encoder.flush()
    if len(coded) < FRAMES - 8:
        raise EncoderError(f"gave only {len(coded)} packets for {FRAMES} pictures")
    if FRAMES // 2 * 3000 not in [c.pts for c in coded if c.keyframe]:
        raise EncoderError("does not put a keyframe where it is told to")
    return spec.width * spec.height * (FRAMES - WARM_UP) / elapsed


def _on_cpu(work: Callable[[], Any], pixels: int) -> Result:
    """How many of `pixels` in a CPU second, with all CPUs at work: those that share a core slow each other down. In CPU
    time, so that other work on the machine does not count."""
    count = max(1, min(round(cpus()), MAX_CPUS))
    started = time.process_time()
    _together(work, count)
    elapsed = max(time.process_time() - started, 1e-6)
    return {"works": True, "pixels_per_s": round(pixels * count / elapsed), "sessions": 0, "reason": ""}


def _sessions(open_one: Callable[[], Any]) -> int:
    """How many can be open at once, up to `MAX_SESSIONS`."""
    opened: list[Any] = []
    try:
        for _ in range(MAX_SESSIONS):
            opened.append(open_one())
    except (EncoderError, DecoderError):
        return len(opened)
    return len(opened)


def _together(work: Callable[[], float], count: int) -> float:
    """Pixels per second of `count` sessions side by side; those that fail count nothing. Raises the error of one if all
    fail."""
    speeds: list[float] = []
    errors: list[HeadraceError] = []

    def run() -> None:
        try:
            speeds.append(work())
        except (EncoderError, DecoderError) as error:
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors and not speeds:
        raise errors[0]
    return sum(speeds)


# -- decoders ---------------------------------------------------------------------------------------------------------


def try_decoder(seat: str) -> Result:
    """Decode what a CPU encoder made, and compare a picture with what was encoded."""
    codec = codec_of(split(seat)[0])
    if codec is None:
        return no("not a decoder that Headrace uses")
    pictures = _pictures()
    packets = _coded(codec, pictures)
    try:
        if device_of(seat) == CPU:
            return _on_cpu(lambda: _decode(seat, packets, pictures), WIDTH * HEIGHT * FRAMES)
        speed = _decode(seat, packets, pictures)
        together = _together(lambda: _decode(seat, packets, pictures), TOGETHER)
    except DecoderError as error:
        return no(error.text)
    return {"works": True, "pixels_per_s": round(max(speed, together)), "sessions": 0, "reason": ""}


def _coded(codec: Codec, pictures: Sequence[VideoFrame]) -> list[Packet]:
    name = CPU_ENCODERS[codec]
    encoder = Encoder(_spec(codec, name, _TEST[name]), name, Colour(1, 1, 1))
    coded: list[Coded] = []
    for number in range(FRAMES):
        coded += encoder.encode(pictures[number], idr=number == 0)
    coded += encoder.flush()
    track = video_track(0, codec, encoder.track.config)
    return [Packet(track, c.pts, c.pts, 3000, c.keyframe, c.data) for c in coded]


def _decode(seat: str, packets: Sequence[Packet], pictures: Sequence[VideoFrame]) -> float:
    """Pixels per second. Raises `DecoderError`, also where pictures are missing or wrong."""
    decoder = OneDecoder(packets[0].track, seat)
    shown: list[VideoFrame] = []
    started = time.perf_counter()
    for number, packet in enumerate(packets):
        if number == WARM_UP:
            started = time.perf_counter()
        shown += decoder.decode(packet)
    shown += decoder.flush()
    elapsed = max(time.perf_counter() - started, 1e-6)
    if len(shown) < FRAMES - 2:
        raise DecoderError(f"gave only {len(shown)} pictures for {len(packets)} packets")
    if _difference(shown[0], pictures[0]) > 12:
        raise DecoderError("gives wrong pictures")
    return WIDTH * HEIGHT * (len(shown) - WARM_UP) / elapsed


def _difference(a: VideoFrame, b: VideoFrame) -> float:
    """Mean difference of luma, of 255, at the size of a stamp."""
    small = []
    for picture in (a, b):
        plane = picture.reformat(64, 36, "yuv420p", interpolation="AREA").planes[0]
        data = bytes(plane)
        small.append(b"".join(data[row * plane.line_size :][:64] for row in range(36)))
    apart: int = sum(abs(x - y) for x, y in zip(*small, strict=True))
    return apart / len(small[0])


# -- scaling ----------------------------------------------------------------------------------------------------------


def try_scaler() -> Result:
    """From 1080p to 720p, in pixels that come out."""
    pictures = _pictures(1920, 1080, 12)

    def work() -> float:
        scaler = Scaler(WIDTH, HEIGHT, Fraction(1))
        for picture in pictures:
            scaler(picture, Fraction(1))
        return 0.0

    return _on_cpu(work, WIDTH * HEIGHT * len(pictures))


# ---------------------------------------------------------------------------------------------------------------------


def listed() -> dict[str, list[str]]:
    """What this build of libav has, by kind; that it has it says nothing about the machine."""
    codecs = av.codecs_available
    return {"encode": sorted(codecs), "decode": [n for n in DECODERS if _build_has(n, codecs)]}


def _build_has(name: str, codecs: set[str]) -> bool:
    help_ = name.partition("+")[2]
    libav = libav_name(name)
    if help_ in ("v4l2m2m", "ni_quadra_dec", ""):  # pictures come in memory
        return libav in codecs
    return libav in codecs and any(c.device_type.name == help_ for c in av.Codec(libav, "r").hardware_configs or ())


def answer(request: str) -> Any:
    """The result of one request, `kind:seat:preset`."""
    if not request:
        return listed()
    kind, _, rest = request.partition(":")
    seat, _, preset = rest.rpartition(":")
    match kind:
        case "encode":
            return try_encoder(seat, preset)
        case "decode":
            return try_decoder(seat)
        case _:
            return try_scaler()


def main(requests: Sequence[str], *, idle: bool = False) -> int:
    """Print the results; returns the exit code. `idle`: work only while nothing else wants the CPU."""
    realtime.forbid()
    if idle and hasattr(os, "SCHED_IDLE"):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    for request in requests:
        print(json.dumps(answer(request)), flush=True)
    sys.stdout.flush()
    return 0
