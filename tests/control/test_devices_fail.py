"""A device that was found to work and then does not, through real worker processes: who notices, and what is done."""

from __future__ import annotations

import asyncio
from typing import Any

from encoded import RATE, avc_clip
from until import until

from control.broadcasts import Broadcasts
from control.keys import Grant
from control.planning import Planning
from control.session import Session
from control.stream_settings import StreamSettings
from ingest.ports import PublishRequest, StopReason
from packager.settings import PackagerSettings
from transcode.device import CPU, Device
from transcode.hardware import Hardware, Trial
from transcode.pool import Pool
from transcode.settings import TranscodeSettings

GPU = "cuda:7"


async def test_an_encoder_that_is_gone_is_replaced_told_and_avoided() -> None:
    """The probe is a substitute: it says that NVENC works on a card that this machine does not have."""
    settings = TranscodeSettings(shed=False, thumbnails=False, warm_spare=False, nice=0, x264_preset="ultrafast")
    planning = Planning(settings)
    families = frozenset({"nvenc"})
    trials = (Trial("h264_nvenc", "encode", "h264", GPU, True, 10**9), Trial("h264+cuda", "decode", "h264", GPU, True))
    planning.found(Hardware(2, trials, (Device(GPU, "a card", families), Device(CPU, "CPU", frozenset({""})))))
    pool = Pool(settings)
    await pool.start()
    tasks: set[asyncio.Task[None]] = set()

    def spawn(work: Any) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        tasks.add(task)
        return task

    broadcasts = Broadcasts(pool, PackagerSettings(), spawn, keep_ended_s=1, planning=planning)
    stream = StreamSettings(ladder=("240p",))
    grant = Grant("id", "name", "name", "key", stream, None)
    broadcast = broadcasts.start(grant, planning.planner(stream, "id"))
    session = Session(broadcast, PublishRequest("rtmp", "k", "192.0.2.1", 1), "key")
    broadcast.attach(session)
    try:
        async with asyncio.timeout(60):
            packets = avc_clip(8 * RATE, 2 * RATE)
            for packet in packets[: 4 * RATE]:
                session.write(packet)
            await until(lambda: any("240p" in n and "cannot be opened" in n for n in broadcast.notices))
            assert broadcast.plan.video[0].encoders[0] == f"h264_nvenc@{GPU}", "as planned, until the next cut"
            for packet in packets[4 * RATE :]:
                session.write(packet)
            assert broadcast.plan.video[0].encoders == ("libx264",)
            assert broadcast.plan.decoders == ()
            shown = {d["id"]: d for d in (planning.as_json() or {})["placement"]}
            assert shown[GPU]["failures"] >= 1
            assert "h264_nvenc" in shown[GPU]["reason"]
            await until(lambda: float(broadcast.transcode_stats.get("frames", 0)) >= 7 * RATE)
    finally:
        broadcast.stop(StopReason.DRAIN, "the test is over")
        await broadcasts.finished()
        await asyncio.gather(*tasks)
        await pool.stop()
    assert planning.placement.bookings == {}
