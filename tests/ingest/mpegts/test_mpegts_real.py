"""Streams that ffmpeg made: what libav's own demuxer finds in them, we find; whole, in pieces, and damaged."""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Iterable
from fractions import Fraction
from itertools import pairwise
from typing import Any

import av
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.mpegts.demuxer import Demuxer
from ingest.mpegts.events import AccessUnit, Clock, Event, Ignored, Lost, Resync, TrackFound
from media.codecs import nal, normalise_video
from media.track import Codec

Real = Callable[[str], bytes]
SEEDS = st.integers(0, 1 << 32)


def demux(data: bytes | Iterable[bytes]) -> list[Event]:
    demuxer = Demuxer()
    events: list[Event] = []
    for piece in [data] if isinstance(data, bytes) else data:
        events += demuxer.feed(piece)
    return events + demuxer.flush()


def units(events: Iterable[Event], track_id: int | None = None) -> list[AccessUnit]:
    return [e for e in events if isinstance(e, AccessUnit) and track_id in (None, e.track.id)]


def tracks(events: Iterable[Event]) -> dict[int, TrackFound]:
    return {e.track.id: e for e in events if isinstance(e, TrackFound)}


def pieces(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


@pytest.mark.parametrize("name", ["x264", "x265", "fields", "slices", "wrap"])
def test_what_libav_finds(real: Real, name: str) -> None:
    data = real(name)
    events = demux(data)
    assert not [e for e in events if isinstance(e, (Lost, Ignored, Resync))]
    found = {event.pid: event.track for event in tracks(events).values()}
    with av.open(io.BytesIO(data), format="mpegts", options={"correct_ts_overflow": "0"}) as source:
        assert {stream.id for stream in source.streams} == set(found)
        theirs = [packet for packet in source.demux() if packet.size]
        for stream in source.streams:
            track = found[stream.id]
            ours = units(events, track.id)
            packets = [packet for packet in theirs if packet.stream is stream]
            assert len(ours) == len(packets) > 40
            if track.codec in (Codec.H264, Codec.HEVC):
                assert (track.width, track.height, track.frame_rate) == (192, 128, Fraction(25))
                modulus = 1 << 33
                assert [(u.pts, u.dts) for u in ours] == [(p.pts % modulus, p.dts % modulus) for p in packets]
                assert [u.keyframe for u in ours] == [p.is_keyframe for p in packets]
                for unit, packet in zip(ours, packets, strict=True):
                    assert unit.data == normalise_video(track.codec, nal.split_annexb(bytes(packet)), track.config).data
            else:
                assert (track.sample_rate, track.channels) == (stream.sample_rate, stream.channels)
                for unit, packet in zip(ours, packets, strict=True):
                    assert bytes(packet).endswith(unit.data)
                    # libav splits ADTS but keeps its head; Opus it hands on bare.
                    assert len(bytes(packet)) - len(unit.data) == (7 if track.codec is Codec.AAC else 0)
                    exact = (unit.pts + Fraction(90_000 * unit.offset_samples, track.timescale)) % (1 << 33)
                    assert abs(exact - packet.pts % (1 << 33)) < 3


def test_tracks_and_languages(real: Real) -> None:
    found = tracks(demux(real("x264")))
    assert {i: (f.track.codec, f.track.language, f.track.channels) for i, f in found.items()} == {
        0: (Codec.H264, "und", 0),
        100: (Codec.AAC, "deu", 2),
        101: (Codec.AAC, "eng", 1),
    }
    surround = tracks(demux(real("fields")))[100].track
    assert (surround.codec, surround.channels, surround.timescale) == (Codec.OPUS, 6, 48_000)


def test_b_frames_and_keyframes(real: Real) -> None:
    video = units(demux(real("x264")), 0)
    assert [index for index, unit in enumerate(video) if unit.keyframe] == [0, 10, 20, 30, 40]
    assert {b.dts - a.dts for a, b in pairwise(video)} == {3600}
    assert any(unit.pts > unit.dts for unit in video)
    assert sorted(unit.pts for unit in video) == [video[0].pts + 3600 * n for n in range(50)]


def test_stamps_are_raw_across_the_wrap(real: Real) -> None:
    video = units(demux(real("wrap")), 0)
    steps = [b.dts - a.dts for a, b in pairwise(video)]
    assert sorted(set(steps)) == [3600 - (1 << 33), 3600]
    assert all(0 <= unit.pts < 1 << 33 for unit in video)


def test_clock(real: Real) -> None:
    clocks = [event.pcr for event in demux(real("x264")) if isinstance(event, Clock)]
    assert len(clocks) > 10
    assert clocks == sorted(clocks)
    assert 1.5 < (clocks[-1] - clocks[0]) / 27_000_000 < 2.1


@pytest.mark.parametrize("size", [1, 187, 188, 189, 1316, 5000])
@pytest.mark.parametrize("name", ["x264", "x265"])
def test_pieces_of_any_size(real: Real, name: str, size: int) -> None:
    data = real(name)
    assert demux(pieces(data, size)) == demux(data)


def test_latm_and_foreign_codecs_are_named_once(real: Real) -> None:
    events = demux(real("latm"))
    told = [event for event in events if isinstance(event, Ignored)]
    assert [(event.stream_type, event.reason) for event in told] == [(0x11, "latm")]
    assert "ADTS" in told[0].text
    assert len(units(events, 0)) == 50
    told = [event for event in demux(real("mp2")) if isinstance(event, Ignored)]
    assert [(e.stream_type, e.reason) for e in told] == [(0x02, "unknown_stream"), (0x03, "unknown_stream")]
    assert "MPEG-2 video" in told[0].text


@given(st.binary(max_size=900), st.integers(0, 187))
@settings(max_examples=40)
def test_junk_in_front_and_a_start_within_a_packet(real: Real, junk: bytes, cut: int) -> None:
    data = real("x265")
    whole = units(demux(data))
    got = units(demux(junk + data))
    assert got[-100:] == whole[-100:]
    assert len(got) >= len(whole) - 20
    # The first packets are tables; ffmpeg repeats them, and keyframes, so that half a second may go.
    got = units(demux(data[cut:]))
    assert got[-20:] == whole[-20:]


@given(st.binary(max_size=400))
@settings(max_examples=40)
def test_junk_behind(real: Real, junk: bytes) -> None:
    data = real("x265")
    whole = units(demux(data))
    got = units(demux(data + junk))
    assert got[: len(whole) - 2] == whole[: len(whole) - 2]


def test_bytes_missing_or_too_many_hardly_ever_make_a_wrong_unit(real: Real) -> None:
    """Where a payload byte looks like the next sync byte, once in 256 times, nothing can tell."""
    data = real("x264")
    right = {unit.data for unit in units(demux(data))}
    wrong = 0
    for seed in range(150):
        rng = random.Random(seed)
        damaged = bytearray(data)
        at, size = rng.randrange(2000, len(damaged)), rng.randrange(1, 188)
        if seed % 2:
            damaged[at:at] = rng.randbytes(size)
        else:
            del damaged[at : at + size]
        events = demux(bytes(damaged))
        assert len(units(events)) >= len(units(demux(data))) - 24
        assert all(a.dts < b.dts for a, b in pairwise(units(events, 0)))
        wrong += not {unit.data for unit in units(events)} <= right
    assert wrong <= 4


@given(st.sampled_from(["x264", "x265", "slices"]), SEEDS, st.sampled_from([0.001, 0.02, 0.1]))
@settings(max_examples=60)
def test_lost_packets_never_make_a_wrong_unit(real: Real, name: str, seed: int, share: float) -> None:
    data, rng = real(name), random.Random(seed)
    right = {unit.data for unit in units(demux(data))}
    kept = [packet for packet in pieces(data, 188) if rng.random() >= share]
    missing = len(data) // 188 - len(kept)
    events = demux(kept)
    got = units(events)
    assert {unit.data for unit in got} <= right
    assert not any(unit.estimated for unit in got)
    told = sum(event.packets for event in events if isinstance(event, Lost))
    assert told <= missing
    if len(got) < len(right):
        assert missing


def test_a_lost_packet_is_told_with_its_track(real: Real) -> None:
    data = pieces(real("x264"), 188)
    victim = next(n for n, packet in enumerate(data) if n > 100 and packet[1:3] == b"\1\0" and packet[3] & 0x20 == 0)
    events = demux(data[:victim] + data[victim + 1 :])
    assert [event for event in events if isinstance(event, Lost)] == [Lost(0x100, 0, 1, "continuity")]
    assert len(units(events, 0)) == 49


def test_repeated_packets_change_nothing(real: Real) -> None:
    data = real("x264")
    doubled = [packet for packet in pieces(data, 188) for _ in range(2)]
    assert [e for e in demux(doubled) if not isinstance(e, Clock)] == [
        e for e in demux(data) if not isinstance(e, Clock)
    ]


def test_a_damaged_packet_is_dropped(real: Real) -> None:
    data = bytearray(real("x264"))
    at = next(n for n in range(188 * 100, len(data), 188) if data[n + 1 : n + 3] == b"\1\0")
    data[at + 1] |= 0x80
    events = demux(bytes(data))
    assert [event.reason for event in events if isinstance(event, Lost)] == ["transport_error", "continuity"]
    assert len(units(events, 0)) == 49


@given(SEEDS)
@settings(max_examples=60)
def test_flipped_bytes_never_raise(real: Real, seed: int) -> None:
    rng = random.Random(seed)
    data = bytearray(real(rng.choice(["x264", "x265", "fields"])))
    for _ in range(rng.randrange(1, 400)):
        data[rng.randrange(len(data))] = rng.randrange(256)
    demux(pieces(bytes(data), 1316))


@given(st.lists(st.binary(max_size=600), max_size=8))
def test_noise_never_raises(noise: list[bytes]) -> None:
    assert units(demux(noise)) == []


@pytest.mark.parametrize(("name", "kind"), [("x264", 0x1B), ("x265", 0x24), ("slices", 0x1B)])
@pytest.mark.parametrize("size", [700, 1500, 4001, 65_000])
def test_real_pictures_cut_into_pes_packets_anywhere(
    real: Real, make_mux: Callable[[], Any], make_pes: Callable[..., bytes], name: str, kind: int, size: int
) -> None:
    right = [unit.data for unit in units(demux(real(name)), 0)]
    with av.open(io.BytesIO(real(name)), format="mpegts") as source:
        stream = b"".join(bytes(packet) for packet in source.demux(video=0))
    mux = make_mux()
    wire: bytes = mux.tables([(kind, 0x100, b"")])
    for number, piece in enumerate(pieces(stream, size)):
        wire += mux.pes(0x100, make_pes(piece, 3600 * number))
    events = demux(pieces(wire, 1316))
    assert not [event for event in events if isinstance(event, Lost)]
    assert [unit.data for unit in units(events)] == right
