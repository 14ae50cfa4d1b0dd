"""A CMAF chunk: optional styp, prft and emsg, then moof and mdat (ISO/IEC 23000-19 7.3.2.3).

One chunk is one LL-HLS part; the chunks of a segment, one after the other, are its CMAF fragment.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from packager.cmaf.boxes import box, full
from packager.cmaf.init import TRACK_ID

SYNC = 0x02000000
"""sample_depends_on = 2: an I picture, decodable on its own."""
NON_SYNC = 0x01010000
"""sample_depends_on = 1 and sample_is_non_sync_sample."""

STYP = box(b"styp", b"msdh", struct.pack(">I", 0), b"msdh", b"cmfs", b"cmff", b"cmfl")
"""Opens a segment: its first chunk is also the start of its only CMAF fragment."""

_NTP_EPOCH_S = 2_208_988_800
"""Seconds from 1900 to 1970."""
_PRFT_CAPTURED = 24
"""The flags that ffmpeg 9 writes for a wall-clock time of capture."""

_MFHD = struct.Struct(">I4sII")
_TFDT = struct.Struct(">I4sIQ")
_TRAF_DEFAULTS = struct.Struct(">I4sIIII")


class Sample(NamedTuple):
    """One access unit. `duration` and `offset` (pts - dts, may be negative) in the track's timescale."""

    duration: int
    offset: int
    sync: bool
    data: bytes


def chunk(sequence: int, base_time: int, samples: Sequence[Sample], prefix: bytes = b"") -> bytes:
    """`prefix` (whole boxes), moof and mdat. `base_time`: decode time of the first sample, tfdt version 1."""
    uniform = all(s.duration == samples[0].duration for s in samples)
    all_sync = all(s.sync for s in samples)
    lead_sync = not all_sync and samples[0].sync and not any(s.sync for s in samples[1:])
    mixed = not all_sync and not lead_sync and any(s.sync for s in samples)
    offsets = any(s.offset for s in samples)

    # tfhd: default-base-is-moof, default-sample-duration, default-sample-flags
    default_flags = SYNC if all_sync else NON_SYNC
    tfhd = _TRAF_DEFAULTS.pack(24, b"tfhd", 0x020028, TRACK_ID, samples[0].duration, default_flags)
    tfdt = _TFDT.pack(20, b"tfdt", 1 << 24, base_time)

    flags = 0x000201 | (0x4 if lead_sync else 0) | (0 if uniform else 0x100)
    flags |= (0x400 if mixed else 0) | (0x800 if offsets else 0)
    fields: list[int] = []
    for sample in samples:
        if not uniform:
            fields.append(sample.duration)
        fields.append(len(sample.data))
        if mixed:
            fields.append(SYNC if sample.sync else NON_SYNC)
        if offsets:
            fields.append(sample.offset & 0xFFFFFFFF)
    table = struct.pack(f">{len(fields)}I", *fields)
    trun_size = 20 + (4 if lead_sync else 0) + len(table)
    traf_size = 8 + len(tfhd) + len(tfdt) + trun_size
    moof_size = 8 + 16 + traf_size
    trun = struct.pack(">I4sIII", trun_size, b"trun", 1 << 24 | flags, len(samples), moof_size + 8)
    if lead_sync:
        trun += struct.pack(">I", SYNC)
    size = sum(len(s.data) for s in samples)
    head = struct.pack(">I4s", moof_size, b"moof") + _MFHD.pack(16, b"mfhd", 0, sequence)
    head += struct.pack(">I4s", traf_size, b"traf")
    return b"".join(
        (prefix, head, tfhd, tfdt, trun, table, struct.pack(">I4s", 8 + size, b"mdat"), *(s.data for s in samples))
    )


def prft(base_time: int, wall_us: int) -> bytes:
    """Producer reference time: the wall clock (microseconds since 1970, UTC) of media time `base_time`."""
    seconds, rest = divmod(wall_us, 1_000_000)
    ntp = (seconds + _NTP_EPOCH_S) << 32 | (rest << 32) // 1_000_000
    return full(b"prft", 1, _PRFT_CAPTURED, struct.pack(">IQQ", TRACK_ID, ntp & 0xFFFFFFFFFFFFFFFF, base_time))


def emsg(scheme: str, value: str, timescale: int, time: int, duration: int, id: int, message: bytes) -> bytes:
    """Event message, version 1: `time` on the track's timeline in `timescale` (ISO/IEC 23009-1 5.10.3.3)."""
    numbers = struct.pack(">IQII", timescale, time, duration, id)
    return full(b"emsg", 1, 0, numbers, scheme.encode(), b"\0", value.encode(), b"\0", message)
