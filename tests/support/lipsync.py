"""Where flashes and beeps lie in media files: for the offset of audio to video."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import av

SOURCE = (
    "-re", "-f", "lavfi", "-i",
    "color=c=black:s=640x360:r=30,drawbox=t=fill:c=white:enable='lt(mod(t,1),0.034)'",
    "-f", "lavfi", "-i", "aevalsrc='if(lt(mod(t,1),0.034),sin(2*PI*1000*t),0)':s=48000",
)  # fmt: skip
"""ffmpeg input: once a second a white picture of one frame and a beep of 34 ms, both starting at the same instant."""


def flashes(path: Path) -> list[float]:
    """Times (s) of the first bright picture of each flash."""
    found, before = [], False
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            plane = frame.planes[0]
            row = bytes(plane)[plane.line_size * (frame.height // 2) :][: frame.width]
            bright = sum(row) / len(row) > 128
            if bright and not before and frame.time is not None:
                found.append(frame.time)
            before = bright
    return found


def beeps(path: Path, threshold: float = 0.1) -> list[float]:
    """Times (s) of the first loud sample after at least 200 ms of quiet."""
    found: list[float] = []
    last_loud = -1.0
    resampler = av.AudioResampler("fltp", "mono")
    with av.open(str(path)) as container:
        for frame in container.decode(audio=0):
            for mono in resampler.resample(frame):
                samples = memoryview(bytes(mono.planes[0])).cast("f")[: mono.samples]
                assert mono.time is not None
                for i, value in enumerate(samples):
                    if abs(value) > threshold:
                        at = mono.time + i / mono.sample_rate
                        if at - last_loud > 0.2:
                            found.append(at)
                        last_loud = at
    return found


def offsets(video: Path, audio: Path) -> list[float]:
    """Beep less flash, in seconds, for each flash that has a beep within a third of a second."""
    sounds = beeps(audio)
    got = []
    for at in flashes(video):
        near = min(sounds, key=lambda s: abs(s - at), default=None)
        if near is not None and abs(near - at) < 0.33:
            got.append(near - at)
    assert all(0.9 < b - a < 1.1 for a, b in pairwise(sounds)), sounds
    return got
