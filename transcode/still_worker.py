"""The stills process: keyframes of any stream in, JPEGs out, one at a time. Started by `stills`.

Each keyframe has a decoder of its own: nothing of one stream is left for the next.
"""

from __future__ import annotations

import os
import socket

import av

from media.errors import ProtocolError
from media.packet import Packet
from transcode import child
from transcode import messages as m
from transcode.decoder import DecoderError, VideoDecoder
from transcode.thumbnail import Jpeg
from transcode.wire import Decoder


class StillWorker:
    """Reads the socket until its end."""

    def __init__(self, sock: socket.socket, memory_bytes: int) -> None:
        self._sock = sock
        self._memory_bytes = memory_bytes
        self._voice = child.Voice(sock)
        self._jpegs: dict[int, Jpeg] = {}
        self._count = 0
        """The time of each picture here: the JPEG encoder wants it to rise, and streams have clocks of their own."""

    def run(self) -> None:
        """Say hello and answer. Raises `ProtocolError` on a connection that makes no sense."""
        self._voice.send(m.Hello(m.VERSION, os.getpid()))
        decoder = Decoder()
        while data := self._sock.recv(1 << 18):
            for message, payload in decoder.feed(data):
                if not isinstance(message, m.Still):
                    raise ProtocolError(f"{type(message).__name__} is not for the stills process.")
                self._answer(message, payload)

    def _answer(self, still: m.Still, unit: bytes) -> None:
        try:
            jpeg = self._make(still, unit)
        except (DecoderError, av.FFmpegError) as error:
            jpeg, why = b"", str(error)
        else:
            why = "the decoder gave no picture"
        # Before the answer: who made it grow is still the one at work.
        child.mind_memory(self._memory_bytes)
        if jpeg:
            self._voice.send(m.Picture(still.pts), jpeg)
        else:
            self._voice.send(m.Notice("no_picture", why))

    def _make(self, still: m.Still, unit: bytes) -> bytes:
        """The JPEG, or nothing where the unit has no picture. Raises `DecoderError`, `av.FFmpegError`."""
        self._count += 1
        decoder = VideoDecoder(still.track)
        pictures = decoder.decode(Packet(still.track, self._count, self._count, 0, True, unit)) or decoder.flush()
        if not pictures:
            return b""
        jpeg = self._jpegs.setdefault(still.height, Jpeg(still.height))
        return jpeg(pictures[0], still.track.sample_aspect)


def main(fd: int, memory_bytes: int, nice: int) -> int:
    """Run the process on the socket `fd`; returns its exit code."""
    return child.run(fd, memory_bytes, nice, lambda sock: StillWorker(sock, memory_bytes).run())
