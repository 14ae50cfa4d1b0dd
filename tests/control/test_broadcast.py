"""A broadcast through its publishers' comings and goings. The transcoder is a double that notes what it is given."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import cast

import pytest
from encoded import RATE, aac_track, avc_track
from pool_double import PoolDouble
from until import until

from control.broadcast import Broadcast, State
from control.describe import describe
from control.planning import Planning, ladder_of
from control.session import Session
from control.stream_settings import StreamSettings
from ingest.ports import EndReason, PublishRequest, StopReason
from media.cut import Cut
from media.errors import Refused
from media.packet import Gap, Packet
from media.track import Track
from packager.presentation import Presentation
from packager.settings import PackagerSettings
from transcode.pool import Pool
from transcode.settings import TranscodeSettings


@pytest.fixture(scope="module")
def sources() -> tuple[Track, Track]:
    """A real H.264 and a real AAC configuration."""
    return avc_track(), aac_track()


class Bench:
    """A broadcast with its surroundings."""

    def __init__(self, window_s: float = 30.0) -> None:
        self.pool = PoolDouble()
        self.ended: list[Broadcast] = []
        settings = TranscodeSettings()
        self.planning = Planning(settings)
        planner = self.planning.planner(StreamSettings(ladder=("360p",)), "s")

        self.presentation = Presentation("p", PackagerSettings())
        self.broadcast = Broadcast(
            "b1", "s", self.presentation, cast(Pool, self.pool), planner,
            segment_s=2, reconnect_window_s=window_s, on_end=self.ended.append,
        )  # fmt: skip

    def publisher(self) -> Session:
        session = Session(self.broadcast, PublishRequest("rtmp", "k", "192.0.2.1", 1), "key")
        self.broadcast.attach(session)
        return session

    @property
    def cuts(self) -> list[Cut]:
        return [i for i in self.pool.job.items if isinstance(i, Cut)]


def media(video: Track | None, audio: Track | None, start_s: float, seconds: float, gop: int = 50) -> Iterator[Packet]:
    """Packets in order of time; the bytes are no pictures, which neither broadcast nor packager look at."""
    frames = [] if video is None else [
        Packet(video, p := round((start_s + i / RATE) * 90_000), p, 3600, i % gop == 0, b"\0\0\0\1\x65")
        for i in range(int(seconds * RATE))
    ]  # fmt: skip
    sounds = [] if audio is None else [
        Packet(audio, p := round(start_s * 48_000) + i * 1024, p, 1024, True, b"\0\0")
        for i in range(int(seconds * 48_000 / 1024))
    ]  # fmt: skip
    yield from sorted(frames + sounds, key=lambda p: p.dts / p.track.timescale)


async def feed(session: Session, packets: Iterator[Packet]) -> None:
    for packet in packets:
        session.write(packet)
    await asyncio.sleep(0)
    await asyncio.sleep(0)


async def test_tracks_are_found_and_nothing_of_the_start_is_lost(
    sources: tuple[Track, Track],
) -> None:
    bench = Bench()
    await feed(bench.publisher(), media(*sources, 0, 7))
    assert bench.broadcast.state is State.LIVE
    assert [c.pts for c in bench.cuts] == [0, 180_000, 360_000, 540_000]
    assert sum(isinstance(i, Packet) and i.track is sources[0] for i in bench.pool.job.items) == 7 * RATE
    assert [r.name for r in bench.presentation.renditions] == ["source", "360p", "audio"]


async def test_lost_publisher_leaves_the_window_open_and_comes_back_behind_one_discontinuity(
    sources: tuple[Track, Track],
) -> None:
    bench = Bench()
    first = bench.publisher()
    await feed(first, media(*sources, 0, 5))
    first.close(EndReason.LOST)
    assert bench.broadcast.state is State.INTERRUPTED
    assert not bench.ended
    second = bench.publisher()
    origin = second.origin()
    assert origin >= 5 * 90_000 - 2_000
    await feed(second, media(*sources, origin / 90_000, 5))
    assert bench.broadcast.state is State.LIVE
    assert [c.discontinuity for c in bench.cuts] == [False, False, False, True, False, False]
    assert [c.index for c in bench.cuts] == list(range(6))
    assert any(isinstance(i, Gap) for i in bench.pool.job.items), "the decoder is told"


async def test_window_over_ends_the_broadcast_once(sources: tuple[Track, Track]) -> None:
    bench = Bench(window_s=0.01)
    session = bench.publisher()
    await feed(session, media(*sources, 0, 3))
    session.close(EndReason.LOST)
    await until(lambda: bench.ended)
    assert bench.ended == [bench.broadcast]
    assert bench.broadcast.end_reason == "reconnect_window_over"
    await bench.broadcast.finish()
    assert bench.presentation.ended
    assert bench.pool.job.closed


async def test_encoder_that_says_goodbye_ends_it_at_once(sources: tuple[Track, Track]) -> None:
    bench = Bench()
    session = bench.publisher()
    await feed(session, media(*sources, 0, 3))
    session.close(EndReason.FINISHED)
    assert bench.broadcast.state is State.ENDED


async def test_second_publisher_takes_over_and_the_first_is_told_and_no_longer_heard(
    sources: tuple[Track, Track],
) -> None:
    bench = Bench()
    first = bench.publisher()
    told: list[StopReason] = []
    first.on_stop(lambda reason, text: told.append(reason))
    await feed(first, media(*sources, 0, 3))
    second = bench.publisher()
    assert told == [StopReason.TAKEOVER]
    before = len(bench.pool.job.items)
    await feed(first, media(*sources, 3, 1))
    assert len(bench.pool.job.items) == before
    first.close(EndReason.STOPPED)
    assert bench.broadcast.session is second
    await feed(second, media(*sources, second.origin() / 90_000, 3))
    assert bench.broadcast.state is State.LIVE


async def test_long_gop_has_the_source_encoded_from_a_discontinuity_on(sources: tuple[Track, Track]) -> None:
    bench = Bench()
    await feed(bench.publisher(), media(*sources, 0, 9, gop=250))
    assert bench.cuts[1].discontinuity
    changed = bench.pool.job.plans[-1]
    assert [r.name for r in changed.renditions if r.passthrough] == ["audio"]
    assert changed.renditions[0].name == "source"
    assert describe(bench.broadcast)["notices"]


async def test_video_that_comes_later_than_audio_gets_its_renditions(sources: tuple[Track, Track]) -> None:
    bench = Bench()
    session = bench.publisher()
    video, audio = sources
    await feed(session, media(None, audio, 0, 1))
    await until(lambda: bench.presentation.renditions)
    assert [r.name for r in bench.presentation.renditions] == ["audio"]
    await feed(session, media(video, audio, 1, 5))
    assert [r.name for r in bench.presentation.renditions] == ["source", "360p", "audio"]
    assert describe(bench.broadcast)["video"]["height"] == 368


async def test_dead_worker_makes_the_next_cut_a_discontinuity(sources: tuple[Track, Track]) -> None:
    bench = Bench()
    session = bench.publisher()
    await feed(session, media(*sources, 0, 3))
    bench.broadcast.restarted("killed by signal 9", "")
    await feed(session, media(*sources, 4, 4))
    assert bench.cuts[-1].discontinuity or bench.cuts[-2].discontinuity


def test_unknown_ladder_is_refused_with_the_names_that_exist() -> None:
    with pytest.raises(Refused, match="mobile"):
        ladder_of(StreamSettings(ladder=("999p",)), TranscodeSettings())
