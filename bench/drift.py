"""How far sound strays from its timestamps while the publisher's audio clock runs wrong, for hours fed at once.

    python bench/drift.py [--seconds 3600] [--ppm 200]

A tone of 1 kHz that sounds for 0.2 s every 10.24 s, as AAC whose timestamps follow the wall clock while its samples are
counted by a clock that is `ppm` fast (and then as slow), goes through the worker's audio pipeline; what comes out is
decoded, and the beginning of every tone is compared with the time that its first packet was told to have.
"""

from __future__ import annotations

import argparse
import array
import math
import sys
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

if sys.path[0] == str(Path(__file__).resolve().parent):
    del sys.path[0]  # else this folder's transcode.py would be the package

import av

from media.codecs.tracks import audio_track
from media.packet import Packet
from media.track import Codec, Track
from transcode.messages import Mark
from transcode.pipeline import Pipeline
from transcode.plan import AudioEncode, Plan

RATE = 48_000
FRAME = 1024
CYCLE = 480
"""Frames between two tones."""
TONE_AT, TONE_S = 96_000, 0.2
"""Sample of each cycle at which the tone begins."""


def cycle() -> tuple[Track, list[bytes]]:
    """One cycle in AAC; twice encoded, so that the second follows on itself."""
    context = av.CodecContext.create("aac", "w")
    context.sample_rate, context.layout, context.format = RATE, "mono", "fltp"
    context.time_base, context.bit_rate = Fraction(1, RATE), 96_000
    context.flags |= 1 << 22  # global header
    context.open()
    units: list[tuple[int, bytes]] = []

    def keep(packets: list[av.Packet]) -> None:
        units.extend((p.pts // FRAME, bytes(p)) for p in packets)

    for n in range(2 * CYCLE):
        frame = av.AudioFrame(format="fltp", layout="mono", samples=FRAME)
        places = [(n * FRAME + i) % (CYCLE * FRAME) - TONE_AT for i in range(FRAME)]
        tone = [0.5 * math.sin(2 * math.pi * 1000 * p / RATE) if 0 <= p < TONE_S * RATE else 0.0 for p in places]
        frame.planes[0].update(array.array("f", tone).tobytes())
        frame.sample_rate, frame.pts, frame.time_base = RATE, n * FRAME, Fraction(1, RATE)
        keep(context.encode(frame))
    keep(context.encode(None))
    wanted = [data for number, data in units if CYCLE <= number < 2 * CYCLE]
    return audio_track(100, Codec.AAC, bytes(context.extradata)), wanted


class Listener:
    """`transcode.output.Output`: decodes, and notes when tones begin, in seconds."""

    def __init__(self) -> None:
        self.onsets: list[float] = []
        self.packets = self.holes = 0
        self._decoder: av.CodecContext | None = None
        self._next: int | None = None
        self._quiet = RATE

    def made(self, rendition: str, packet: Packet, encoder: str) -> None:
        if self._decoder is None:
            self._decoder = av.CodecContext.create("aac", "r")
            self._decoder.extradata = packet.track.config
        self.holes += self._next is not None and packet.pts != self._next
        self._next = packet.pts + packet.duration
        self.packets += 1
        for frame in self._decoder.decode(av.Packet(packet.data)):
            samples = memoryview(frame.planes[0]).cast("f")[: frame.samples]
            if max(samples) < 0.2:
                self._quiet += frame.samples
                continue
            if self._quiet > RATE:
                first = next(i for i, value in enumerate(samples) if value > 0.2)
                self.onsets.append((packet.pts + first) / RATE)
            self._quiet = 0

    def picture(self, pts: int, jpeg: bytes) -> None:
        pass

    def notice(self, slug: str, text: str, failed: str = "") -> None:
        print(slug, text)


def source(track: Track, units: list[bytes], seconds: float, ppm: float) -> Iterator[Packet]:
    """Timestamps by the wall clock: a fast audio clock has more samples to a second than it should."""
    for n in range(int(seconds * RATE / FRAME)):
        pts = round(n * FRAME / (1 + ppm / 1e6))
        yield Packet(track, pts, pts, FRAME, True, units[n % CYCLE])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--ppm", type=float, default=200)
    arguments = parser.parse_args()
    track, units = cycle()
    for ppm in (arguments.ppm, -arguments.ppm):
        started, listener = time.process_time(), Listener()
        pipeline = Pipeline(Plan(audio=(AudioEncode("audio", 100, 64_000),)), listener)
        pipeline.cut(Mark(0, 0, False))
        for packet in source(track, units, arguments.seconds, ppm):
            pipeline.write(packet)
        pipeline.close()
        expected = [(CYCLE * FRAME * n + TONE_AT) / RATE / (1 + ppm / 1e6) for n in range(len(listener.onsets))]
        errors = [1000 * (heard - told) for heard, told in zip(listener.onsets, expected, strict=True)]
        print(
            f"{ppm:+.0f} ppm, {arguments.seconds:.0f} s: {len(errors)} tones, "
            f"{min(errors):+.1f} to {max(errors):+.1f} ms off, {listener.holes} holes in {listener.packets} packets, "
            f"{time.process_time() - started:.0f} s of CPU"
        )


if __name__ == "__main__":
    main()
