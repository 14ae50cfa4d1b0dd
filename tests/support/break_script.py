"""Scripts of publishers with all their troubles, and the samples that they make: see `break_stage`.

Every sample carries its session, track and number in its bytes, so what comes out can be told from what went in.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction

from encoder_double import picture_track, sound_track

from ingest.sample import UNWRAPPED_90K, RawClock, Sample
from media.codecs import audio_track, opus
from media.track import Codec, Kind, Track

SIZES = {"big": (1280, 720), "small": (640, 368)}
Id = tuple[int, int, int]
"""Session, track, number."""


@dataclass(frozen=True)
class Sound:
    """One audio track."""

    codec: Codec = Codec.AAC
    ahead_s: float = 0.0
    """How much earlier than the picture of the same time it arrives."""
    from_s: float = 0.0
    until_s: float = 1e9


@dataclass(frozen=True)
class Publisher:
    """One publishing session."""

    length_s: float = 8.0
    away_s: float = 3.0
    """After the one before went; below zero it takes over."""
    rate: Fraction | None = Fraction(25)
    """None: variable."""
    gop_s: float = 2.0
    bframes: int = 0
    size: str | None = "big"
    """None: no picture."""
    picture_from_s: float = 0.0
    picture_until_s: float = 1e9
    keyless_s: float = 0.0
    """How long it sends pictures before the first keyframe."""
    sounds: tuple[Sound, ...] = (Sound(),)
    clock: RawClock = UNWRAPPED_90K
    jumps: tuple[tuple[float, float], ...] = ()
    """(second of the session, seconds by which the stamps jump)."""
    stalls: tuple[tuple[float, float], ...] = ()
    """(second of the session, seconds for which the network holds everything back)."""
    resize_s: float | None = None
    """Where the picture gets another size."""


@dataclass(frozen=True)
class Deed:
    """Something that happens beside publishing."""

    at_s: float
    what: str
    """`ladder`, `die`, `ask`."""
    value: tuple[str, ...] = ()


@dataclass(frozen=True)
class Script:
    publishers: tuple[Publisher, ...]
    deeds: tuple[Deed, ...] = ()
    ladder: tuple[str, ...] = ("360p",)
    lag_s: float = 0.3
    rungs: str = "always"

    def starts(self) -> list[float]:
        found, end = [], 0.0
        for number, publisher in enumerate(self.publishers):
            start = end + publisher.away_s if number else 0.0
            found.append(max(start, found[-1] + 0.1 if found else 0.0))
            end = found[-1] + publisher.length_s
        return found


def _bytes(session: int, track: Track, number: int) -> bytes:
    ident = bytes((session, track.id)) + number.to_bytes(4, "big")
    if track.kind is Kind.VIDEO:
        return (7).to_bytes(4, "big") + b"\x65" + ident
    return b"\xfc" + ident  # Opus: a frame of 20 ms


def ident(data: bytes) -> Id:
    return data[-6], data[-5], int.from_bytes(data[-4:], "big")


def pictures(it: Publisher, number: int) -> Iterator[tuple[float, Sample]]:
    """(second of its arrival, sample) in decode order."""
    if it.size is None:
        return
    rate = it.rate or Fraction(30)
    first = math.ceil(it.picture_from_s * rate)
    last = math.ceil(min(it.length_s, it.picture_until_s) * rate)
    step = Fraction(1) / rate
    times = [n * step for n in range(first, last + it.bframes + 2)]
    if it.rate is None:  # the odd picture is late, and some are left out
        times = [t + (step / 3 if n % 7 == 3 else 0) for n, t in enumerate(times) if n % 11 != 5]
    sizes = [it.size, "small" if it.size == "big" else "big"]
    gop = max(1, round(it.gop_s * rate))
    keyless = round(it.keyless_s * rate)
    resized = False
    group: list[int] = []
    order: list[int] = []
    keys: set[int] = set()
    for n in range(len(times)):
        resize = it.resize_s is not None and not resized and float(times[n]) >= it.resize_s
        resized = resized or resize
        key = (n >= keyless and (n - keyless) % gop == 0) or resize
        if key:
            keys.add(n)
            order += [*group, n]  # a closed group of pictures
            group = []
        else:
            group.append(n)
            if len(group) > it.bframes:
                order += [group[-1], *group[:-1]]
                group = []
    delay = step if it.bframes else Fraction(0)
    hz = it.clock.hz
    track = replace(picture_track(0, *SIZES[sizes[0]]), frame_rate=it.rate)
    other = replace(picture_track(0, *SIZES[sizes[1]]), frame_rate=it.rate)
    for place, n in enumerate(order):
        dts, pts = times[min(place, len(times) - 1)], times[n] + delay
        if float(dts) >= min(it.length_s, it.picture_until_s):
            return
        used = other if it.resize_s is not None and float(times[n]) >= it.resize_s else track
        raw = round(dts * hz)
        yield float(dts), Sample(used, raw, _bytes(number, used, n), n in keys, cts=round(pts * hz) - raw)


def sounds(it: Publisher, number: int, place: int) -> Iterator[tuple[float, Sample]]:
    sound = it.sounds[place]
    track = replace(sound_track(100), id=100 + place)
    samples = 1024
    if sound.codec is Codec.OPUS:
        track, samples = audio_track(100 + place, Codec.OPUS, opus.build_head(opus.OpusHead(2))), 960
    step = Fraction(samples, 48_000)
    n = math.ceil(sound.from_s / step)
    while n * step < min(it.length_s + sound.ahead_s, sound.until_s):
        at = max(0.0, float(n * step) - sound.ahead_s)
        if at < it.length_s:
            yield at, Sample(track, round(n * step * it.clock.hz), _bytes(number, track, n))
        n += 1


def samples(it: Publisher, number: int) -> list[tuple[float, Sample]]:
    """All of a session in order of arrival."""
    found = [*pictures(it, number), *(s for place in range(len(it.sounds)) for s in sounds(it, number, place))]
    found.sort(key=lambda pair: pair[0])
    out = []
    for at, sample in found:
        jump = sum(by for when, by in it.jumps if at >= when)
        arrival = at
        for when, length in it.stalls:
            if when <= arrival < when + length:
                arrival = when + length
        assert sample.dts is not None
        raw = sample.dts + round((100 + jump) * it.clock.hz)
        out.append((arrival, replace(sample, dts=raw)))
    out.sort(key=lambda pair: pair[0])
    return out
