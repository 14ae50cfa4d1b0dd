"""A publisher over RTMP whose time stamps the test decides, one by one: real pictures and sound, any clock."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rtmp_double import Script

from ingest.rtmp.messages import Kind, Message


@dataclass(frozen=True)
class Tag:
    """One message as FLV keeps it. `ms`: its own time stamp."""

    kind: int
    ms: int
    body: bytes

    @property
    def header(self) -> bool:
        """A sequence header: says how to decode, and is shown at no time."""
        return self.body[1:2] == b"\0" and self.kind in (Kind.AUDIO, Kind.VIDEO)


def encode(arguments: tuple[str, ...], path: Path, ffmpeg: str = "ffmpeg") -> list[Tag]:
    """What ffmpeg would publish from these arguments (input and codecs), in its order."""
    subprocess.run(
        [ffmpeg, "-v", "error", "-nostdin", *arguments, "-flvflags", "no_duration_filesize", "-f", "flv", str(path)],
        check=True,
    )
    return list(_tags(path.read_bytes()))


def _tags(data: bytes) -> Iterator[Tag]:
    at = 13
    while at + 11 <= len(data):
        size = int.from_bytes(data[at + 1 : at + 4], "big")
        ms = int.from_bytes(data[at + 4 : at + 7], "big") | data[at + 7] << 24
        yield Tag(data[at], ms, data[at + 11 : at + 11 + size])
        at += 11 + size + 4


def publish(port: int, key: str, tags: list[Tag], stamp: Callable[[Tag], int]) -> None:
    """Send the tags in real time, each stamped with `stamp` (cut to 32 bits), then say that it is over."""
    script = Script()
    with socket.create_connection(("127.0.0.1", port), 10) as sock:
        sock.settimeout(10)
        sock.sendall(script.start(key))
        while not any(code == "NetStream.Publish.Start" for code, _, _ in script.statuses()):
            data = sock.recv(65536)
            assert data, script.statuses()
            script.read(data)
        sock.setblocking(False)
        began = time.monotonic()
        for tag in tags:
            time.sleep(max(0.0, began + tag.ms / 1000 - time.monotonic()))
            kind = Kind(tag.kind)
            if kind is Kind.DATA_AMF0:
                continue
            message = Message(kind, stamp(tag) & 0xFFFFFFFF, 1, tag.body, 6 if kind is Kind.VIDEO else 4)
            _send(sock, script.message(message))
        _send(sock, script.command("deleteStream", 7.0, None, 1.0))


def _send(sock: socket.socket, data: bytes) -> None:
    """Send, and throw away what the server has to say."""
    sock.settimeout(0)
    try:
        while sock.recv(65536):
            pass
    except BlockingIOError:
        pass
    sock.settimeout(10)
    sock.sendall(data)
