"""Rungs that are opened, closed and opened again leave nothing behind."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from media.packet import Packet
from media.track import Codec
from transcode.messages import Mark
from transcode.pipeline import Pipeline
from transcode.plan import Plan, VideoEncode

RUNGS = 30
GROWTH_BYTES = 24 * 1024 * 1024
"""In the last two rounds, of sixty encoders of two megabytes each: a fifth of what they would leave behind. What malloc
keeps grows less with each round: over twelve of them 53, 19, 14, 7, 7, 4, 4, 4, 2, 3 and 3 MiB were measured; with
Python 3.13 up to 12 in these two."""


def plan(count: int) -> Plan:
    return Plan(
        video=tuple(
            VideoEncode(f"r{n}", 0, Codec.H264, ("libx264",), 160, 90, 100_000, 300, frame_rate=Fraction(25),
                        preset="ultrafast", threads=1)
            for n in range(count)
        )
    )  # fmt: skip


def held() -> tuple[int, int, int]:
    """(threads, file descriptors, resident bytes) of this process."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd")), pages * os.sysconf("SC_PAGE_SIZE")


class Count:
    """`transcode.output.Output` that keeps nothing."""

    def __init__(self) -> None:
        self.idrs: dict[str, int] = {}

    def made(self, rendition: str, packet: Packet, encoder: str) -> None:
        self.idrs[rendition] = self.idrs.get(rendition, 0) + packet.keyframe

    def picture(self, pts: int, jpeg: bytes) -> None:
        pass

    def notice(self, slug: str, text: str, failed: str = "") -> None:
        raise AssertionError(text)


def endless(clip: Any) -> Iterator[Packet]:
    shift = 0
    while True:
        for packet in clip.packets[:50]:
            yield replace(packet, pts=packet.pts + shift, dts=packet.dts + shift)
        shift += 50 * 3600


def test_thirty_rungs_opened_closed_and_opened_again(clip: Any) -> None:
    out = Count()
    pipeline = Pipeline(plan(1), out)
    source, seen = endless(clip), []
    for turn in range(16):
        pipeline.change(plan(RUNGS if turn % 2 else 1))
        for n in range(50):
            packet = next(source)
            if n == 0:
                pipeline.cut(Mark(turn, packet.pts, False))
            pipeline.write(packet)
        if turn % 2 == 0:
            end = time.monotonic() + 30
            while pipeline.units < 50 * (turn + 1) or (seen and held()[0] > seen[0][0]):
                assert time.monotonic() < end, "rungs that were closed are still there"
                time.sleep(0.01)
            seen.append(held())
    pipeline.close()
    assert out.idrs["r29"] == 8
    assert len({threads for threads, _, _ in seen}) == 1
    assert len({files for _, files, _ in seen}) == 1
    assert seen[-1][2] - seen[-3][2] < GROWTH_BYTES
