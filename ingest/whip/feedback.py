"""Transport-wide congestion control feedback (draft-holmer-rmcat-transport-wide-cc-extensions-01), pure.

A browser numbers every packet of a transport and wants to be told when each one came; from that it estimates the
uplink, and finds it in a second or two. With the older REMB it begins at 300 kb/s and climbs for half a minute.
"""

from __future__ import annotations

from struct import pack, unpack_from

from media.clock import Unwrapper

URI = "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01"
TICK_US = 250
REFERENCE_TICKS = 256
"""The reference time counts 64 ms."""
MOST_PACKETS = 1_400
"""Statuses in one feedback packet: a fifth of what fits into a datagram of 1200 bytes if all came, and of ours in
100 ms at 60 Mb/s. Of a wider hole only the newest part is told."""
_NONE, _SMALL, _LARGE = 0, 1, 2


class Feedback:
    """Collects arrivals; `build` makes the RTCP packets about all since the last time."""

    def __init__(self) -> None:
        self._unwrap = Unwrapper(16)
        self._new: dict[int, int] = {}
        self._next: int | None = None
        self._count = 0

    def seen(self, number: int, now_us: int) -> None:
        """The packet with this transport-wide number (16 bits) has come."""
        if len(self._new) < MOST_PACKETS:
            self._new.setdefault(self._unwrap(number), now_us // TICK_US)

    def build(self, sender: int, media: int) -> list[bytes]:
        """RTCP packets from `sender` (our SSRC) about `media` (one of the peer's), none if nothing came."""
        packets = []
        while self._new:
            packets.append(self._one(sender, media))
        return packets

    def _one(self, sender: int, media: int) -> bytes:
        first, last = min(self._new), max(self._new)
        base = max(first if self._next is None else min(first, self._next), last - MOST_PACKETS + 1)
        start = next(self._new[number] for number in range(base, last + 1) if number in self._new)
        reference = start // REFERENCE_TICKS
        symbols: list[int] = []
        deltas = bytearray()
        at = reference * REFERENCE_TICKS
        for number in range(base, last + 1):
            arrival = self._new.get(number)
            if arrival is None:
                symbols.append(_NONE)
                continue
            delta = arrival - at
            if not -32_768 <= delta <= 32_767:
                break
            at = arrival
            del self._new[number]
            small = 0 <= delta <= 255
            symbols.append(_SMALL if small else _LARGE)
            deltas += pack("!B", delta) if small else pack("!h", delta)
        self._next = base + len(symbols)
        for number in [number for number in self._new if number < base]:
            del self._new[number]
        body = pack("!IIHH", sender, media, base & 0xFFFF, len(symbols))
        body += pack("!I", (reference & 0xFFFFFF) << 8 | self._count & 0xFF)
        body += _chunks(symbols) + deltas
        self._count += 1
        padding = -len(body) % 4
        if padding:
            body += bytes(padding - 1) + bytes((padding,))
        return pack("!BBH", 0x80 | (0x20 if padding else 0) | 15, 205, len(body) // 4) + body


def _chunks(symbols: list[int]) -> bytes:
    """Status chunks: long runs of one symbol as run lengths, the rest as vectors of seven symbols of two bits."""
    out = bytearray()
    at = 0
    while at < len(symbols):
        run = 1
        while at + run < len(symbols) and symbols[at + run] == symbols[at] and run < 8_191:
            run += 1
        if run > 7:
            out += pack("!H", symbols[at] << 13 | run)
            at += run
            continue
        word = 0b11
        for symbol in (symbols[at : at + 7] + [_NONE] * 7)[:7]:
            word = word << 2 | symbol
        out += pack("!H", word)
        at += 7
    return bytes(out)


def extension(packet: bytes, wanted: int) -> int | None:
    """The 16-bit value of header extension `wanted` of an RTP packet (RFC 8285), None without it."""
    if len(packet) < 16 or not packet[0] & 0x10:
        return None
    at = 12 + 4 * (packet[0] & 0x0F)
    if len(packet) < at + 4:
        return None
    profile, words = unpack_from("!HH", packet, at)
    at += 4
    end = min(at + 4 * words, len(packet))
    two_bytes = profile & 0xFFF0 == 0x1000
    if not two_bytes and profile != 0xBEDE:
        return None
    while at < end:
        if packet[at] == 0:
            at += 1
            continue
        if two_bytes:
            if at + 2 > end:
                return None
            identity, size = packet[at], packet[at + 1]
            at += 2
        else:
            identity, size = packet[at] >> 4, (packet[at] & 15) + 1
            at += 1
        if identity == wanted:
            return int.from_bytes(packet[at : at + 2], "big") if size >= 2 and at + 2 <= end else None
        at += size
    return None
