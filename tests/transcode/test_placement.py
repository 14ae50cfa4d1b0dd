"""Placement: what is booked where, who gets which device, what does not fit, and devices that fail."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from media.codecs import h264
from media.track import Codec, Kind, Track
from transcode.device import CPU, Device, device_of
from transcode.hardware import Hardware, Trial
from transcode.ladder import PRESETS
from transcode.placement import OUT_MAX_S, OUT_S, STRIKES, Placement, capacities
from transcode.plan import SOURCE, Plan
from transcode.planner import make_plan
from transcode.settings import TranscodeSettings

SETTINGS = TranscodeSettings()
GPUS = ("cuda:0", "cuda:1")
AVCC = h264.build_avcc(
    [bytes.fromhex("6764001facd9405005bb011000000300100000030320f1831960")], [bytes.fromhex("68ebe3cb22c0")]
)


def track(width: int = 1920, height: int = 1080, rate: int = 30) -> Track:
    return Track(0, Kind.VIDEO, Codec.H264, 90_000, AVCC, width, height, Fraction(rate))


def machine(
    gpus: tuple[str, ...] = GPUS, *, sessions: int = 0, cpus: float = 2.0, gpu_speed: int = 400_000_000
) -> Hardware:
    trials = [Trial("h264_nvenc", "encode", "h264", g, True, gpu_speed, sessions) for g in gpus]
    trials += [Trial("h264+cuda", "decode", "h264", g, True, 800_000_000) for g in gpus]
    trials += [
        Trial("libx264", "encode", "h264", CPU, True, 100_000_000),
        Trial("h264", "decode", "h264", CPU, True, 400_000_000),
        Trial("scale", "scale", "", CPU, True, 600_000_000),
    ]
    families = frozenset({"nvenc", "cuda"})
    devices = (*(Device(g, g, families) for g in gpus), Device(CPU, "CPU", frozenset({""})))
    return Hardware(cpus, tuple(trials), devices)


def plan_for(hardware: Hardware, source: Track, *, passthrough: bool = True, ladder: str = "default") -> Plan:
    return make_plan(source, None, PRESETS[ladder], passthrough=passthrough, hardware=hardware, settings=SETTINGS)


def empty(hardware: Hardware, limit: float = 0.9) -> Placement:
    return Placement(capacities(hardware), limit)


def devices(plan: Plan) -> set[str]:
    return {device_of(e.encoders[0]) for e in plan.video}


def test_one_job_stays_on_one_device_and_jobs_are_spread_over_several() -> None:
    hardware = machine(cpus=16)
    placement = empty(hardware)
    used = []
    for number in range(4):
        placement, plan = placement.place(f"s{number}", plan_for(hardware, track()), track(), 0.0)
        assert len(devices(plan)) == 1
        assert plan.decoders == (f"h264+cuda@{next(iter(devices(plan)))}",)
        assert all(e.encoders[-1] == "libx264" for e in plan.video)
        used += devices(plan)
    assert sorted(used) == ["cuda:0", "cuda:0", "cuda:1", "cuda:1"]
    assert placement.load("cuda:0") == pytest.approx(placement.load("cuda:1"))


def test_what_is_released_is_free_and_the_same_job_twice_is_booked_once() -> None:
    hardware = machine()
    placement = empty(hardware)
    once, plan = placement.place("a", plan_for(hardware, track()), track(), 0.0)
    twice, again = once.place("a", plan_for(hardware, track()), track(), 1.0)
    assert (again, twice.load("cuda:0"), twice.load(CPU)) == (plan, once.load("cuda:0"), once.load(CPU))
    assert twice.release("a").bookings == {}
    assert placement.bookings == {}, "a placement is a value"


def test_sessions_are_a_limit_of_their_own() -> None:
    hardware = machine(("cuda:0",), sessions=4, cpus=16)
    placement = empty(hardware)
    placement, first = placement.place("a", plan_for(hardware, track()), track(), 0.0)
    assert (devices(first), placement.sessions("cuda:0")) == ({"cuda:0"}, 3)
    placement, second = placement.place("b", plan_for(hardware, track()), track(), 0.0)
    assert devices(second) == {"cuda:0", CPU}
    assert placement.sessions("cuda:0") == 4


def test_without_room_the_least_worth_is_left_out_and_then_the_whole_ladder() -> None:
    hardware = machine((), cpus=2)
    placement = empty(hardware)
    lefts = []
    for number in range(6):
        placement, plan = placement.place(f"s{number}", plan_for(hardware, track()), track(), 0.0)
        lefts.append(plan.left_out)
        assert plan.renditions[0].name == SOURCE
        assert {r.name for r in plan.renditions} == {SOURCE, *(e.name for e in plan.video)}
        assert placement.load(CPU) <= 0.9
    assert lefts[0] == ()
    assert lefts[-1] == ("720p", "480p", "360p")
    assert not plan.encodes
    assert plan.thumbnail_track is None
    for reduced in lefts:
        assert "360p" not in reduced or len(reduced) == 3, "the lowest rung is worth most"
    _, plan = placement.release("s0").place("s5", plan_for(hardware, track()), track(), 0.0)
    assert plan.left_out == ()


def test_a_source_that_must_be_encoded_is_taken_however_full_it_is() -> None:
    hardware = machine((), cpus=0.2)
    _, plan = empty(hardware).place("a", plan_for(hardware, track(), passthrough=False), track(), 0.0)
    assert [e.name for e in plan.video] == [SOURCE]
    _, plan = empty(hardware, 0.0).place("a", plan_for(hardware, track()), track(), 0.0)
    assert plan.left_out == (), "no limit"


def test_nothing_measured_means_nothing_is_full() -> None:
    plan = make_plan(track(), None, PRESETS["default"], passthrough=True, hardware=None, settings=SETTINGS)
    placement = Placement()
    for number in range(50):
        placement, placed = placement.place(str(number), plan, track(), 0.0)
        assert placed.video == plan.video


def test_rungs_that_nobody_watches_take_no_time() -> None:
    hardware = machine((), cpus=2)
    placement, plan = empty(hardware).place("a", plan_for(hardware, track()), track(), 0.0, whole=True)
    full = placement.load(CPU)
    assert 0 < placement.idle("a", ["720p", "480p"]).load(CPU) < full
    assert placement.idle("a", ["720p", "480p", "360p"]).load(CPU) == 0
    assert placement.idle("a", ["720p"]).idle("a", []).load(CPU) == full
    assert placement.idle("nobody", ["720p"]) is placement
    assert plan.left_out == ()


def test_a_device_that_failed_for_a_job_is_not_used_for_it_again() -> None:
    hardware = machine(cpus=16)
    placement, plan = empty(hardware).place("a", plan_for(hardware, track()), track(), 0.0)
    (device,) = devices(plan)
    (other,) = set(GPUS) - {device}
    placement = placement.failed(device, 1.0, "no more memory", key="a")
    placement, plan = placement.place("a", plan_for(hardware, track()), track(), 1.0)
    assert devices(plan) == {other}
    assert all(device not in seat for e in plan.video for seat in e.encoders)
    placement, plan = placement.place("b", plan_for(hardware, track()), track(), 1.0)
    assert devices(plan) == {device}, "once is not often"


def test_a_device_that_fails_often_is_left_out_ever_longer_and_forgiven() -> None:
    placement, now = empty(machine(cpus=16)), 0.0
    waits = []
    for _ in range(10):
        for _ in range(STRIKES):
            assert not placement.is_out("cuda:0", now)
            now += 1
            placement = placement.failed("cuda:0", now, "a reason")
        waits.append(placement.health["cuda:0"].out_until - now)
        _, plan = placement.place("a", plan_for(machine(cpus=16), track()), track(), now)
        assert devices(plan) == {"cuda:1"}
        now = placement.health["cuda:0"].out_until
    assert waits[:3] == [OUT_S, 2 * OUT_S, 4 * OUT_S]
    assert max(waits) == waits[-1] == OUT_MAX_S
    now += 2 * OUT_MAX_S
    for _ in range(STRIKES):
        placement = placement.failed("cuda:0", now)
    assert placement.health["cuda:0"].out_until - now == OUT_S
    shown = {d["id"]: d for d in placement.as_json(now)}
    assert shown["cuda:0"]["left_out_s"] == OUT_S
    assert shown["cuda:0"]["failures"] == 11 * STRIKES


def test_failures_far_apart_are_not_often() -> None:
    placement = empty(machine())
    for now in (0.0, 100.0, 200.0, 300.0):
        placement = placement.failed("cuda:0", now)
    assert not placement.is_out("cuda:0", 301.0)
    for now in range(10):
        placement = placement.failed(CPU, float(now))
    assert not placement.is_out(CPU, 10.0)
    assert CPU not in placement.health


def test_what_the_operator_prefers_goes_first() -> None:
    hardware = machine(cpus=16)
    settings = TranscodeSettings(encoders=("libx264",))
    plan = make_plan(track(), None, PRESETS["default"], passthrough=True, hardware=hardware, settings=settings)
    _, placed = empty(hardware).place("a", plan, track(), 0.0)
    assert devices(placed) == {CPU}
    assert placed.video[0].encoders == ("libx264", "h264_nvenc@cuda:0", "h264_nvenc@cuda:1")


@given(
    st.lists(st.tuples(st.sampled_from("abcdef"), st.booleans(), st.sampled_from([(1920, 1080, 60), (1280, 720, 30),
                                                                                  (640, 360, 25)])), max_size=30),
    st.integers(0, 2), st.sampled_from([0, 2, 5]), st.sampled_from([0.5, 2.0, 16.0]),
)  # fmt: skip
def test_no_device_is_ever_booked_beyond_its_limits(
    steps: list[tuple[str, bool, tuple[int, int, int]]], gpus: int, sessions: int, cpus: float
) -> None:
    hardware = machine(GPUS[:gpus], sessions=sessions, cpus=cpus)
    placement = empty(hardware)
    fixed = 0.05 / cpus * 6 + 6 * 1920 * 1080 * 60 / 400e6 / cpus  # jobs and decoding are booked, room or not
    for key, leave, (width, height, rate) in steps:
        if leave:
            placement = placement.release(key)
        else:
            source = track(width, height, rate)
            placement, plan = placement.place(key, plan_for(hardware, source), source, 0.0)
            assert {e.name for e in plan.video}.isdisjoint(plan.left_out)
        for gpu in GPUS[:gpus]:
            assert placement.load(gpu) <= 0.9 + 0.02 * 6 * 10
            assert not sessions or placement.sessions(gpu) <= sessions
        assert placement.load(CPU) <= 0.9 + fixed
    for key in "abcdef":
        placement = placement.release(key)
    assert placement.load(CPU) == 0
