"""What is left of broadcasts that are over, and broadcasts that follow each other faster than they end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from encoded import RATE, aac_track, avc_track
from pool_double import JobDouble, PoolDouble

from control import node as node_module
from control.broadcast import Broadcast
from control.broadcasts import Broadcasts
from control.gate import Gate
from control.keys import Grant
from control.node import Node
from control.planning import Planning
from control.services import Services
from control.session import Session
from control.stream_settings import StreamSettings
from ingest.ports import EndReason, PublishRequest
from ingest.settings import LimitSettings
from media.packet import Packet
from media.track import Track
from packager.archive import Archive
from packager.settings import PackagerSettings
from transcode.pool import Pool
from transcode.settings import TranscodeSettings


@pytest.fixture(scope="module")
def sources() -> tuple[Track, Track]:
    return avc_track(), aac_track()


async def feed(session: Session, sources: tuple[Track, Track], start_s: float, seconds: float) -> None:
    """Packets in order of time; the bytes are no pictures, which neither broadcast nor packager look at."""
    video, audio = sources
    frames = [
        Packet(video, p := round((start_s + i / RATE) * 90_000), p, 3600, i % 50 == 0, b"\0\0\0\1\x65")
        for i in range(int(seconds * RATE))
    ]
    sounds = [
        Packet(audio, p := round(start_s * 48_000) + i * 1024, p, 1024, True, b"\0\0")
        for i in range(int(seconds * 48_000 / 1024))
    ]
    for packet in sorted(frames + sounds, key=lambda p: p.dts / p.track.timescale):
        session.write(packet)
    await asyncio.sleep(0)
    await asyncio.sleep(0)


class SlowJob(JobDouble):
    """Takes its time to hand over what it has."""

    def __init__(self) -> None:
        super().__init__()
        self.may_end = asyncio.Event()

    async def close(self, drain: bool) -> None:
        await self.may_end.wait()
        self.closed = True


class Bench:
    """All broadcasts of a node with a pool of doubles."""

    def __init__(self, keep_ended_s: float = 100) -> None:
        self.pool = PoolDouble()
        self.tasks: set[asyncio.Task[None]] = set()
        self.broadcasts = Broadcasts(cast(Pool, self.pool), PackagerSettings(), self._spawn, keep_ended_s=keep_ended_s)
        self.planning = Planning(TranscodeSettings())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        return task

    def publish(self) -> tuple[Broadcast, Session]:
        settings = StreamSettings(ladder=("360p",))
        grant = Grant("s", "s", "p", "k", settings, None)
        broadcast = self.broadcasts.start(grant, self.planning.planner(settings, "s"))
        session = Session(broadcast, PublishRequest("rtmp", "k", "192.0.2.1", 1), "k")
        broadcast.attach(session)
        return broadcast, session


async def test_a_broadcast_waits_for_all_that_were_before_it(sources: tuple[Track, Track]) -> None:
    """One that was too short to come on air has nothing to finish; the one before it may still be at it."""
    bench = Bench()
    slow = bench.pool.job = SlowJob()
    _, first = bench.publish()
    await feed(first, sources, 0, 5)
    first.close(EndReason.FINISHED)
    _, short = bench.publish()
    await feed(short, sources, 0, 0.2)
    short.close(EndReason.FINISHED)
    await asyncio.sleep(0)
    bench.pool.job = JobDouble()
    third, session = bench.publish()
    await feed(session, sources, 0, 5)
    slow.may_end.set()
    async with asyncio.timeout(10):
        while third.state.value != "live":  # noqa: ASYNC110 (a few turns of the loop)
            await asyncio.sleep(0)
    assert slow.closed, "only when the first one has let go"
    await asyncio.gather(*bench.tasks)
    await feed(session, sources, 5, 3)
    assert not third.presentation.ended
    session.close(EndReason.FINISHED)
    await bench.broadcasts.finished()


async def test_what_is_kept_of_a_stream_goes_by_its_settings_and_with_the_stream(
    services: Services, sources: tuple[Track, Track], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(keep_ended_s=10)
    soon = asyncio.get_running_loop().call_soon_threadsafe
    sizes = {"node_bytes": 10**12, "stream_bytes": 10**12, "min_free_bytes": 0}
    bench.broadcasts.archive = archive = Archive(tmp_path / "dvr", soon, **sizes)
    archive.root.mkdir()
    gate = Gate(services.keys, bench.broadcasts, LimitSettings(), bench.planning.planner)
    services.directory.on_change(gate.on_change)
    stream = await services.streams.add("main", playback_id="p")
    made = await services.keys.add(stream.id)
    session = await gate.admit(PublishRequest("rtmp", made.key, "192.0.2.1", 1))
    await feed(session, sources, 0, 5)
    presentation = bench.broadcasts.presentation("p")
    assert presentation is not None
    assert presentation.keep_s == 0

    await services.streams.change("main", {"dvr_window_s": 3600})
    assert presentation.keep_s == 3600, "while it is on air"
    await feed(session, sources, 5, 5)
    session.close(EndReason.FINISHED)
    await bench.broadcasts.finished()
    monkeypatch.setattr(time, "monotonic", lambda now=time.monotonic: now() + 3000)
    bench.broadcasts.tick()
    assert bench.broadcasts.presentation("p") is presentation, "to be watched for an hour"

    await services.streams.remove("main")
    bench.broadcasts.tick()
    assert bench.broadcasts.presentation("p") is None
    await asyncio.to_thread(archive.close)
    assert not list(archive.root.iterdir())


async def test_history_does_not_hold_the_media_of_what_is_no_longer_shown(
    sources: tuple[Track, Track], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench()
    broadcast, session = bench.publish()
    await feed(session, sources, 0, 9)
    session.close(EndReason.FINISHED)
    await bench.broadcasts.finished()
    presentation = broadcast.presentation
    assert presentation.size_bytes > 0
    monkeypatch.setattr(time, "monotonic", lambda now=time.monotonic: now() + 101)
    bench.broadcasts.tick()
    assert bench.broadcasts.presentation("p") is None
    assert broadcast in bench.broadcasts.history
    assert presentation.size_bytes == 0
    assert not broadcast._held
    assert not presentation.thumbnail
    assert broadcast.presentation.counters()["held_bytes"] == 0


async def test_publishers_who_stay_as_long_as_they_may_do_not_cost_the_broadcasts_their_end(
    sources: tuple[Track, Track], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`limits.drain_s` may be longer than what the last packets are given."""
    monkeypatch.setattr(node_module, "DRAIN_S", 0.01)
    bench = Bench()
    broadcast, session = bench.publish()
    await feed(session, sources, 0, 5)

    async def nothing() -> None:
        pass

    async def drain() -> None:
        await asyncio.sleep(0.05)

    node = object.__new__(Node)
    node.__dict__.update(
        gate=SimpleNamespace(draining=False), listeners=[SimpleNamespace(drain=drain, stop=nothing)], srt=None,
        whip=SimpleNamespace(drain=nothing, stop=nothing), broadcasts=bench.broadcasts,
    )  # fmt: skip
    await node._drain()
    assert broadcast.state.value == "ended"
    assert bench.pool.job.closed
    assert broadcast.presentation.ended
