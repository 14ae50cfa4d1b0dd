"""Who gets which ladder on a machine that has little room, and what happens when a device fails."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

from control.planning import ROOMY_S, Planning
from control.stream_settings import StreamSettings
from media.codecs import h264
from media.track import Codec, Kind, Track
from transcode.device import CPU, Device, device_of
from transcode.hardware import Hardware, Trial
from transcode.placement import STRIKES
from transcode.plan import SOURCE, Plan
from transcode.settings import TranscodeSettings

AVCC = h264.build_avcc(
    [bytes.fromhex("6764001facd9405005bb011000000300100000030320f1831960")], [bytes.fromhex("68ebe3cb22c0")]
)
HD = Track(0, Kind.VIDEO, Codec.H264, 90_000, AVCC, 1920, 1080, Fraction(30))


def hardware(*gpus: str, cpus: float = 1.5) -> Hardware:
    trials = [Trial("h264_nvenc", "encode", "h264", gpu, True, 400_000_000, 5) for gpu in gpus]
    trials += [Trial("libx264", "encode", "h264", CPU, True, 110_000_000)]
    trials += [Trial("h264", "decode", "h264", CPU, True, 500_000_000)]
    devices = tuple(Device(gpu, gpu, frozenset({"nvenc"})) for gpu in gpus)
    return Hardware(cpus, tuple(trials), (*devices, Device(CPU, "CPU", frozenset({""}))))


@dataclass
class OnAir:
    """A broadcast as planning sees it."""

    planner: Any
    plan: Plan = field(default_factory=Plan)
    transcode_stats: dict[str, Any] = field(default_factory=dict)
    rungs: dict[str, str] | None = None

    @property
    def distributor(self) -> Any:
        return SimpleNamespace(job=SimpleNamespace(rungs=self.rungs or {}))

    def begin(self) -> Plan:
        self.plan = self.planner([HD], [], True)
        return self.plan

    def use(self, planner: Any) -> None:
        self.planner = planner
        self.begin()


def on_air(planning: Planning, key: str, **settings: Any) -> OnAir:
    broadcast = OnAir(planning.planner(StreamSettings(**settings), key))
    broadcast.begin()
    return broadcast


def names(broadcast: OnAir) -> list[str]:
    return [r.name for r in broadcast.plan.renditions]


def test_who_comes_when_there_is_no_room_gets_less_and_the_rest_when_there_is() -> None:
    planning = Planning(TranscodeSettings())
    planning.found(hardware())
    live = {key: on_air(planning, key) for key in ("a", "b", "c")}
    assert names(live["a"]) == [SOURCE, "720p", "480p", "360p"]
    assert names(live["c"]) == [SOURCE]
    assert live["c"].plan.left_out == ("720p", "480p", "360p")
    assert "no room" in live["c"].plan.reasons[-1]
    for _ in range(3 * ROOMY_S):
        planning.tick(live)
    assert names(live["c"]) == [SOURCE], "nobody left"
    del live["a"], live["b"]
    live["c"].transcode_stats["shed_level"] = 1.0
    for _ in range(3 * ROOMY_S):
        planning.tick(live)
    assert names(live["c"]) == [SOURCE], "a node that falls behind has no room"
    live["c"].transcode_stats["shed_level"] = 0.0
    for _ in range(ROOMY_S - 1):
        planning.tick(live)
    assert names(live["c"]) == [SOURCE]
    planning.tick(live)
    assert names(live["c"]) == [SOURCE, "720p", "480p", "360p"]
    planning.tick({})
    assert planning.placement.load(CPU) == 0


def test_who_has_the_cpu_alone_is_tried_with_more_than_was_measured_but_not_with_all() -> None:
    trials = (
        Trial("libx264", "encode", "h264", CPU, True, 51_000_000),
        Trial("h264", "decode", "h264", CPU, True, 229_000_000),
    )
    cpu = (Device(CPU, "CPU", frozenset({""})),)
    planning = Planning(TranscodeSettings())
    planning.found(Hardware(2, trials, cpu))  # two cores, measured while much else ran on them
    first, second = on_air(planning, "a"), on_air(planning, "b")
    assert names(first) == [SOURCE, "720p", "480p", "360p"]
    assert planning.placement.load(CPU) > 0.9
    assert names(second) == [SOURCE]
    planning = Planning(TranscodeSettings())
    planning.found(Hardware(1, trials, cpu))
    assert names(on_air(planning, "a")) == [SOURCE, "480p", "360p"], "there is no way to make all"


def test_watched_rungs_are_all_listed_and_count_when_they_run() -> None:
    planning = Planning(TranscodeSettings())
    planning.found(hardware())
    live = {str(n): on_air(planning, str(n), rungs="watched") for n in range(5)}
    assert all(names(b) == [SOURCE, "720p", "480p", "360p"] for b in live.values())
    for broadcast in live.values():
        broadcast.rungs = {"720p": "off", "480p": "off", "360p": "due"}
    planning.tick(live)
    assert planning.placement.load(CPU) == 0
    assert names(on_air(planning, "always")) == [SOURCE, "720p", "480p", "360p"]
    before = planning.placement.load(CPU)
    live["3"].rungs = {"720p": "off", "480p": "on", "360p": "off"}
    planning.tick(live | {"always": on_air(planning, "always")})
    assert planning.placement.load(CPU) > before


def test_without_measurements_and_with_workers_elsewhere_nothing_is_full() -> None:
    planning = Planning(TranscodeSettings())
    assert all(on_air(planning, str(n)).plan.left_out == () for n in range(20))
    planning = Planning(TranscodeSettings(), guests=lambda: True)
    planning.found(hardware())
    assert all(on_air(planning, str(n)).plan.left_out == () for n in range(20))


def test_a_device_that_fails_is_avoided_and_one_that_fails_often_is_left_by_all() -> None:
    clock = SimpleNamespace(now=1000.0)
    planning = Planning(TranscodeSettings(), clock=lambda: clock.now)
    planning.found(hardware("cuda:0", "cuda:1", cpus=16))
    live = {key: on_air(planning, key) for key in ("a", "b", "c", "d")}

    def on(key: str) -> set[str]:
        return {device_of(e.encoders[0]) for e in live[key].plan.video}

    first = next(iter(on("a")))
    sharers = [key for key in live if first in on(key)]
    assert len(sharers) == 2
    assert planning.failed("a", "libx264", "a reason") == []
    assert planning.failed("a", f"h264_nvenc@{first}", "out of memory") == ["a"]
    live["a"].use(planning.planner_of("a"))
    assert first not in on("a")
    for _ in range(STRIKES - 2):
        planning.failed("a", f"h264_nvenc@{first}", "out of memory")
    affected = planning.lost(sharers[1], "stalled for 4 s")
    assert sharers[1] in affected
    for key in affected:
        live[key].use(planning.planner_of(key))
    assert all(first not in on(key) for key in live)
    shown = {d["id"]: d for d in (planning.as_json() or {})["placement"]}
    assert shown[first]["left_out_s"] > 0
    assert shown[first]["reason"] == "stalled for 4 s"
    clock.now += 3600
    assert first in {device_of(e.encoders[0]) for e in on_air(planning, "e").plan.video}
