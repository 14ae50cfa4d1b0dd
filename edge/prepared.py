"""Whole HTTP/1.1 answers, made once and sent to many.

The bytes of one that many ask for are copied once more, into a file in memory (memfd_create(2)), from which the kernel
feeds sockets by reference (sendfile(2)) instead of copying them for each viewer. Such a file is never written to
again, for its pages lie in the queues of sockets; whoever still has some to send keeps them after it was closed.
"""

from __future__ import annotations

import os

JOIN_BYTES = 16 * 1024
"""Up to this size head and body are one buffer: one copy a second saves a second buffer at each request."""
FILE_BYTES = 256 * 1024
"""Larger ones are copied: a socket takes them in pieces, and then sendfile is slower (three times at 750 kB)."""
FILE_AFTER = 8
"""Answers after which a file pays: making one costs as much as copying for three viewers."""
MAX_FILES = 128
"""With the bound above, 32 MiB beside the cache's budget."""


class Files:
    """The files of one worker: at most `limit` at once. Without one, answers are copied."""

    def __init__(self, limit: int = MAX_FILES) -> None:
        self.limit = limit
        self.open = 0

    def make(self, head: bytes, body: bytes) -> int:
        """A descriptor to be given back with `close`; -1 where there is none to be had."""
        if self.open >= self.limit or not hasattr(os, "memfd_create"):  # which only Linux has
            return -1
        try:
            fd = os.memfd_create("headrace-edge", os.MFD_CLOEXEC)
        except OSError:
            return -1
        self.open += 1
        try:
            whole = os.writev(fd, (head, body)) == len(head) + len(body)
        except OSError:
            whole = False
        if not whole:
            self.close(fd)
            return -1
        return fd

    def close(self, fd: int) -> None:
        self.open -= 1
        os.close(fd)


class Prepared:
    """One answer. Its file is closed with the last reference to it."""

    __slots__ = ("_asked", "_fd", "_files", "body", "head", "size")

    def __init__(self, head: bytes, body: bytes) -> None:
        joined = len(body) <= JOIN_BYTES
        self.head = head + body if joined else head
        self.body = b"" if joined else body
        """Empty where it is behind the head already."""
        self.size = len(head) + len(body)
        self._fd = -1
        self._files: Files | None = None
        self._asked = 0

    def __del__(self) -> None:
        if self._files is not None:
            self._files.close(self._fd)

    def send(self, fd: int, files: Files) -> int:
        """Write to a socket; the number of bytes that it took. Raises OSError."""
        if not self.body:
            return os.write(fd, self.head)
        if self._fd >= 0:
            return os.sendfile(fd, self._fd, 0, self.size)
        self._asked += 1
        if self._asked == FILE_AFTER and self.size <= FILE_BYTES:
            self._fd = files.make(self.head, self.body)
            self._files = files if self._fd >= 0 else None
        return os.writev(fd, (self.head, self.body))
