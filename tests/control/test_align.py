"""Video tracks in step: which IDRs lie together, and that nothing waits for ever or is lost."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from control.align import MOST_HELD, PATIENCE_TICKS, Aligner, Turn
from media.packet import Packet
from media.track import Codec, Kind, Track

FRAME = 3600
TRACKS = {n: Track(n, Kind.VIDEO, Codec.H264, 90_000, width=1280 >> n, height=720 >> n) for n in range(3)}


def packet(track: int, frame: int, gop: int, shift: int = 0) -> Packet:
    at = frame * FRAME + shift
    return Packet(TRACKS[track], at, at, FRAME, frame % gop == 0, b"x")


def idrs(turns: list[Turn]) -> list[Turn]:
    return [t for t in turns if t.packet.keyframe and t.packet.track.id == 0]


def test_idrs_within_the_tolerance_lie_together_and_the_cut_is_at_the_earliest() -> None:
    aligner = Aligner(0, [1])
    turns = [
        t for n in range(101) for track in (0, 1) for t in aligner.feed(packet(track, n, 50, -300 if track else 0))
    ]
    found = idrs(turns)
    assert [t.packet.pts for t in found] == [0, 50 * FRAME, 100 * FRAME]
    assert [t.missing for t in found] == [(), (), ()]
    assert [t.at for t in found] == [-300, 50 * FRAME - 300, 100 * FRAME - 300]


def test_the_reference_goes_before_the_others_of_the_same_instant() -> None:
    aligner = Aligner(0, [1])
    turns = [t for n in range(60) for track in (1, 0) for t in aligner.feed(packet(track, n, 50))]
    order = [(t.packet.track.id, t.packet.pts) for t in turns if t.packet.keyframe]
    assert order == [(0, 0), (1, 0), (0, 50 * FRAME), (1, 50 * FRAME)]


def test_a_track_without_an_idr_there_is_named() -> None:
    aligner = Aligner(0, [1, 2])
    turns = [
        t for n in range(102) for track in (0, 1, 2) for t in aligner.feed(packet(track, n, 70 if track == 2 else 50))
    ]
    assert [t.missing for t in idrs(turns)] == [(), (2,), (2,)]


def test_a_track_that_stops_is_not_waited_for() -> None:
    aligner = Aligner(0, [1])
    turns: list[Turn] = []
    for n in range(200):
        turns += aligner.feed(packet(0, n, 50))
        if n < 40:
            turns += aligner.feed(packet(1, n, 50))
    assert [t.missing for t in idrs(turns)] == [(), (1,), (1,), (1,)]
    held = 200 + 40 - len(turns)
    assert held * FRAME <= PATIENCE_TICKS + FRAME


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 400), st.booleans()), max_size=300))
def test_whatever_comes_goes_on_once_and_in_order(items: list[tuple[int, int, bool]]) -> None:
    aligner = Aligner(0, [1, 2])
    came: dict[int, list[Packet]] = {0: [], 1: [], 2: []}
    went: dict[int, list[Packet]] = {0: [], 1: [], 2: []}
    held = 0
    for track, at, key in items:
        one = Packet(TRACKS[track], at * 900, at * 900, 900, key, b"")
        came[track].append(one)
        turns = aligner.feed(one)
        held += 1 - len(turns)
        assert held <= 3 * MOST_HELD
        for turn in turns:
            went[turn.packet.track.id].append(turn.packet)
    for turn in aligner.flush():
        went[turn.packet.track.id].append(turn.packet)
    assert went == came
