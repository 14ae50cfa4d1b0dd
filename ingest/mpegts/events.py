"""What the MPEG-TS demuxer says. Time stamps are raw: 90 kHz counters of 33 bits that wrap; the timeline unwraps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from media.track import Track


@dataclass(frozen=True, slots=True)
class TrackFound:
    """A stream whose configuration is now known, or has changed: then with the `track.id` it had before.

    Comes before the first `AccessUnit` with this configuration. `track.id` is 0, 1, ... for video and
    100, 101, ... for audio, in the order of the programme map; `track.language` is its ISO 639-2 code.
    """

    track: Track
    pid: int


@dataclass(frozen=True, slots=True)
class TrackEnded:
    """The programme map no longer lists this stream."""

    track_id: int
    pid: int


@dataclass(frozen=True, slots=True)
class AccessUnit:
    """One picture, or one audio frame, in the form that `media.packet.Packet.data` asks for."""

    track: Track
    pts: int
    """Raw, 0 .. 2**33-1. For audio the stamp that `offset_samples` counts from."""
    dts: int
    """Raw, 0 .. 2**33-1; equal to `pts` where the stream gave none."""
    keyframe: bool
    data: bytes
    offset_samples: int = 0
    """Audio only: start of this frame after `pts`, in ticks of `track.timescale`; 0 for the frame that the stamp
    belongs to. Several frames of one PES packet share a stamp."""
    duration_samples: int = 0
    """Audio only: length of the frame in ticks of `track.timescale`."""
    estimated: bool = False
    """True where the unit had no stamp of its own and `pts` and `dts` are the last one's plus a frame."""


@dataclass(frozen=True, slots=True)
class Lost:
    """Something of a stream is missing. An unfinished unit of it was dropped; the next ones may refer to it."""

    pid: int
    track_id: int | None
    """None where the packet belongs to no track that is known."""
    packets: int
    """TS packets missed, as far as a 4-bit counter can tell (1 .. 15); 0 where the count is not known."""
    reason: str
    """Slug: `continuity`, `transport_error`, `too_large`, `bad_pes`, `bad_unit`, `no_stamp`, `truncated`."""


@dataclass(frozen=True, slots=True)
class Resync:
    """Bytes that are no TS packets were skipped to find the next 0x47 at its place."""

    skipped_bytes: int


@dataclass(frozen=True, slots=True)
class Clock:
    """A programme clock reference."""

    pid: int
    pcr: int
    """27 MHz ticks, raw: base (33 bits) * 300 + extension."""


@dataclass(frozen=True, slots=True)
class Discontinuity:
    """The adaptation field says (ISO/IEC 13818-1 2.4.3.5) that a new time base begins, or the counter starts anew."""

    pid: int
    clock: bool
    """True on the PID that carries the clock: stamps from here on belong to a new time base."""


@dataclass(frozen=True, slots=True)
class Ignored:
    """A stream that we do not take. Told once for each PID and type."""

    pid: int
    stream_type: int
    reason: str
    """Slug: `unknown_stream`, `latm`, `encrypted`, `too_many_streams`, `bad_table`."""
    text: str
    """For a person: what it is, and what to do."""


Event: TypeAlias = TrackFound | TrackEnded | AccessUnit | Lost | Resync | Clock | Discontinuity | Ignored
