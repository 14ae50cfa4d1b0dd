"""Transport streams for the tests: real ones from ffmpeg, and a small muxer for what ffmpeg never writes."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from functools import cache

import imageio_ffmpeg
import pytest

from ingest.mpegts.tables import crc32

RECIPES = {
    "x264": "-c:v libx264 -preset fast -bf 2 -g 10 -c:a aac -ac:a:0 2 -ac:a:1 1 "
    "-metadata:s:a:0 language=deu -metadata:s:a:1 language=eng",
    "x265": "-c:v libx265 -preset ultrafast -x265-params log-level=error:open-gop=0:keyint=10 -c:a libopus -ac 2",
    "fields": "-c:v libx264 -preset fast -flags +ildct+ilme -g 10 -c:a libopus -ac 6",
    "slices": "-c:v libx264 -preset fast -bf 0 -g 10 -x264-params slices=4 -c:a aac",
    "wrap": "-c:v libx264 -preset ultrafast -g 10 -c:a aac -output_ts_offset 95441.5",
    "latm": "-c:v libx264 -preset ultrafast -g 10 -c:a aac -mpegts_flags latm",
    "mp2": "-c:v mpeg2video -c:a mp2",
}


@cache
def record(name: str) -> bytes:
    """Two seconds by a recipe."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error"]
    for source in ("testsrc2=s=192x128:r=25:d=2", "sine=440:d=2", "sine=880:d=2"):
        command += ["-f", "lavfi", "-i", source]
    command += ["-map", "0", "-map", "1", *(("-map", "2") if name == "x264" else ()), "-threads", "1"]
    command += [*RECIPES[name].split(), "-f", "mpegts", "pipe:1"]
    return subprocess.run(command, capture_output=True, check=True, timeout=60).stdout


def stamp(prefix: int, value: int) -> bytes:
    value %= 1 << 33
    parts = (prefix << 4 | value >> 30 << 1 | 1, value >> 15 << 1 & 0xFFFE | 1, value << 1 & 0xFFFE | 1)
    return parts[0].to_bytes(1, "big") + parts[1].to_bytes(2, "big") + parts[2].to_bytes(2, "big")


def pes(
    payload: bytes, pts: int | None = None, dts: int | None = None, *, sized: bool = False, kind: int = 0xE0
) -> bytes:
    stamps = b""
    if pts is not None:
        stamps = stamp(2, pts) if dts is None else stamp(3, pts) + stamp(1, dts)
    flags = 0 if pts is None else 0x80 if dts is None else 0xC0
    body = bytes((0x80, flags, len(stamps))) + stamps + payload
    return b"\0\0\1" + bytes((kind,)) + (len(body) if sized else 0).to_bytes(2, "big") + body


def section(table: int, ident: int, body: bytes, version: int = 0, *, current: bool = True) -> bytes:
    data = ident.to_bytes(2, "big") + bytes((0xC0 | version << 1 | current, 0, 0)) + body
    data = bytes((table,)) + (0xB000 | (len(data) + 4)).to_bytes(2, "big") + data
    return data + crc32(data).to_bytes(4, "big")


class Mux:
    """Writes TS packets, with continuity counters of its own."""

    def __init__(self) -> None:
        self.counters: dict[int, int] = {}

    def packet(self, pid: int, payload: bytes, *, start: bool = False, flags: int = 0, pcr: int | None = None) -> bytes:
        """One packet; the adaptation field fills what the payload leaves."""
        assert len(payload) <= 184
        counter = self.counters.get(pid, 0)
        self.counters[pid] = (counter + 1) % 16
        field = b""
        room = 184 - len(payload)
        if room or flags or pcr is not None:
            content = b""
            if room > 1:
                content = bytes((flags | (0x10 if pcr is not None else 0),))
                if pcr is not None:
                    content += ((pcr // 300) << 15 | 0x7E00 | pcr % 300).to_bytes(6, "big")
            assert len(content) < room
            field = bytes((room - 1,)) + content.ljust(room - 1, b"\xff")
        head = bytes((0x47, start << 6 | pid >> 8, pid & 255, (0x30 if field else 0x10) | counter))
        return head + field + payload

    def pes(self, pid: int, data: bytes, *, flags: int = 0, pcr: int | None = None) -> bytes:
        """A PES packet in as many TS packets as it needs."""
        out = b""
        start = True
        while data:
            room = 176 if start and (flags or pcr is not None) else 184
            out += self.packet(pid, data[:room], start=start, flags=flags if start else 0, pcr=pcr if start else None)
            data, start = data[room:], False
        return out

    def tables(self, streams: Sequence[tuple[int, int, bytes]], version: int = 0, *, pcr_pid: int = 0x100) -> bytes:
        """PAT and PMT for (stream type, PID, descriptors)."""
        body = b"".join(
            bytes((kind,)) + (0xE000 | pid).to_bytes(2, "big") + (0xF000 | len(extra)).to_bytes(2, "big") + extra
            for kind, pid, extra in streams
        )
        pat = section(0, 1, b"\0\1\xf0\x00", version)
        pmt = section(2, 1, (0xE000 | pcr_pid).to_bytes(2, "big") + b"\xf0\0" + body, version)
        return self.table(0, pat) + self.table(0x1000, pmt)

    def table(self, pid: int, data: bytes) -> bytes:
        out = b""
        data = b"\0" + data
        start = True
        while data:
            out += self.packet(pid, data[:184].ljust(184, b"\xff"), start=start)
            data, start = data[184:], False
        return out


@pytest.fixture(scope="session")
def real() -> Callable[[str], bytes]:
    """`real("x264")`: a transport stream of ffmpeg."""
    return record


@pytest.fixture
def mux() -> Mux:
    return Mux()


@pytest.fixture(scope="session")
def make_mux() -> type[Mux]:
    return Mux


@pytest.fixture(scope="session")
def make_pes() -> Callable[..., bytes]:
    return pes


@pytest.fixture(scope="session")
def make_section() -> Callable[..., bytes]:
    return section
