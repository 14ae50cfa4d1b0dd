"""NAL units of H.264 and HEVC in their two framings: start codes (Annex B) and lengths (ISO/IEC 14496-15)."""

from __future__ import annotations

from collections.abc import Iterable

from media.errors import ProtocolError

MAX_UNITS = 16_384
"""NAL units of one access unit; the largest pictures have some hundred slices. More are made to cost time."""


def split_annexb(data: bytes) -> list[bytes]:
    """NAL units of a byte stream with start codes of three or four bytes, without them and without padding zeros.

    Raises `ProtocolError` where something other than zeros stands before the first start code, and for too many units.
    """
    before, *units = data.split(b"\0\0\1", MAX_UNITS + 1)
    if len(units) > MAX_UNITS:
        raise _too_many()
    if before.strip(b"\0") or not units:
        raise ProtocolError("The byte stream does not begin with a start code.", slug="bad_annexb")
    # A NAL unit never ends with a zero byte (H.264 7.4.1), so all zeros at the end are trailing_zero_8bits.
    return [stripped for unit in units if (stripped := unit.rstrip(b"\0"))]


def split_lengths(data: bytes, size: int = 4) -> list[bytes]:
    """NAL units of a sample with length fields of `size` bytes. Empty units are left out. Raises `ProtocolError`."""
    if size not in (1, 2, 3, 4):
        raise ProtocolError(f"A NAL length field cannot have {size} bytes.", slug="bad_nal_length")
    units: list[bytes] = []
    position, end, left = 0, len(data), MAX_UNITS
    while position < end:
        left -= 1
        if left < 0:
            raise _too_many()
        start = position + size
        position = start + int.from_bytes(data[position:start], "big")
        if start > end or position > end:
            raise ProtocolError("A NAL unit is longer than the sample that holds it.", slug="bad_nal_length")
        if position > start:
            units.append(data[start:position])
    return units


def _too_many() -> ProtocolError:
    return ProtocolError("A picture has more NAL units than any real one.", slug="too_many_units")


def join_lengths(units: Iterable[bytes]) -> bytes:
    """A sample with length fields of four bytes."""
    parts: list[bytes] = []
    for unit in units:
        parts.append(len(unit).to_bytes(4, "big"))
        parts.append(unit)
    return b"".join(parts)


def join_annexb(units: Iterable[bytes]) -> bytes:
    """A byte stream with start codes of four bytes."""
    return b"".join(b"\0\0\0\1" + unit for unit in units)


def unescape(unit: bytes) -> bytes:
    """The unit without its emulation prevention bytes (H.264 7.4.1)."""
    return unit.replace(b"\0\0\3", b"\0\0")
