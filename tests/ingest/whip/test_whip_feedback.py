"""Transport-wide feedback: read back by a decoder of the draft that was written for this test."""

from __future__ import annotations

from struct import unpack_from

from aiortc.rtp import HeaderExtensionsMap, RtpPacket
from hypothesis import given
from hypothesis import strategies as st

from ingest.whip.feedback import Feedback, extension


def decode(packet: bytes) -> tuple[int, dict[int, int], int]:
    """First number, arrivals in ticks of 250 µs by 16-bit number, and the count of feedback packets."""
    first, kind, words = unpack_from("!BBH", packet)
    assert (first & 0xDF, kind, len(packet)) == (0x8F, 205, 4 * (words + 1))
    base, count = unpack_from("!HH", packet, 12)
    (word,) = unpack_from("!I", packet, 16)
    symbols: list[int] = []
    at = 20
    while len(symbols) < count:
        (chunk,) = unpack_from("!H", packet, at)
        at += 2
        if chunk >> 15:
            assert chunk >> 14 & 1
            symbols += [chunk >> shift & 3 for shift in range(12, -1, -2)]
        else:
            symbols += [chunk >> 13] * (chunk & 0x1FFF)
    time = (word >> 8) * 256
    arrivals = {}
    for offset, symbol in enumerate(symbols[:count]):
        if symbol:
            time += packet[at] if symbol == 1 else unpack_from("!h", packet, at)[0]
            at += symbol
            arrivals[(base + offset) & 0xFFFF] = time
    padding = packet[-1] if first & 0x20 else 0
    assert at + padding == len(packet)
    return base, arrivals, word & 0xFF


def test_all_that_came_is_told_once_over_the_wrap() -> None:
    feedback = Feedback()
    for number in (65_533, 65_534, 0, 1, 2):
        feedback.seen(number & 0xFFFF, 1_000_000 + number % 10 * 1_000)
    (packet,) = feedback.build(7, 9)
    assert unpack_from("!II", packet, 4) == (7, 9)
    base, arrivals, count = decode(packet)
    assert (base, count) == (65_533, 0)
    assert sorted(arrivals) == [0, 1, 2, 65_533, 65_534]
    assert arrivals[2] - arrivals[1] == 4
    assert feedback.build(7, 9) == []
    feedback.seen(5, 1_200_000)
    base, arrivals, count = decode(feedback.build(7, 9)[0])
    assert (base, list(arrivals), count) == (3, [5], 1)


@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 30_000_000)), min_size=1, max_size=200))
def test_whatever_the_order_and_the_pauses(events: list[tuple[int, int]]) -> None:
    feedback = Feedback()
    want: dict[int, int] = {}
    for number, us in events:
        feedback.seen(number + 65_400 & 0xFFFF, us)
        want.setdefault(number + 65_400 & 0xFFFF, us // 250)
    got: dict[int, int] = {}
    for packet in feedback.build(1, 2):
        got |= decode(packet)[1]
    assert got == want


@given(st.lists(st.integers(0, 65_535), max_size=300))
def test_a_sender_that_jumps_costs_no_more_than_one_that_does_not(numbers: list[int]) -> None:
    feedback = Feedback()
    for number in numbers:
        feedback.seen(number, 0)
    packets = feedback.build(1, 2)
    assert all(len(packet) < 4_000 for packet in packets)
    assert len(packets) <= len(numbers)


def rtp(body: bytes, profile: int = 0xBEDE) -> bytes:
    head = RtpPacket(payload_type=96, payload=b"x").serialize(HeaderExtensionsMap())
    words = (len(body) + 3) // 4
    return (
        bytes((head[0] | 0x10,))
        + head[1:12]
        + profile.to_bytes(2, "big")
        + words.to_bytes(2, "big")
        + body.ljust(4 * words, b"\0")
        + b"payload"
    )


def test_the_number_is_found_among_other_extensions() -> None:
    assert extension(rtp(b"\x10A\x00\x51\x12\x34"), 5) == 0x1234
    assert extension(rtp(b"\x10A\x00\x51\x12\x34"), 6) is None
    assert extension(rtp(b"\x01\x01A\x05\x02\x12\x34", 0x1000), 5) == 0x1234
    assert extension(rtp(b"\x50\x12"), 5) is None
    assert extension(b"\x80" + bytes(30), 5) is None


@given(st.binary(max_size=60))
def test_no_packet_breaks_the_search(packet: bytes) -> None:
    extension(packet, 5)
    extension(b"\x90" + packet, 5)
