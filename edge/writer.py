"""Bytes on their way to one viewer: straight to the socket where that takes them, else by the loop's transport.

A transport puts what it is given into a queue and looks at it at the end of the loop's turn. For a crowd that is woken
at once the way through that queue costs as much as the answer. So its answers are written to the descriptor at once,
and only what that does not take goes the long way. While anything may be in the transport's queue, everything goes
there: bytes never overtake each other. With TLS there is only the transport. Hits go by the queue on purpose: written
together at the end of a turn, they wake the other side less often.
"""

from __future__ import annotations

import asyncio
import contextlib
import os

Buffer = bytes | memoryview


class Writer:
    """See the module. One per connection, on the loop."""

    __slots__ = ("_fd", "_looking", "_loop", "_queued", "_transport")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        sock = transport.get_extra_info("socket")
        secure = transport.get_extra_info("ssl_object") is not None
        self._fd = -1 if secure or sock is None else int(sock.fileno())
        self._loop = asyncio.get_running_loop()
        self._queued = self._looking = False

    def hit(self, head: bytes, body: Buffer = b"") -> None:
        """Write a whole answer at the end of the loop's turn."""
        self._queued = True
        if body:
            self._transport.writelines((head, body))
        else:
            self._transport.write(head)

    def settle(self) -> None:
        """Before a wait: find out whether the queue is empty by then."""
        if self._queued and not self._looking and self._fd >= 0:
            # The transport says the truth about its queue in the loop's next turn, not in this one.
            self._looking = True
            self._loop.call_soon(self._look)

    def put(self, head: bytes, body: Buffer = b"") -> None:
        """Write a whole answer at once."""
        transport = self._transport
        if transport.is_closing():
            return  # the descriptor may be another's
        sent = 0
        if not self._queued and self._fd >= 0:
            # A full socket, or a broken one: the latter is left to the transport to find.
            with contextlib.suppress(OSError):
                sent = os.writev(self._fd, (head, body)) if body else os.write(self._fd, head)
        size = len(head)
        if sent == size + len(body):
            return
        if sent < size:
            self.queue(memoryview(head)[sent:], body)
        else:
            self.queue(memoryview(body)[sent - size :])

    def queue(self, *pieces: Buffer) -> None:
        """Write a piece of an answer, behind all that is queued already."""
        if self._transport.is_closing():
            return
        self._transport.writelines(pieces)
        self._queued = True
        self.settle()

    def _look(self) -> None:
        self._looking = False
        self._queued = not self._transport.is_closing() and self._transport.get_write_buffer_size() > 0
