"""Whatever comes in, each sample goes out once, in order, with its own time: bytes of the segments read back."""

from __future__ import annotations

import struct
from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from media.codecs import audio_track
from media.cut import Cut
from media.packet import Packet
from media.rendition import Rendition
from media.track import Codec, Kind, Track
from packager.cuts import ORIGIN_S, Cuts
from packager.grid import Grid
from packager.lane import Closed, Event, Made, Missed, Opened
from packager.segmenter import Audio, Video

AVC = bytes.fromhex("01640028ffe1001b67640028acd940780227e5c044000003000400000300f03c60c65801000568ebe3cb22")
GRID = Grid(Fraction(1, 2), Fraction(52322, 100_000), 2)
VIDEO = Rendition("source", Kind.VIDEO, Codec.H264, True)
SOUND = Rendition("audio", Kind.AUDIO, Codec.AAC, True)


def shown_times(data: bytes) -> list[tuple[int, bytes]]:
    """(pts, sample) of every sample in a run of chunks."""
    found: list[tuple[int, bytes]] = []
    position = 0
    while position < len(data):
        size, kind = struct.unpack_from(">I4s", data, position)
        if kind == b"moof":
            moof = data[position : position + size]
            at = moof.index(b"tfdt") + 8
            (time,) = struct.unpack_from(">Q", moof, at)
            (default,) = struct.unpack_from(">I", moof, moof.index(b"tfhd") + 12)
            trun = moof.index(b"trun") + 4
            flags = int.from_bytes(moof[trun + 1 : trun + 4], "big")
            count, offset = struct.unpack_from(">II", moof, trun + 4)
            at = trun + 12 + (4 if flags & 4 else 0)
            where = position + offset
            for _ in range(count):
                duration, length, shift = default, 0, 0
                if flags & 0x100:
                    (duration,) = struct.unpack_from(">I", moof, at)
                    at += 4
                (length,) = struct.unpack_from(">I", moof, at)
                at += 8 if flags & 0x400 else 4
                if flags & 0x800:
                    (shift,) = struct.unpack_from(">i", moof, at)
                    at += 4
                found.append((time + shift, data[where : where + length]))
                time += duration
                where += length
        position += size
    return found


def orderly(events: list[Event]) -> bytes:
    """The parts' bytes; asserts that events keep to their grammar."""
    out, msn, index, is_open = b"", None, 0, False
    for event in events:
        match event:
            case Opened(boundary) | Missed(boundary):
                assert not is_open
                assert msn is None or boundary.msn == msn + 1
                msn, index, is_open = boundary.msn, 0, isinstance(event, Opened)
            case Made(part):
                assert is_open
                assert part.index == index
                assert part.duration > 0
                index += 1
                out += part.data
            case Closed():
                assert is_open
                assert index > 0
                is_open = False
    assert not is_open
    return out


@settings(max_examples=60, deadline=None)
@given(
    steps=st.lists(st.sampled_from([1500, 1501, 3000, 3003, 3750, 6000, 9000]), min_size=20, max_size=200),
    depth=st.integers(0, 3),
    gop=st.integers(5, 24),
    delay=st.integers(-2, 3),
    every=st.integers(1, 3),
)
def test_video_comes_out_as_it_went_in(steps: list[int], depth: int, gop: int, delay: int, every: int) -> None:
    track = Track(0, Kind.VIDEO, Codec.H264, 90_000, AVC, 640, 360)
    times = [0]
    for step in steps:
        times.append(times[-1] + step)
    cuts = Cuts()
    lane = Video(VIDEO, cuts, GRID, "e", -1)
    events: list[Event] = []
    sent: list[tuple[int, bytes]] = []
    index = cut_at = 0
    for start in range(0, len(times), gop):
        group = times[start : start + gop]
        # Decode order: the keyframe, then mini-groups with their last picture first.
        order = [0]
        for first in range(1, len(group), depth + 1):
            mini = list(range(first, min(first + depth + 1, len(group))))
            order += [mini[-1], *mini[:-1]]
        if start // gop % every == 0 or group[-1] - cut_at > 200_000:
            cut_at = group[0]
            cuts.add(Cut(index, group[0], 10**15 + group[0] * 100 // 9))
            index += 1
        for place, shown in enumerate(order):
            dts = group[place] - delay * 3000
            following = times[min(start + place + 1, len(times) - 1)] - delay * 3000
            data = struct.pack(">I", start + shown) * 3
            sent.append((group[shown] + ORIGIN_S * 90_000, data))
            packet = Packet(track, group[shown], dts, max(following - dts, 1), place == 0, data)
            events += lane.write(packet)
    events += lane.end()
    assert shown_times(orderly(events)) == sent
    assert lane.dropped_packets == 0
    assert sum(isinstance(e, Opened) for e in events) == index


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(10, 400),
    rate=st.sampled_from(["1190", "1210", "1408"]),
    lengths=st.lists(st.integers(45_000, 220_000), min_size=1, max_size=8),
    ahead=st.integers(0, 90_000),
)
def test_sound_comes_out_as_it_went_in(count: int, rate: str, lengths: list[int], ahead: int) -> None:
    track = audio_track(100, Codec.AAC, bytes.fromhex(rate))
    scale = track.timescale
    cuts = Cuts()
    lane = Audio(SOUND, cuts, GRID, "e", -1)
    pending = [0]
    for length in lengths:
        pending.append(pending[-1] + length)
    known: list[int] = []
    events: list[Event] = []
    sent: list[tuple[int, bytes]] = []
    last = (sum(lengths) + 200_000) * scale // 90_000 // 1024  # no segment outgrows the target
    for n in range(min(count, last)):
        now = n * 1024 * 90_000 // scale + ahead
        while pending and pending[0] <= now:
            known.append(pending.pop(0))
            cuts.add(Cut(len(known) - 1, known[-1], 10**15 + known[-1] * 100 // 9))
        data = struct.pack(">I", n) * 5
        sent.append((n * 1024 + ORIGIN_S * scale, data))
        lane.write(Packet(track, n * 1024, n * 1024, 1024, True, data))
        events += lane.pump(now + ORIGIN_S * 90_000, 10)
    events += lane.end()
    assert shown_times(orderly(events)) == sent
    for event in events:
        if isinstance(event, Opened):
            off = Fraction(event.start, scale) - Fraction(event.boundary.pts, 90_000)
            assert abs(off) <= Fraction(513, scale)
        elif isinstance(event, Made):
            assert Fraction(event.part.duration, scale) <= GRID.target_s
