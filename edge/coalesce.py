"""One upstream request per object, whatever the crowd.

A `Flight` is that one request. It belongs to nobody: viewers join and leave, the flight goes on, and its answer
is cached for whoever comes next. It knows its readers only by `wake()`.

| state     | from      | when                                    | readers                                |
|-----------|-----------|-----------------------------------------|----------------------------------------|
| ASKED     |           | made                                    | wait (a blocked playlist stays here)   |
| ARRIVING  | ASKED     | head of a large or unbounded body       | get what is there, then more as it comes |
| DONE      | ASKED, ARRIVING | the answer is complete            | get `entry`, or the rest of the body   |
| FAILED    | ASKED, ARRIVING | no answer, nothing to stand in    | are told, or cut in the middle of a body |
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from enum import Enum
from typing import Protocol

import structlog

from edge import freshness, words
from edge.cache import Cache, vary_key
from edge.entry import CORS, HOP_BY_HOP, Entry, Fields, viewer_fields
from edge.latency import Latencies
from edge.prepared import Prepared
from edge.settings import EdgeSettings
from edge.stats import Stats
from edge.upstream import Upstream, UpstreamError

log = structlog.get_logger(__name__)

WHOLE_BYTES = 64 * 1024
"""A body of known length up to this is handed out whole: one write per viewer instead of several. It also keeps
a low-latency part from dripping, which players would measure as a slow network."""

RETRY_JITTER_S = (0.05, 0.25)
"""A failed fetch is tried once more after a random wait in this range, for all its viewers together."""

CROWD = 100
"""From so many on, how long it takes to wake them is measured."""

_ON_THE_WAY = ("via", "cdn-loop")
"""Where a request has been (RFC 9110 7.6.3, RFC 8586): always handed on, with our name behind."""

_NOT_FORWARDED = HOP_BY_HOP | {
    *("host", "accept-encoding", "content-length", "expect", "range", "if-range", "via"),
    *("if-match", "if-none-match", "if-modified-since", "if-unmodified-since"),
}


_OF_THE_BODY = frozenset({"etag", "content-encoding", "content-range", "content-md5", "accept-ranges"})
"""Fields that belong to the stored body and stay as they were when a 304 comes (RFC 9111 3.2)."""


class State(Enum):
    ASKED = "asked"
    ARRIVING = "arriving"
    DONE = "done"
    FAILED = "failed"


_NEXT = {
    State.ASKED: {State.ARRIVING, State.DONE, State.FAILED},
    State.ARRIVING: {State.DONE, State.FAILED},
    State.DONE: set[State](),
    State.FAILED: set[State](),
}


class Waiter(Protocol):
    """Someone who waits for a flight."""

    def wake(self) -> None:
        """There is news: look at the flight's state. Must not raise."""
        ...


class Flight:
    """One fetch of one object. See the module."""

    def __init__(self, key: str, primary: str, headers: dict[str, str], old: Entry | None, began: float) -> None:
        self.key, self.primary = key, primary
        self.headers = headers
        """Those of the first viewer's request that go upstream."""
        self.old = old
        """What is stored under the key, no longer fresh."""
        self.began = began
        self.state = State.ASKED
        self.status = 0
        self.fields: Fields = ()
        self.vary: tuple[str, ...] = ()
        self.policy: freshness.Policy | None = None
        self.age = 0.0
        self.length: int | None = None
        self.chunks: list[bytes] = []
        self.size = 0
        self.entry: Entry | None = None
        self.stale = False
        """`entry` is the old one, standing in for a failing origin."""
        self.failure = UpstreamError(502, "origin_failed", retry=False)
        self.readers: dict[Waiter, None] = {}
        self.ready: dict[str, tuple[Prepared, float] | None] = {}
        """What all who wait get alike, by content coding, made when the first of them is woken."""
        self.waits: list[float] = []
        """Since when those waited who got it: they are counted together, afterwards."""
        self.storable = True
        """Cleared by a purge: the answer then goes to those who wait and is not kept."""

    def become(self, state: State) -> None:
        assert state in _NEXT[self.state], (self.state, state)
        self.state = state

    @property
    def share(self) -> bool:
        """Whether the answer may go to others than the one who asked first. True until the head is there."""
        return self.policy is None or self.policy.share

    def wake(self) -> None:
        for reader in list(self.readers):
            reader.wake()


class Coalescer:
    """Makes flights, joins viewers to them and puts what they bring into the cache."""

    def __init__(
        self,
        cache: Cache,
        upstream: Upstream,
        settings: EdgeSettings,
        stats: Stats,
        clock: Callable[[], float],
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._cache, self._upstream, self._settings, self._stats = cache, upstream, settings, stats
        self._clock, self._wall = clock, wall
        self._flights: dict[str, Flight] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._unshared: dict[str, float] = {}
        self.bytes_arriving = 0
        self.latency = Latencies()

    def find(self, key: str) -> Flight | None:
        """The flight that a request for `key` can join."""
        return self._flights.get(key)

    def start(self, key: str, primary: str, request_headers: dict[str, str], old: Entry | None) -> Flight:
        """Ask upstream. Only if `find` has nothing, or to ask on behalf of one viewer alone."""
        flight = Flight(key, primary, self._forwarded(request_headers), old, self._clock())
        if self._unshared.get(key, 0.0) <= flight.began:
            self._flights[key] = flight
        task = asyncio.get_running_loop().create_task(self._run(flight))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return flight

    @property
    def flights(self) -> int:
        return len(self._tasks)

    @property
    def keys(self) -> list[str]:
        """Of the fetches under way."""
        return list(self._flights)

    def purge(self, prefix: str) -> None:
        """Answers under way whose key starts with `prefix` are not kept, and no one joins them any more."""
        for key in [key for key in self._flights if key.startswith(prefix)]:
            self._flights.pop(key).storable = False

    def tidy(self, now: float) -> None:
        """Forget which answers were not to be shared, some time after."""
        for key in [key for key, until in self._unshared.items() if until <= now]:
            del self._unshared[key]

    async def close(self) -> None:
        """Cancel all flights and wait for them to end."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _forwarded(self, headers: dict[str, str]) -> dict[str, str]:
        wanted = self._settings.forward_headers
        if not wanted:
            return {name: headers[name] for name in _ON_THE_WAY if name in headers}
        every = "*" in wanted
        named = {item.strip().lower() for item in headers.get("connection", "").split(",")}
        return {
            name: value
            for name, value in headers.items()
            if name in _ON_THE_WAY or ((every or name in wanted) and name not in _NOT_FORWARDED and name not in named)
        }

    async def _run(self, flight: Flight) -> None:
        try:
            try:
                await self._fetch(flight)
            except UpstreamError as error:
                if not error.retry or flight.state is not State.ASKED:
                    raise
                await asyncio.sleep(random.uniform(*RETRY_JITTER_S))
                await self._fetch(flight)
        except UpstreamError as error:
            self._fail(flight, error)
        except asyncio.CancelledError:
            self._fail(flight, UpstreamError(503, "edge_stops", retry=False))
            raise
        except Exception:
            log.exception("flight_failed", key=flight.key)
            self._fail(flight, UpstreamError(500, "internal", retry=False))
        finally:
            self.bytes_arriving -= flight.size
            flight.readers.clear()

    async def _fetch(self, flight: Flight) -> None:
        via = flight.headers.get("via")
        loop = flight.headers.get("cdn-loop")
        headers = [item for item in flight.headers.items() if item[0] not in _ON_THE_WAY]
        headers.append(("via", (f"{via}, " if via else "") + f"1.1 {self._settings.name}"))
        headers.append(("cdn-loop", (f"{loop}, " if loop else "") + self._settings.name))
        headers.append(("accept-encoding", "identity"))
        old = flight.old
        if old is not None and old.status == 200:
            if old.etag:
                headers.append(("if-none-match", old.etag))
            elif old.last_modified:
                headers.append(("if-modified-since", old.last_modified))
        receiver = _Receiver(self, flight)
        try:
            await self._upstream.fetch(flight.primary, headers, receiver)
        finally:
            self._stats.upstream_requests = self._upstream.requests
            self._stats.queue_drops = self._upstream.queue_drops
        self._complete(flight)

    def on_head(self, flight: Flight, status: int, headers: dict[str, str]) -> None:
        """The head of the answer. Raises UpstreamError where it cannot be used."""
        now, wall = self._clock(), self._wall()
        policy = self._policy(flight, status, headers)
        age = freshness.initial_age(headers, wall, now - flight.began)
        flight.status, flight.policy, flight.age = status, policy, age
        if status in (500, 502, 503, 504) and self._stands_in(flight, now):
            return
        if status == 304 and flight.old is not None:
            # The old fields hold, save those that the 304 brings (RFC 9111 3.2).
            brought = {name: value for name, value in headers.items() if name not in _OF_THE_BODY}
            merged = {**_texts(flight.old.fields), "via": "", **brought}
            flight.policy = self._policy(flight, flight.old.status, merged)
            flight.vary = flight.old.vary
            flight.fields = viewer_fields(merged, self._settings.name, self._stamp(), flight.old.status, flight.vary)
            return
        if status == 206 or status < 200:
            raise UpstreamError(502, "bad_answer", retry=False)
        self._accept(flight, status, headers)

    def _policy(self, flight: Flight, status: int, headers: dict[str, str]) -> freshness.Policy:
        authorized = "authorization" in flight.headers
        negative_s = self._settings.negative_s
        return freshness.policy(status, headers, negative_s, received=self._wall(), authorized=authorized)

    def _stamp(self) -> bytes:
        return time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(self._wall())).encode()

    def _accept(self, flight: Flight, status: int, headers: dict[str, str]) -> None:
        names = tuple(sorted({item.strip().lower() for item in headers.get("vary", "").split(",")} - {"", "*"}))
        # A field that we never send upstream cannot have changed the answer.
        every = "*" in self._settings.forward_headers
        flight.vary = tuple(
            name for name in names if name not in _NOT_FORWARDED and (every or name in self._settings.forward_headers)
        )
        flight.fields = viewer_fields(headers, self._settings.name, self._stamp(), status, flight.vary)
        length = "0" if status == 204 else headers.get("content-length", "")
        if length.isdigit() and "transfer-encoding" not in headers:
            flight.length = int(length[:18])
            if flight.length > self._settings.max_object_bytes:
                raise UpstreamError(502, "object_too_large", retry=False)
        if not flight.share and status != freshness.LOOP:
            self._unshare(flight)
        if flight.length is None or flight.length > WHOLE_BYTES:
            flight.become(State.ARRIVING)
            flight.wake()

    def on_data(self, flight: Flight, data: bytes) -> None:
        """More of the body. Raises UpstreamError where there is no room for it."""
        if flight.stale:
            return
        flight.chunks.append(data)
        flight.size += len(data)
        self.bytes_arriving += len(data)
        self._stats.bytes_fetched += len(data)
        if flight.size > self._settings.max_object_bytes:
            raise UpstreamError(502, "object_too_large", retry=False)
        if self.bytes_arriving > self._settings.memory_bytes:
            raise UpstreamError(503, "edge_memory_full", retry=False)
        if flight.state is State.ARRIVING:
            flight.wake()

    def _complete(self, flight: Flight) -> None:
        now = self._clock()
        if flight.state in (State.DONE, State.FAILED):
            return
        if flight.length is not None and flight.size != flight.length:
            raise UpstreamError(502, "answer_broke_off", retry=False)
        policy = flight.policy
        assert policy is not None
        if flight.status == 304 and flight.old is not None:
            entry = flight.old.renewed(flight.fields, now, flight.age)
            entry.keep(policy, self._settings.stale_if_error_s, now)
            kept = self._cache.entries.get(entry.key)
            if (kept is None or kept is flight.old) and policy.store:
                self._store(flight, entry)
        else:
            body = flight.chunks[0] if len(flight.chunks) == 1 else b"".join(flight.chunks)
            key = vary_key(flight.primary, flight.vary, flight.headers) if flight.vary else flight.primary
            entry = Entry(key, flight.status, flight.fields, body, now=now, age=flight.age)
            entry.vary = flight.vary
            entry.fetched_s = now - flight.began
            entry.keep(policy, self._settings.stale_if_error_s, now)
            if policy.store and (policy.lifetime_s > 0 or entry.etag or entry.last_modified or policy.if_error_s):
                self._store(flight, entry)
            elif flight.status != freshness.LOOP:
                self._cache.discard(key)
        flight.entry = entry
        self._end(flight, State.DONE)

    def _end(self, flight: Flight, state: State) -> None:
        """The flight is over: no one joins it any more, and those on it are told."""
        if self._flights.get(flight.key) is flight:
            del self._flights[flight.key]
        flight.become(state)
        crowd = len(flight.readers)
        began = time.perf_counter()
        flight.wake()
        # What was written goes to the sockets at the end of the loop's turn: look after that.
        loop = asyncio.get_running_loop()
        if crowd >= CROWD and len(flight.waits) >= crowd - 1:
            self._woken(began)  # all but the first were written to at once
        elif crowd >= CROWD:
            loop.call_soon(loop.call_soon, self._woken, began)
        if flight.waits:
            loop.call_soon(loop.call_soon, self._count, flight.waits, self._clock())

    def _woken(self, began: float) -> None:
        self.latency.wake.observe(time.perf_counter() - began)

    def _count(self, waits: list[float], until: float) -> None:
        self._stats.coalesced += len(waits)
        for since in waits:
            self.latency.first_byte.observe(until - since)
            self.latency.blocked.observe(until - since)

    def _fail(self, flight: Flight, error: UpstreamError) -> None:
        if flight.state in (State.DONE, State.FAILED):
            return
        now = self._clock()
        self._stats.upstream_failures += 1
        if flight.state is State.ASKED and self._stands_in(flight, now):
            return
        log.warning("fetch_failed", key=flight.key, reason=error.slug)
        flight.failure = error
        if flight.state is State.ASKED:
            flight.status = error.status  # of a head that came, nothing was handed on
        if flight.state is State.ASKED and self._settings.negative_s > 0 and error.slug != "edge_stops":
            # Remembered for a moment, so that a crowd does not turn on an origin that is down.
            entry = error_entry(flight.primary, error.status, error.slug, now, self._settings.name, self._wall())
            entry.fresh_until = entry.revalidate_until = entry.error_until = now + self._settings.negative_s
            flight.entry = entry
            if flight.primary == flight.key and flight.share:
                self._store(flight, entry)
        self._end(flight, State.FAILED)

    def _stands_in(self, flight: Flight, now: float) -> bool:
        """Answer with the old entry if it may stand in for a failing origin."""
        old = flight.old
        if old is None or now >= old.error_until:
            return False
        old.grace_until = now + self._settings.negative_s
        flight.entry, flight.stale = old, True
        self._end(flight, State.DONE)
        return True

    def _store(self, flight: Flight, entry: Entry) -> None:
        if flight.storable:
            self._cache.put(entry, flight.primary)

    def _unshare(self, flight: Flight) -> None:
        """The answer is for one viewer: the others ask for themselves, and for a while nobody waits in vain."""
        self._unshared[flight.key] = self._clock() + UNSHARED_S
        if self._flights.get(flight.key) is flight:
            del self._flights[flight.key]


UNSHARED_S = 30.0
"""How long it is remembered that answers under a key are not to be shared."""


class _Receiver:
    __slots__ = ("_coalescer", "_flight")

    def __init__(self, coalescer: Coalescer, flight: Flight) -> None:
        self._coalescer, self._flight = coalescer, flight

    def on_head(self, status: int, headers: dict[str, str]) -> None:
        self._coalescer.on_head(self._flight, status, headers)

    def on_data(self, data: bytes) -> None:
        self._coalescer.on_data(self._flight, data)


def error_entry(key: str, status: int, slug: str, now: float, name: str, wall: float) -> Entry:
    """An error of the edge's own as an entry: plain text, one line."""
    stamp = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(wall)).encode()
    fields: list[tuple[bytes, bytes]] = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"date", stamp),
        (b"cache-control", b"no-store"),
        (b"via", b"1.1 " + name.encode("ascii")),
    ]
    if status in (429, 502, 503, 504):
        fields.append((b"retry-after", b"1"))
    if status == 405:
        fields.append((b"allow", b"GET, HEAD, OPTIONS"))
    if status == 401:
        fields.append((b"www-authenticate", b'Bearer realm="headrace"'))
    fields.extend(CORS)
    return Entry(key, status, tuple(fields), words.body(status, slug), now=now)


def _texts(fields: Fields) -> dict[str, str]:
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in fields}
