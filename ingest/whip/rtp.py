"""RTP into frames, without I/O: order by sequence number, give lost packets up after a while, join frames.

Not here: decryption, retransmission streams and payload headers (aiortc does those), and what a frame means
(`ingest.whip.media`). Times are `now_us`, a monotonic clock in microseconds handed in by the shell.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from media.clock import Unwrapper

MAX_JUMP = 2_000
"""A sequence number further away than this is a sender that started anew, not loss: about 8 s at 3 Mb/s."""

NACK_RETRY_US = 60_000
"""A round trip on a mobile network: asking again sooner only adds to the congestion."""
NACK_TRIES = 8
NACK_WINDOW = 500
"""Missing packets that are remembered at most; senders keep hardly more in their history."""

FORGET = 1_000
"""The quickest arrival is forgotten by a thousandth of the time that passes: clocks drift, by far less."""
MOST_LATE_US = 2_000_000


@dataclass(frozen=True, slots=True)
class Piece:
    """One RTP packet without its headers."""

    sequence: int
    """16 bits."""
    timestamp: int
    """32 bits, in the codec's RTP clock."""
    marker: bool
    data: bytes
    """H.264: Annex B bytes of this packet; VP8: bytes behind the payload descriptor; Opus: one packet.
    Empty where the packet was padding only."""
    starts_key: bool = False
    """The first packet of a keyframe (or of what looks like one): where to go on after loss."""


@dataclass(frozen=True, slots=True)
class Frame:
    """All of one frame."""

    timestamp: int
    data: bytes
    lost: int
    """Packets given up between the frame before and this one."""


class Reorder:
    """Hands pieces on in order of sequence number, waiting at most `hole_wait_us` for a missing one."""

    def __init__(self, hole_wait_us: int, capacity: int) -> None:
        self._hole_wait_us = hole_wait_us
        self._capacity = capacity
        self._unwrap = Unwrapper(16)
        self._next: int | None = None
        self._held: dict[int, Piece] = {}
        self._hole_since_us: int | None = None
        self.lost = 0
        self.late = 0
        self.restarts = 0

    def push(self, piece: Piece, now_us: int) -> Iterator[tuple[int, Piece]]:
        """Take one piece; yields `(packets lost just before, piece)` in order."""
        number = self._unwrap(piece.sequence)
        if self._next is None:
            self._next = number
        elif abs(number - self._next) > MAX_JUMP:
            self.restarts += 1
            yield from self._flush()
            self._next = number
        if number < self._next or number in self._held:
            self.late += 1
            return
        self._held[number] = piece
        yield from self._run(0)
        while self._held and self._hole_is_old(now_us):
            found = min(self._held)
            lost, self._next = found - self._next, found
            self.lost += lost
            yield from self._run(lost)
        if not self._held:
            self._hole_since_us = None

    def restart(self) -> None:
        """The numbers start anew; what is held is let go."""
        self._next = None
        self._held.clear()
        self._hole_since_us = None
        self.restarts += 1

    def _hole_is_old(self, now_us: int) -> bool:
        if self._hole_since_us is None:
            self._hole_since_us = now_us
        return now_us - self._hole_since_us >= self._hole_wait_us or len(self._held) >= self._capacity

    def _run(self, lost: int) -> Iterator[tuple[int, Piece]]:
        """The pieces that follow each other without a hole."""
        assert self._next is not None
        while (piece := self._held.pop(self._next, None)) is not None:
            self._next += 1
            self._hole_since_us = None
            yield lost, piece
            lost = 0

    def _flush(self) -> Iterator[tuple[int, Piece]]:
        while self._held:
            found = min(self._held)
            assert self._next is not None
            lost, self._next = found - self._next, found
            self.lost += lost
            yield from self._run(lost)


class Frames:
    """Joins pieces to video frames. After loss it drops everything up to the next keyframe's first packet.

    A frame ends with the marker bit (RFC 6184 5.1), or at the latest where the timestamp changes. A sender whose
    marker proves wrong (same timestamp behind it) is from then on read by timestamps alone.
    """

    def __init__(self, hole_wait_us: int = 300_000, capacity: int = 1_024, max_frame_bytes: int = 4 << 20) -> None:
        self.order = Reorder(hole_wait_us, capacity)
        self._max_frame_bytes = max_frame_bytes
        self._parts: list[bytes] = []
        self._size = 0
        self._timestamp: int | None = None
        self._last_emitted: int | None = None
        self._trust_marker = True
        self._lost = 0
        self.waiting_for_key = True
        """Nothing that could be shown comes before the next keyframe: ask the peer for one."""
        self.dropped_frames = 0
        self.oversized = 0

    def restart(self) -> None:
        """Another stream of the same track begins (another SSRC): forget the order, wait for its keyframe."""
        self.order.restart()
        self._drop()
        self._last_emitted = None

    def push(self, piece: Piece, now_us: int) -> Iterator[Frame]:
        for lost, ordered in self.order.push(piece, now_us):
            yield from self._join(lost, ordered)

    def _join(self, lost: int, piece: Piece) -> Iterator[Frame]:
        if lost:
            self._lost += lost
            self._drop()
        if not piece.data:
            return
        if self.waiting_for_key:
            if not piece.starts_key:
                return
            self.waiting_for_key = False
        if self._parts and piece.timestamp != self._timestamp:
            yield from self._emit()
        elif not self._parts and piece.timestamp == self._last_emitted:
            self._trust_marker = False
        self._timestamp = piece.timestamp
        self._parts.append(piece.data)
        self._size += len(piece.data)
        if self._size > self._max_frame_bytes:
            self.oversized += 1
            self._drop()
        elif piece.marker and self._trust_marker:
            yield from self._emit()

    def _emit(self) -> Iterator[Frame]:
        assert self._timestamp is not None
        yield Frame(self._timestamp, b"".join(self._parts), self._lost)
        self._last_emitted = self._timestamp
        self._parts.clear()
        self._size = self._lost = 0

    def _drop(self) -> None:
        self.dropped_frames += 1
        self.waiting_for_key = True
        self._parts.clear()
        self._size = 0


class Jitter:
    """Interarrival jitter (RFC 3550 6.4.1, A.8), in microseconds."""

    def __init__(self, clock_hz: int) -> None:
        self._hz = clock_hz
        self._last: tuple[int, int] | None = None
        self.value_us = 0.0

    def add(self, timestamp: int, now_us: int) -> None:
        """A packet with this RTP timestamp (32 bits) has come. Packets of the same frame count once."""
        if self._last is not None:
            before, before_us = self._last
            if timestamp == before:
                return
            step = (timestamp - before + (1 << 31)) % (1 << 32) - (1 << 31)
            off_us = abs(now_us - before_us - step * 1_000_000 / self._hz)
            self.value_us += (min(off_us, 1_000_000) - self.value_us) / 16
        self._last = timestamp, now_us


class Lateness:
    """By how much longer than the quickest one lately a frame took to arrive, in microseconds."""

    def __init__(self) -> None:
        self._least_us: int | None = None
        self._at_us = 0

    def of(self, stamp_us: int, now_us: int) -> tuple[int, int]:
        """For a frame with this time stamp, on any clock: how late it is, and how much later than was thought all
        were that came before it."""
        took, waited = now_us - stamp_us, now_us - self._at_us
        self._at_us = now_us
        if self._least_us is None or took - self._least_us > MOST_LATE_US:  # the first, or the stamps began anew
            self._least_us = took
            return 0, 0
        thought = self._least_us + waited // FORGET
        self._least_us = min(took, thought)
        return took - self._least_us, max(0, thought - took)


class Nacks:
    """Which missing packets to ask for again now (RFC 4585 6.2.1)."""

    def __init__(self) -> None:
        self._unwrap = Unwrapper(16)
        self._highest: int | None = None
        self._missing: dict[int, tuple[int, int]] = {}
        self.requested = 0
        self.recovered = 0
        self.holes = 0
        """Packets that did not come in order: lost on the way at first, or overtaken."""

    def due(self, sequence: int, now_us: int) -> set[int]:
        """`sequence` (16 bits) has come; the numbers to ask for now, of 16 bits."""
        number = self._unwrap(sequence)
        if self._highest is None or abs(number - self._highest) > MAX_JUMP:
            self._highest = number
            self._missing.clear()
        elif number > self._highest:
            for hole in range(max(self._highest + 1, number - NACK_WINDOW), number):
                self._missing[hole] = (0, 0)
                self.holes += 1
            self._highest = number
        elif self._missing.pop(number, None):
            self.recovered += 1
        if not self._missing:
            return set()
        asked = set()
        for hole, (tries, at_us) in list(self._missing.items()):
            if tries >= NACK_TRIES or hole <= self._highest - NACK_WINDOW:
                del self._missing[hole]
            elif not tries or now_us - at_us >= NACK_RETRY_US:
                self._missing[hole] = (tries + 1, now_us)
                asked.add(hole & 0xFFFF)
        self.requested += len(asked)
        return asked


def h264_starts_key(payload: bytes) -> bool:
    """True if this RTP payload (RFC 6184) begins a keyframe: SPS, or the first slice of an IDR."""
    if len(payload) < 3:
        return False
    kind = payload[0] & 0x1F
    if kind == 24:
        return _stap_has_key(payload)
    if kind == 28:
        fragment = payload[1] & 0x1F
        return bool(payload[1] & 0x80) and (fragment == 7 or (fragment == 5 and bool(payload[2] & 0x80)))
    return kind == 7 or (kind == 5 and bool(payload[1] & 0x80))


def _stap_has_key(payload: bytes) -> bool:
    at = 1
    while at + 4 <= len(payload):
        kind = payload[at + 2] & 0x1F
        # first_mb_in_slice is ue(v): zero, the first slice of the picture, is a single 1 bit.
        if kind == 7 or (kind == 5 and payload[at + 3] & 0x80):
            return True
        at += 2 + int.from_bytes(payload[at : at + 2], "big")
    return False


def vp8_starts_key(payload: bytes, frame: bytes) -> bool:
    """True if this RTP payload (RFC 7741) begins a keyframe; `frame` is what follows its descriptor."""
    if not payload or not frame:
        return False
    starts_partition_zero = bool(payload[0] & 0x10) and not payload[0] & 0x07
    return starts_partition_zero and not frame[0] & 0x01
