"""Whole HTTP/1.1 answers, made once and sent to many.

The bytes of one that many ask for are copied once more, into a file in memory (memfd_create(2)), from which the kernel
feeds sockets by reference (sendfile(2)) instead of copying them for each viewer. Such a file is never written to
again, for its pages lie in the queues of sockets; whoever still has some to send keeps them after it was closed.
"""

from __future__ import annotations

import os
import weakref

JOIN_BYTES = 16 * 1024
"""Up to this size head and body are one buffer: one copy a second saves a second buffer at each request."""
FILE_BYTES = 256 * 1024
"""Larger ones are copied: a socket takes them in pieces, and then sendfile is slower (three times at 750 kB)."""
FILE_AFTER = 8
"""Answers after which a file pays: making one costs as much as copying for three viewers."""
MAX_FILES = 128
"""With the bound above, 32 MiB beside the cache's budget."""


class Files:
    """The files of one worker: at most `limit` at once, and the oldest makes room.

    What is still asked for is prepared anew each second, with another Age; a part is soon asked for by nobody.
    """

    def __init__(self, limit: int = MAX_FILES) -> None:
        self.limit = limit
        self._held: dict[int, weakref.ref[Prepared]] = {}

    @property
    def open(self) -> int:
        """How many there are."""
        return len(self._held)

    def make(self, answer: Prepared) -> int:
        """A descriptor, kept until `close`; -1 where there is none to be had."""
        if not hasattr(os, "memfd_create"):  # which only Linux has
            return -1
        while len(self._held) >= self.limit:
            oldest = self._held[next(iter(self._held))]()
            assert oldest is not None  # or it would have closed its file
            oldest.release()
        try:
            fd = os.memfd_create("headrace-edge", os.MFD_CLOEXEC)
        except OSError:
            return -1
        try:
            whole = os.writev(fd, (answer.head, answer.body)) == answer.size
        except OSError:
            whole = False
        if not whole:
            os.close(fd)
            return -1
        self._held[fd] = weakref.ref(answer)
        return fd

    def close(self, fd: int) -> None:
        del self._held[fd]
        os.close(fd)


class Prepared:
    """One answer. Its file is closed with the last reference to it."""

    __slots__ = ("__weakref__", "_asked", "_fd", "_files", "body", "head", "size")

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
        self.release()

    def release(self) -> None:
        """Close the file, if there is one; from here on the bytes are copied."""
        if self._files is not None:
            self._files.close(self._fd)
            self._files, self._fd = None, -1

    def send(self, fd: int, files: Files) -> int:
        """Write to a socket; the number of bytes that it took. Raises OSError."""
        if not self.body:
            return os.write(fd, self.head)
        if self._fd >= 0:
            return os.sendfile(fd, self._fd, 0, self.size)
        self._asked += 1
        if self._asked == FILE_AFTER and self.size <= FILE_BYTES:
            self._fd = files.make(self)
            self._files = files if self._fd >= 0 else None
        return os.writev(fd, (self.head, self.body))
