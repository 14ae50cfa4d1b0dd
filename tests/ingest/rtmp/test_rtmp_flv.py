"""Bodies of media messages: legacy and enhanced, multitrack, ModEx; and tracks that only change when they change."""

from __future__ import annotations

import contextlib
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.rtmp import flv
from ingest.rtmp.flv import Part, Sort
from ingest.rtmp.messages import Kind, Message, split_aggregate
from ingest.rtmp.tracks import Tracks, snap
from media.codecs import h264
from media.errors import MediaError, ProtocolError
from media.track import Codec

SPS_640 = bytes.fromhex("6764001eacd940a02ff9610000030001000003003c8f162d96")
PPS = bytes.fromhex("68ebe3cb22c0")
AVCC = h264.build_avcc([SPS_640], [PPS])
IDR, SLICE = b"\x65" + b"i" * 20, b"\x41" + b"p" * 20
ASC = bytes.fromhex("1210")


def lengths(*units: bytes) -> bytes:
    return b"".join(len(unit).to_bytes(4, "big") + unit for unit in units)


def video(kind: int, body: bytes, cts: int = 0, ident: int = 7, frame: int = 1) -> bytes:
    return bytes((frame << 4 | ident, kind)) + cts.to_bytes(3, "big", signed=True) + body


class TestParts:
    @pytest.mark.parametrize(
        ("body", "parts"),
        [
            (video(0, b"conf"), [Part(0, "avc1", Sort.CONFIG, b"conf")]),
            (video(1, b"data", -40), [Part(0, "avc1", Sort.FRAME, b"data", -40)]),
            (video(1, b"data", 80, 12), [Part(0, "hvc1", Sort.FRAME, b"data", 80)]),
            (video(2, b""), []),
            (b"\x57\x00", []),  # a command frame
            (b"", []),
            (b"\x90hvc1conf", [Part(0, "hvc1", Sort.CONFIG, b"conf")]),
            (b"\x91hvc1\0\0\x28data", [Part(0, "hvc1", Sort.FRAME, b"data", 40)]),
            (b"\x93hvc1data", [Part(0, "hvc1", Sort.FRAME, b"data")]),
            (b"\x91av01data", [Part(0, "av01", Sort.FRAME, b"data")]),  # AV1 has no composition offset
            (b"\x92av01", []),
            (b"\xd4hvc1\x02\0", []),  # ffmpeg 9: Metadata with the frame type of a command
            (b"\xd0\x01", []),  # a command: no FourCC
            (b"\x96\x00hvc1\x01conf", [Part(1, "hvc1", Sort.CONFIG, b"conf")]),
            (
                b"\x96\x13avc1\x00\0\0\x02aa\x02\0\0\x01b",
                [Part(0, "avc1", Sort.FRAME, b"aa"), Part(2, "avc1", Sort.FRAME, b"b")],
            ),
            (
                b"\x96\x21avc1\x00\0\0\x04\0\0\x05aav01\x01\0\0\x01b",
                [Part(0, "avc1", Sort.FRAME, b"a", 5), Part(1, "av01", Sort.FRAME, b"b")],
            ),
            # ModEx: three bytes of nanoseconds, then the real type.
            (b"\x97\x02\x01\x00\x00\x03avc1data", [Part(0, "avc1", Sort.FRAME, b"data", 0, 65_536)]),
            # ModEx of 256 bytes and more has a 16-bit size.
            (b"\x97\xff\x01\x2b" + bytes(300) + b"\x13avc1d", [Part(0, "avc1", Sort.FRAME, b"d")]),
        ],
    )
    def test_video(self, body: bytes, parts: list[Part]) -> None:
        assert list(flv.video(body)) == parts

    @pytest.mark.parametrize(
        ("body", "parts"),
        [
            (b"\xaf\x00" + ASC, [Part(0, "mp4a", Sort.CONFIG, ASC)]),
            (b"\xaf\x01data", [Part(0, "mp4a", Sort.FRAME, b"data")]),
            (b"", []),
            (b"\xaf\x01", []),
            (b"\x90OpusOpusHead", [Part(0, "Opus", Sort.CONFIG, b"OpusHead")]),
            (b"\x94Opus\x01\x02", [Part(0, "Opus", Sort.CHANNELS, b"\x01\x02")]),
            (b"\x91Opusdata", [Part(0, "Opus", Sort.FRAME, b"data")]),
            (b"\x91Opus", []),
            (b"\x95\x01Opus\x01data", [Part(1, "Opus", Sort.FRAME, b"data")]),
            (b"\x97\x00\x00\x01mp4adata", [Part(0, "mp4a", Sort.FRAME, b"data")]),
        ],
    )
    def test_audio(self, body: bytes, parts: list[Part]) -> None:
        assert list(flv.audio(body)) == parts

    @pytest.mark.parametrize(
        "body", [b"\x17\x01\0", b"\x90hv", b"\x96\x66avc1", b"\x96\x31avc1", b"\x97\x05ab", b"\x96\x11avc1\0\0\0\x09x"]
    )
    def test_cut_short(self, body: bytes) -> None:
        with pytest.raises(ProtocolError):
            list(flv.video(body))

    @given(st.binary(max_size=60))
    @settings(max_examples=300)
    def test_garbage(self, body: bytes) -> None:
        tracks = Tracks(8)
        for take in (flv.video, flv.audio):
            with contextlib.suppress(ProtocolError):
                list(take(body))
        for read in (tracks.video, tracks.audio):
            with contextlib.suppress(MediaError):
                read(0, body)


class TestTracks:
    def test_h264_and_its_repetitions(self) -> None:
        tracks = Tracks(8)
        tracks.metadata({"framerate": 29.97, "videodatarate": 2500.0})
        assert tracks.video(0, video(0, AVCC)) == []
        (one,) = tracks.video(0, video(1, lengths(SPS_640, PPS, IDR), 40))
        assert one.data == lengths(IDR)
        assert (one.keyframe, one.cts, one.dts) == (True, 40, 0)
        assert (one.track.width, one.track.height, one.track.bitrate) == (640, 360, 2_500_000)
        tracks.video(33, video(0, AVCC))
        (two,) = tracks.video(33, video(1, lengths(SLICE), frame=2))
        assert two.track is one.track
        assert not two.keyframe

    @pytest.mark.parametrize("told", [1e306, 4_294_968.0, -1.0])
    def test_a_rate_that_cannot_be_is_none(self, told: float) -> None:
        tracks = Tracks(8)
        tracks.metadata({"videodatarate": told, "audiodatarate": told})
        tracks.video(0, video(0, AVCC))
        (one,) = tracks.video(0, video(1, lengths(IDR), 0))
        assert one.track.bitrate == 0

    def test_a_new_sequence_header_makes_a_new_track(self) -> None:
        tracks = Tracks(8)
        tracks.video(0, video(0, AVCC))
        (one,) = tracks.video(0, video(1, lengths(IDR)))
        tracks.video(40, video(0, h264.build_avcc([SPS_640], [PPS + b"\x80"])))
        (two,) = tracks.video(40, video(1, lengths(IDR)))
        assert two.track is not one.track
        assert two.track.id == one.track.id

    def test_parameter_sets_that_come_only_in_band(self) -> None:
        tracks = Tracks(8)
        assert tracks.video(0, video(1, lengths(SLICE))) == []
        (sample,) = tracks.video(40, video(1, lengths(SPS_640, PPS, IDR)))
        assert sample.track.config == AVCC

    def test_frames_before_their_configuration_are_left_out(self) -> None:
        tracks = Tracks(8)
        assert tracks.audio(0, b"\xaf\x01data") == []
        tracks.audio(0, b"\xaf\x00" + ASC)
        (sample,) = tracks.audio(23, b"\xaf\x01data")
        assert (sample.track.id, sample.track.codec, sample.track.timescale) == (100, Codec.AAC, 44_100)

    @pytest.mark.parametrize(("first", "channels"), [(b"\x94Opus\x01\x01", 1), (b"", 2)])
    def test_opus_without_a_header(self, first: bytes, channels: int) -> None:
        tracks = Tracks(8)
        tracks.audio(0, b"\x90Opus")
        tracks.audio(0, first)
        (sample,) = tracks.audio(0, b"\x91Opus\xfcxx")
        assert sample.track.channels == channels

    def test_further_tracks_and_their_bound(self) -> None:
        tracks = Tracks(2)
        tracks.audio(0, b"\xaf\x00" + ASC)
        tracks.audio(0, b"\x95\x00mp4a\x01" + ASC)
        tracks.audio(0, b"\x95\x00mp4a\x02" + ASC)
        assert [s.track.id for s in tracks.audio(0, b"\x95\x01mp4a\x01data")] == [101]
        assert tracks.audio(0, b"\x95\x01mp4a\x02data") == []
        tracks.video(0, b"\x96\x01vp09\x01data")
        assert tracks.ignored == {"mp4a", "vp09"}

    @pytest.mark.parametrize("body", [b"\x14" + bytes(10), b"\x91vp09data"])
    def test_an_unknown_codec_is_named(self, body: bytes) -> None:
        with pytest.raises(MediaError, match=r"not supported: set the encoder to (H\.264|AAC)"):
            Tracks(8).video(0, body)

    def test_single_broken_messages_are_dropped_and_a_row_of_them_ends_the_stream(self) -> None:
        tracks = Tracks(8)
        tracks.video(0, video(0, AVCC))
        broken = video(1, b"\0\0\xff\xff\x65")
        assert tracks.video(0, broken) == []
        assert tracks.broken == 1
        assert tracks.video(0, video(1, lengths(IDR)))
        for _ in range(200):
            assert tracks.video(0, broken) == []
        with pytest.raises(MediaError):
            tracks.video(0, broken)

    @pytest.mark.parametrize(
        ("claim", "rate"),
        [
            (29.97, Fraction(30_000, 1001)),
            (23.976, Fraction(24_000, 1001)),
            (23.98, Fraction(24_000, 1001)),
            (59.94, Fraction(60_000, 1001)),
            (30.0, Fraction(30)),
            (12.5, Fraction(25, 2)),
            (0.0, None),
            (1e9, None),
            (1000.0, None),
        ],
    )
    def test_claimed_rates(self, claim: float, rate: Fraction | None) -> None:
        assert snap(claim) == rate


def test_languages_and_names_of_audio_tracks() -> None:
    """Track 0 is described at the top, further ones by the map."""
    tracks = Tracks(4)
    tracks.metadata(
        {"language": "en", "title": "The show", "audioTrackIdInfoMap": {"1": {"lang": "deu", "title": "Kom\x07mentar"}}}
    )
    asc = bytes.fromhex("1190")
    tracks.audio(0, b"\x95\x10mp4a" + b"".join(bytes((n,)) + len(asc).to_bytes(3, "big") + asc for n in (0, 1)))
    samples = tracks.audio(0, b"\x95\x11mp4a" + b"".join(bytes((n, 0, 0, 2)) + b"ab" for n in (0, 1)))
    found = [(s.track.id, s.track.language, s.track.name) for s in samples]
    assert found == [(100, "en", ""), (101, "deu", "Kommentar")]


class TestHostileNumbers:
    """Each message is within the limit of bytes."""

    def test_more_tracks_than_there_are_numbers(self) -> None:
        tracks = Tracks(16)
        assert tracks.video(0, b"\x96\x13avc1" + b"\1\0\0\0" * 100_000) == []
        assert tracks.broken == 1

    def test_modifiers_without_end(self) -> None:
        with pytest.raises(ProtocolError, match="too many modifiers"):
            list(flv.video(b"\x97" + b"\0\0\x17" * 100_000))

    def test_an_aggregate_of_empty_messages(self) -> None:
        body = (b"\x08" + bytes(14)) * 100_000
        with pytest.raises(ProtocolError, match="too many parts"):
            list(split_aggregate(Message(Kind.AGGREGATE, 0, 1, body)))

    def test_ever_new_codecs_of_further_tracks(self) -> None:
        tracks = Tracks(16)
        for number in range(1000):
            tracks.video(0, b"\x96\x00" + number.to_bytes(4, "big") + b"\1frame")
        assert len(tracks.ignored) == 16
        assert all(name.isprintable() for name in tracks.ignored)

    def test_a_configuration_that_cannot_be_used_is_told(self) -> None:
        """It comes once; the frames behind it are no news."""
        tracks = Tracks(16)
        assert tracks.audio(0, b"\xaf\x00\xf9\x46\x20") == []  # xHE-AAC
        assert tracks.audio(0, b"\xaf\x01frame") == []
        assert tracks.refusal == "AAC object type 42 is not supported."
