"""What a protocol hands to the timeline: a coded sample with the time stamps just as the wire stated them."""

from __future__ import annotations

from dataclasses import dataclass

from media.track import Track


@dataclass(frozen=True, slots=True)
class RawClock:
    """The clock of a protocol's time stamps."""

    hz: int
    bits: int = 0
    """Width of the counter; 0 where it never wraps (already unwrapped by the protocol)."""
    traps: tuple[int, ...] = ()
    """Narrower widths at which some senders wrap although the protocol says `bits`."""

    def nearest(self, raw: int, reference: int) -> int:
        """The unwrapped value of `raw` that is nearest to `reference` (RFC 1982 arithmetic)."""
        if not self.bits:
            return raw
        delta = _fold(raw - reference, self.bits)
        for bits in self.traps:
            near = _fold(delta, bits)
            # Only a step of almost exactly the narrow width is its wrap; anything else stays a jump.
            if abs(near) <= _TRAP_S * self.hz:
                return reference + near
        return reference + delta


_TRAP_S = 10
"""How far from the narrow wrap a sample may land: more than any pause between two samples of a live source."""


def _fold(delta: int, bits: int) -> int:
    half = 1 << (bits - 1)
    return (delta + half) % (2 * half) - half


RTMP_CLOCK = RawClock(1000, 32, (31, 24))
"""Milliseconds of 32 bits. ffmpeg's FLV writer masks to 31 bits; old encoders never send more than 24."""
MPEGTS_CLOCK = RawClock(90_000, 33)
UNWRAPPED_90K = RawClock(90_000)
"""For senders whose stamps were already mapped onto one 90 kHz clock (RTP by sender reports)."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One access unit or audio frame, its data as `media.packet.Packet.data` asks for it."""

    track: Track
    dts: int | None
    """Raw decoding time in ticks of the protocol's clock; None where the protocol states none."""
    data: bytes
    keyframe: bool = True
    pts: int | None = None
    """Raw presentation time; None where `cts` says how far it is behind `dts`."""
    cts: int = 0
    """Composition offset in ticks of the protocol's clock; counts only without `pts`."""
    offset_ns: int = 0
    """Nanoseconds to add to the presentation time (Enhanced RTMP)."""
    offset_samples: int = 0
    """Audio: start of this frame behind the stamp, in ticks of `track.timescale` (frames that share a stamp)."""
    duration_samples: int = 0
    """Audio: length in ticks of `track.timescale`; 0 where the timeline shall read it from the codec."""
    estimated: bool = False
    """The stamps are only an extrapolation by the protocol: they never correct the clock."""
