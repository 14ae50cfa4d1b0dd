"""The framing between core and worker: whole, byte by byte, with junk behind, and fed with nonsense."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from media.errors import ProtocolError
from media.track import Codec, Kind, Track
from transcode import messages as m
from transcode.ladder import PRESETS
from transcode.planner import make_plan
from transcode.settings import TranscodeSettings
from transcode.wire import MAX_HEADER_BYTES, Decoder, frame

TRACK = Track(0, Kind.VIDEO, Codec.VP8, 90_000, b"\0\1", 1920, 1080, Fraction(30_000, 1001), Fraction(4, 3))
PLAN = make_plan(TRACK, None, PRESETS["modern"], passthrough=True, hardware=None, settings=TranscodeSettings())
MESSAGES: list[tuple[m.Message, bytes]] = [
    (m.Open(PLAN, "a"), b""),
    (m.Change(PLAN), b""),
    (m.Describe(7, TRACK), b""),
    (m.Unit(7, -3, 2**40, 3003, True), b"\0" * 1000),
    (m.Mark(3, 180_000, True), b""),
    (m.Hole(None, 1, 2, "timestamp_jump"), b""),
    (m.Close(), b""),
    (m.Still(TRACK, 90, 360), b"\0" * 1000),
    (m.Hello(1, 4711), b""),
    (m.Made(1, "720p", TRACK, "libx264"), b""),
    (m.Encoded(1, 2, 3, 4, False), b"x"),
    (m.Progress(5, {"speed_ratio": 1.5, "note": "a"}), b""),
    (m.Picture(90), b"\xff\xd8"),
    (m.Notice("encoder_failed", "text", "h264_nvenc@cuda:0"), b""),
    (m.Done(), b""),
]
BYTES = b"".join(part for message, payload in MESSAGES for part in frame(message, payload))


def test_whole() -> None:
    assert Decoder().feed(BYTES) == MESSAGES


def test_no_buffer_is_empty() -> None:
    """From Python 3.12 on, asyncio's `writelines` tries for ever to send an empty one, and never closes."""
    assert all(part for message, payload in MESSAGES for part in frame(message, payload))


def test_byte_by_byte() -> None:
    decoder = Decoder()
    assert [f for n in range(len(BYTES)) for f in decoder.feed(BYTES[n : n + 1])] == MESSAGES


def test_with_junk_behind() -> None:
    decoder = Decoder()
    with pytest.raises(ProtocolError):
        decoder.feed(BYTES + b"\xff" * 9)
    assert Decoder().feed(BYTES + b"\0\0\0\5") == MESSAGES


def test_frames_have_a_limit() -> None:
    with pytest.raises(ProtocolError):
        Decoder().feed((MAX_HEADER_BYTES + 1).to_bytes(4, "big") + bytes(4))
    with pytest.raises(ProtocolError):
        Decoder().feed(bytes(4) + b"\xff\xff\xff\xff")


@given(st.binary(max_size=300))
def test_nonsense_raises_protocol_errors_only(data: bytes) -> None:
    head = len(data).to_bytes(4, "big") + bytes(4)
    for junk in (data, head + data):
        try:
            Decoder().feed(junk)
        except ProtocolError:
            continue


@given(st.integers(0, len(MESSAGES) - 1), st.data())
def test_damaged_headers_raise_protocol_errors_only(index: int, data: st.DataObject) -> None:
    head, *payload = frame(*MESSAGES[index])
    damaged = bytearray(b"".join((head, *payload)))
    position = data.draw(st.integers(8, len(head) - 1))
    damaged[position] = data.draw(st.integers(0, 255))
    try:
        frames = Decoder().feed(bytes(damaged))
    except ProtocolError:
        return
    assert len(frames) == 1


def test_a_worker_loads_nothing_that_it_does_not_use() -> None:
    """There is one for each broadcast: what the core needs to plan and configure would cost each 12 MB and 0.1 s."""
    code = (
        "import sys, transcode.worker; print(sorted({'pydantic', 'transcode.planner', 'control'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
