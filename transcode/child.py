"""What the core's child processes have in common: they die with it, stand back for it, and keep within their limits.

Exit codes: 0 done, 70 a bug of ours (traceback on stderr), 77 over the memory limit.
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
from collections.abc import Callable

import structlog

from transcode import messages as m
from transcode import realtime
from transcode.wire import frame

log = structlog.get_logger(__name__)

_PR_SET_PDEATHSIG = 1
_PAGE = resource.getpagesize()


class Voice:
    """The way to the core; every thread of the process speaks here."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._lock = threading.Lock()

    def send(self, message: m.Message, payload: bytes = b"") -> None:
        """Waits while the core does not read. A core that is gone ends the process."""
        data = b"".join(frame(message, payload))
        try:
            with self._lock:
                self._sock.sendall(data)
        except OSError:
            os._exit(0)


def rss_bytes() -> int:
    """Resident memory of this process."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * _PAGE


def mind_memory(limit_bytes: int) -> None:
    """End the process where it has grown past `limit_bytes`; 0: no limit."""
    if limit_bytes and (rss := rss_bytes()) > limit_bytes:
        log.error("memory_limit", rss_bytes=rss, limit_bytes=limit_bytes)
        sys.stderr.flush()
        os._exit(m.EXIT_MEMORY)


def _isolate(memory_bytes: int, nice: int) -> None:
    """Die with the parent, stand back for it, keep within limits.

    The memory limit proper is on resident memory, looked at often (`mind_memory`). RLIMIT_AS would count the
    address space that glibc reserves per thread and never touches (64 MB each), so it kills healthy workers;
    RLIMIT_DATA counts what was made writable, and stands at twice the limit against a sudden leak.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # The core drains its workers itself; a terminal's Ctrl-C or a service manager's signal to all is for the core.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    realtime.forbid()
    if nice:
        os.nice(nice)
    if memory_bytes:
        resource.setrlimit(resource.RLIMIT_DATA, (2 * memory_bytes, 2 * memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def run(fd: int, memory_bytes: int, nice: int, work: Callable[[socket.socket], None]) -> int:
    """Do `work` with the socket `fd`, to its end; returns the exit code."""
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
        work(sock)
    sys.stderr.flush()
    # Threads that wait for input that will not come must not keep the process.
    os._exit(0)
