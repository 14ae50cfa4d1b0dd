"""One viewer's HTTP/2 connection: the thin shell around `edge.h2.core`, and the sinks of its streams.

As in `edge.connection` there is a short path: a known header block and a fresh entry make prepared frames that need
only the stream's number. Everything else is an `Answer`, which queues at the core.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, cast

from edge.access import Grant
from edge.connection import HIGH_WATER_BYTES, LINGER_S
from edge.entry import Entry, Fields
from edge.h2 import frames, hpack
from edge.h2.core import Core
from edge.h2.frames import Broken, Code
from edge.h2.request import Malformed
from edge.h2.sending import Stream
from edge.prepared import Prepared
from edge.reader import Buffer, Reader
from edge.request import Bad, Request
from media.errors import ProtocolError

if TYPE_CHECKING:
    from edge.server import Server

QUEUE_BYTES = 128 * 1024
"""Above this, a stream's reader waits: so much may lie between a flight and the viewer's window."""
BURST_BYTES = 32 * 1024
"""Written at once, before the transport is asked whether it takes more."""
MOST_PIECES = 64
"""In the core's `out` while more requests are read: at most a megabyte, then the transport is asked."""
MOST_UNSENT_BYTES = 4 * HIGH_WATER_BYTES
"""Above this nothing is read. Who takes only bodies never gets there, for they wait in streams; answers without one
wait for no window, and PING for nothing. Not from the high water on: who takes slowly must be heard when it asks for
something else, or for no more of this."""
GRACE_S = 0.5
"""After the first GOAWAY requests are still taken for so long: they may be on their way (RFC 9113 6.8)."""


class Answer:
    """A stream's sink; see `edge.reader.Sink`."""

    __slots__ = ("_connection", "asked", "paused", "reader", "since", "stream")

    def __init__(self, connection: H2Connection, stream: Stream, asked: Request | None, since: float) -> None:
        self._connection = connection
        self.stream = stream
        self.asked = asked
        """The request, while the stream waits for its end; None once it is answered."""
        self.since = since
        self.reader: Reader | None = None
        self.paused = False

    def respond(self, status: int, fields: Fields, body: Buffer, length: int | None) -> None:
        more: Fields = () if length is None else ((b"content-length", b"%d" % length),)
        self._whole(hpack.encode(status, fields, more), body)

    def respond_entry(self, entry: Entry, now: float, result: bytes, *, bodiless: bool) -> None:
        self._whole(entry.block_for(now, result), b"" if bodiless else entry.body)

    def take(self, answer: Prepared, now: float) -> bool:
        return False

    def begin(self, status: int, fields: Fields, length: int | None) -> None:
        more: Fields = () if length is None else ((b"content-length", b"%d" % length),)
        self._head(hpack.encode(status, fields, more), ended=False)

    def push(self, data: Buffer) -> None:
        self._connection.push(self.stream, data)
        self.paused = self.stream.queued >= QUEUE_BYTES

    def end(self) -> None:
        self._connection.core.end(self.stream)
        self._connection.soon()

    def abort(self) -> None:
        self._connection.core.reset(self.stream.number, Code.INTERNAL_ERROR)
        self._connection.soon()

    def _whole(self, block: bytes, body: Buffer) -> None:
        self._head(block, ended=not body)
        if body:
            self.push(body)
            self.end()

    def _head(self, block: bytes, *, ended: bool) -> None:
        self._connection.head(self.stream, block, ended=ended)


class H2Connection(asyncio.Protocol):
    """See the module. A `core.Handler`."""

    protocol = "HTTP/2"
    __slots__ = (
        "_frames_at",
        "_inside",
        "_log",
        "_loop",
        "_moved_at",
        "_partial_at",
        "_reader",
        "_scheduled",
        "_server",
        "_site",
        "_stats",
        "_transport",
        "_unsent",
        "_warned_at",
        "address",
        "closing_at",
        "core",
        "counted_until",
        "grant",
        "last",
        "paused",
    )

    def __init__(self, server: Server) -> None:
        self._server, self._site, self._stats = server, server.site, server.stats
        self._reader = server.blocks
        self._log = server.log
        self.core = Core(self, server.settings.max_head_bytes)
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._inside = self._scheduled = False
        self.paused = False
        self.address = ""
        self.counted_until = 0.0
        self.grant: Grant | None = None
        self.last = self._moved_at = self._partial_at = 0.0
        self._unsent = self._frames_at = 0
        self.closing_at = 0.0
        """Not 0: the last frame was sent; what comes is thrown away until then."""
        self._warned_at = 0.0

    @property
    def readers(self) -> list[Reader]:
        found = (cast(Answer, stream.owner).reader for stream in self.core.streams.values())
        return [reader for reader in found if reader is not None]

    @property
    def waiting(self) -> int:
        """Streams that wait for a flight or for the rest of one."""
        return sum(cast(Answer, stream.owner).reader is not None for stream in self.core.streams.values())

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)
        self._transport = transport
        transport.set_write_buffer_limits(high=HIGH_WATER_BYTES)
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peer = transport.get_extra_info("peername")
        self.address = self.address or (str(peer[0]) if isinstance(peer, tuple) and peer else "")
        self.last = self._moved_at = self._partial_at = self._site.clock()
        if self._server.admit(self) is not None:
            self.core.fail(Broken(Code.ENHANCE_YOUR_CALM, "There are too many connections.", "too_many_connections"))
        self._flush()

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        for stream in list(self.core.streams.values()):
            self.on_reset(stream)
        self._server.forget(self)

    def eof_received(self) -> bool:
        return False

    def data_received(self, data: bytes) -> None:
        if self.closing_at:
            return
        self.last = self._site.clock()
        self._receive(data, self.last)

    def _receive(self, data: bytes, now: float) -> None:
        self._inside = True
        self.core.receive(data, now)
        self._inside = False
        if self.core.failed:
            self._stats.bad_requests += 1
            self._leave_all()
        self._flush()

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        self._moved_at = self._site.clock()
        self._flush()
        core = self.core
        if core.held and self._transport is not None:
            core.held = False
            self._transport.resume_reading()
            if not self.closing_at:
                self._receive(b"", self._moved_at)

    # A core's handler.

    def on_head(self, stream: int, block: bytes, *, ended: bool) -> None:
        if len(self.core.out) > MOST_PIECES:
            self._flush()
        try:
            asked = self._reader.read(self.core.decoder, block)
        except Broken:
            raise
        except Malformed:
            self._stats.bad_requests += 1
            self.core.annoy()
            self.core.reset(stream, Code.PROTOCOL_ERROR)
        except ProtocolError as error:
            self._stats.bad_requests += 1
            self._refuse(self._open(stream, None, ended), error.status if isinstance(error, Bad) else 400, error.slug)
        else:
            grant = self.grant
            until = self.counted_until if asked.plain else 0.0
            if grant is not None and grant.covers(asked):
                until = grant.until
            if not (ended and until and self._short(stream, asked, until)):
                answer = self._open(stream, None if ended else asked, ended)
                if ended:
                    self._handle(asked, answer)

    def on_ended(self, stream: Stream) -> None:
        answer = cast(Answer, stream.owner)
        asked, answer.asked = answer.asked, None
        if asked is not None:
            self._handle(asked, answer)

    def on_body(self, stream: Stream) -> None:
        answer = cast(Answer, stream.owner)
        if answer.asked is not None:
            answer.asked = None
            self._stats.bad_requests += 1
            self._refuse(answer, 413, "unwanted_body")

    def on_reset(self, stream: Stream) -> None:
        answer = cast(Answer, stream.owner)
        if answer.reader is not None:
            answer.reader.leave()

    # What streams ask of their connection.

    def head(self, stream: Stream, block: bytes, *, ended: bool) -> None:
        self._stats.bytes_sent += len(block)
        if stream.number in self.core.streams:
            self.core.head(stream, block, ended=ended)
            self.soon()

    def push(self, stream: Stream, data: Buffer) -> None:
        self._stats.bytes_sent += len(data)
        self.core.data(stream, data)
        self.soon()

    def soon(self) -> None:
        """Write what is there once everything that happens now has happened."""
        if not self._inside and not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._flush)

    # Times, once a second.

    def check(self, now: float) -> None:
        """Enforce the times that a viewer has."""
        settings, transport, core = self._site.settings, self._transport, self.core
        if transport is None:
            return
        unsent = transport.get_write_buffer_size()
        if unsent != self._unsent:
            self._unsent, self._moved_at = unsent, now
        if self.closing_at:
            late = now - self._moved_at > settings.stall_timeout_s or now - self.closing_at > settings.send_timeout_s
            if now >= self.closing_at and (late or not unsent):
                transport.abort()
            return
        if core.frames != self._frames_at or not core.partial or core.held:
            self._frames_at, self._partial_at = core.frames, now
        if (unsent or core.sending) and now - self._moved_at > settings.stall_timeout_s:
            self._stats.slow_viewers += 1
            transport.abort()
        elif now - self._partial_at > settings.head_timeout_s:
            core.fail(Broken(Code.NO_ERROR, "A frame did not end.", "head_timeout"))
            self._leave_all()
            self._flush()
        elif not (core.streams or unsent) and now - self.last > settings.idle_timeout_s:
            core.go()
            self._flush()
        else:
            for stream in [item for item in core.streams.values() if item.queued]:
                answer = cast(Answer, stream.owner)
                if now - answer.since > settings.send_timeout_s:
                    self._stats.slow_viewers += 1
                    core.reset(stream.number, Code.CANCEL)
                    self.on_reset(stream)
            self._flush()

    def drain(self) -> None:
        """Say that this is the end, take what is on its way, answer it, and close. Called again and again."""
        now = self._site.clock()
        if not self._warned_at:
            self._warned_at = now
            self.core.warn()
        elif now - self._warned_at >= GRACE_S:
            self.core.go()
        self._flush()

    def _open(self, number: int, asked: Request | None, ended: bool) -> Answer:
        stream = self.core.open(number, ended=ended)
        answer = Answer(self, stream, asked, self.last)
        stream.owner = answer
        return answer

    def _handle(self, asked: Request, answer: Answer) -> None:
        sink = answer if self._log is None else self._server.tap(self, answer, asked)
        refusal = self._server.check(self, asked, self.last)
        if refusal is not None:
            self._site.refuse(sink, *refusal, request=asked)
        else:
            self._site.handle(asked, sink)

    def _refuse(self, answer: Answer, status: int, slug: str) -> None:
        if self._log is not None:
            self._log.broken(self.address, status, slug)
        self._site.refuse(answer, status, slug)

    def _short(self, number: int, asked: Request, until: float) -> bool:
        """Answer a request with a fresh entry's prepared frames; False if that needs the long way, as after `until`."""
        found = self._site.cache.entries.get(asked.key)
        now = self.last
        if found is None or found.status != 200 or now >= found.fresh_until or now >= until:
            return False
        core = self.core
        if asked.coding and found.squeezable:
            if asked.coding not in found.packed:
                return False
            found.used = True
            found = found.squeezed(asked.coding)
        if self._log is not None and self._log.due():
            return False
        size = len(found.body)
        if not 0 < size <= BURST_BYTES or not core.fits(size) or self.paused:
            return False
        found.used = True
        pieces = found.frames
        if pieces is None or now >= found.wire_until:
            pieces = found.prepare_frames(now)
            if pieces is None:
                return False
        name = frames.number(number)
        if isinstance(pieces, tuple):
            core.out.append(name.join(pieces))
        else:
            at = len(core.out)
            core.out += pieces
            core.out[at + 2 :: 3] = [name] * (len(pieces) // 3)
        core.window -= size
        stats = self._stats
        stats.hit += 1
        stats.bytes_sent += size + len(pieces[1 if isinstance(pieces, tuple) else 3])
        return True

    def _leave_all(self) -> None:
        for stream in self.core.forget():
            self.on_reset(stream)

    def _flush(self) -> None:
        """Write what the core has, as long as the transport takes it."""
        self._scheduled = False
        core, transport = self.core, self._transport
        if transport is None:
            core.out.clear()
            return
        while True:
            emptied = core.pump(BURST_BYTES) if core.sending and not self.paused else ()
            for stream in emptied:
                self._more(stream)
            if not core.out:
                break
            transport.write(core.take())
            self._moved_at = self._site.clock()
            if self.paused and not core.held and transport.get_write_buffer_size() > MOST_UNSENT_BYTES:
                core.held = True
                transport.pause_reading()
        if core.going and not core.streams and not self.closing_at:
            self.closing_at = self._site.clock() + LINGER_S
            transport.close()

    def _more(self, stream: Stream) -> None:
        """A stream's queue is empty: let its reader fill it."""
        answer = cast(Answer, stream.owner)
        answer.paused = False
        if answer.reader is not None and stream.number in self.core.streams:
            inside, self._inside = self._inside, True
            answer.reader.wake()
            self._inside = inside
