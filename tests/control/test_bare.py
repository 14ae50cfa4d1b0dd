"""Which keyframes are handed on for pictures: those at cuts of a video that nobody decodes."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

from control.distributor import Distributor
from media.packet import Packet
from media.rendition import Rendition
from media.track import Codec, Kind, Track
from transcode.plan import SOURCE, Plan

VIDEO = Track(0, Kind.VIDEO, Codec.H264, 90_000, width=640, height=360)


class _Surroundings:
    """Takes whatever a presentation or a job is told."""

    playback_id = "p"
    pictures = False

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments, **named: None


def _distributor(passed: bool, bare: list[Packet], job: Any) -> Distributor:
    rendition = Rendition(SOURCE, Kind.VIDEO, Codec.H264, passthrough=passed)
    plan = Plan((rendition,), passed=((0, SOURCE),) if passed else ())

    def planner(video: Sequence[Track], audio: Sequence[Track], passthrough: bool) -> Plan:
        return plan

    found = Distributor(cast(Any, _Surroundings()), planner, segment_s=2, notice=lambda text: None, bare=bare.append)
    found.tracks.put(VIDEO)
    found.job = job
    found.begin()
    return found


def _play(distributor: Distributor, start_s: int, seconds: int) -> None:
    for second in range(start_s, start_s + seconds):
        pts = second * 90_000
        distributor.take(Packet(VIDEO, pts, pts, 90_000, True, str(second).encode()))


def test_one_keyframe_at_each_cut_while_nobody_decodes() -> None:
    bare: list[Packet] = []
    distributor = _distributor(True, bare, None)
    _play(distributor, 0, 6)
    assert [packet.data for packet in bare] == [b"0", b"2", b"4"]


def test_none_while_a_worker_makes_pictures_and_again_when_it_stops() -> None:
    bare: list[Packet] = []
    job = cast(Any, _Surroundings())
    distributor = _distributor(True, bare, job)
    job.pictures = True
    _play(distributor, 0, 4)
    assert bare == []
    job.pictures = False
    _play(distributor, 4, 4)
    assert [packet.data for packet in bare] == [b"4", b"6"]
    distributor.job = None  # given up
    _play(distributor, 8, 2)
    assert bare[-1].data == b"8"


def test_none_of_what_is_not_passed_through() -> None:
    bare: list[Packet] = []
    _play(_distributor(False, bare, SimpleNamespace(pictures=False)), 0, 4)
    assert bare == []
