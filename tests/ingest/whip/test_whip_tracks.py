"""Frames of a peer as coded units: what its offer told of them, and what they say themselves."""

from __future__ import annotations

from base64 import b64encode

import pytest

from ingest.whip import sdp
from ingest.whip.lipsync import LipSync
from ingest.whip.rtp import Frame, Piece
from ingest.whip.tracks import Audio, Video
from media.codecs.nal import join_annexb
from media.track import Codec, Kind

SPS = bytes.fromhex("6764001eacd940a02ff9610000030001000003003c8f162d96")
PPS = bytes.fromhex("68ebe3cb22c0")
IDR = b"\x65\x88" + b"i" * 20
FMTP = "packetization-mode=1;profile-level-id=640c1f"


def offered(sets: str) -> sdp.MediaLine:
    return sdp.MediaLine(
        Kind.VIDEO, "1", Codec.H264, 102, None, f"{FMTP};sprop-parameter-sets={sets}", (), (), None, ()
    )


def test_parameter_sets_of_the_offer_need_not_come_again() -> None:
    """RFC 6184 8.1: GStreamer's payloader, as it is set by default, sends them nowhere else."""
    line = offered(",".join(b64encode(unit).decode() for unit in (SPS, PPS)))
    assert line.parameter_sets == (SPS, PPS)
    without, told = Video(Codec.H264, LipSync()), Video(Codec.H264, LipSync(), line.parameter_sets)
    frame = Frame(0, join_annexb([IDR]), 0)
    assert without.frame(frame, 0) is None
    coded = told.frame(frame, 0)
    assert coded is not None
    assert (coded.keyframe, coded.track.width, coded.track.height) == (True, 640, 360)


@pytest.mark.parametrize("sets", ["", "!", "AAAA,,", "Zw==", "=,="])
def test_parameter_sets_that_cannot_be_read_are_left_alone(sets: str) -> None:
    video = Video(Codec.H264, LipSync(), offered(sets).parameter_sets)
    assert video.track is None
    coded = video.frame(Frame(0, join_annexb([SPS, PPS, IDR]), 0), 0)
    assert coded is not None


class TestSound:
    PACKET = bytes((0xF8, 1, 2, 3))
    """20 ms."""

    def stamps(self, *timestamps: int) -> list[tuple[int, bytes]]:
        audio = Audio(LipSync())
        coded = [unit for at in timestamps for unit in audio.packet(Piece(0, at % (1 << 32), True, self.PACKET), 0)]
        assert {unit.duration for unit in coded} == {960}
        return [(unit.pts - coded[0].pts, unit.data) for unit in coded]

    def test_a_packet_that_is_lost_is_concealed(self) -> None:
        wrap = (1 << 32) - 960
        assert self.stamps(wrap, wrap + 960, wrap + 3 * 960, wrap + 6 * 960) == [
            (0, self.PACKET), (960, self.PACKET), (1920, b"\xf8"), (2880, self.PACKET),
            (3840, b"\xf8"), (4800, b"\xf8"), (5760, self.PACKET),
        ]  # fmt: skip

    def test_a_second_is_concealed_and_no_more(self) -> None:
        assert len(self.stamps(0, 960 + 48_000)) == 52
        assert self.stamps(0, 1920 + 48_000) == [(0, self.PACKET), (1920 + 48_000, self.PACKET)]

    def test_a_packet_brings_fifty_others_at_most(self) -> None:
        audio, short = Audio(LipSync()), bytes((0xE0, 1, 2))  # 2.5 ms
        audio.packet(Piece(0, 0, True, short), 0)
        assert len(audio.packet(Piece(1, 120 + 50 * 120, True, short), 0)) == 51
        assert len(audio.packet(Piece(2, 120 + 102 * 120, True, short), 0)) == 1

    def test_a_packet_that_comes_again_is_no_hole(self) -> None:
        assert [at for at, _ in self.stamps(9600, 9600, 8640, 10_560)] == [0, 0, -960, 960]

    def test_what_follows_on_another_ssrc_is_no_hole(self) -> None:
        audio = Audio(LipSync())
        audio.packet(Piece(0, 0, True, self.PACKET), 0)
        audio.restart()
        assert len(audio.packet(Piece(0, 4800, True, self.PACKET), 0)) == 1
