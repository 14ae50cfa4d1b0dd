"""Whether every rung of every codec has its IDRs at the very same instants, and segments keep to the grid.

    python bench/idrs.py [--seconds 600] [--rates 29.97 59.94 23.976 25 50 vfr]

A small clip runs through the cutter and the worker's pipeline, faster than real time, for H.264, H.265 and AV1 rungs at
once: with keyframes as OBS makes them (every 2 s of frames, passed through: cuts follow them), and with keyframes at
random (everything is encoded, cuts lie on the grid). `vfr` has frames of 10 to 100 ms and loses one in twenty. Counts
IDRs that are not in all rungs, and tells how far segments are from two seconds, in frames (of `vfr`, the longest).
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

if sys.path[0] == str(Path(__file__).resolve().parent):
    del sys.path[0]  # else this folder's transcode.py would be the package

import av

from media.codecs.tracks import video_track
from media.packet import Packet
from media.track import Codec, Track
from transcode.bitstream import config_of, sample_of
from transcode.cuts import Cutter, Mode
from transcode.messages import Mark
from transcode.pipeline import Pipeline
from transcode.plan import CPU_ENCODERS, Plan, VideoEncode

TICKS = 90_000
WIDTH, HEIGHT = 128, 72
RATES = {
    "29.97": Fraction(30000, 1001),
    "59.94": Fraction(60000, 1001),
    "23.976": Fraction(24000, 1001),
    "25": Fraction(25),
    "50": Fraction(50),
    "vfr": None,
}


def times(rate: Fraction | None, seconds: float, seed: int) -> list[int]:
    """When pictures are shown, in 90 kHz."""
    if rate is not None:
        return [round(n * TICKS / rate) for n in range(int(seconds * rate))]
    chance, at, shown = random.Random(seed), 0, []
    while at < seconds * TICKS:
        if chance.random() > 0.05 or not shown:
            shown.append(at)
        at += chance.choice((900, 1500, 3000, 3003, 3600, 9000))
    return shown


def packets(rate: Fraction | None, shown: list[int], regular: bool, seed: int) -> Iterator[Packet]:
    """H.264 without B-frames: what matters here is the time of IDRs."""
    with av.open(f"testsrc2=s={WIDTH}x{HEIGHT}:r=25:d=4", format="lavfi") as container:
        pictures = list(container.decode(video=0))
    context = av.CodecContext.create("libx264", "w")
    context.width, context.height, context.pix_fmt = WIDTH, HEIGHT, "yuv420p"
    context.time_base, context.framerate, context.gop_size = Fraction(1, TICKS), rate or Fraction(30), 1 << 30
    context.flags |= 1 << 22  # global header
    context.options = {"preset": "ultrafast", "tune": "zerolatency", "forced-idr": "1", "x264-params": "scenecut=0"}
    context.open()
    track = video_track(0, Codec.H264, config_of(Codec.H264, bytes(context.extradata)), frame_rate=rate)
    chance, due, gop = random.Random(seed), 0, round(2 * rate) if rate is not None else 0
    for n, pts in enumerate(shown):
        idr = n % gop == 0 if regular and gop else pts >= due
        if idr:
            due = pts + (2 * TICKS if regular else int(TICKS * chance.uniform(0.3, 12)))
        picture = pictures[n % len(pictures)]
        picture.pts, picture.time_base, picture.pict_type = pts, Fraction(1, TICKS), 1 if idr else 0
        for unit in context.encode(picture):
            following = shown[n + 1] if n + 1 < len(shown) else pts + 3000
            yield Packet(track, pts, pts, following - pts, unit.is_keyframe, sample_of(Codec.H264, bytes(unit)))


class Keys:
    """`transcode.output.Output`: the IDRs of each rung."""

    def __init__(self) -> None:
        self.of: dict[str, list[int]] = {}
        self.broken = 0
        self._ends: dict[str, int] = {}

    def made(self, rendition: str, packet: Packet, encoder: str) -> None:
        self.broken += self._ends.get(rendition, packet.dts) != packet.dts
        self._ends[rendition] = packet.dts + packet.duration
        if packet.keyframe:
            self.of.setdefault(rendition, []).append(packet.pts)

    def picture(self, pts: int, jpeg: bytes) -> None:
        pass

    def notice(self, slug: str, text: str, failed: str = "") -> None:
        print(slug, text)


def rung(track: Track, codec: Codec, rate: Fraction | None, divide: int) -> VideoEncode:
    presets = {Codec.H264: "ultrafast", Codec.HEVC: "ultrafast", Codec.AV1: "13"}
    own = rate / divide if rate is not None else None
    return VideoEncode(
        f"{codec.value}/{divide}", track.id, codec, (CPU_ENCODERS[codec],), WIDTH, HEIGHT, 200_000, 300, frame_rate=own,
        divide=divide, preset=presets[codec], max_rate=Fraction(60) / divide, threads=1,
    )  # fmt: skip


def run(name: str, seconds: float, regular: bool) -> bool:
    rate, started = RATES[name], time.process_time()
    shown = times(rate, seconds, seed=7)
    cutter = Cutter(2, lambda: 0, Mode.KEYFRAMES if regular else Mode.GRID)
    keys, pipeline, cuts = Keys(), None, []
    for packet in packets(rate, shown, regular, seed=11):
        if pipeline is None:
            rungs = [
                rung(packet.track, c, rate, d) for c in CPU_ENCODERS for d in ((1, 2) if c is Codec.H264 else (1,))
            ]
            pipeline = Pipeline(Plan(video=tuple(rungs)), keys)
        cut = cutter.feed(packet)
        if cut is not None:
            cuts.append(cut.pts)
            pipeline.cut(Mark(cut.index, cut.pts, cut.discontinuity))
        pipeline.write(packet)
    assert pipeline is not None
    pipeline.close()
    first, *others = keys.of.values()
    differ = sum(len(set(first) ^ set(other)) for other in others)
    expected = [next(t for t in shown if t >= c) for c in cuts]
    frame = TICKS / rate if rate is not None else max(b - a for a, b in pairwise(shown))
    off = [float((b - a - 2 * TICKS) / frame) for a, b in pairwise(first)]
    good = not differ and first == expected and not keys.broken and max(map(abs, off)) <= 1
    print(
        f"{name:>6} {'source keyframes' if regular else 'grid':16} {len(first):4} IDRs in {len(keys.of)} rungs, "
        f"{differ} differ, segments {min(off):+.3f} to {max(off):+.3f} frames off 2 s, {keys.broken} holes, "
        f"{time.process_time() - started:.0f} s of CPU: {'good' if good else 'BAD'}",
        flush=True,
    )
    return good


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--rates", nargs="+", default=list(RATES), choices=list(RATES))
    arguments = parser.parse_args()
    results = [run(name, arguments.seconds, regular) for name in arguments.rates for regular in (True, False)]
    sys.exit(not all(results))


if __name__ == "__main__":
    main()
