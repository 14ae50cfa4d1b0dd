"""The speed that operators see: never better than what came out, whatever was dropped on the way."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import pytest

from media.track import Codec
from transcode import video as module
from transcode.plan import Plan, VideoEncode
from transcode.rung import Rung
from transcode.scale import colour_of
from transcode.shot import Shot
from transcode.video import VideoBranch

TICKS = 90_000


def test_time_that_was_dropped_is_not_worked_off(kit: Any) -> None:
    spec = VideoEncode(
        "r", 0, Codec.H264, ("libx264",), 64, 36, 100_000, 300, frame_rate=Fraction(25), preset="ultrafast"
    )
    rung = Rung(spec, kit.Collected())
    rung.start()
    for n, picture in enumerate(kit.pictures(4, Fraction(25), "64x36")):
        pts = n * 3600 + (6 * TICKS if n >= 50 else 0)  # the queue was full: six seconds are gone
        picture.pts = pts
        rung.offer(Shot(picture, pts, 3600, n % 50 == 0, Fraction(1), colour_of(picture)))
    rung.finish()
    rung.join()
    assert rung.media_ticks == 98 * 3600


@dataclass(eq=False)
class RungDouble:
    """A rung's figures."""

    position: int = 0
    busy_s: float = 0.0
    media_ticks: int = 0
    failed: bool = False


def test_a_worker_that_waits_for_a_core_is_as_slow_as_the_clock_says(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=10.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock.now))
    branch, rung = VideoBranch(0, Plan(), None), RungDouble()  # type: ignore[arg-type]
    rungs: list[Any] = [rung]
    branch._rungs = {"r": rung}  # type: ignore[dict-item]

    def after(wall_s: float, busy_s: float, media_s: float, lag_s: float) -> list[float]:
        clock.now += wall_s
        rung.busy_s += busy_s
        rung.media_ticks += int(media_s * TICKS)
        rung.position += int(media_s * TICKS)
        branch.inbox.newest = rung.position + int(lag_s * TICKS)
        return branch._speeds(rungs)

    assert after(0.5, 0.1, 0.5, 0) == [5.0], "it keeps up: how much faster it could be"
    assert after(0.5, 0.1, 0.25, 2) == [0.5], "it does not, though its own share of a core looks quick"
    assert after(0.5, 0.0, 0, 2) == [0.0], "it stands"
    assert after(0.5, 0, 0, 0) == [], "nothing to do"
