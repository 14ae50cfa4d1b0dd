"""Programme tables: sections put together and checked, PAT and PMT read (ISO/IEC 13818-1 2.4.4)."""

from __future__ import annotations

from dataclasses import dataclass

from media.errors import ProtocolError

PAT_PID = 0
LOWEST_PID = 0x10
"""Below stand the tables that have a fixed PID (table 2-3)."""
PAT_TABLE = 0
PMT_TABLE = 2
MAX_SECTION_BYTES = 1024
"""Of PAT and PMT (2.4.4.4, 2.4.4.9): section_length is at most 1021."""

_REGISTRATION = 0x05
_LANGUAGE = 0x0A
_EXTENSION = 0x7F
_EXTENSION_OPUS = 0x80


def _crc_table() -> tuple[int, ...]:
    table: list[int] = []
    for byte in range(256):
        value = byte << 24
        for _ in range(8):
            value = (value << 1 ^ 0x04C11DB7 if value & 0x80000000 else value << 1) & 0xFFFFFFFF
        table.append(value)
    return tuple(table)


_CRC = _crc_table()


def crc32(data: bytes) -> int:
    """The CRC of ISO/IEC 13818-1 annex A: over a section with its CRC it is 0."""
    value = 0xFFFFFFFF
    for byte in data:
        value = (value << 8 & 0xFFFFFFFF) ^ _CRC[value >> 24 ^ byte]
    return value


@dataclass(frozen=True, slots=True)
class Pat:
    """Programmes: number and PID of the map."""

    programs: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Elementary:
    """One stream of a programme, as its map describes it."""

    pid: int
    stream_type: int
    registration: bytes = b""
    """format_identifier, e.g. `Opus`."""
    language: str = "und"
    opus_layout: int | None = None
    """channel_config_code of the Opus descriptor."""


@dataclass(frozen=True, slots=True)
class Pmt:
    """The map of a programme."""

    program: int
    pcr_pid: int
    streams: tuple[Elementary, ...]


class Sections:
    """Puts the sections of one PID together. Holds one section at most."""

    def __init__(self) -> None:
        self._buffer: bytearray | None = None

    def receive(self, payload: bytes, start: bool) -> list[bytes]:
        """Sections that this payload completes. Their CRC is not checked yet."""
        found: list[bytes] = []
        if start:
            if not payload:
                return found
            first = 1 + payload[0]
            if self._buffer is not None:
                self._buffer += payload[1:first]
                self._take(found)
            self._buffer = bytearray(payload[first:])
        elif self._buffer is not None:
            self._buffer += payload
        self._take(found)
        return found

    def _take(self, found: list[bytes]) -> None:
        while self._buffer:
            if self._buffer[0] == 0xFF:  # stuffing up to the end of the packet
                self._buffer = None
                return
            if len(self._buffer) < 3:
                return
            size = 3 + (int.from_bytes(self._buffer[1:3], "big") & 0x0FFF)
            if size > MAX_SECTION_BYTES:
                self._buffer = None
                return
            if len(self._buffer) < size:
                return
            found.append(bytes(self._buffer[:size]))
            del self._buffer[:size]

    def reset(self) -> None:
        """Drop what is unfinished."""
        self._buffer = None


def _body(section: bytes, table: int) -> tuple[int, bytes] | None:
    """table_id_extension and what stands between head and CRC; None for other tables and for those not yet valid."""
    if not section or section[0] != table:
        return None
    if len(section) < 12 or not section[1] & 0x80:
        raise ProtocolError("A programme table is cut short.", slug="bad_table")
    if crc32(section):
        raise ProtocolError("A programme table has a wrong checksum.", slug="bad_table")
    if not section[5] & 1:  # current_next_indicator
        return None
    return int.from_bytes(section[3:5], "big"), section[8:-4]


def parse_pat(section: bytes) -> Pat | None:
    """Read the first section of the programme association table; None for further ones. Raises `ProtocolError`."""
    read = _body(section, PAT_TABLE)
    if read is None or section[6]:
        return None
    body = read[1]
    entries = (body[at : at + 4] for at in range(0, len(body) - 3, 4))
    pairs = ((int.from_bytes(entry[:2], "big"), int.from_bytes(entry[2:], "big") & 0x1FFF) for entry in entries)
    # PIDs below 0x10 are reserved, and number 0 is the network's table.
    return Pat(tuple(pair for pair in pairs if pair[0] and pair[1] >= LOWEST_PID))


def parse_pmt(section: bytes) -> Pmt | None:
    """Read a programme map. Raises `ProtocolError`."""
    read = _body(section, PMT_TABLE)
    if read is None:
        return None
    program, body = read
    if len(body) < 4:
        raise ProtocolError("A programme map is cut short.", slug="bad_table")
    position = 4 + (int.from_bytes(body[2:4], "big") & 0x0FFF)
    streams: list[Elementary] = []
    while position + 5 <= len(body):
        length = int.from_bytes(body[position + 3 : position + 5], "big") & 0x0FFF
        pid = int.from_bytes(body[position + 1 : position + 3], "big") & 0x1FFF
        following = position + 5 + length
        if following > len(body):
            raise ProtocolError("The descriptors of a stream are longer than the programme map.", slug="bad_table")
        streams.append(_describe(pid, body[position], body[position + 5 : following]))
        position = following
    if position != len(body):
        raise ProtocolError("A programme map ends in the middle of a stream.", slug="bad_table")
    return Pmt(program, int.from_bytes(body[:2], "big") & 0x1FFF, tuple(streams))


def _describe(pid: int, stream_type: int, descriptors: bytes) -> Elementary:
    registration, language, layout = b"", "und", None
    position = 0
    while position + 2 <= len(descriptors):
        tag, length = descriptors[position], descriptors[position + 1]
        value = descriptors[position + 2 : position + 2 + length]
        position += 2 + length
        if tag == _REGISTRATION and len(value) >= 4:
            registration = value[:4]
        elif tag == _LANGUAGE and len(value) >= 3:
            text = value[:3].decode("latin-1").lower()
            language = text if text.isascii() and text.isalpha() else "und"
        elif tag == _EXTENSION and len(value) >= 2 and value[0] == _EXTENSION_OPUS:
            layout = value[1]
    return Elementary(pid, stream_type, registration, language, layout)
