"""One viewer's place on a flight: waits for it, then hands on what arrives as fast as the viewer takes it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from edge.coalesce import Flight, State
from edge.entry import Entry, Fields
from edge.prepared import Prepared
from edge.ranges import Range
from edge.request import Request

if TYPE_CHECKING:
    from edge.site import Site

Buffer = bytes | memoryview

_ASKED, _ARRIVING, _DONE, _FAILED = State.ASKED, State.ARRIVING, State.DONE, State.FAILED
"""As names of this module: a member is looked up more slowly than a crowd of ten thousand can afford."""


class Sink(Protocol):
    """Where one answer goes: an HTTP/1.1 connection whose turn it is, or an HTTP/2 stream."""

    reader: Reader | None

    @property
    def paused(self) -> bool:
        """The viewer does not take what was written: write no more until `reader.wake()`."""
        ...

    def respond(self, status: int, fields: Fields, body: Buffer, length: int | None) -> None:
        """A whole answer. `length` is what Content-Length says; None leaves it out (204, 304)."""
        ...

    def respond_entry(self, entry: Entry, now: float, result: bytes, *, bodiless: bool) -> None:
        """An entry as it is, whose fields are prepared; `bodiless` for HEAD."""
        ...

    def take(self, answer: Prepared, now: float) -> bool:
        """A whole HTTP/1.1 answer, ready to be written, that ends the wait of `reader`; for one of a crowd.

        False where that is not the language spoken, or something has to be added: then nothing has happened.
        """
        ...

    def begin(self, status: int, fields: Fields, length: int | None) -> None:
        """Begin a body that comes in pieces. `length` None: not known yet."""
        ...

    def push(self, data: Buffer) -> None: ...

    def end(self) -> None: ...

    def abort(self) -> None:
        """The body cannot be finished: make sure that the viewer sees that."""
        ...


class Reader:
    """See the module. Made by `Site` for a request that nothing in the cache answers."""

    __slots__ = (
        "_alike",
        "_begun",
        "_end",
        "_index",
        "_offset",
        "_since",
        "_site",
        "flight",
        "leads",
        "request",
        "sink",
    )

    def __init__(self, site: Site, flight: Flight, request: Request, sink: Sink, *, leads: bool) -> None:
        self._site = site
        self.flight = flight
        self.request = request
        self.sink = sink
        self.leads = leads
        """This viewer's request started the flight."""
        self._alike = request.plain and not leads
        """Gets what the others get."""
        self._since = site.clock()
        self._begun = False
        self._index = 0
        """Next chunk to hand on."""
        self._offset = 0
        """Bytes of the body before that chunk; with a range also where in it to begin."""
        self._end: tuple[int, int | None] = (0, None)
        """First byte still wanted, and the end of the range (exclusive; None: to the end of the body)."""
        sink.reader = self
        flight.readers[self] = None

    @property
    def begun(self) -> bool:
        """A part of the body has been written."""
        return self._begun

    def leave(self) -> None:
        """The viewer has gone, or has everything. The flight goes on."""
        self.flight.readers.pop(self, None)
        if self.sink.reader is self:
            self.sink.reader = None

    def wake(self) -> None:
        """Look at the flight, and at whether the viewer takes more."""
        flight = self.flight
        if self.sink.reader is not self:
            return
        if self._begun:
            self._pump()
        elif self._alike and flight.state is _DONE and self._take():
            flight.waits.append(self._since)
        elif flight.state is not _ASKED:
            if not flight.stale and not self.leads and not (flight.share and self._site.matches(flight, self.request)):
                self.leave()
                self._site.ask_alone(self.request, self.sink)
            elif flight.state is _ARRIVING:
                self._begin()
            else:
                self.leave()
                self._site.answer(flight, self.request, self.sink, self._since, leads=self.leads)

    def _take(self) -> bool:
        """The common end of a crowd's wait: all get the same bytes."""
        ready, coding = self.flight.ready, self.request.coding
        if coding not in ready:
            ready[coding] = self._site.ready(self.flight, coding)
        answer = ready[coding]
        return answer is not None and self.sink.take(*answer)

    def _begin(self) -> None:
        flight, request = self.flight, self.request
        if request.head_only and flight.length is None:
            return  # the length is known at the end
        span = self._span(request.range) if request.range is not None else None
        if request.range is not None and flight.status == 200 and flight.length is None:
            return  # so is what the range means
        self._site.count(flight, self.leads, self._since)
        fields = flight.fields + self._site.result_fields(flight, self.leads)
        if request.head_only:
            self.leave()
            self.sink.respond(flight.status, fields, b"", flight.length)
            return
        self._begun = True
        if span is None:
            self.sink.begin(flight.status, fields, flight.length)
        else:
            assert flight.length is not None
            start, end = span
            self._end = (start, end)
            text = f"bytes {start}-{end - 1}/{flight.length}".encode()
            self.sink.begin(206, (*fields, (b"content-range", text)), end - start)
        self._pump()

    def _span(self, wanted: Range) -> tuple[int, int] | None:
        flight = self.flight
        if flight.length is None or flight.status != 200 or not self._site.range_applies(self.request, flight.fields):
            return None
        return wanted.resolve(flight.length)  # one that cannot be satisfied gets the whole (RFC 9110 14.2)

    def _pump(self) -> None:
        flight, sink = self.flight, self.sink
        chunks = flight.chunks
        while self._index < len(chunks) and not sink.paused:
            chunk = chunks[self._index]
            begin = self._offset
            self._index += 1
            self._offset += len(chunk)
            start, end = self._end
            if start > begin or (end is not None and self._offset > end):
                stop = len(chunk) if end is None else max(0, min(len(chunk), end - begin))
                part = memoryview(chunk)[min(max(0, start - begin), stop) : stop]
                if part:
                    sink.push(part)
            else:
                sink.push(chunk)
            if end is not None and self._offset >= end:
                self.leave()
                sink.end()
                return
        if sink.reader is not self:
            return
        if flight.state is _FAILED:
            self.leave()
            sink.abort()
        elif flight.state is _DONE and self._index == len(chunks):
            self.leave()
            sink.end()
