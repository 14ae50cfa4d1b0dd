"""A transcoder that dies again and again, through real workers: the ladder is lowered, told, and comes back."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import pytest
from encoded import STEP, avc_clip

from control import giving_up
from control.broadcast import Broadcast, State
from control.describe import describe
from control.giving_up import lowered
from control.planning import Planning
from control.session import Session
from control.stream_settings import StreamSettings
from ingest.ports import EndReason, PublishRequest
from media.codecs import audio_track
from media.packet import Packet
from media.track import Codec, Track
from packager.presentation import Presentation
from packager.settings import PackagerSettings
from transcode.pool import Pool
from transcode.settings import TranscodeSettings

SETTINGS = TranscodeSettings(shed=False, thumbnails=False, nice=0, x264_preset="ultrafast", admission=0)


@dataclass
class Bench:
    """A broadcast over a real pool, and a publisher that repeats one GOP for ever."""

    broadcast: Broadcast
    pool: Pool
    session: Session
    source: Iterator[Packet]
    pids: set[int] = field(default_factory=set)

    @property
    def pid(self) -> int:
        job = self.broadcast.distributor.job
        return job.stats.worker_pid if job is not None else 0

    async def play(self, condition: Callable[[], bool]) -> None:
        """Publish, as fast as the worker takes it, until the condition holds."""
        async with asyncio.timeout(40):
            while not condition():
                self.broadcast.presentation.on_demand("360p")  # a viewer asks, where it matters
                job = self.broadcast.distributor.job
                if job is None or job.stats.queue_s < 2:
                    for _ in range(5):
                        self.session.write(next(self.source))
                await asyncio.sleep(0.01)

    async def kill_three(self) -> None:
        for _ in range(3):
            before = self.made if self.pids else 0
            await self.play(lambda: self.pid not in {0, *self.pids} and self.made > before)  # noqa: B023
            self.pids.add(self.pid)
            os.kill(self.pid, signal.SIGKILL)
            await self.play(lambda: self.pid not in self.pids)

    @property
    def made(self) -> int:
        job = self.broadcast.distributor.job
        return job.stats.packets_out if job is not None else 0

    @property
    def names(self) -> list[str]:
        return [r.name for r in self.broadcast.presentation.renditions]


@asynccontextmanager
async def bench(gop: int, rungs: str = "always") -> AsyncIterator[Bench]:
    pool = Pool(SETTINGS)
    await pool.start()
    planner = Planning(SETTINGS).planner(StreamSettings(ladder=("360p",)), "s")
    broadcast = Broadcast(
        "b", "s", Presentation("p", PackagerSettings()), pool, planner,
        segment_s=2, reconnect_window_s=30, on_end=lambda ended: None, rungs=rungs,
    )  # fmt: skip
    packets = avc_clip(gop, gop)

    def source() -> Iterator[Packet]:
        at = 0
        while True:
            for p in packets:
                yield replace(p, pts=p.pts + at, dts=p.dts + at)
            at += gop * STEP

    session = Session(broadcast, PublishRequest("rtmp", "k", "192.0.2.1", 1), "key")
    broadcast.attach(session)
    made = Bench(broadcast, pool, session, source())
    try:
        yield made
    finally:
        broadcast.end("test")
        await broadcast.finish()
        await pool.stop()


@pytest.mark.parametrize("rungs", ["always", "watched"])
async def test_what_is_passed_through_stays_on_air_alone_and_the_rest_comes_back(
    monkeypatch: pytest.MonkeyPatch, rungs: str
) -> None:
    monkeypatch.setattr(giving_up, "FIRST_S", 2.0)
    async with bench(50, rungs) as b:
        await b.play(lambda: b.names == ["source", "360p"])
        await b.kill_three()
        await b.play(lambda: b.names == ["source"])
        told = describe(b.broadcast)
        assert [r["name"] for r in told["renditions"]] == ["source"]
        assert any("3 workers died" in reason for reason in told["plan"])
        assert any("only what the encoder sends is on air; it is tried again in" in n for n in told["notices"])
        b.pids.clear()
        await b.play(lambda: b.names == ["source", "360p"] and b.made > 0)
        assert b.broadcast.state is State.LIVE


async def test_a_source_that_must_be_encoded_stands_still_and_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(giving_up, "FIRST_S", 0.5)
    async with bench(250) as b:  # keyframes ten seconds apart: the source is encoded
        await b.play(lambda: bool(b.broadcast.plan.video) and b.broadcast.plan.video[0].name == "source")
        await b.kill_three()
        assert b.broadcast.distributor.job is None, "no fourth worker"
        assert any("nothing is on air" in notice for notice in b.broadcast.notices)
        standing = b.broadcast.presentation.shelves["source"].listed[-1].msn
        await b.play(lambda: b.made > 0)
        await b.play(lambda: b.broadcast.presentation.shelves["source"].listed[-1].msn > standing + 1)
        assert b.names == ["source", "360p"]


async def test_another_publisher_is_tried_at_once() -> None:
    async with bench(50) as b:
        await b.play(lambda: b.names == ["source", "360p"])
        await b.kill_three()
        await b.play(lambda: b.names == ["source"])
        b.session.close(EndReason.LOST)
        b.session = Session(b.broadcast, PublishRequest("rtmp", "k", "192.0.2.1", 1), "key")
        b.broadcast.attach(b.session)
        await b.play(lambda: b.names == ["source", "360p"] and b.made > 0)


def test_nothing_is_lowered_where_nothing_would_be_left() -> None:
    opus = audio_track(100, Codec.OPUS, b"OpusHead\1\2\0\0\x80\xbb\0\0\0\0\0")
    vp8 = Track(0, opus.kind.VIDEO, Codec.VP8, 90_000, width=640, height=368)
    planner = Planning(SETTINGS).planner(StreamSettings(), "s")
    assert lowered(planner, "why")([vp8], [opus], True) == planner([vp8], [opus], True)
    aac = replace(opus, codec=Codec.AAC, config=bytes((0x11, 0x90)))
    assert [r.name for r in lowered(planner, "why")([], [aac], True).renditions] == ["audio"]
