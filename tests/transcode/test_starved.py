"""A worker that gets a tenth of a core: what waits for it stays within its bounds, and it goes on when it can."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

from until import until

from media.cut import Cut
from media.packet import Packet
from transcode.ladder import Ladder, Rung
from transcode.planner import make_plan
from transcode.pool import Pool
from transcode.settings import TranscodeSettings

SETTINGS = TranscodeSettings(
    warm_spare=False, nice=0, x264_preset="veryfast", queue_s=2.0, queue_bytes=1024 * 1024, shed_after_s=0.3,
    stall_timeout_s=60.0, drain_timeout_s=60.0,
)  # fmt: skip
LADDER = Ladder("small", (Rung(160, 200_000), Rung(120, 100_000)))
WORKER_GROWTH_BYTES = 48 * 1024 * 1024
"""Between a worker that has just begun and one whose inbox and encoders are full."""


def endless(clip: Any) -> Iterator[Packet | Cut]:
    """The clip again and again, on one timeline, with a cut every two seconds."""
    shift, index = 0, 0
    length = clip.times[-1] - clip.times[0] + 3600
    while True:
        for packet in clip.packets:
            if packet.keyframe:
                yield Cut(index, packet.pts + shift, 0)
                index += 1
            yield replace(packet, pts=packet.pts + shift, dts=packet.dts + shift)
        shift += length


@asynccontextmanager
async def starved(pid: int) -> AsyncIterator[None]:
    """The process runs for a tenth of the time."""

    async def throttle() -> None:
        with suppress(ProcessLookupError):
            while True:
                os.kill(pid, signal.SIGSTOP)
                await asyncio.sleep(0.045)
                os.kill(pid, signal.SIGCONT)
                await asyncio.sleep(0.005)

    task = asyncio.get_running_loop().create_task(throttle())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


async def test_a_starved_worker_sheds_keeps_within_bounds_and_recovers(kit: Any, clip: Any) -> None:
    sink = kit.Collected()
    plan = make_plan(clip.track, None, LADDER, passthrough=True, hardware=None, settings=SETTINGS)
    pool = Pool(SETTINGS)
    await pool.start()
    job = await pool.open(plan, sink, name="s")
    source = endless(clip)
    memory: list[int] = []

    async def feed(pictures: int, pause_s: float) -> Packet:
        for _ in range(pictures):
            item = next(source)
            job.write(item)
            stats = job.stats
            assert stats.queue_s <= SETTINGS.queue_s
            assert stats.queue_bytes <= SETTINGS.queue_bytes
            if "rss_bytes" in sink.values:
                memory.append(sink.values["rss_bytes"])
            await asyncio.sleep(pause_s)
        while isinstance(item, Cut):
            item = next(source)
            job.write(item)
        return item

    try:
        pid = job.stats.worker_pid
        async with starved(pid):
            for _ in range(200):  # faster than it is shown, until it overflows
                await feed(40, 0.002)
                if job.stats.overruns > 2 and sink.values["shed_level"] > 0:
                    break
            assert job.stats.overruns > 2
            assert sink.values["shed_level"] > 0
        assert max(memory) - memory[0] < WORKER_GROWTH_BYTES
        await until(lambda: not job.stats.queue_bytes)
        last = await feed(200, 0.01)
        await job.close(drain=True)
        assert job.stats.restarts == 0
        assert pid == sink.values["worker_pid"]
        for name in ("160p", "120p"):
            if name in sink.packets:
                assert sink.packets[name] == sorted(sink.packets[name], key=lambda p: p.pts)
        assert max(p.pts + p.duration for p in sink.packets["120p"]) > last.pts - 2 * 90_000
    finally:
        await pool.stop()
