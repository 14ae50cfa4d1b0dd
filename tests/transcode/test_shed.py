"""What is left out when a worker falls behind."""

from __future__ import annotations

from itertools import pairwise

from media.track import Codec
from transcode.plan import VideoEncode
from transcode.shed import CALM_S, MAX_CALM_S, STEP_S, TRIAL_S, Shedder


def spec(name: str, value: int, sheddable: bool = True) -> VideoEncode:
    return VideoEncode(name, 0, Codec.H264, ("libx264",), 64, 36, 1, 400, value=value, sheddable=sheddable)


SPECS = [spec("source", 99, sheddable=False), spec("720p", 3), spec("480p", 2), spec("360p", 5)]


def test_frame_rates_first_then_rungs_lowest_value_first_and_never_the_last() -> None:
    shedder = Shedder(0.5)
    seen = []
    assert shedder.look(0.9, 0.5 + STEP_S / 2, SPECS) == ""
    for step in range(1, 20):
        shedder.look(1.0 + step, STEP_S * (step + 1), SPECS)
        seen.append((sorted(shedder.thinned(SPECS)), sorted(shedder.off(SPECS))))
    assert seen[0] == (["480p"], [])
    assert seen[1] == (["480p", "720p"], [])
    assert seen[2] == (["360p", "480p", "720p"], [])
    assert seen[3] == (["360p", "480p", "720p"], ["480p"])
    assert seen[4] == seen[-1] == (["360p", "480p", "720p"], ["480p", "720p"])


def test_rungs_that_fewest_watch_are_left_out_first_whatever_their_value() -> None:
    shedder = Shedder(0.5)
    shedder.level = 4
    assert shedder.off(SPECS, {"720p": 3, "480p": 40, "360p": 2}) == {"360p"}
    assert shedder.off(SPECS, {"720p": 5, "480p": 40}) == {"360p"}, "they went on with 720p: it stays out"
    assert shedder.off(SPECS, {"source": 9}) == {"480p"}, "nobody watches a rung: by value"
    shedder.level = 9
    assert shedder.off(SPECS, {"720p": 3, "480p": 40, "360p": 2}) == {"360p", "720p"}
    assert shedder.thinned(SPECS) == {"720p", "480p", "360p"}


def test_a_lag_that_is_worked_off_sheds_nothing() -> None:
    shedder = Shedder(0.5)
    for step, lag in enumerate([3.0, 2.5, 2.0, 1.0, 0.6, 0.1]):
        shedder.look(lag, STEP_S * (step + 1), SPECS)
    assert shedder.level == 0


def test_what_was_shed_comes_back_when_there_is_room() -> None:
    shedder = Shedder(0.5)
    now = 0.0
    for lag in (1.0, 1.0, 2.0, 3.0, 4.0):
        now += STEP_S
        shedder.look(lag, now, SPECS)
    assert shedder.level == 4
    told = []
    while shedder.level and now < 1000:
        now += 1.0
        told.append(shedder.look(0.0, now, SPECS))
    assert [t for t in told if t][-1] == "caught up: everything is encoded again."
    assert now > 4 * CALM_S


def test_zero_turns_it_off() -> None:
    shedder = Shedder(0.0)
    assert shedder.look(100.0, 100.0, SPECS) == ""
    assert shedder.level == 0


def test_a_machine_at_its_limit_tries_to_return_ever_more_seldom() -> None:
    shedder = Shedder(0.5)
    now, lag, returns = 0.0, 1.0, []
    while now < 7200:
        # With everything encoded it falls behind; with one step less it keeps up.
        before = shedder.level
        lag = lag + 0.1 if before == 0 else max(0.0, lag - 0.5)
        now += 0.5
        shedder.look(lag, now, SPECS)
        if shedder.level < before:
            returns.append(now)
        assert shedder.level <= 1
    pauses = [b - a for a, b in pairwise(returns)]
    assert pauses[0] < 4 * CALM_S
    assert all(later > earlier * 0.9 for earlier, later in pairwise(pauses))
    assert pauses[-1] >= MAX_CALM_S
    assert len(returns) < 20


def test_returns_that_last_are_quick_again() -> None:
    shedder = Shedder(0.5)
    shedder._wait_s = MAX_CALM_S
    shedder.level = 2
    now, at = 0.0, []
    while shedder.level and now < 10 * MAX_CALM_S:
        now += 1.0
        if shedder.look(0.0, now, SPECS):
            at.append(now)
    assert at[1] - at[0] == max(TRIAL_S, MAX_CALM_S / 2)
