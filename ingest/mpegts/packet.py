"""The head of a TS packet and its adaptation field (ISO/IEC 13818-1 2.4.3.2 to 2.4.3.5)."""

from __future__ import annotations

from typing import NamedTuple

NULL_PID = 0x1FFF
CLOCK_HZ = 27_000_000


class Head(NamedTuple):
    """What stands in front of a packet's payload."""

    pid: int
    error: bool
    """transport_error_indicator: a demodulator could not mend this packet."""
    start: bool
    """payload_unit_start_indicator."""
    scrambled: bool
    counter: int
    payload: bytes | None
    """None where the packet has none; then the counter does not count."""
    discontinuity: bool = False
    pcr: int | None = None
    """27 MHz."""


def parse_head(packet: bytes) -> Head | None:
    """Read a packet of 188 bytes; None where its adaptation field makes no sense."""
    head, flags = packet[1], packet[3]
    pid = (head & 0x1F) << 8 | packet[2]
    common = (pid, bool(head & 0x80), bool(head & 0x40), bool(flags & 0xC0), flags & 15)
    if not flags & 0x20:
        return Head(*common, packet[4:] if flags & 0x10 else None)
    length = packet[4]
    if length > 183 or (length == 183 and flags & 0x10):
        return None
    payload = packet[5 + length :] if flags & 0x10 else None
    if not length:
        return Head(*common, payload)
    pcr: int | None = None
    if packet[5] & 0x10 and length >= 7:
        raw = int.from_bytes(packet[6:12], "big")
        pcr = (raw >> 15) * 300 + (raw & 0x1FF)
    return Head(*common, payload, bool(packet[5] & 0x80), pcr)
