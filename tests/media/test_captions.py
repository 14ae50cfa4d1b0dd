"""Closed captions within pictures are found, and nothing else is taken for them."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from media.codecs import normalise_video
from media.codecs.av1 import Obu
from media.codecs.captions import Captions, captions
from media.codecs.nal import join_annexb, join_lengths, split_annexb, split_lengths
from media.track import Codec

FFPROBE = shutil.which("ffprobe") or "ffprobe"
FIELD_1 = b"\xfc\x94\x20"
"""cc_valid, cc_type 0: resume caption loading, with odd parity."""
DTVCC = b"\xff\x02\x21"
"""cc_valid, cc_type 3: the start of a DTVCC packet."""
INVALID = b"\xf8\x80\x80"


def t35(*triples: bytes, flags: int = 0x40) -> bytes:
    return b"\xb5\x00\x31GA94\x03" + bytes((flags | len(triples), 0xFF)) + b"".join(triples) + b"\xff"


def sei(head: bytes, *messages: tuple[int, bytes]) -> bytes:
    body = b"".join(bytes((kind,)) + b"\xff" * (len(m) // 255) + bytes((len(m) % 255,)) + m for kind, m in messages)
    return head + body.replace(b"\0\0\3", b"\0\0\3\3") + b"\x80"


HEADS = {Codec.H264: b"\x06", Codec.HEVC: b"\x4e\x01"}
SLICES = {Codec.H264: b"\x65\x88abc", Codec.HEVC: b"\x26\x01abc"}


@pytest.mark.parametrize("codec", HEADS)
@pytest.mark.parametrize(
    ("messages", "found"),
    [
        ([(4, t35(FIELD_1))], Captions.CEA608),
        ([(4, t35(DTVCC))], Captions.CEA708),
        ([(4, t35(DTVCC, FIELD_1))], Captions.CEA608),
        ([(5, b"x" * 600), (4, t35(INVALID, FIELD_1))], Captions.CEA608),
        ([(4, t35(INVALID))], None),
        ([(4, t35(FIELD_1, flags=0))], None),
        ([(4, t35(FIELD_1).replace(b"GA94", b"DTG1"))], None),
        ([(5, t35(FIELD_1))], None),
        ([(4, t35(FIELD_1)[:11])], None),
    ],
)
def test_h264_and_hevc(codec: Codec, messages: list[tuple[int, bytes]], found: Captions | None) -> None:
    unit = sei(HEADS[codec], *messages)
    assert captions(codec, join_lengths([unit, SLICES[codec]])) is found
    assert captions(codec, join_lengths([SLICES[codec], unit])) is None  # only in front of the picture


def test_av1() -> None:
    frame, delimiter = bytes(Obu(6, None, b"abc")), bytes(Obu(1, None, b"\0"))
    metadata = bytes(Obu(5, None, b"\x04" + t35(DTVCC)))
    assert captions(Codec.AV1, delimiter + metadata + frame) is Captions.CEA708
    assert captions(Codec.AV1, delimiter + frame + metadata) is None
    assert captions(Codec.AV1, delimiter + bytes(Obu(5, None, b"\x01" + t35(DTVCC))) + frame) is None
    assert captions(Codec.AV1, metadata[:9]) is None


@pytest.mark.parametrize("shape", ["h264", "hevc", "av1"])
def test_encoders_write_none(clip: Callable[..., Any], shape: str) -> None:
    codec = Codec(shape)
    for packet in clip(shape).packets:
        data = normalise_video(codec, [packet] if codec is Codec.AV1 else split_annexb(packet)).data
        assert captions(codec, data) is None


def test_ffprobe_sees_the_same(clip: Callable[..., Any], tmp_path: Path) -> None:
    """The message as it is made here is one for other readers, too."""
    made = clip("h264")
    first = split_lengths(made.packets[0]) if made.packets[0][:3] != b"\0\0\1" else split_annexb(made.packets[0])
    for name, unit, expected in (
        ("with", sei(b"\x06", (4, t35(FIELD_1))), True),
        ("without", sei(b"\x06", (5, b"x" * 20)), False),
    ):
        path = tmp_path / f"{name}.264"
        path.write_bytes(made.extradata + join_annexb([unit, *first]) + b"".join(made.packets[1:4]))
        shown = subprocess.run(
            [FFPROBE, "-v", "error", "-show_frames", "-of", "json", str(path)], capture_output=True, check=True
        )
        sides = json.loads(shown.stdout)["frames"][0].get("side_data_list", [])
        assert any("A53" in side["side_data_type"] for side in sides) is expected
        data = normalise_video(Codec.H264, [unit, *first]).data
        assert (captions(Codec.H264, data) is not None) is expected
