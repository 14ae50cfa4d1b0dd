"""Frames of a peer as coded units: what its offer told of them, and what they say themselves."""

from __future__ import annotations

from base64 import b64encode

import pytest

from ingest.whip import sdp
from ingest.whip.lipsync import LipSync
from ingest.whip.rtp import Frame
from ingest.whip.tracks import Video
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
