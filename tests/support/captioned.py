"""A source whose pictures carry closed captions (CEA-608, by ANSI/SCTE 128-1 8.1): ffmpeg has no caption encoder."""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Iterator
from pathlib import Path

from live_server import FFMPEG

RATE = 25
_AUD = b"\x00\x00\x00\x01\x09"
_LOAD, _ERASE_HIDDEN, _ROW_15, _SHOW = b"\x14\x20", b"\x14\x2e", b"\x14\x70", b"\x14\x2f"
_ERASE, _NOTHING = b"\x14\x2c", b"\x00\x00"


def captioned(folder: Path, text: str, seconds: int) -> tuple[str, ...]:
    """Arguments of an ffmpeg that publishes in real time, for `seconds`, pictures that say `text` every two seconds."""
    raw = subprocess.run(
        [FFMPEG, "-v", "error", "-f", "lavfi", "-i", f"testsrc2=size=320x180:rate={RATE}:duration={seconds}",
         "-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-g", str(2 * RATE),
         "-x264-params", "aud=1", "-f", "h264", "-"], stdout=subprocess.PIPE, check=True,
    ).stdout  # fmt: skip
    units = raw.split(_AUD)[1:]
    path = folder / "captioned.h264"
    # An access unit delimiter has two bytes, of which the separator took the first with the start code.
    path.write_bytes(b"".join(_AUD + u[:1] + _sei(p) + u[1:] for u, p in zip(units, _pairs(text), strict=False)))
    return ("-re", "-f", "h264", "-framerate", str(RATE), "-i", str(path), "-c", "copy",
            "-bsf:v", f"setts=ts=N*{1000 // RATE}:duration={1000 // RATE}:time_base=1/1000", "-f", "flv")  # fmt: skip


def _pairs(text: str) -> Iterator[bytes]:
    """Two bytes for each picture: a pop-on caption (ANSI/CTA-608-E), over and over. Control codes go twice."""
    padded = text.encode("ascii") + b"\0" * (len(text) % 2)
    codes = [code for code in (_LOAD, _ERASE_HIDDEN, _ROW_15) for _ in range(2)]
    codes += [padded[i : i + 2] for i in range(0, len(padded), 2)] + [_SHOW, _SHOW]
    return itertools.cycle(codes + [_NOTHING] * (2 * RATE - len(codes) - 2) + [_ERASE, _ERASE])


def _sei(pair: bytes) -> bytes:
    odd = bytes(byte | (0x80 if byte.bit_count() % 2 == 0 else 0) for byte in pair)
    message = b"\xb5\x00\x31GA94\x03\x41\xff\xfc" + odd + b"\xff"
    return b"\x00\x00\x00\x01\x06\x04" + bytes((len(message),)) + message + b"\x80"
