"""What a request means: the player's pages, the cache, or a flight to join. Knows no HTTP version and no media."""

from __future__ import annotations

from collections.abc import Callable
from email.utils import parsedate_to_datetime

from edge import access_log, pages
from edge.cache import Cache, vary_key
from edge.coalesce import Coalescer, Flight, error_entry
from edge.entry import CORS, Entry, Fields, server_timing
from edge.prepared import Files, Prepared
from edge.reader import Reader, Sink
from edge.request import Request
from edge.settings import EdgeSettings
from edge.stats import Stats

_KEPT_BY_304 = frozenset({b"content-type", b"content-length", b"content-encoding", b"accept-ranges"})

LONGEST_WAY = 2048
"""Characters of Via and CDN-Loop together: no real way is so long, and who is behind us may not take longer ones."""

PREFLIGHT: Fields = (
    *CORS,
    (b"access-control-allow-methods", b"GET, HEAD, OPTIONS"),
    (b"access-control-allow-headers", b"Authorization, Range, If-None-Match, If-Modified-Since, Cache-Control"),
    (b"access-control-max-age", b"86400"),
    (b"allow", b"GET, HEAD, OPTIONS"),
)


class Site:
    """Answers requests. One per worker."""

    def __init__(
        self,
        settings: EdgeSettings,
        cache: Cache,
        coalescer: Coalescer,
        stats: Stats,
        clock: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        self.settings, self.cache, self.coalescer, self.stats = settings, cache, coalescer, stats
        self.clock, self._wall = clock, wall
        self.latency = coalescer.latency
        self.files = Files()
        self.pages = pages.load(settings.name, clock())
        self._loop_mark = settings.name.lower()

    def handle(self, request: Request, sink: Sink) -> None:
        """Answer a request, now or when its object comes."""
        now = self.clock()
        if request.method == "OPTIONS":
            sink.respond(204, PREFLIGHT, b"", None)
            return
        page = self.pages.find(request.path)
        if page is not None:
            self.stats.hit += 1
            self._serve(page, request, sink, now, b"HIT")
            return
        if self._loops(request.headers):
            self.stats.error += 1
            self.refuse(sink, 508, "loop_detected", request=request)
            return
        key = self.cache.key(request.key, request.headers)
        entry = self.cache.entries.get(key)
        if entry is not None and self._from_cache(entry, key, request, sink, now):
            return
        flight = self.coalescer.find(key)
        leads = flight is None
        if flight is None:
            flight = self.coalescer.start(key, request.key, request.headers, entry)
        Reader(self, flight, request, sink, leads=leads).wake()

    def _from_cache(self, entry: Entry, key: str, request: Request, sink: Sink, now: float) -> bool:
        entry.used = True
        if now < entry.fresh_until:
            if entry.status >= 500:
                self.stats.error += 1
            else:
                self.stats.hit += 1
            self._serve(entry, request, sink, now, b"HIT")
            return True
        waiting = now < entry.revalidate_until
        if waiting or (now < entry.grace_until and now < entry.error_until):
            self.stats.stale += 1
            self._serve(entry, request, sink, now, b"STALE")
            if waiting and now >= entry.grace_until and self.coalescer.find(key) is None:
                self.coalescer.start(key, request.key, request.headers, entry)
            return True
        return False

    def ask_alone(self, request: Request, sink: Sink) -> None:
        """Ask upstream for this viewer only: the answer that others got must not be shared with it."""
        key = self.cache.key(request.key, request.headers)
        flight = self.coalescer.find(key)
        leads = flight is None
        if flight is None:
            flight = self.coalescer.start(key, request.key, request.headers, None)
        Reader(self, flight, request, sink, leads=leads).wake()

    def answer(self, flight: Flight, request: Request, sink: Sink, since: float, *, leads: bool) -> None:
        """Answer from a flight that is over."""
        now = self.clock()
        entry = flight.entry
        if entry is None:
            self.stats.error += 1
            self.refuse(sink, flight.failure.status, flight.failure.slug, request=request)
            return
        self.count(flight, leads, since)
        self._serve(entry, request, sink, now, self.result(flight, leads))

    def ready(self, flight: Flight, coding: str) -> tuple[Prepared, float] | None:
        """The HTTP/1.1 answer and the time, for plain requests that joined a flight now over.

        None where that is not the same for all, or no 200.
        """
        entry = flight.entry
        if entry is None or entry.status != 200 or flight.stale or flight.vary or not flight.share:
            return None
        entry, now = entry.squeezed(coding) if coding else entry, self.clock()
        return entry.answer_for(now, self.result(flight, False)), now

    def refuse(self, sink: Sink, status: int, slug: str, *, request: Request | None = None) -> None:
        """An error of the edge's own."""
        access_log.refused(sink, slug)
        entry = error_entry("", status, slug, self.clock(), self.settings.name, self._wall())
        body = b"" if request is not None and request.head_only else entry.body
        sink.respond(status, entry.fields, body, len(entry.body))

    def count(self, flight: Flight, leads: bool, since: float) -> None:
        """Count one answer that came from a flight, to a request that came at `since`."""
        waited = self.clock() - since
        self.latency.first_byte.observe(waited)
        if not leads:
            self.latency.blocked.observe(waited)
        stats = self.stats
        if (flight.status >= 500 and not flight.stale) or flight.status == 0:
            stats.error += 1
        elif flight.stale:
            stats.stale += 1
        elif leads:
            stats.miss += 1
        else:
            stats.coalesced += 1

    def result(self, flight: Flight, leads: bool) -> bytes:
        """The value of X-Cache."""
        return b"STALE" if flight.stale else b"MISS" if leads else b"COALESCED"

    def result_fields(self, flight: Flight, leads: bool) -> Fields:
        """X-Cache and Age of a body that is still arriving."""
        result = self.result(flight, leads)
        timing = server_timing(result, self.clock() - flight.began)
        return ((b"x-cache", result), (b"age", b"%d" % int(flight.age)), timing)

    def matches(self, flight: Flight, request: Request) -> bool:
        """Whether the flight's answer is also that to this request, as far as `Vary` goes."""
        if not flight.vary:
            return True
        mine = vary_key(flight.primary, flight.vary, request.headers)
        return mine == vary_key(flight.primary, flight.vary, flight.headers)

    def range_applies(self, request: Request, fields: Fields) -> bool:
        """`If-Range` (RFC 9110 13.1.5): a strong validator that is still the current one."""
        wanted = request.headers.get("if-range")
        if wanted is None:
            return True
        current = {value for name, value in fields if name in (b"etag", b"last-modified")}
        return not wanted.startswith("W/") and wanted.encode("latin-1") in current

    def _serve(self, entry: Entry, request: Request, sink: Sink, now: float, result: bytes) -> None:
        status = entry.status
        if status == 200 and request.range is None and request.coding:
            entry = entry.squeezed(request.coding)
        if status == 200 and _unchanged(entry, request):
            kept = tuple(field for field in entry.fields if field[0] not in _KEPT_BY_304)
            sink.respond(304, kept + entry.variable_fields(now, result), b"", None)
        elif status == 200 and request.range is not None and self.range_applies(request, entry.fields):
            self._serve_range(entry, request, sink, now, result)
        else:
            sink.respond_entry(entry, now, result, bodiless=request.head_only)

    def _serve_range(self, entry: Entry, request: Request, sink: Sink, now: float, result: bytes) -> None:
        assert request.range is not None
        total = len(entry.body)
        span = request.range.resolve(total)
        fields = entry.fields + entry.variable_fields(now, result)
        if span is None:
            sink.respond(416, (*fields, (b"content-range", b"bytes */%d" % total)), b"", 0)
            return
        start, end = span
        where = (b"content-range", b"bytes %d-%d/%d" % (start, end - 1, total))
        sink.respond(206, (*fields, where), memoryview(entry.body)[start:end], end - start)

    def _loops(self, headers: dict[str, str]) -> bool:
        """Whether the request was here before: our name in Via or, where a proxy takes that out, in CDN-Loop."""
        via, loop = headers.get("via", ""), headers.get("cdn-loop", "")
        if len(via) + len(loop) > LONGEST_WAY:
            return True
        if any(item.split()[1:2] == [self._loop_mark] for item in via.lower().split(",")):
            return True
        return any(item.split(";")[0].strip() == self._loop_mark for item in loop.lower().split(","))


def _unchanged(entry: Entry, request: Request) -> bool:
    """RFC 9110 13.2.2: If-None-Match by weak comparison; only without it If-Modified-Since."""
    tags = request.headers.get("if-none-match")
    if tags is not None:
        if tags.strip() == "*":
            return True
        mine = entry.etag.removeprefix("W/")
        return bool(mine) and any(tag.strip().removeprefix("W/") == mine for tag in tags.split(","))
    since = request.headers.get("if-modified-since")
    if since is None or not entry.last_modified:
        return False
    if since == entry.last_modified:
        return True
    try:
        return parsedate_to_datetime(since) >= parsedate_to_datetime(entry.last_modified)
    except (ValueError, TypeError, IndexError, OverflowError):
        return False
