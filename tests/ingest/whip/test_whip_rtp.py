"""Order, loss and frames: by hand, at the wrap, and against a seeded bad network."""

from __future__ import annotations

import heapq
import random

from hypothesis import given
from hypothesis import strategies as st

from ingest.whip.rtp import Frames, Jitter, Nacks, Piece, Reorder, h264_starts_key, vp8_starts_key

MS = 1000


def piece(sequence: int, timestamp: int = 0, data: bytes = b"x", *, marker: bool = False, key: bool = False) -> Piece:
    return Piece(sequence & 0xFFFF, timestamp, marker, data, key)


def numbers(order: Reorder, sequences: list[int], now_us: int = 0) -> list[tuple[int, int]]:
    return [(lost, got.sequence) for number in sequences for lost, got in order.push(piece(number), now_us)]


def test_in_order_and_over_the_wrap() -> None:
    order = Reorder(50 * MS, 64)
    assert numbers(order, [65_534, 65_535, 0, 1]) == [(0, 65_534), (0, 65_535), (0, 0), (0, 1)]


def test_overtaken_packets_come_in_order() -> None:
    order = Reorder(50 * MS, 64)
    assert numbers(order, [10, 12, 13, 11, 14]) == [(0, 10), (0, 11), (0, 12), (0, 13), (0, 14)]
    assert order.lost == 0


def test_a_hole_is_given_up_after_its_time_and_counted() -> None:
    order = Reorder(50 * MS, 64)
    assert numbers(order, [10, 13], now_us=0) == [(0, 10)]
    assert numbers(order, [14], now_us=49 * MS) == []
    assert numbers(order, [15], now_us=50 * MS) == [(2, 13), (0, 14), (0, 15)]
    assert order.lost == 2
    assert numbers(order, [11], now_us=51 * MS) == []
    assert order.late == 1


def test_a_full_buffer_does_not_wait() -> None:
    order = Reorder(10**9, 4)
    assert numbers(order, [0, 2, 3, 4]) == [(0, 0)]
    assert numbers(order, [5]) == [(1, 2), (0, 3), (0, 4), (0, 5)]


def test_a_sender_that_starts_anew_is_followed() -> None:
    order = Reorder(50 * MS, 64)
    assert numbers(order, [100, 30_000, 30_001]) == [(0, 100), (0, 30_000), (0, 30_001)]
    assert (order.restarts, order.lost) == (1, 0)


@given(st.lists(st.integers(0, 65_535), max_size=80))
def test_whatever_comes_nothing_is_handed_out_twice_or_held_beyond_the_bound(sequences: list[int]) -> None:
    order = Reorder(10 * MS, 16)
    out: list[Piece] = []
    for at, number in enumerate(sequences):
        out += [got for _, got in order.push(piece(number), at * MS)]
        assert len(order._held) <= 16
    assert len({id(got) for got in out}) == len(out)
    assert len(out) + order.late + len(order._held) == len(sequences)


def test_frames_end_at_the_marker() -> None:
    frames = Frames()
    assert list(frames.push(piece(1, 90, b"a", key=True), 0)) == []
    (frame,) = frames.push(piece(2, 90, b"b", marker=True), 0)
    assert (frame.timestamp, frame.data, frame.lost) == (90, b"ab", 0)


def test_a_marker_that_lies_is_no_longer_trusted() -> None:
    frames = Frames()
    list(frames.push(piece(1, 90, b"a", marker=True, key=True), 0))
    assert list(frames.push(piece(2, 90, b"b", marker=True), 0)) == []
    assert [frame.data for frame in frames.push(piece(3, 180, b"c", marker=True), 0)] == [b"b"]
    assert [frame.data for frame in frames.push(piece(4, 270, b"d", marker=True), 0)] == [b"c"]


def test_nothing_before_the_first_keyframe_and_nothing_between_loss_and_the_next() -> None:
    frames = Frames(hole_wait_us=0)
    assert list(frames.push(piece(1, 0, b"p", marker=True), 0)) == []
    assert frames.waiting_for_key
    assert len(list(frames.push(piece(2, 90, b"I", marker=True, key=True), 0))) == 1
    assert not frames.waiting_for_key
    assert list(frames.push(piece(4, 270, b"p", marker=True), 0)) == []
    assert frames.waiting_for_key
    (frame,) = frames.push(piece(5, 360, b"I", marker=True, key=True), 0)
    assert frame.lost == 1


def test_padding_fills_its_number_and_nothing_else() -> None:
    frames = Frames()
    list(frames.push(piece(1, 90, b"a", key=True), 0))
    assert list(frames.push(piece(2, 90, b""), 0)) == []
    assert [frame.data for frame in frames.push(piece(3, 90, b"b", marker=True), 0)] == [b"ab"]


def test_an_endless_frame_is_dropped() -> None:
    frames = Frames(max_frame_bytes=10)
    list(frames.push(piece(1, 90, b"12345678", key=True), 0))
    list(frames.push(piece(2, 90, b"12345678"), 0))
    assert (frames.oversized, frames.waiting_for_key) == (1, True)


def test_nacks_ask_at_once_and_again_until_the_packet_is_there() -> None:
    nacks = Nacks()
    assert nacks.due(65_534, 0) == set()
    assert nacks.due(1, 0) == {65_535, 0}
    assert nacks.due(2, 10 * MS) == set()
    assert nacks.due(0, 20 * MS) == set()
    assert nacks.due(3, 70 * MS) == {65_535}
    asked = sum(len(nacks.due(4 + at, (200 + 100 * at) * MS)) for at in range(20))
    assert asked == 6, "eight tries in all, then it is given up"
    assert (nacks.recovered, nacks.holes) == (1, 2)


def test_a_bad_network_loses_no_frame_while_retransmissions_come_in_time() -> None:
    """5 % loss, reordering, one round trip of 80 ms: sender with a history, receiver with NACKs, a fake clock."""
    draw = random.Random(7)
    frames, nacks = Frames(hole_wait_us=500 * MS), Nacks()
    sent = [
        piece(60_000 + 3 * n + part, 3000 * n, bytes([n & 255]), marker=part == 2, key=part == 0 and n % 30 == 0)
        for n in range(3_000)
        for part in range(3)
    ]
    history = {one.sequence: at for at, one in enumerate(sent)}
    arrives = [at for at in range(len(sent)) if at == 0 or at > len(sent) - 10 or draw.random() > 0.05]
    wire = [(11 * MS * at + (draw.choice((0, 0, 0, 25 * MS)) if at else 0), at) for at in arrives]
    heapq.heapify(wire)
    got = []
    while wire:
        now, at = heapq.heappop(wire)
        for sequence in nacks.due(sent[at].sequence, now):
            if draw.random() > 0.05:
                heapq.heappush(wire, (now + 80 * MS, history[sequence]))
        got += list(frames.push(sent[at], now))
    assert frames.order.lost == 0
    assert [frame.timestamp for frame in got] == [3000 * n for n in range(3_000)]
    assert nacks.holes > 400


def test_jitter_of_a_steady_and_of_an_unsteady_sender() -> None:
    steady, unsteady = Jitter(90_000), Jitter(90_000)
    for frame in range(400):
        timestamp = (4_294_900_000 + frame * 3_600) % (1 << 32)
        steady.add(timestamp, frame * 40 * MS)
        steady.add(timestamp, frame * 40 * MS + 7 * MS)
        unsteady.add(timestamp, frame * 40 * MS + frame % 2 * 10 * MS)
    assert steady.value_us < 1
    assert abs(unsteady.value_us - 10 * MS) < 100


def test_keyframes_are_known_by_their_first_packet() -> None:
    assert h264_starts_key(b"\x67\x42\x00")
    assert h264_starts_key(b"\x65\x88\x00")
    assert not h264_starts_key(b"\x65\x48\x00"), "a later slice of an IDR"
    assert not h264_starts_key(b"\x41\x9a\x00")
    assert h264_starts_key(b"\x78\x00\x04\x67\x42\x00\x1f\x00\x02\x68\xce")
    assert not h264_starts_key(b"\x78\x00\x02\x06\x05\x00\x02\x41\x9a")
    assert h264_starts_key(b"\x7c\x85\x88")
    assert not h264_starts_key(b"\x7c\x05\x88"), "the middle of a fragmented IDR"
    assert vp8_starts_key(b"\x10", b"\x10\x02")
    assert not vp8_starts_key(b"\x10", b"\x11\x02")
    assert not vp8_starts_key(b"\x00", b"\x10\x02")


@given(st.binary(max_size=40), st.binary(max_size=4))
def test_no_payload_breaks_the_search(payload: bytes, frame: bytes) -> None:
    h264_starts_key(payload)
    vp8_starts_key(payload, frame)
