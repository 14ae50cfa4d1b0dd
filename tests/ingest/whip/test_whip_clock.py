"""Lip sync and the keyframe grid, on fake clocks."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from ingest.whip.keyframes import Pacer
from ingest.whip.lipsync import LipSync
from ingest.whip.rtp import Lateness
from media.track import Kind

MS = 1000
S = 1_000_000


def ntp(us: int) -> int:
    return ((3_900_000_000 * S + us) << 32) // S


def feed(sync: LipSync, *, late_ms: int, seconds: float, reports: bool, rtp0: int = 4_294_000_000) -> list[float]:
    """A camera whose video arrives `late_ms` after its audio. Returns video minus audio, in ms, for each video frame,
    where both were captured at the same time: 0 is right."""
    errors = []
    for frame in range(int(seconds * 25)):
        captured_us = frame * 40 * MS
        video = sync.place(Kind.VIDEO, (rtp0 + frame * 3600) % (1 << 32), 90_000, captured_us + late_ms * MS)
        for part in range(2):
            at_us = captured_us + part * 20 * MS
            audio = sync.place(Kind.AUDIO, (77 + (frame * 2 + part) * 960) % (1 << 32), 48_000, at_us)
            if not part:
                errors.append(video / 90 - audio / 48)
        if reports and frame % 25 == 10:
            sync.report(Kind.VIDEO, ntp(captured_us), (rtp0 + frame * 3600) % (1 << 32))
            sync.report(Kind.AUDIO, ntp(captured_us), 77 + frame * 2 * 960)
    return errors


def test_by_arrival_before_any_report() -> None:
    errors = feed(LipSync(), late_ms=120, seconds=3, reports=False)
    assert errors == [pytest.approx(120, abs=1)] * len(errors)


def test_reports_lead_video_to_its_place_over_the_rtp_wrap() -> None:
    sync = LipSync()
    errors = feed(sync, late_ms=120, seconds=20, reports=True)
    assert errors[0] == pytest.approx(120, abs=1)
    assert abs(errors[-1]) < 5
    assert sync.synchronised
    assert sync.arrival_error_us == pytest.approx(-120 * MS, abs=MS)


def test_video_never_goes_back_while_it_is_led() -> None:
    sync = LipSync()
    last = None
    for frame in range(200):
        at = sync.place(Kind.VIDEO, frame * 3600, 90_000, frame * 40 * MS + 150 * MS)
        sync.place(Kind.AUDIO, frame * 1920, 48_000, frame * 40 * MS)
        if frame == 20:
            sync.report(Kind.VIDEO, ntp(frame * 40 * MS), frame * 3600)
            sync.report(Kind.AUDIO, ntp(frame * 40 * MS), frame * 1920)
        assert last is None or at > last
        last = at


@pytest.mark.parametrize(("ppm", "hours", "limit_ms"), [(200, 1, 10), (1_000, 2, 20)])
def test_a_drift_of_the_sound_card_is_followed(ppm: int, hours: int, limit_ms: int) -> None:
    """An audio clock that is fast, a report a second: lip sync holds although the drift adds up to seconds."""
    sync = LipSync()
    worst = 0.0
    for second in range(3_600 * hours):
        us = second * S
        audio_rtp = second * 48_000 * (1_000_000 + ppm) // 1_000_000
        video = sync.place(Kind.VIDEO, (second * 90_000) % (1 << 32), 90_000, us)
        audio = sync.place(Kind.AUDIO, audio_rtp % (1 << 32), 48_000, us)
        sync.report(Kind.VIDEO, ntp(us), (second * 90_000) % (1 << 32))
        sync.report(Kind.AUDIO, ntp(us), audio_rtp % (1 << 32))
        worst = max(worst, abs(video / 90 - audio / 48))
    assert worst < limit_ms
    assert sync.refused_reports == 0


def test_noisy_reports_do_not_shake_the_frames() -> None:
    sync, draw = LipSync(), random.Random(5)
    places = []
    for frame in range(500):
        us = frame * 40 * MS
        places.append(sync.place(Kind.VIDEO, frame * 3600, 90_000, us))
        sync.place(Kind.AUDIO, frame * 1920, 48_000, us)
        if frame % 25 == 0:
            sync.report(Kind.VIDEO, ntp(us + draw.randint(-3, 3) * MS), frame * 3600)
            sync.report(Kind.AUDIO, ntp(us), frame * 1920)
    assert {after - before for before, after in pairwise(places)} == {3600}


def test_reports_without_a_common_clock_are_not_believed() -> None:
    sync = LipSync()
    sync.place(Kind.VIDEO, 0, 90_000, 0)
    sync.place(Kind.AUDIO, 0, 48_000, 0)
    sync.report(Kind.VIDEO, ntp(0), 0)
    sync.report(Kind.AUDIO, ntp(3_600 * S), 0)
    assert not sync.synchronised
    sync.report(Kind.AUDIO, 0, 0)
    assert sync.refused_reports == 2


def run(pacer: Pacer, seconds: int, natural_us: int | None, answer_us: int | None) -> list[int]:
    """Ticks of 20 ms; an encoder with keyframes of its own each `natural_us`, and answers after `answer_us`."""
    keys, answer_at = [], None
    for now in range(0, seconds * S, 20 * MS):
        if (natural_us and now % natural_us == 0) or (answer_at is not None and now >= answer_at) or now == 0:
            keys.append(now)
            pacer.keyframe(now)
            answer_at = None
        if pacer.wants(now, urgent=False) and answer_us is not None:
            answer_at = now + answer_us
    return keys


def test_an_encoder_that_only_answers_keeps_the_grid() -> None:
    pacer = Pacer(2 * S)
    keys = run(pacer, 62, None, 180 * MS)
    steps = [after - before for before, after in pairwise(keys[1:])]
    assert len(keys) == 31
    assert all(abs(step - 2 * S) <= 20 * MS for step in steps)


@pytest.mark.parametrize("answers_us", [None, 300 * MS])
def test_after_a_keyframe_unasked_the_next_is_not_late(answers_us: int | None) -> None:
    """A browser makes one when its picture changes its size, whether it was ever asked or not."""
    pacer = Pacer(2 * S)
    run(pacer, 10, None if answers_us else 1 * S, answers_us)
    pacer.keyframe(10 * S + 900 * MS, 400 * MS)
    assert not pacer.wants(12 * S + 500 * MS - 1, urgent=False)
    assert pacer.wants(12 * S + 500 * MS, urgent=False)


def test_a_large_frame_is_late_by_what_it_took_longer() -> None:
    lateness, draw = Lateness(), random.Random(3)
    for number in range(300):
        stamp = number * 33 * MS
        assert lateness.of(stamp + 7 * S, stamp + draw.choice((50, 50, 60)) * MS)[0] <= 11 * MS
    stamp = 300 * 33 * MS
    assert 398 * MS <= lateness.of(stamp + 7 * S, stamp + 450 * MS)[0] <= 400 * MS
    assert lateness.of(stamp - 3600 * S, stamp + 500 * MS) == (0, 0), "stamps that began anew"


def test_the_first_keyframe_was_as_late_as_those_behind_it_tell() -> None:
    """A session begins with a large one, on a road that is not known yet."""
    lateness, pacer = Lateness(), Pacer(2 * S)
    for number in range(40):
        stamp = number * 33 * MS
        late_us, others_us = lateness.of(stamp, stamp + (450 if number < 3 else 50) * MS)
        pacer.hasten(others_us)
        if number == 0:
            pacer.keyframe(450 * MS, late_us)
    assert not pacer.wants(2040 * MS, urgent=False)
    assert pacer.wants(2050 * MS, urgent=False)


def test_an_encoder_with_a_good_interval_is_left_alone() -> None:
    pacer = Pacer(2 * S)
    run(pacer, 60, 2 * S, 180 * MS)
    assert pacer.requests == 0


def test_an_encoder_that_does_not_listen_is_asked_once_a_second() -> None:
    pacer = Pacer(2 * S)
    run(pacer, 32, None, None)
    assert 28 <= pacer.requests <= 31


def test_loss_asks_at_once_and_then_patiently() -> None:
    pacer = Pacer(2 * S)
    asked = [at for at in range(0, 2000, 20) if pacer.wants(at * MS, urgent=True)]
    assert asked == [0, 400, 800, 1200, 1600]
