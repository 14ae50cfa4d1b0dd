"""Tries one encoder on this machine, in a process of its own: a driver that hangs or crashes takes only that along.

Prints one line of JSON: `works`, `pixels_per_s`, `sessions`, `reason`. Started by `hardware` with a time limit.
"""

from __future__ import annotations

import json
import random
import sys
import time
from fractions import Fraction

import av
from av.video.frame import VideoFrame

from media.track import Codec
from transcode.encoder import TIME_BASE, Colour, Encoder, EncoderError
from transcode.hardware import codec_of
from transcode.plan import VideoEncode

WIDTH, HEIGHT = 1280, 720
WARM_UP = 5
FRAMES = 40
MAX_S = 4.0
MAX_SESSIONS = 8
"""Sessions opened side by side to find a driver's limit; consumer GPUs stop at 3 to 12."""


def try_encoder(name: str) -> dict[str, float | str | bool]:
    """Encode some moving noise with an IDR in the middle. Never raises for what an encoder does wrong."""
    codec = codec_of(name)
    if codec is None:
        return {"works": False, "reason": "not an encoder that Headrace uses"}
    spec = VideoEncode(
        "trial", 0, codec, (name,), WIDTH, HEIGHT, 3_000_000, 400,
        profile="high" if codec is Codec.H264 else "main", level=31, frame_rate=Fraction(30),
        preset={Codec.H264: "veryfast", Codec.HEVC: "superfast", Codec.AV1: "11"}[codec],
    )  # fmt: skip
    try:
        encoder = Encoder(spec, name, Colour(1, 1, 1))
        pixels_per_s, keyframes, coded = _run(encoder)
    except EncoderError as error:
        return {"works": False, "reason": error.text}
    if coded < FRAMES - 8:
        return {"works": False, "reason": f"gave only {coded} packets for {FRAMES} pictures"}
    if FRAMES // 2 not in keyframes:
        return {"works": False, "reason": "does not put a keyframe where it is told to"}
    sessions = 0 if name.startswith("lib") else _sessions(spec, name)
    return {"works": True, "pixels_per_s": round(pixels_per_s), "sessions": sessions, "reason": ""}


def _pictures() -> list[VideoFrame]:
    noise = random.Random(1).randbytes(WIDTH * 2)
    pictures: list[VideoFrame] = []
    for shift in range(8):
        picture = VideoFrame(WIDTH, HEIGHT, "yuv420p")
        for plane in picture.planes:
            rows = (noise[(y // 8 * 5 + shift * 3) % WIDTH :][: plane.line_size] for y in range(plane.height))
            plane.update(b"".join(row.ljust(plane.line_size, b"\0") for row in rows))
        pictures.append(picture)
    return pictures


def _run(encoder: Encoder) -> tuple[float, set[int], int]:
    """(pixels per second, numbers of the pictures that became keyframes, packets)."""
    pictures = _pictures()
    keyframes: set[int] = set()
    coded = 0
    started = time.perf_counter()
    for number in range(FRAMES):
        if number == WARM_UP:
            started = time.perf_counter()
        picture = pictures[number % len(pictures)]
        picture.pts, picture.time_base = number * 3000, TIME_BASE
        for packet in encoder.encode(picture, idr=number in (0, FRAMES // 2)):
            coded += 1
            if packet.keyframe:
                keyframes.add(packet.pts // 3000)
    elapsed = max(time.perf_counter() - started, 1e-6)
    for packet in encoder.flush():
        coded += 1
        if packet.keyframe:
            keyframes.add(packet.pts // 3000)
    return WIDTH * HEIGHT * (FRAMES - WARM_UP) / elapsed, keyframes, coded


def _sessions(spec: VideoEncode, name: str) -> int:
    """How many encoders can be open at once, up to `MAX_SESSIONS`."""
    opened: list[Encoder] = []
    try:
        for _ in range(MAX_SESSIONS):
            opened.append(Encoder(spec, name, Colour()))
    except EncoderError:
        return len(opened)
    return len(opened)


def main(name: str) -> int:
    """Print the result, or with an empty name the list of all encoders of this build; returns the exit code."""
    print(json.dumps(try_encoder(name) if name else sorted(av.codecs_available)))
    sys.stdout.flush()
    return 0
