"""One viewer's HTTP/1.1 connection: the thin shell around `edge.request` and `edge.site`.

The short path is in `data_received`: request line and header block are known by their bytes (a player changes only
the first, and players of one kind say the same), and a fresh entry has its whole answer ready. Everything else goes
by `_feed`.
One answer at a time; while it is being written, or waited for, further requests stay in a bounded buffer.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import TYPE_CHECKING, cast

from edge import entry, request
from edge.access import Grant
from edge.entry import Entry, Fields
from edge.prepared import Prepared
from edge.reader import Buffer, Reader
from edge.request import Bad, Request
from edge.writer import Writer
from media.errors import ProtocolError

if TYPE_CHECKING:
    from edge.server import Server

HIGH_WATER_BYTES = 256 * 1024
"""Above this, what is written waits for the viewer; the bytes themselves are shared with the cache, not copied."""

LINGER_S = 2.0
"""After an error the connection is read (and thrown away) for so long: closing at once with unread bytes would
make the kernel reset it, and the viewer would lose the answer (RFC 9112 9.6)."""

DRAIN_IDLE_S = 0.3
"""When draining, a connection that was silent for so long is closed; before, a request may be on its way."""

_AT_ONCE = struct.pack("ii", 1, 0)
"""For SO_LINGER, socket(7)."""
_CHUNKED: Fields = ((b"transfer-encoding", b"chunked"),)
_CLOSE: Fields = ((b"connection", b"close"),)


class Connection(asyncio.Protocol):
    """See the module. Implements `edge.reader.Sink`."""

    protocol = "HTTP/1.1"
    __slots__ = (
        "_buffer",
        "_chunked",
        "_clock",
        "_entries",
        "_feeding",
        "_heads",
        "_keep_alive",
        "_log",
        "_out",
        "_said",
        "_server",
        "_site",
        "_stats",
        "_transport",
        "_unframed",
        "address",
        "busy",
        "closing_at",
        "counted_until",
        "grant",
        "head_since",
        "last",
        "paused",
        "paused_since",
        "reader",
        "unsent",
    )

    def __init__(self, server: Server) -> None:
        self._server = server
        self._site = server.site
        self._entries = server.site.cache.entries
        self._clock = server.site.clock
        self._stats = server.stats
        self._heads = server.heads
        self._log = server.log
        self._transport: asyncio.Transport | None = None
        self._out: Writer | None = None
        self._buffer = b""
        self._feeding = False
        self._keep_alive = True
        self._said: request.Fields | None = None
        """The header lines of the last request: mostly those of the next, too."""
        self._chunked = False
        self._unframed = False
        """The end of the connection is the end of the body."""
        self.reader: Reader | None = None
        self.busy = False
        """An answer is awaited or being written."""
        self.paused = False
        self.paused_since = 0.0
        self.unsent = 0
        """Bytes in the write buffer at the last look; see `check`."""
        self.last = 0.0
        self.head_since = 0.0
        self.closing_at = 0.0
        """Not 0: an error was answered, nothing more is read, and this is the end."""
        self.counted_until = 0.0
        self.grant: Grant | None = None
        """With tokens or rules in force: what need not be looked at again for a moment."""
        self.address = ""

    @property
    def waiting(self) -> int:
        """1 while the viewer waits for a flight or for the rest of one."""
        return int(self.reader is not None)

    @property
    def readers(self) -> list[Reader]:
        return [self.reader] if self.reader is not None else []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)  # uvloop's transports do not derive from asyncio's
        self._transport, self._out = transport, Writer(transport, self._site.files)
        transport.set_write_buffer_limits(high=HIGH_WATER_BYTES)
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peer = transport.get_extra_info("peername")
        self.address = self.address or (str(peer[0]) if isinstance(peer, tuple) and peer else "")
        self.last = self._clock()
        refusal = self._server.admit(self)
        if refusal is not None:
            self._refuse(*refusal)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = self._out = None
        if self.reader is not None:
            self.reader.leave()
        self._server.forget(self)

    def eof_received(self) -> bool:
        # From here a viewer who is gone and one who only stopped asking look the same. Players never do the
        # latter, so it counts as gone, and waits for nothing; what is written already is still sent.
        return False

    def data_received(self, data: bytes) -> None:
        if not (self._buffer or self.busy or self.paused):
            short = self._heads.short(data, self._said)
            if short is not None and self._short(short[0], short[1], self.counted_until):
                self._said = short[2]
                return
        self._feed(data)

    def _short(self, key: str, coding: str, until: float) -> bool:
        """Answer a request with a fresh entry's prepared bytes; False if that needs the long way, as after `until`."""
        found = self._entries.get(key)
        if found is None or found.status != 200:
            return False
        now = self._clock()
        if now >= found.fresh_until or now >= until:
            return False
        found.used = True
        if coding and found.squeezable:
            if coding not in found.packed:
                return False
            found = found.squeezed(coding)
        if self._log is not None and self._log.due():
            return False
        answer = found.wire
        if answer is None or now >= found.wire_until:
            answer = found.prepare(now)
        out = self._out
        if out is not None:
            self.last = now
            stats = self._stats
            stats.hit += 1
            stats.bytes_sent += answer.size
            out.hit(answer)
        return True

    def pause_writing(self) -> None:
        self.paused = True
        self.paused_since = self._clock()
        self.unsent = 0

    def resume_writing(self) -> None:
        self.paused = False
        self.last = self._clock()
        if self.reader is not None:
            self.reader.wake()
        elif not self.busy:
            self._feed(b"")

    def check(self, now: float) -> None:
        """Once a second: enforce the times that a viewer has."""
        settings, transport = self._site.settings, self._transport
        if transport is None:
            return
        unsent = transport.get_write_buffer_size()
        if unsent != self.unsent:
            self.unsent, self.last = unsent, now
        if self.closing_at and not unsent:
            if now >= self.closing_at:
                transport.abort()
        elif unsent or self.paused:
            too_long = self.paused and now - self.paused_since > settings.send_timeout_s
            if too_long or now - self.last > settings.stall_timeout_s:
                self._stats.slow_viewers += 1
                self._cut()
        elif self.busy:
            return
        elif self._buffer:
            if now - self.head_since > settings.head_timeout_s:
                self._refuse(408, "head_timeout")
        elif now - self.last > settings.idle_timeout_s:
            transport.close()

    def drain(self) -> None:
        """Close after the answer under way, or once nothing was asked for a moment. Called again and again."""
        self._keep_alive = False
        self.counted_until = 0.0  # the next request takes the long way, whose answer says `Connection: close`
        idle = self._clock() - self.last >= DRAIN_IDLE_S
        if idle and not self.busy and not self.paused and not self._buffer and self._transport is not None:
            self._transport.close()

    # What follows is the way of a request that the short path does not answer.

    def _feed(self, data: bytes) -> None:
        if self.closing_at or self._transport is None:
            return
        if data:
            if not self._buffer:
                self.head_since = self._clock()
            self._buffer = self._buffer + data if self._buffer else data
        if self._feeding:
            return
        self._feeding = True
        try:
            while self._buffer and not self.busy and not self.paused and not self.closing_at:
                if not self._one():
                    break
        finally:
            self._feeding = False
        if len(self._buffer) > 2 * self._site.settings.max_head_bytes and (self.busy or self.paused):
            self._refuse(431, "too_much_ahead")  # a viewer that sends requests without taking answers

    def _one(self) -> bool:
        """Handle the request at the start of the buffer; False if it is not complete."""
        settings = self._site.settings
        buffer = self._buffer
        try:
            if buffer[:2] == b"\r\n":
                buffer = self._buffer = buffer[2:]  # RFC 9112 2.2: an empty line before a request is skipped
                if not buffer:
                    return False
            size = request.find_end(buffer, settings.max_head_bytes)
            if not size:
                return False
            head = buffer if size == len(buffer) else buffer[:size]
            asked, said = self._heads.parse(head, self._said)
        except ProtocolError as error:
            status = error.status if isinstance(error, Bad) else 400
            self._stats.bad_requests += 1
            self._refuse(status, error.slug)
            return False
        if said.block is not None:
            self._said = said
        self._buffer = buffer[size:]
        grant = self.grant
        until = self.counted_until if asked.plain else 0.0
        if grant is not None and grant.covers(asked):
            until = grant.until
        if not until or self._server.draining or not self._short(asked.key, asked.coding, until):
            self._handle(asked)
        return True

    def _handle(self, asked: Request) -> None:
        now = self.last = self.head_since = self._clock()
        self.busy = True
        self._keep_alive = asked.keep_alive and not self._server.draining
        self._chunked = not asked.http10
        sink = self if self._log is None else self._server.tap(self, self, asked)
        refusal = self._server.check(self, asked, now)
        if refusal is not None:
            self._site.refuse(sink, *refusal, request=asked)
        else:
            self._site.handle(asked, sink)

    def _refuse(self, status: int, slug: str) -> None:
        """Answer an error and close, without having a request that could be answered."""
        if self._transport is None or self.closing_at:
            return
        if self.reader is not None:
            self.reader.leave()
            self._cut()  # in the middle of another answer there is no place for this one
            return
        self._keep_alive = False
        if self._log is not None:
            self._log.broken(self.address, status, slug)
        self._site.refuse(self, status, slug)

    # The sink of one answer.

    def respond(self, status: int, fields: Fields, body: Buffer, length: int | None) -> None:
        more: Fields = () if length is None else ((b"content-length", b"%d" % length),)
        self._write(entry.head_bytes(status, fields, more, self._closing()), body)

    def respond_entry(self, entry: Entry, now: float, result: bytes, *, bodiless: bool) -> None:
        if bodiless or not self._keep_alive:
            self._write(entry.head(now, result), b"" if bodiless else entry.body)
        else:
            self._answer(entry.answer_for(now, result))
            self._done()

    def _write(self, head: bytes, body: Buffer) -> None:
        if not self._keep_alive and b"\r\nconnection: close\r\n" not in head:
            head = head[:-2] + b"connection: close\r\n\r\n"
        if self._out is not None:
            self._stats.bytes_sent += len(head) + len(body)
            self._out.put(head, body)
        self._done()

    def _answer(self, answer: Prepared) -> None:
        if self._out is not None:
            self._stats.bytes_sent += answer.size
            self._out.answer(answer)

    def take(self, answer: Prepared, now: float) -> bool:
        transport = self._transport
        if not self._keep_alive or transport is None or transport.is_closing():
            return False
        self.reader = None
        self.busy = False
        self.last = now
        self._answer(answer)
        if self._buffer:
            # What was asked ahead comes after all others have been woken.
            asyncio.get_running_loop().call_soon(self._feed, b"")
        return True

    def begin(self, status: int, fields: Fields, length: int | None) -> None:
        if length is not None:
            self._chunked = False
            more: Fields = ((b"content-length", b"%d" % length),)
        elif self._chunked:
            more = _CHUNKED
        else:
            self._unframed, self._keep_alive = True, False  # HTTP/1.0
            more = ()
        head = entry.head_bytes(status, fields, more, self._closing())
        self._stats.bytes_sent += len(head)
        if self._out is not None:
            self._out.queue(head)

    def push(self, data: Buffer) -> None:
        if self._out is None:
            return
        self._stats.bytes_sent += len(data)
        if self._chunked:
            self._out.queue(b"%x\r\n" % len(data), data, b"\r\n")
        else:
            self._out.queue(data)

    def end(self) -> None:
        if self._chunked and self._out is not None:
            self._out.queue(b"0\r\n\r\n")
        self._done()

    def abort(self) -> None:
        if self._unframed:
            self._cut()
        elif self._transport is not None:
            self._transport.close()

    def _cut(self) -> None:
        """End at once."""
        transport = self._transport
        if transport is None:
            return
        sock = transport.get_extra_info("socket")
        if self._unframed and sock is not None:
            # An ordinary end would look like that of the body: let the kernel reset the connection.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
        transport.abort()

    def _closing(self) -> Fields:
        return () if self._keep_alive else _CLOSE

    def _done(self) -> None:
        self.busy = False
        self.last = self._clock()
        if self._transport is None:
            return
        if self._keep_alive:
            if self._buffer and not self._feeding:
                self._feed(b"")
            return
        self._buffer = b""
        self.counted_until = 0.0  # no short path after the last answer
        self.closing_at = self.last + LINGER_S
        if self._transport.can_write_eof():
            self._transport.write_eof()
        else:
            self._transport.close()
