"""Bytes on their way to one viewer: straight to the socket where that takes them, else by the loop's transport.

A transport puts what it is given into a queue and looks at it at the end of the loop's turn; for a crowd that is woken
at once, the way through that queue costs as much as the answer. So whole answers are written to the descriptor at
once, and only what that does not take goes the long way. While anything is in the transport's queue, everything goes
there: bytes never overtake each other. With TLS there is only the transport. Small hits go by the queue on purpose:
written together at the end of a turn, they wake the other side less often.
"""

from __future__ import annotations

import asyncio
import os

from edge.prepared import Files, Prepared

Buffer = bytes | memoryview

SEAL_BYTES = 32 * 1024
"""What is encrypted at a time of larger pieces than two of these: a megabyte needs new memory from the kernel."""


class Writer:
    """See the module. One per connection, on the loop."""

    __slots__ = ("_fd", "_files", "_queued", "_transport")

    def __init__(self, transport: asyncio.Transport, files: Files) -> None:
        self._transport = transport
        self._files = files
        sock = transport.get_extra_info("socket")
        secure = transport.get_extra_info("ssl_object") is not None
        self._fd = -1 if secure or sock is None else int(sock.fileno())
        self._queued = False
        """Something may be in the transport's queue."""

    def hit(self, answer: Prepared) -> None:
        """Write a whole answer to a viewer who has just asked."""
        if answer.body:
            self.answer(answer)
        else:
            self._transport.write(answer.head)
            self._queued = True

    def answer(self, answer: Prepared) -> None:
        """Write a whole answer that others get, too."""
        if self._transport.is_closing():
            return  # the descriptor may be another's
        sent = 0
        if self._free():
            try:
                sent = answer.send(self._fd, self._files)
            except OSError:
                sent = 0  # a full socket, or a broken one: the latter is left to the transport to find
        if sent != answer.size:
            self._rest(sent, answer.head, answer.body)

    def put(self, head: bytes, body: Buffer = b"") -> None:
        """Write a whole answer."""
        if self._transport.is_closing():
            return
        sent = 0
        if self._free():
            try:
                sent = os.writev(self._fd, (head, body)) if body else os.write(self._fd, head)
            except OSError:
                sent = 0
        if sent != len(head) + len(body):
            self._rest(sent, head, body)

    def queue(self, *pieces: Buffer) -> None:
        """Write a piece of an answer, behind all that is queued already."""
        transport = self._transport
        if transport.is_closing():
            return
        if self._fd >= 0:
            transport.writelines(pieces)
        else:
            for piece in pieces:
                if len(piece) <= 2 * SEAL_BYTES:
                    transport.write(piece)
                else:
                    view = memoryview(piece)
                    for at in range(0, len(view), SEAL_BYTES):
                        transport.write(view[at : at + SEAL_BYTES])
        self._queued = True

    def _free(self) -> bool:
        """Nothing is in the transport's queue, and there is a descriptor to write to."""
        if self._queued and not self._transport.get_write_buffer_size():
            self._queued = False
        return not self._queued and self._fd >= 0

    def _rest(self, sent: int, head: bytes, body: Buffer) -> None:
        """Queue what the socket did not take."""
        if sent < len(head):
            self.queue(memoryview(head)[sent:] if sent else head, *((body,) if body else ()))
        else:
            self.queue(memoryview(body)[sent - len(head) :])
