"""Samples with the timestamps of a publisher, and what the timeline makes of them."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from itertools import pairwise

from ingest.sample import RTMP_CLOCK, RawClock, Sample
from ingest.timeline import Timeline
from media.packet import Gap, Packet
from media.track import Codec, Kind, Track

ASC = bytes.fromhex("1210")
AUDIO = Track(100, Kind.AUDIO, Codec.AAC, 44_100, ASC, sample_rate=44_100, channels=2)
OPUS = Track(100, Kind.AUDIO, Codec.OPUS, 48_000, sample_rate=48_000, channels=2)
OPUS_20_MS = bytes((0x78 | 0x80, 0))
RATES = [
    Fraction(24_000, 1001),
    Fraction(24),
    Fraction(25),
    Fraction(30_000, 1001),
    Fraction(30),
    Fraction(50),
    Fraction(60_000, 1001),
    Fraction(60),
    Fraction(25, 2),
    Fraction(5),
]


def video(rate: Fraction | None = None, **values: object) -> Track:
    return Track(0, Kind.VIDEO, Codec.H264, 90_000, b"avcC", frame_rate=rate, **values)  # type: ignore[arg-type]


def run(
    samples: Iterable[Sample], clock: RawClock = RTMP_CLOCK, origin: int = 0
) -> tuple[list[Packet | Gap], Timeline]:
    """Feed samples that arrive when they say (no jump is explained by a pause), and flush."""
    timeline = Timeline(origin, clock)
    out: list[Packet | Gap] = []
    for index, sample in enumerate(samples):
        out += timeline.feed(sample, index / 1000)
    return out + timeline.flush(), timeline


def packets(items: Iterable[Packet | Gap], track_id: int) -> list[Packet]:
    return [item for item in items if isinstance(item, Packet) and item.track.id == track_id]


def gaps(items: Iterable[Packet | Gap]) -> list[Gap]:
    return [item for item in items if isinstance(item, Gap)]


def seamless(of: list[Packet]) -> bool:
    return all(one.dts + one.duration == two.dts for one, two in pairwise(of))


def both(count_ms: int, start_ms: int = 0, fps: int = 25) -> list[Sample]:
    """Interleaved video (on whole milliseconds) and audio for a while, as an encoder sends them."""
    track = video(Fraction(fps))
    stamps = [(start_ms + index * 1000 // fps, track) for index in range(count_ms * fps // 1000)]
    frames = count_ms * 441 // 10_240
    stamps += [(start_ms + round(index * 1024_000 / 44_100), AUDIO) for index in range(frames)]
    return [Sample(which, stamp & 0xFFFFFFFF, b"") for stamp, which in sorted(stamps, key=lambda item: item[0])]
