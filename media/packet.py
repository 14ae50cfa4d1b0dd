"""What a track carries: packets, and the gaps between them."""

from __future__ import annotations

from dataclasses import dataclass

from media.track import Track


@dataclass(frozen=True, slots=True)
class Packet:
    """One coded access unit (video), or one coded frame (audio).

    `pts`, `dts` and `duration` are integers in `track.timescale`, on the stream's one timeline: zero is the
    stream's first instant, all tracks share it, and it never goes back (jumps and wraps end at ingest).
    Within a track `dts` strictly increases and the next `dts` is this `dts + duration` wherever nothing is lost.

    `data`: H264 and HEVC as NAL units with 4-byte lengths, without parameter sets that repeat `track.config`
    and without access unit delimiters; AV1 as one temporal unit in low-overhead OBU format without temporal
    delimiters; AAC as one raw_data_block (no ADTS); Opus as one Opus packet; VP8 as one frame.
    `keyframe` for H264 and HEVC means an IDR (or IRAP with no leading pictures that need earlier ones).
    """

    track: Track
    pts: int
    dts: int
    duration: int
    keyframe: bool
    data: bytes


@dataclass(frozen=True, slots=True)
class Gap:
    """Media time that will not come, or a break after which the source's clock started anew.

    `start` and `end` are in 90 kHz ticks on the stream's timeline. `track_id` None means every track.
    What follows a gap starts a discontinuity at the next cut.
    """

    track_id: int | None
    start: int
    end: int
    reason: str
    """A stable slug: `timestamp_jump`, `publisher_reconnect`, `config_change`, `packet_loss`."""
