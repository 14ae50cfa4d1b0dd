"""The worker process: one job over one socket (`wire`). Started by `pool` as `python -m transcode worker --fd N`.

It never outlives its core: the end of the socket, or the parent's death, ends it. Exit codes: 0 done, 70 a bug of
ours (traceback on stderr), 77 over its memory limit.
"""

from __future__ import annotations

import ctypes
import faulthandler
import os
import resource
import signal
import socket
import sys
import threading
import traceback

import structlog

from media.errors import ProtocolError
from media.packet import Gap, Packet
from media.track import Track
from transcode import messages as m
from transcode.pipeline import Pipeline
from transcode.wire import Decoder, frame

log = structlog.get_logger(__name__)

PROGRESS_S = 0.5
_PR_SET_PDEATHSIG = 1
_PAGE = resource.getpagesize()


class _SocketOutput:
    """`output.Output` over the socket; every thread of the worker writes here."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._lock = threading.Lock()
        self._tracks: dict[str, tuple[int, Track, str]] = {}
        self._keys = 0

    def send(self, message: m.Message, payload: bytes = b"") -> None:
        """Waits while the core does not read. A core that is gone ends the process."""
        head, body = frame(message, payload)
        try:
            with self._lock:
                self._sock.sendall(head + body)
        except OSError:
            os._exit(0)

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
            values = pipeline.values() | {"rss_bytes": _rss_bytes()}
            self._output.send(m.Progress(pipeline.units, values))

    def _watch(self) -> None:
        """Tell progress, and mind the memory, until the process ends."""
        pause = threading.Event()
        while not pause.wait(PROGRESS_S):
            if self._memory_bytes and (rss := _rss_bytes()) > self._memory_bytes:
                log.error("memory_limit", rss_bytes=rss, limit_bytes=self._memory_bytes)
                sys.stderr.flush()
                os._exit(m.EXIT_MEMORY)
            self._progress()


def _rss_bytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * _PAGE


def _isolate(memory_bytes: int, nice: int) -> None:
    """Die with the parent, stand back for it, keep within limits.

    The memory limit proper is on resident memory, looked at twice a second (`_watch`). RLIMIT_AS would count the
    address space that glibc reserves per thread and never touches (64 MB each), so it kills healthy workers;
    RLIMIT_DATA counts what was made writable, and stands at twice the limit against a sudden leak.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # The core drains its workers itself; a terminal's Ctrl-C or a service manager's signal to all is for the core.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if nice:
        os.nice(nice)
    if memory_bytes:
        resource.setrlimit(resource.RLIMIT_DATA, (2 * memory_bytes, 2 * memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main(fd: int, memory_bytes: int, nice: int) -> int:
    """Run a worker on the socket `fd`; returns its exit code."""
    import av.logging

    faulthandler.enable()
    _isolate(memory_bytes, nice)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.KeyValueRenderer(key_order=["level", "event"]),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    # libav's own lines go straight to stderr: its callback into Python may deadlock with threads that hold locks.
    av.logging.restore_default_callback()
    av.logging.set_level(av.logging.ERROR)

    def on_bug(args: threading.ExceptHookArgs) -> None:
        traceback.print_exception(args.exc_type, args.exc_value, args.exc_traceback)
        sys.stderr.flush()
        os._exit(m.EXIT_BUG)

    threading.excepthook = on_bug
    with socket.socket(fileno=fd) as sock:
        Worker(sock, memory_bytes).run()
    sys.stderr.flush()
    # Threads that wait for input that will not come must not keep the process.
    os._exit(0)
