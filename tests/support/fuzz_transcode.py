"""What fuzzing feeds the wire between the server and its workers."""

from __future__ import annotations

from random import Random
from typing import Any

from fuzz import Target, cut
from fuzz_seeds import Clips

from media.errors import ProtocolError
from transcode import messages as m
from transcode.wire import Decoder, frame


def _worker() -> Target:
    messages: list[tuple[Any, bytes]] = [
        (m.Unit(7, -3, 2**40, 3003, True), bytes(100)), (m.Mark(3, 180_000, True), b""), (m.Close(), b""),
        (m.Hole(None, 1, 2, "timestamp_jump"), b""), (m.Encoded(1, 2, 3, 4, False), b"x"), (m.Hello(1, 4711), b""),
        (m.Describe(7, Clips.units("h264")[0].track), b""), (m.Progress(5, {"a": 1.5, "note": "a"}), b""),
    ]  # fmt: skip
    seeds = [b"".join(part for message, payload in messages for part in frame(message, payload))]

    def run(data: bytes, dice: Random) -> None:
        decoder = Decoder()
        for piece in cut(data, dice):
            decoder.feed(piece)

    return Target("worker", seeds, run, (ProtocolError,), [b"\xdc\xff\xff", b"\xc0", b"\x93", b"\0\0\0\x05\0\0\0\0"])


TARGETS = (_worker,)
