"""Which rungs are encoded when: requests, cuts and time in, plans and replays out."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from control import demand as module
from control.demand import Demand
from media.cut import Cut
from media.packet import Packet
from media.rendition import Rendition
from media.track import Codec, Kind, Track
from transcode.ladder import PRESETS
from transcode.plan import Plan
from transcode.planner import make_plan
from transcode.settings import TranscodeSettings

TRACK = Track(0, Kind.VIDEO, Codec.H264, 90_000, width=1280, height=720)
SETTINGS = TranscodeSettings(rungs_linger_s=4.0)


@dataclass
class FakeJob:
    plan: Plan
    sink: Any
    items: list[Any] = field(default_factory=list)
    plans: list[Plan] = field(default_factory=list)
    closed: bool = False

    def write(self, item: Any) -> None:
        self.items.append(item)

    def change(self, plan: Plan) -> None:
        self.plans.append(plan)

    async def close(self, drain: bool = True) -> None:
        self.closed = True

    @property
    def names(self) -> set[str]:
        return {e.name for e in (self.plans[-1] if self.plans else self.plan).video} - {"source"}


@dataclass
class FakePool:
    jobs: list[FakeJob] = field(default_factory=list)

    async def open(self, plan: Plan, sink: Any, *, name: str, settings: Any = None) -> FakeJob:
        self.jobs.append(FakeJob(plan, sink))
        return self.jobs[-1]


@dataclass
class FakePresentation:
    on_demand: Any = None
    asleep: set[str] = field(default_factory=set)
    woken: list[tuple[str, int]] = field(default_factory=list)

    def sleep(self, name: str) -> bool:
        self.asleep.add(name)
        return True

    def wake(self, name: str, cuts_back: int) -> None:
        if name in self.asleep:
            self.asleep.remove(name)
            self.woken.append((name, cuts_back))


@dataclass
class Sink:
    packets: list[tuple[str, int]] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)

    def stats(self, values: Any) -> None:
        self.values.update(values)

    def packet(self, rendition: str, packet: Packet) -> None:
        self.packets.append((rendition, packet.pts))


class Bench:
    """A demand over fakes, a clock that is set, and a source of 10 frames a second with an IDR at each cut."""

    def __init__(self, settings: TranscodeSettings = SETTINGS) -> None:
        self.now = 100.0
        self.pool, self.presentation, self.sink = FakePool(), FakePresentation(), Sink()
        plan = make_plan(TRACK, None, PRESETS["default"], passthrough=True, hardware=None, settings=SETTINGS)
        self.plan = plan
        self.demand = Demand(
            plan,
            self.sink,
            self.presentation,
            self.pool,
            settings,
            "s",
            clock=lambda: self.now,  # type: ignore[arg-type]
        )
        self.frame = 0

    async def play(self, segments: int) -> None:
        for _ in range(segments * 20):
            pts = self.frame * 9000
            if self.frame % 20 == 0:
                self.demand.write(Cut(self.frame // 20, pts, 0))
            self.demand.write(Packet(TRACK, pts, pts, 9000, self.frame % 20 == 0, b"x" * 10))
            self.frame += 1
            self.now += 0.1
            await asyncio.sleep(0)
        for _ in range(5):
            await asyncio.sleep(0)

    @property
    def own(self) -> FakeJob:
        return self.pool.jobs[0]


@pytest.fixture
async def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr(module, "LEAVE_S", 0)
    made = Bench()
    await made.demand.start()
    return made


async def test_all_rungs_begin_and_sleep_when_nobody_asks(bench: Bench) -> None:
    assert bench.own.plan is bench.plan
    await bench.play(4)
    assert bench.own.names == set()
    assert bench.presentation.asleep == {"480p", "360p"}


@pytest.fixture
async def pinned(monkeypatch: pytest.MonkeyPatch) -> Bench:
    """With the lowest rung pinned."""
    monkeypatch.setattr(module, "LEAVE_S", 0)
    made = Bench(SETTINGS.model_copy(update={"rungs_pinned": "lowest"}))
    await made.demand.start()
    return made


async def test_a_stream_without_viewers_is_encoded_for_its_first_segments_only(bench: Bench) -> None:
    await bench.play(3)
    assert bench.presentation.asleep == {"480p", "360p"}


async def test_a_rung_sleeps_when_its_last_picture_is_there_however_late_that_is() -> None:
    bench = Bench()
    await bench.demand.start()
    await bench.play(4)
    ends = bench.demand._states["360p"].ends
    assert bench.demand.rungs["360p"] == "ending"
    bench.own.sink.packet("360p", bench_packet(ends // 9000 - 2))
    assert "360p" not in bench.presentation.asleep, "its last segment is not whole"
    bench.own.sink.packet("360p", bench_packet(ends // 9000 - 1))
    assert "360p" in bench.presentation.asleep
    assert bench.demand.rungs["360p"] == "off"
    await bench.demand.close()


async def test_of_twenty_streams_those_that_are_watched_are_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEAVE_S", 0)
    streams = [Bench() for _ in range(20)]
    for stream in streams:
        await stream.demand.start()
    for _ in range(6):
        for number, stream in enumerate(streams):
            stream.presentation.on_demand("source")  # everybody's source is, which costs nothing
            if number in (3, 11):
                stream.presentation.on_demand("360p")
            await stream.play(1)
    encoding = {n: s.own.names for n, s in enumerate(streams) if s.own.names}
    assert encoding == {3: {"360p"}, 11: {"360p"}}
    assert all(job.closed for s in streams for job in s.pool.jobs[1:]), "nothing is left of replays"
    assert all(len(s.pool.jobs) == 1 for n, s in enumerate(streams) if n not in encoding), "nothing was started"


async def test_who_watches_the_source_alone_has_nothing_encoded(bench: Bench) -> None:
    for _ in range(4):
        bench.presentation.on_demand("source")
        bench.presentation.on_demand("")
        await bench.play(1)
    assert bench.own.names == set()
    assert bench.presentation.asleep == {"480p", "360p"}


async def test_the_lowest_rung_stays_while_anything_is_watched_where_it_is_pinned(pinned: Bench) -> None:
    bench = pinned
    for _ in range(4):
        bench.presentation.on_demand("source")
        await bench.play(1)
    assert bench.own.names == {"360p"}
    assert bench.presentation.asleep == {"480p"}


async def test_a_rung_comes_back_from_the_source_that_was_kept_and_goes_over_to_the_own_job(pinned: Bench) -> None:
    bench = pinned
    await bench.play(6)
    bench.presentation.on_demand("480p")
    await bench.play(0)
    [replay] = bench.pool.jobs[1:]
    assert {e.name for e in replay.plan.video} == {"480p"}
    assert replay.items[0] == Cut(3, 60 * 9000, 0)
    assert [p.pts for p in replay.items if isinstance(p, Packet)] == [n * 9000 for n in range(60, 120)]
    assert bench.presentation.woken == [("480p", 2)]
    # Before the next cut everything comes from the replay; the own job is told of the rung at that cut.
    replay.sink.packet("480p", bench_packet(119))
    assert bench.own.names == set()
    for _ in range(3):
        bench.demand.write(bench_packet(bench.frame))
        bench.frame += 1
    assert len([p for p in replay.items if isinstance(p, Packet)]) == 63
    bench.frame = 140
    bench.demand.write(Cut(7, 140 * 9000, 0))
    assert bench.own.names == {"480p", "360p"}
    assert isinstance(bench.own.items[-1], Cut)
    # What the own job makes is held until the replay is through, and nothing comes twice.
    bench.own.sink.packet("480p", bench_packet(140))
    replay.sink.packet("480p", bench_packet(139))
    replay.sink.packet("480p", bench_packet(140))
    assert bench.sink.packets == [("480p", 119 * 9000), ("480p", 139 * 9000)]
    bench.demand.write(replace(bench_packet(140), keyframe=True))
    await bench.play(0)
    assert replay.closed
    assert bench.sink.packets[2:] == [("480p", 140 * 9000)]
    assert bench.demand.rungs == {"480p": "on", "360p": "on"}


async def test_all_sleep_again_and_the_lowest_without_ever_being_asked_for(pinned: Bench) -> None:
    bench = pinned
    await bench.play(6)
    bench.presentation.on_demand("480p")
    await bench.play(1)
    assert bench.demand.rungs["360p"] == "on"
    await bench.play(4)
    assert bench.own.names == set()
    assert bench.presentation.asleep == {"480p", "360p"}
    assert bench.demand.rungs == {"480p": "off", "360p": "off"}


async def test_a_replay_that_dies_leaves_the_rung_to_the_own_job(bench: Bench) -> None:
    await bench.play(6)
    bench.presentation.on_demand("480p")
    await bench.play(0)
    bench.pool.jobs[1].sink.restarted("killed", "")
    await bench.play(1)
    assert "480p" in bench.own.names
    assert bench.demand.rungs["480p"] == "on"


async def test_a_replay_that_is_dead_on_arrival_is_closed_and_the_own_job_makes_the_rung(bench: Bench) -> None:
    await bench.play(6)
    open_one = bench.pool.open

    async def dead(plan: Plan, sink: Any, **more: Any) -> FakeJob:
        made = await open_one(plan, sink, **more)
        sink.restarted("killed", "")
        return made

    bench.pool.open = dead  # type: ignore[method-assign]
    bench.presentation.on_demand("480p")
    await bench.play(1)
    assert bench.pool.jobs[1].closed
    assert not bench.pool.jobs[1].items
    assert "480p" in bench.own.names
    assert bench.demand.rungs["480p"] == "on"
    assert "480p" not in bench.presentation.asleep


async def test_a_demand_that_was_given_up_sends_nothing_to_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    """By then there may be another one, for which the rung is on."""
    monkeypatch.setattr(module, "LEAVE_S", 0.05)
    bench = Bench()
    bench.sink.failed = lambda reason, log: None  # type: ignore[attr-defined]
    await bench.demand.start()
    await bench.play(4)
    assert set(bench.demand.rungs.values()) == {"ending"}
    bench.own.sink.failed("three died", "")
    await asyncio.sleep(0.1)
    assert not bench.presentation.asleep


async def test_a_replay_that_dies_while_it_is_relieved_holds_nothing_back(bench: Bench) -> None:
    await bench.play(6)
    bench.presentation.on_demand("480p")
    await bench.play(0)
    bench.demand.write(Cut(6, 120 * 9000, 0))
    assert bench.demand.rungs["480p"] == "joining"
    bench.own.sink.packet("480p", bench_packet(120))
    bench.pool.jobs[1].sink.restarted("killed", "")
    assert bench.demand.rungs["480p"] == "on"
    assert bench.sink.packets == [("480p", 120 * 9000)]


async def test_nothing_is_replayed_across_a_break(bench: Bench) -> None:
    await bench.play(6)
    bench.demand.write(Cut(6, bench.frame * 9000, 0, discontinuity=True))
    bench.frame += 1
    bench.demand.write(replace(bench_packet(bench.frame), keyframe=True))
    bench.presentation.on_demand("480p")
    await bench.play(0)
    assert [i.index for i in bench.pool.jobs[1].items if isinstance(i, Cut)] == [6]


async def test_a_new_ladder_begins_as_watched(bench: Bench) -> None:
    await bench.play(4)
    plan = make_plan(TRACK, None, PRESETS["mobile"], passthrough=True, hardware=None, settings=SETTINGS)
    bench.demand.change(plan)
    assert bench.own.names == {e.name for e in plan.video} - {"source"}
    assert set(bench.demand.rungs) == bench.own.names


async def test_close_ends_every_job_and_lets_go_of_the_presentation(bench: Bench) -> None:
    await bench.play(6)
    bench.presentation.on_demand("480p")
    await bench.play(0)
    await bench.demand.close()
    assert all(job.closed for job in bench.pool.jobs)
    bench.presentation.on_demand("480p")
    assert len(bench.pool.jobs) == 2


def bench_packet(frame: int) -> Packet:
    return Packet(TRACK, frame * 9000, frame * 9000, 9000, False, b"y")


def test_names_of_renditions_are_those_of_the_plan() -> None:
    plan = make_plan(TRACK, None, PRESETS["default"], passthrough=True, hardware=None, settings=SETTINGS)
    assert all(isinstance(r, Rendition) for r in plan.renditions)
