"""Streams that ffmpeg never writes: other framings, changing programmes, wrong tables, hostile sizes."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import av
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.mpegts.demuxer import Demuxer
from ingest.mpegts.events import AccessUnit, Clock, Discontinuity, Event, Ignored, Lost, TrackEnded, TrackFound
from ingest.mpegts.tables import crc32
from media.codecs import nal
from media.track import Codec

MakePes = Callable[..., bytes]
VIDEO, AUDIO, OTHER = 0x100, 0x101, 0x102
AAC = (0x0F, AUDIO, b"")
H264 = (0x1B, VIDEO, b"")
OPUS = (0x06, AUDIO, b"\x05\x04Opus\x7f\x02\x80\x02")
SPS = bytes.fromhex("6742c00cda05067a9a6a020202800000030080000019078a1550")
PPS = bytes.fromhex("68ce0fc8")
AUD = b"\x09\xf0"


def idr(text: bytes = b"idr") -> bytes:
    return b"\x65\x88" + text


def slice_(text: bytes, first: bool = True) -> bytes:
    return b"\x41" + (b"\x9a" if first else b"\x12") + text


def feed(demuxer: Demuxer, *parts: bytes) -> list[Event]:
    return [event for part in parts for event in demuxer.feed(part)]


def units(events: list[Event]) -> list[AccessUnit]:
    return [event for event in events if isinstance(event, AccessUnit)]


def lost(events: list[Event]) -> list[str]:
    return [event.reason for event in events if isinstance(event, Lost)]


def adts(*frames: bytes, index: int = 3, layout: int = 2) -> bytes:
    """ADTS frames of AAC-LC; index 3 is 48 kHz."""
    out = b""
    for frame in frames:
        size = len(frame) + 7
        head = bytes((0xFF, 0xF1, 0x40 | index << 2 | layout >> 2, (layout & 3) << 6 | size >> 11))
        out += head + bytes((size >> 3 & 255, (size & 7) << 5 | 0x1F, 0xFC)) + frame
    return out


def test_crc_of_a_known_word() -> None:
    """The check value of CRC-32/MPEG-2."""
    assert crc32(b"123456789") == 0x0376E6E7


# Video framings


def test_sets_and_delimiters_move_out(mux: Any, make_pes: MakePes) -> None:
    demuxer = Demuxer()
    first = nal.join_annexb([AUD, SPS, PPS, idr()])
    events = feed(demuxer, mux.tables([H264]), mux.pes(VIDEO, make_pes(first, 9000, 6000)))
    events += demuxer.flush()
    assert [type(event).__name__ for event in events] == ["TrackFound", "AccessUnit"]
    (unit,) = units(events)
    assert (unit.pts, unit.dts, unit.keyframe, unit.data) == (9000, 6000, True, nal.join_lengths([idr()]))
    assert (unit.track.width, unit.track.height, unit.track.codec) == (318, 182, Codec.H264)


def test_a_unit_comes_when_the_next_begins_or_its_length_is_full(mux: Any, make_pes: MakePes) -> None:
    demuxer = Demuxer()
    picture = nal.join_annexb([SPS, PPS, idr(b"x" * 1000)])
    feed(demuxer, mux.tables([H264]))
    assert units(feed(demuxer, mux.pes(VIDEO, make_pes(picture, 0)))) == []
    sized = mux.pes(VIDEO, make_pes(nal.join_annexb([slice_(b"two")]), 3600, sized=True))
    assert [unit.pts for unit in units(feed(demuxer, sized))] == [0, 3600]


def test_several_units_in_a_pes_packet(mux: Any, make_pes: MakePes) -> None:
    """With delimiters and without; those without a stamp follow at the stream's frame rate."""
    for delimiter in ([AUD], []):
        demuxer = Demuxer()
        nals = [*delimiter, SPS, PPS, idr(), *delimiter, slice_(b"1"), slice_(b"1b", False), *delimiter, slice_(b"2")]
        data = mux.tables([H264]) + mux.pes(VIDEO, make_pes(nal.join_annexb(nals), (1 << 33) - 3600))
        got = units(feed(demuxer, data) + demuxer.flush())
        assert [nal.split_lengths(unit.data) for unit in got] == [
            [idr()],
            [slice_(b"1"), slice_(b"1b", False)],
            [slice_(b"2")],
        ]
        assert [(unit.dts, unit.estimated) for unit in got] == [((1 << 33) - 3600, False), (0, True), (3600, True)]


def test_units_across_pes_packets(mux: Any, make_pes: MakePes) -> None:
    """Cut anywhere: no unit is lost or wrong, and each stamp goes with the unit that begins in its PES packet."""
    pictures = [[AUD, SPS, PPS, idr(bytes(range(1, 60)))]]
    pictures += [[AUD, slice_(bytes((n,)) * 50), slice_(b"more", False)] for n in range(1, 9)]
    stream = b""
    starts = []
    for picture in pictures:
        starts.append(len(stream))
        stream += nal.join_annexb(picture)
    for size in (20, 37, 61, 64, 90, 150, 400):
        demuxer = Demuxer()
        feed(demuxer, mux.tables([H264]))
        events: list[Event] = []
        expected = {}
        for at in range(0, len(stream), size):
            # Its start code has three bytes and a zero in front, which may stay behind.
            begun = [n for n, start in enumerate(starts) if at <= start + 1 < at + size]
            stamp = 3600 * begun[0] if begun else None
            if begun:
                expected[begun[0]] = stamp
            events += feed(demuxer, mux.pes(VIDEO, make_pes(stream[at : at + size], stamp)))
        events += demuxer.flush()
        got = units(events)
        texts = {nal.join_lengths([n for n in p if n not in (AUD, SPS, PPS)]): i for i, p in enumerate(pictures)}
        indices = [texts[unit.data] for unit in got]  # KeyError: a unit that never was
        assert indices == list(range(9))
        assert not lost(events)
        for unit, index in zip(got, indices, strict=True):
            if index in expected:
                assert (unit.dts, unit.estimated) == (expected[index], False)
            else:
                assert unit.estimated


def test_slices_of_a_picture_in_pes_packets_of_their_own(mux: Any, make_pes: MakePes) -> None:
    demuxer = Demuxer()
    feed(demuxer, mux.tables([H264]))
    events: list[Event] = []
    for n in range(6):
        head = [AUD, SPS, PPS, idr(b"a")] if n % 3 == 0 else [AUD, slice_(b"a%d" % n)]
        tail = b"\x65\x12b" if n % 3 == 0 else slice_(b"b", False)
        events += feed(demuxer, mux.pes(VIDEO, make_pes(nal.join_annexb(head), 3600 * n)))
        events += feed(demuxer, mux.pes(VIDEO, make_pes(nal.join_annexb([tail]))))
    events += demuxer.flush()
    assert not lost(events)
    assert [unit.dts for unit in units(events)] == [0, 3600, 7200, 10800, 14400, 18000]
    assert all(len(nal.split_lengths(unit.data)) == 2 for unit in units(events))


def test_two_fields_stay_one_unit(mux: Any, make_pes: MakePes, real: Callable[[str], bytes]) -> None:
    """A field picture is a unit of H.264, a frame one of ISOBMFF."""
    with av.open(io.BytesIO(real("fields")), format="mpegts") as source:
        sets = [n for n in nal.split_annexb(bytes(next(source.demux(video=0)))) if n[0] & 31 in (7, 8)]
    demuxer = Demuxer()
    data = mux.tables([H264])
    data += mux.pes(VIDEO, make_pes(nal.join_annexb([AUD, *sets, idr()]), 0))
    data += mux.pes(VIDEO, make_pes(nal.join_annexb([AUD, slice_(b"top"), AUD, slice_(b"bottom")]), 3600))
    got = units(feed(demuxer, data) + demuxer.flush())
    assert [(unit.dts, unit.estimated) for unit in got] == [(0, False), (3600, False)]
    assert nal.split_lengths(got[1].data) == [slice_(b"top"), slice_(b"bottom")]


def test_a_new_size_in_mid_stream(mux: Any, make_pes: MakePes, real: Callable[[str], bytes]) -> None:
    with av.open(io.BytesIO(real("wrap")), format="mpegts") as source:
        other = [n for n in nal.split_annexb(bytes(next(source.demux(video=0)))) if n[0] & 31 in (7, 8)]
    demuxer = Demuxer()
    data = mux.tables([H264])
    for n, sets in enumerate(([SPS, PPS], [SPS, PPS], other)):
        data += mux.pes(VIDEO, make_pes(nal.join_annexb([*sets, idr()]), 3600 * n))
    events = feed(demuxer, data) + demuxer.flush()
    found = [event.track for event in events if isinstance(event, TrackFound)]
    assert [(track.id, track.width) for track in found] == [(0, 318), (0, 192)]
    assert [unit.track for unit in units(events)] == [found[0], found[0], found[1]]


def test_nothing_before_the_first_parameter_sets(mux: Any, make_pes: MakePes) -> None:
    demuxer = Demuxer()
    data = mux.tables([H264]) + mux.pes(VIDEO, make_pes(nal.join_annexb([slice_(b"1")]), 0))
    data += mux.pes(VIDEO, make_pes(nal.join_annexb([SPS, PPS, idr()]), 3600))
    assert [unit.dts for unit in units(feed(demuxer, data) + demuxer.flush())] == [3600]


def test_too_large_a_picture_is_dropped_and_the_next_is_taken(mux: Any, make_pes: MakePes) -> None:
    demuxer = Demuxer(max_unit_bytes=5000)
    feed(demuxer, mux.tables([H264]))
    events: list[Event] = []
    for n, size in enumerate((100, 100, 20_000, 100)):
        events += feed(demuxer, mux.pes(VIDEO, make_pes(nal.join_annexb([SPS, PPS, idr(b"x" * size)]), 3600 * n)))
    events += demuxer.flush()
    assert lost(events) == ["too_large"]
    assert [unit.dts for unit in units(events)] == [0, 3600, 10800]


# Audio framings


def test_adts_across_pes_packets(mux: Any, make_pes: MakePes) -> None:
    frames = [bytes((0x21, n)) * 20 for n in range(12)]
    stream = adts(*frames)
    size = len(stream) // 12
    for cut in (30, 47, 48, 100, 5):
        demuxer = Demuxer()
        feed(demuxer, mux.tables([AAC]))
        events: list[Event] = []
        for at in range(0, len(stream), cut):
            begun = next((n for n in range(12) if at <= n * size < at + cut), None)
            stamp = None if begun is None else begun * 1920
            events += feed(demuxer, mux.pes(AUDIO, make_pes(stream[at : at + cut], stamp, kind=0xC0, sized=True)))
        got = units(events)
        assert [unit.data for unit in got] == frames
        assert [unit.pts + unit.offset_samples * 90_000 // 48_000 for unit in got] == [1920 * n for n in range(12)]
        assert not lost(events)


def test_audio_configuration_changes_in_mid_stream(mux: Any, make_pes: MakePes) -> None:
    demuxer = Demuxer()
    payload = adts(b"\x21aa", b"\x21bb") + adts(b"\x21cc", index=4, layout=1)
    events = feed(demuxer, mux.tables([AAC]), mux.pes(AUDIO, make_pes(payload, 0, kind=0xC0, sized=True)))
    tracks = [event.track for event in events if isinstance(event, TrackFound)]
    assert [(track.sample_rate, track.channels) for track in tracks] == [(48_000, 2), (44_100, 1)]
    assert [unit.track for unit in units(events)] == [tracks[0], tracks[0], tracks[1]]


def test_junk_between_adts_frames(mux: Any, make_pes: MakePes) -> None:
    demuxer = Demuxer()
    payload = b"\xff\x00junk" + adts(b"\x21aa") + b"junk\xff" + adts(b"\x21bb")
    events = feed(demuxer, mux.tables([AAC]), mux.pes(AUDIO, make_pes(payload, 0, kind=0xC0, sized=True)))
    assert [unit.data for unit in units(events)] == [b"\x21aa", b"\x21bb"]
    assert lost(events) == ["bad_unit"] * 2


def test_audio_without_a_stamp_goes_on_counting(mux: Any, make_pes: MakePes) -> None:
    demuxer = Demuxer()
    feed(demuxer, mux.tables([AAC]))
    packets = [make_pes(adts(b"\x21aa"), stamp, kind=0xC0, sized=True) for stamp in (None, 900, None, 5000)]
    events = [event for packet in packets for event in feed(demuxer, mux.pes(AUDIO, packet))]
    assert lost(events) == ["no_stamp"]
    assert [(unit.pts, unit.offset_samples) for unit in units(events)] == [(900, 0), (900, 1024), (5000, 0)]


def test_hours_of_sound_behind_one_stamp_are_not_believed(mux: Any, make_pes: MakePes) -> None:
    """Sound cannot be ahead of its stamp by more than a PES packet: the stream's clock would go with it."""
    frames = make_pes(adts(*[b"!a"] * 600), 90_000, kind=0xC0, sized=True)
    events = feed(Demuxer(), mux.tables([AAC]), mux.pes(AUDIO, frames))
    assert units(events)[-1].offset_samples <= 10 * 48_000 + 1024
    assert set(lost(events)) == {"no_stamp"}


def test_opus_control_headers(mux: Any, make_pes: MakePes) -> None:
    """Trims, an extension, a size of more than 255, several packets in one PES packet."""
    demuxer = Demuxer()
    long = b"\x98" + bytes(299)
    payload = b"\x7f\xe0\xff\x2d" + long  # 255 + 45
    payload += b"\x7f\xf8\x03\x00\x10\x00\x20\x99ab"  # both trims
    payload += b"\x7f\xe4\x02\x03xyz\x18c"  # control extension of three bytes
    events = feed(demuxer, mux.tables([OPUS]), mux.pes(AUDIO, make_pes(payload, 0, kind=0xBD, sized=True)))
    assert [unit.data for unit in units(events)] == [long, b"\x99ab", b"\x18c"]
    assert [(unit.offset_samples, unit.duration_samples) for unit in units(events)] == [
        (0, 960),
        (960, 1920),
        (2880, 2880),
    ]
    bad = make_pes(payload[:-1], 0, kind=0xBD, sized=True)
    events = feed(demuxer, mux.pes(AUDIO, bad), mux.pes(AUDIO, make_pes(b"bare", 0, kind=0xBD, sized=True)))
    assert lost(events) == ["bad_unit"] * 2
    assert len(units(events)) == 2


# Programmes


def aac_pes(make_pes: MakePes, stamp: int) -> bytes:
    return make_pes(adts(b"\x21aa"), stamp, kind=0xC0, sized=True)


def test_a_stream_is_added_and_taken_away(mux: Any, make_pes: MakePes) -> None:
    demuxer = Demuxer()
    second = (0x0F, OTHER, b"\x0a\x04FRA\0")
    events = feed(demuxer, mux.tables([AAC]), mux.pes(AUDIO, aac_pes(make_pes, 0)))
    events += feed(demuxer, mux.tables([AAC], 1), mux.pes(AUDIO, aac_pes(make_pes, 1920)))
    events += feed(demuxer, mux.tables([AAC, second], 2), mux.pes(OTHER, aac_pes(make_pes, 1920)))
    events += feed(demuxer, mux.tables([second], 3), mux.pes(AUDIO, aac_pes(make_pes, 3840)))
    events += feed(demuxer, mux.pes(OTHER, aac_pes(make_pes, 3840)))
    told = [event for event in events if isinstance(event, (TrackFound, TrackEnded))]
    assert [(type(e).__name__, e.pid) for e in told] == [
        ("TrackFound", AUDIO),
        ("TrackFound", OTHER),
        ("TrackEnded", AUDIO),
    ]
    assert told[1].track.language == "fra"  # type: ignore[union-attr]
    assert [(unit.track.id, unit.pts) for unit in units(events)] == [(100, 0), (100, 1920), (101, 1920), (101, 3840)]


def test_a_stream_that_becomes_another(mux: Any, make_pes: MakePes) -> None:
    """The same PID with another codec is another track, under the id that fell free."""
    demuxer = Demuxer()
    events = feed(demuxer, mux.tables([AAC]), mux.pes(AUDIO, aac_pes(make_pes, 0)), mux.tables([OPUS], 1))
    events += feed(demuxer, mux.pes(AUDIO, make_pes(b"\x7f\xe0\x02\x98a", 1920, kind=0xBD, sized=True)))
    assert [type(event).__name__ for event in events] == [
        "TrackFound",
        "AccessUnit",
        "TrackEnded",
        "TrackFound",
        "AccessUnit",
    ]
    assert [unit.track.id for unit in units(events)] == [100, 100]
    assert units(events)[1].track.codec is Codec.OPUS


def test_a_table_with_a_wrong_checksum_changes_nothing(mux: Any, make_pes: MakePes, make_section: MakePes) -> None:
    demuxer = Demuxer()
    good = make_section(2, 1, b"\xe1\0\xf0\0" + b"\x0f\xe1\x01\xf0\0")
    feed(demuxer, mux.table(0, make_section(0, 1, b"\0\1\xf0\0")))
    for n in range(len(good)):
        if n not in (0, 1, 2):  # kind and length: then it is no such table, or not yet whole
            bad = bytearray(good)
            bad[n] ^= 0x10
            events = feed(demuxer, mux.table(0x1000, bytes(bad)), mux.pes(AUDIO, aac_pes(make_pes, 0)))
            assert units(events) == []
            assert len([event for event in events if isinstance(event, Ignored)]) == (n == 3)
    not_yet = make_section(2, 1, b"\xe1\0\xf0\0" + b"\x0f\xe1\x01\xf0\0", current=False)
    assert units(feed(demuxer, mux.table(0x1000, not_yet), mux.pes(AUDIO, aac_pes(make_pes, 0)))) == []
    assert len(units(feed(demuxer, mux.table(0x1000, good), mux.pes(AUDIO, aac_pes(make_pes, 0))))) == 1


def test_a_long_map_across_packets(mux: Any, make_pes: MakePes) -> None:
    demuxer = Demuxer()
    filler = bytes((0x83, 200)) + bytes(200)
    streams = [(0x81, 0x200 + n, filler) for n in range(3)]
    events = feed(demuxer, mux.tables([*streams, AAC]), mux.pes(AUDIO, aac_pes(make_pes, 0)))
    assert len(units(events)) == 1
    assert len([event for event in events if isinstance(event, Ignored)]) == 3


def test_more_streams_than_allowed(mux: Any) -> None:
    demuxer = Demuxer(max_tracks=2)
    events = feed(demuxer, mux.tables([(0x0F, 0x200 + n, b"") for n in range(4)]))
    assert [(event.pid, event.reason) for event in events if isinstance(event, Ignored)] == [
        (0x202, "too_many_streams"),
        (0x203, "too_many_streams"),
    ]


def test_encrypted_streams_are_told_once(mux: Any, make_pes: MakePes) -> None:
    demuxer = Demuxer()
    feed(demuxer, mux.tables([AAC]))
    packets = bytearray(mux.pes(AUDIO, aac_pes(make_pes, 0)) * 3)
    for at in range(0, len(packets), 188):
        packets[at + 3] |= 0x80
    events = feed(demuxer, bytes(packets))
    assert [(event.pid, event.reason) for event in events if isinstance(event, Ignored)] == [(AUDIO, "encrypted")]


def test_discontinuity_indicator(mux: Any, make_pes: MakePes) -> None:
    """A counter that starts anew is no loss where the stream says so; the time base is told to be new."""
    demuxer = Demuxer()
    picture = nal.join_annexb([SPS, PPS, idr()])
    feed(demuxer, mux.tables([H264]), mux.pes(VIDEO, make_pes(picture, 90_000), pcr=27_000_000))
    mux.counters[VIDEO] = 9
    events = feed(demuxer, mux.pes(VIDEO, make_pes(picture, 0), flags=0x80, pcr=300 * 7 + 5))
    assert [type(event).__name__ for event in events] == ["TrackFound", "AccessUnit", "Discontinuity", "Clock"]
    assert events[2:] == [Discontinuity(VIDEO, True), Clock(VIDEO, 2105)]
    mux.counters[VIDEO] = 3
    events = feed(demuxer, mux.pes(VIDEO, make_pes(picture, 3600)))
    assert lost(events) == ["continuity"]


def test_counters(mux: Any, make_pes: MakePes) -> None:
    demuxer = Demuxer()
    feed(demuxer, b"junk", mux.tables([AAC]))
    mux.counters[AUDIO] = 3
    feed(demuxer, mux.pes(AUDIO, aac_pes(make_pes, 0)))
    mux.counters[AUDIO] = 6
    feed(demuxer, mux.pes(AUDIO, aac_pes(make_pes, 0)))
    assert (demuxer.counters.packets, demuxer.counters.lost_packets, demuxer.counters.skipped_bytes) == (4, 2, 4)


PARTS = st.lists(
    st.tuples(
        st.sampled_from([0, 0x1000, VIDEO, AUDIO, OTHER, 0x1FFF]),
        st.sampled_from(["raw", "pes", "annexb", "adts", "opus"]),
        st.binary(max_size=120),
        st.sampled_from([None, 0, 90_000, (1 << 33) - 1]),
        st.integers(0, 255),
        st.booleans(),
    ),
    max_size=25,
)


@given(PARTS, st.lists(st.integers(1, 400), max_size=10))
@settings(max_examples=150)
def test_lawful_packets_with_hostile_contents_never_raise(
    make_mux: Callable[[], Any],
    make_pes: MakePes,
    parts: list[tuple[int, str, bytes, int | None, int, bool]],
    cuts: list[int],
) -> None:
    from_wire = _wire(make_mux(), make_pes, parts)
    whole, cut = Demuxer(max_unit_bytes=2000), Demuxer(max_unit_bytes=2000)
    expected = whole.feed(from_wire) + whole.flush()
    events: list[Event] = []
    at = 0
    for size in cuts:
        events += cut.feed(from_wire[at : at + size])
        at += size
    events += cut.feed(from_wire[at:]) + cut.flush()
    assert events == expected
    assert all(0 <= unit.pts < 1 << 33 and 0 <= unit.dts < 1 << 33 for unit in units(events))


def _wire(mux: Any, make_pes: MakePes, parts: list[tuple[int, str, bytes, int | None, int, bool]]) -> bytes:
    """TS packets around arbitrary contents."""
    out: bytes = mux.tables([H264, AAC, (0x06, OTHER, b"\x05\x04Opus")])
    for pid, kind, data, stamp, flags, sized in parts:
        payload = {
            "annexb": lambda data: nal.join_annexb([SPS, PPS, *data.split(b"\0")]),
            "adts": lambda data: adts(data, data[:5]) + data,
            "opus": lambda data: b"\x7f\xe0" + bytes((min(len(data), 254),)) + data,
        }.get(kind, lambda data: data)(data)
        if kind == "raw":
            out += mux.packet(pid, payload[:150], start=sized, flags=flags)
        else:
            out += mux.pes(pid, make_pes(payload, stamp, sized=sized), flags=flags & 0x80)
    return out
