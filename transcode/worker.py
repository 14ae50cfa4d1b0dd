"""The worker process: one job over one socket (`wire`). Started by `pool` as `python -m transcode worker --fd N`.

It never outlives its core: the end of the socket, or the parent's death, ends it (`child`).
"""

from __future__ import annotations

import os
import socket
import threading

import structlog

from media.errors import ProtocolError
from media.packet import Gap, Packet
from media.track import Track
from transcode import child
from transcode import messages as m
from transcode.pipeline import Pipeline
from transcode.wire import Decoder

log = structlog.get_logger(__name__)

PROGRESS_S = 0.5


class _SocketOutput(child.Voice):
    """`output.Output` over the socket; every thread of the worker writes here."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self._tracks: dict[str, tuple[int, Track, str]] = {}
        self._keys = 0

    def made(self, rendition: str, packet: Packet, encoder: str) -> None:
        known = self._tracks.get(rendition)
        if known is None or known[1] != packet.track or known[2] != encoder:
            with self._lock:
                self._keys += 1
                key = self._keys
            self._tracks[rendition] = known = (key, packet.track, encoder)
            self.send(m.Made(key, rendition, packet.track, encoder))
        self.send(m.Encoded(known[0], packet.pts, packet.dts, packet.duration, packet.keyframe), packet.data)

    def picture(self, pts: int, jpeg: bytes) -> None:
        self.send(m.Picture(pts), jpeg)

    def notice(self, slug: str, text: str, failed: str = "") -> None:
        log.warning(slug, text=text)
        self.send(m.Notice(slug, text, failed))


class Worker:
    """Reads the socket until its end."""

    def __init__(self, sock: socket.socket, memory_bytes: int) -> None:
        self._sock = sock
        self._memory_bytes = memory_bytes
        self._output = _SocketOutput(sock)
        self._pipeline: Pipeline | None = None
        self._tracks: dict[int, Track] = {}

    def run(self) -> None:
        """Say hello, do the job, say `Done`. Raises `ProtocolError` on a connection that makes no sense."""
        self._output.send(m.Hello(m.VERSION, os.getpid()))
        threading.Thread(target=self._watch, name="watch", daemon=True).start()
        decoder = Decoder()
        while data := self._sock.recv(1 << 18):
            for message, payload in decoder.feed(data):
                if isinstance(message, m.Close):
                    self._finish()
                    return
                self._take(message, payload)

    def _take(self, message: m.Message, payload: bytes) -> None:
        if isinstance(message, m.Open):
            structlog.contextvars.bind_contextvars(job=message.name)
            self._pipeline = Pipeline(message.plan, self._output)
            return
        pipeline = self._pipeline
        if pipeline is None:
            raise ProtocolError("The first message is not `Open`.")
        match message:
            case m.Unit():
                track = self._tracks.get(message.key)
                if track is None:
                    raise ProtocolError("A unit of a track that was not described.")
                pipeline.write(
                    Packet(track, message.pts, message.dts, message.duration, message.keyframe, payload),
                )
            case m.Describe():
                self._tracks = {k: t for k, t in self._tracks.items() if t.id != message.track.id}
                self._tracks[message.key] = message.track
            case m.Mark():
                pipeline.cut(message)
            case m.Hole():
                pipeline.write(Gap(message.track_id, message.start, message.end, message.reason))
            case m.Watched():
                pipeline.watched(message.viewers)
            case m.Change():
                pipeline.change(message.plan)
            case _:
                raise ProtocolError(f"{type(message).__name__} is not for a worker.")

    def _finish(self) -> None:
        if self._pipeline is not None:
            self._pipeline.close()
            self._progress()
        self._output.send(m.Done())

    def _progress(self) -> None:
        pipeline = self._pipeline
        if pipeline is not None:
            values = pipeline.values() | {"rss_bytes": child.rss_bytes()}
            self._output.send(m.Progress(pipeline.units, values))

    def _watch(self) -> None:
        """Tell progress, and mind the memory, until the process ends."""
        pause = threading.Event()
        while not pause.wait(PROGRESS_S):
            child.mind_memory(self._memory_bytes)
            self._progress()


def main(fd: int, memory_bytes: int, nice: int) -> int:
    """Run a worker on the socket `fd`; returns its exit code."""
    return child.run(fd, memory_bytes, nice, lambda sock: Worker(sock, memory_bytes).run())
