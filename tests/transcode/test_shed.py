"""What is left out when a worker falls behind."""

from __future__ import annotations

from media.track import Codec
from transcode.plan import VideoEncode
from transcode.shed import CALM_S, STEP_S, Shedder


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
