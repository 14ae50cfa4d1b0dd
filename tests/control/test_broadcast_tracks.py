"""A broadcast with several tracks, tracks that come and change, and a ladder that changes on air."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from fractions import Fraction
from typing import Any, cast

import pytest
from encoded import RATE, aac_track, avc_track
from pool_double import PoolDouble
from until import until

from control.broadcast import Broadcast, State
from control.broadcasts import Broadcasts
from control.describe import describe
from control.keys import Grant
from control.limits import Finding, Limits
from control.planning import Planning
from control.session import Session
from control.stream_settings import StreamSettings
from ingest.ports import EndReason, PublishRequest, StopReason
from ingest.settings import LimitSettings
from media.codecs import audio_track, opus
from media.cut import Cut
from media.packet import Packet
from media.track import Codec, Track
from packager.presentation import Presentation
from packager.settings import PackagerSettings
from transcode.plan import Plan
from transcode.pool import Pool
from transcode.settings import TranscodeSettings


class Bench:
    def __init__(self, ladder: tuple[str, ...] = ("240p",), limits: LimitSettings | None = None) -> None:
        self.pool = PoolDouble()
        self.planning = Planning(TranscodeSettings())
        self.presentation = Presentation("p", PackagerSettings())
        self.broadcast = Broadcast(
            "b1", "s", self.presentation, cast(Pool, self.pool), self.planner(ladder),
            segment_s=2, reconnect_window_s=30, on_end=lambda b: None, limits=limits,
        )  # fmt: skip
        self.session = Session(self.broadcast, PublishRequest("rtmp", "k", "192.0.2.1", 1), "key")
        self.stopped: list[tuple[StopReason, str]] = []
        self.session.on_stop(lambda reason, text: self.stopped.append((reason, text)))
        self.broadcast.attach(self.session)

    def planner(self, ladder: tuple[str, ...], **settings: Any) -> Any:
        return self.planning.planner(StreamSettings(ladder=ladder, **settings), "s")

    async def feed(self, *streams: Iterable[Packet]) -> None:
        for packet in sorted((p for s in streams for p in s), key=lambda p: Fraction(p.dts, p.track.timescale)):
            self.session.write(packet)
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    @property
    def cuts(self) -> list[Cut]:
        return [i for i in self.pool.job.items if isinstance(i, Cut)]

    @property
    def names(self) -> list[str]:
        return [r.name for r in self.presentation.renditions]


@pytest.fixture(scope="module")
def big() -> Track:
    return avc_track(0, 640, 480)


@pytest.fixture(scope="module")
def small() -> Track:
    return avc_track(1, 480, 360)


def pictures(track: Track, start_s: float, seconds: float, gop: int = 50) -> list[Packet]:
    first = round(start_s * RATE)
    frames = range(first, first + round(seconds * RATE))
    return [Packet(track, n * 3600, n * 3600, 3600, (n - first) % gop == 0, b"\0\0\0\1\x65") for n in frames]


def sounds(track: Track, start_s: float, seconds: float, samples: int = 1024) -> list[Packet]:
    first = round(start_s * track.timescale)
    count = int(seconds * track.timescale / samples)
    return [Packet(track, p := first + i * samples, p, samples, True, b"\0\0") for i in range(count)]


async def test_each_language_is_a_rendition_with_a_name_of_its_own(big: Track) -> None:
    bench = Bench()
    audio = [aac_track(100, language="eng"), aac_track(101, language="eng"), aac_track(102, language="deu")]
    await bench.feed(pictures(big, 0, 5), *(sounds(a, 0, 5) for a in audio))
    found = [r for r in bench.presentation.renditions if r.name.startswith("audio")]
    assert [(r.name, r.language, r.label, r.default, r.passthrough) for r in found] == [
        ("audio", "en", "English", True, True),
        ("audio-2", "en", "English 2", False, True),
        ("audio-3", "de", "German", False, True),
    ]
    assert [t["language"] for t in describe(bench.broadcast)["tracks"][1:]] == ["eng", "eng", "deu"]


async def test_settings_of_the_stream_name_the_audio_tracks_also_on_air(big: Track) -> None:
    bench = Bench()
    await bench.feed(pictures(big, 0, 3), sounds(aac_track(100), 0, 3), sounds(aac_track(101), 0, 3))
    bench.broadcast.use(bench.planner(("240p",), audio_tracks=("fr:", "de:Kommentar")))
    await bench.feed(pictures(big, 3, 3, gop=25), sounds(aac_track(100), 3, 3), sounds(aac_track(101), 3, 3))
    found = [(r.language, r.label) for r in bench.presentation.renditions if r.name.startswith("audio")]
    assert found == [("fr", "French"), ("de", "Kommentar")]
    assert not any(cut.discontinuity for cut in bench.cuts)


async def test_opus_beside_aac_is_encoded_and_the_aac_is_not(big: Track) -> None:
    bench = Bench()
    second = audio_track(101, Codec.OPUS, opus.build_head(opus.OpusHead(2)))
    await bench.feed(pictures(big, 0, 3), sounds(aac_track(100), 0, 3), sounds(second, 0, 3, 960))
    plan = bench.broadcast.plan
    assert [(e.name, e.track_id) for e in plan.audio] == [("audio-2", 101)]
    assert (100, "audio") in plan.passed


async def test_a_second_language_that_comes_late_breaks_nothing(big: Track) -> None:
    bench = Bench()
    await bench.feed(pictures(big, 0, 3), sounds(aac_track(100), 0, 3))
    assert bench.names == ["source", "240p", "audio"]
    await bench.feed(pictures(big, 3, 4, gop=25), sounds(aac_track(100), 3, 4), sounds(aac_track(101), 3, 4))
    assert bench.names == ["source", "240p", "audio", "audio-2"]
    assert not any(cut.discontinuity for cut in bench.cuts)


async def test_the_publishers_ladder_is_passed_on_and_not_encoded_again(big: Track, small: Track) -> None:
    bench = Bench(("360p", "240p"))
    await bench.feed(pictures(big, 0, 7), pictures(small, 0, 7), sounds(aac_track(100), 0, 7))
    shown = [(r.name, r.passthrough, r.height) for r in bench.presentation.renditions]
    assert shown == [("source", True, 480), ("360p", True, 360), ("240p", False, 240), ("audio", True, 0)]
    assert {i.track.id for i in bench.pool.job.items if isinstance(i, Packet)} == {0, 100}
    assert [cut.pts for cut in bench.cuts] == [0, 180_000, 360_000, 540_000]
    assert describe(bench.broadcast)["plan"][0].startswith("The publisher's own ladder")


async def test_the_largest_is_the_source_whatever_its_number(big: Track, small: Track) -> None:
    bench = Bench(())
    await bench.feed(
        pictures(replace(small, id=0), 0, 3), pictures(replace(big, id=1), 0, 3), sounds(aac_track(100), 0, 3)
    )
    assert bench.broadcast.plan.source == 1
    assert dict(bench.broadcast.plan.passed) == {1: "source", 0: "360p", 100: "audio"}


async def test_tracks_whose_keyframes_lie_apart_leave_the_first_one_alone(big: Track, small: Track) -> None:
    bench = Bench(("360p",))
    await bench.feed(pictures(big, 0, 11), pictures(small, 0, 11, gop=70), sounds(aac_track(100), 0, 11))
    assert dict(bench.broadcast.plan.passed) == {0: "source", 100: "audio"}
    assert [e.name for e in bench.broadcast.plan.video] == ["360p"]
    assert any("do not lie together" in notice for notice in describe(bench.broadcast)["notices"])
    assert [cut.pts for cut in bench.cuts] == [n * 180_000 for n in range(6)]
    assert not any(cut.discontinuity for cut in bench.cuts)


async def test_another_size_begins_at_its_keyframe_as_a_discontinuity(big: Track, small: Track) -> None:
    bench = Bench(("360p", "240p"))
    await bench.feed(pictures(big, 0, 3), sounds(aac_track(100), 0, 3))
    await bench.feed(pictures(replace(small, id=0), 3, 3), sounds(aac_track(100), 3, 3))
    broken = [cut for cut in bench.cuts if cut.discontinuity]
    assert [(cut.pts, cut.reason) for cut in broken] == [(270_000, "config_change")]
    await until(lambda: bench.names == ["source", "240p", "audio"])


async def test_other_audio_parameters_are_a_discontinuity_at_the_next_cut(big: Track) -> None:
    bench = Bench()
    await bench.feed(pictures(big, 0, 3), sounds(aac_track(100), 0, 3))
    await bench.feed(pictures(big, 3, 4, gop=25), sounds(aac_track(100, 44_100), 3, 4))
    assert [cut.reason for cut in bench.cuts if cut.discontinuity] == ["config_change"]
    assert bench.broadcast.plan.renditions[-1].name == "audio"


async def test_another_ladder_takes_effect_at_the_next_cut_and_not_before(big: Track) -> None:
    bench = Bench(("360p", "240p"))
    await bench.feed(pictures(big, 0, 3), sounds(aac_track(100), 0, 3))
    bench.broadcast.use(bench.planner(("360p",)))
    assert bench.names == ["source", "360p", "240p", "audio"]
    await bench.feed(pictures(big, 4, 2), sounds(aac_track(100), 4, 2))
    changed = next(n for n, i in enumerate(bench.pool.job.items) if isinstance(i, Plan))
    assert isinstance(bench.pool.job.items[changed + 1], Cut)
    assert not any(cut.discontinuity for cut in bench.cuts)
    assert "240p" in bench.names, "the rung that goes is given time for its last segment"
    await until(lambda: bench.names == ["source", "360p", "audio"])


async def test_the_same_ladder_again_changes_nothing(big: Track) -> None:
    bench = Bench()
    await bench.feed(pictures(big, 0, 3), sounds(aac_track(100), 0, 3))
    bench.broadcast.use(bench.planner(("240p",)))
    await bench.feed(pictures(big, 4, 3), sounds(aac_track(100), 4, 3))
    assert len(bench.pool.job.plans) == 1


async def test_too_large_a_picture_ends_the_publisher_with_words(big: Track) -> None:
    bench = Bench(limits=LimitSettings(max_width=320, max_height=240))
    await bench.feed(pictures(big, 0, 1))
    assert [reason for reason, _ in bench.stopped] == [StopReason.LIMIT]
    assert "640x480" in bench.stopped[0][1]
    assert bench.broadcast.limit == "size"
    assert bench.broadcast.state is State.STARTING


async def test_too_many_bits_are_warned_of_and_then_end_it(big: Track) -> None:
    bench = Bench(limits=LimitSettings(max_bitrate_bits=100_000, bitrate_warning_s=3))
    for second in range(15):
        await bench.feed([replace(p, data=b"x" * 1000) for p in pictures(big, second, 1)])
        bench.broadcast.tick(bench.broadcast.meter._since + 1.0, 1000.0 + second)  # type: ignore[operator]
        if bench.stopped:
            break
    assert [reason for reason, _ in bench.stopped] == [StopReason.LIMIT]
    assert second == 12
    assert len(describe(bench.broadcast)["notices"]) == 2


async def test_a_broadcast_that_a_limit_ends_in_the_tick_leaves_the_others_on_air(
    big: Track, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks: list[asyncio.Task[None]] = []

    def spawn(work: Any) -> asyncio.Task[None]:
        tasks.append(asyncio.create_task(work))
        return tasks[-1]

    them = Broadcasts(cast(Pool, PoolDouble()), PackagerSettings(), spawn, keep_ended_s=60)
    planner = Planning(TranscodeSettings()).planner(StreamSettings(ladder=()), "s")
    for name in ("one", "two"):
        broadcast = them.start(Grant(name, name, name, "key", StreamSettings(), None), planner)
        session = Session(broadcast, PublishRequest("rtmp", "k", "192.0.2.1", 1), "key")
        session.on_stop(lambda reason, text, s=session: s.close(EndReason.STOPPED))  # type: ignore[misc]
        broadcast.attach(session)
        session.write(pictures(big, 0, 1)[0])
    one = them.live("one")
    assert one is not None
    over = Finding("frame_rate", "too many frames", final=True)
    monkeypatch.setattr(Limits, "second", lambda self, sample: [over] if self is one._limits else [])
    monkeypatch.setattr("control.health.LEAST_S", 1e-9)
    them.tick()
    assert [b.stream for b in them.on_air()] == ["two"]
    assert them.limit_ends == {"frame_rate": 1}
    await asyncio.gather(*tasks)
    them.on_air()[0].end("test")
    await asyncio.gather(*tasks)


async def test_what_the_worker_says_reaches_the_operator(big: Track) -> None:
    bench = Bench()
    await bench.feed(pictures(big, 0, 1), sounds(aac_track(100), 0, 1))
    for _ in range(3):
        bench.broadcast.stats({"notice": "1.0 s behind real time: 240p left out.", "speed_ratio": 0.8})
    shown = describe(bench.broadcast)
    assert shown["notices"] == ["transcoder: 1.0 s behind real time: 240p left out."]
    assert shown["transcode"]["speed_ratio"] == 0.8


async def test_sound_that_comes_before_the_first_picture_of_its_time_is_kept(big: Track) -> None:
    bench = Bench()
    heard, seen = sounds(aac_track(100), 0, 5), pictures(big, 0, 5)
    for packet in [*heard[:10], *seen[:5], *heard[10:], *seen[5:]]:
        bench.session.write(packet)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    written = [i for i in bench.pool.job.items if isinstance(i, Packet) and i.track.id == 100]
    assert written == heard
    assert isinstance(bench.pool.job.items[0], Cut)


async def test_video_that_stops_and_returns_leaves_the_sound_whole(big: Track) -> None:
    bench = Bench(())
    await bench.feed(pictures(big, 0, 5), pictures(big, 11, 6), sounds(aac_track(100), 0, 17))
    segments = [s for s in bench.presentation.windows["audio"].segments if not s.gap]
    numbers = [s.msn for s in bench.presentation.windows["audio"].segments]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert len(segments) >= 7
    back = [s for s in bench.presentation.windows["source"].segments if not s.gap]
    assert len(back) >= 4, "pictures of before and after"
    assert sum(cut.discontinuity for cut in bench.cuts) == 1
