"""The client towards the origin: HTTP/1.1 GETs over a bounded pool of connections, on a Unix socket or TCP/TLS.

It asks for whole objects and hands on what arrives as it arrives; it knows of no cache and no viewers.

Several upstreams are asked in an order of preference, the working ones first. What one cannot give (no connection,
502, 504) the next is asked for. Whether one works is seen by use and, where there are several, by asking it for a
small object again and again:

| an upstream is | until                                              | and then   |
|----------------|----------------------------------------------------|------------|
| up             | `health_failures` checks in a row fail             | down       |
| down           | `health_successes` checks in a row succeed         | up         |
| out of reach   | `DOWN_S` after a connection failed, or one is made | as before  |
"""

from __future__ import annotations

import asyncio
import random
import ssl
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from hashlib import blake2b
from typing import Protocol, cast
from urllib.parse import urlsplit

import httptools
import structlog

log = structlog.get_logger(__name__)

DOWN_S = 2.0
"""How long an upstream that could not be reached is asked last."""
KEEP_IDLE_S = 50.0
"""An idle connection is not reused after this: servers commonly close theirs after 60 s or more."""


class UpstreamError(Exception):
    """The origin could not be asked, or its answer broke off. `status` is what viewers get."""

    def __init__(self, status: int, slug: str, *, retry: bool) -> None:
        super().__init__(slug)
        self.status = status
        self.slug = slug
        self.retry = retry
        """Nothing of an answer had come, so that asking again can help and harms nothing."""


class Receiver(Protocol):
    """Where an answer goes; called on the loop, in the order of the methods. May raise UpstreamError to end it."""

    def on_head(self, status: int, headers: dict[str, str]) -> None: ...

    def on_data(self, data: bytes) -> None: ...


class Choice(Enum):
    """In which order upstreams that work are asked."""

    FIRST = "first"
    """As they are listed."""
    SPREAD = "spread"
    """By the stream: each has its own order, the same in all edges, so that few shields hold one stream."""


@dataclass(frozen=True, slots=True)
class Health:
    """How upstreams are checked."""

    path: str
    interval_s: float
    timeout_s: float
    failures: int
    successes: int


class _Nowhere:
    """Takes the answer to a check, and looks at its status only."""

    def on_head(self, status: int, headers: dict[str, str]) -> None:
        if status >= 500:
            raise UpstreamError(status, "unhealthy", retry=False)

    def on_data(self, data: bytes) -> None:
        pass


class _Picky:
    """A receiver that wants no gateway's excuse, as another upstream can be asked."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self.on_data = receiver.on_data

    def on_head(self, status: int, headers: dict[str, str]) -> None:
        if status in (502, 504):
            raise UpstreamError(status, "bad_gateway", retry=True)
        self._receiver.on_head(status, headers)


class Address:
    """One upstream: `unix:/path/of/socket`, `http://host[:port]` or `https://host[:port]`."""

    def __init__(self, url: str, tls: ssl.SSLContext | None = None) -> None:
        self.url = url
        self.path = ""
        self.tls: ssl.SSLContext | None = None
        self.down_until = 0.0
        self.up = True
        """As the checks found it."""
        self.streak = 0
        """Checks in a row that say otherwise than `up`."""
        self.requests = self.failures = 0
        if url.startswith("unix:"):
            self.path, self.host, self.port, self.authority = url.removeprefix("unix:"), "", 0, "origin"
            return
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"an upstream is unix:PATH, http://HOST or https://HOST, not {url!r}")
        if parts.path not in ("", "/") or parts.query:
            raise ValueError(f"an upstream has no path of its own: {url!r}")
        self.host, self.authority = parts.hostname, parts.netloc.rpartition("@")[2]
        self.port = parts.port or (443 if parts.scheme == "https" else 80)
        if parts.scheme == "https":
            self.tls = tls or ssl.create_default_context()


class _Connection(asyncio.Protocol):
    """One connection, one answer at a time."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.transport: asyncio.Transport | None = None
        self.receiver: Receiver | None = None
        self.done: asyncio.Future[None] | None = None
        self.last = 0.0
        self.started = False
        """The head of the answer has come."""
        self.touched = False
        """Any byte of the answer has come."""
        self.fresh = True
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpResponseParser(self)
        self._headers: dict[str, str] = {}
        self._until_close = False

    @property
    def open(self) -> bool:
        return self.transport is not None and not self.transport.is_closing()

    def ask(self, request: bytes, receiver: Receiver) -> asyncio.Future[None]:
        """Send a request; the future ends with the answer, or with UpstreamError."""
        assert self.transport is not None
        assert self.done is None
        self.receiver, self.done = receiver, self._loop.create_future()
        self.started = self.touched = False
        self.last = self._loop.time()
        self.transport.write(request)
        return self.done

    def close(self) -> None:
        if self.transport is not None:
            self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's transports do not derive from asyncio's

    def data_received(self, data: bytes) -> None:
        self.last = self._loop.time()
        self.touched = True
        if self.done is None:
            self.close()  # an answer to nothing
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._fail("bad_answer", 502)
        except httptools.HttpParserCallbackError as error:
            refusal = error.__context__
            if isinstance(refusal, UpstreamError):
                self._fail(refusal.slug, refusal.status, retry=refusal.retry)
            else:
                log.error("answer_not_handled", exc_info=refusal)
                self._fail("internal", 500)
        except httptools.HttpParserError:
            self._fail("bad_answer", 502)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None
        if self.done is None:
            return
        if self._until_close and error is None:
            self._finish()
        elif self.touched:
            self._fail("answer_broke_off", 502)
        else:
            self._fail("closed_before_answer", 502, retry=True)

    def on_message_begin(self) -> None:
        self._headers = {}
        if self.done is None:
            self.close()  # a second answer behind the first would be taken for that to the next request

    def on_header(self, name: bytes, value: bytes) -> None:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1").strip()
        self._headers[key] = f"{self._headers[key]}, {text}" if key in self._headers else text

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200 or self.receiver is None:
            return
        self.started = True
        chunked = "chunked" in self._headers.get("transfer-encoding", "").lower()
        self._until_close = not chunked and "content-length" not in self._headers and status not in (204, 304)
        self.receiver.on_head(status, self._headers)

    def on_body(self, data: bytes) -> None:
        if self.receiver is not None:
            self.receiver.on_data(data)

    def on_message_complete(self) -> None:
        if self._parser.get_status_code() >= 200:
            if not self._parser.should_keep_alive() and self.transport is not None:
                self.transport.close()
            self._finish()

    def _finish(self) -> None:
        done, self.done, self.receiver = self.done, None, None
        self.fresh = False
        self._until_close = False
        if done is not None and not done.done():
            done.set_result(None)

    def _fail(self, slug: str, status: int, *, retry: bool = False) -> None:
        done, self.done, self.receiver = self.done, None, None
        if done is not None and not done.done():
            done.set_exception(UpstreamError(status, slug, retry=retry))
        self.close()

    def time_out(self) -> None:
        self._fail("origin_silent", 504)


class Upstream:
    """Asks the origin. Not thread-safe; one per worker."""

    def __init__(
        self,
        urls: Iterable[str],
        *,
        connections: int,
        queue: int,
        connect_timeout_s: float,
        first_byte_timeout_s: float,
        body_timeout_s: float,
        tls: ssl.SSLContext | None = None,
        choice: Choice = Choice.FIRST,
    ) -> None:
        self._choice = choice
        self._addresses = [Address(url, tls) for url in urls]
        if not self._addresses:
            raise ValueError("an edge needs at least one upstream")
        self._limit, self._queue_limit = connections, queue
        self._connect_timeout_s = connect_timeout_s
        self._first_byte_timeout_s, self._body_timeout_s = first_byte_timeout_s, body_timeout_s
        self._idle: dict[str, deque[_Connection]] = {address.url: deque() for address in self._addresses}
        self._busy: set[_Connection] = set()
        self._count = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self.requests = 0
        self.queue_drops = 0

    @property
    def waiting(self) -> int:
        """Fetches that wait for a connection."""
        return len(self._waiting)

    @property
    def open(self) -> int:
        """Fetches under way."""
        return self._count

    async def fetch(self, target: str, headers: Iterable[tuple[str, str]], receiver: Receiver) -> None:
        """GET `target` and hand the answer on. Raises UpstreamError, also after a part of the answer came."""
        await self._enter()
        try:
            await self._fetch(target, list(headers), receiver)
        finally:
            self._leave()

    def close(self) -> None:
        """Close all connections; fetches under way fail."""
        for idle in self._idle.values():
            while idle:
                idle.pop().close()
        for connection in list(self._busy):
            connection.close()

    def sweep(self, now: float) -> None:
        """Close connections that were idle for too long, and end answers that stopped coming. Once a second."""
        for idle in self._idle.values():
            while idle and (not idle[0].open or now - idle[0].last > KEEP_IDLE_S):
                idle.popleft().close()
        for connection in list(self._busy):
            silent = now - connection.last
            if silent > (self._body_timeout_s if connection.started else self._first_byte_timeout_s):
                connection.time_out()

    async def _enter(self) -> None:
        if self._count < self._limit:
            self._count += 1
            return
        if len(self._waiting) >= self._queue_limit:
            self.queue_drops += 1
            raise UpstreamError(503, "upstream_queue_full", retry=False)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._leave()
            raise

    def _leave(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)  # the place goes on to the next
                return
        self._count -= 1

    async def _fetch(self, target: str, headers: list[tuple[str, str]], receiver: Receiver) -> None:
        addresses = self.order(target, asyncio.get_running_loop().time())
        for index, address in enumerate(addresses):
            last = index == len(addresses) - 1
            try:
                await self._ask(address, target, headers, receiver if last else _Picky(receiver))
            except UpstreamError as error:
                address.failures += 1
                if last or not error.retry:
                    raise
            else:
                return

    def order(self, target: str, now: float) -> list[Address]:
        """The upstreams as they are to be asked for `target`: those that work first, among them by preference."""
        found = self._addresses
        if len(found) == 1:
            return found
        if self._choice is Choice.SPREAD:
            stream = "/".join(target.split("/", 3)[:3])
            # The highest hash of both together (rendezvous hashing): one that goes moves only its own streams.
            found = sorted(found, key=lambda item: blake2b(f"{item.url} {stream}".encode(), digest_size=8).digest())
        return sorted(found, key=lambda item: (not item.up) + (item.down_until > now))

    async def watch(self, health: Health) -> None:
        """Check all upstreams again and again, until cancelled. Only where there are several."""
        async with asyncio.TaskGroup() as group:
            for address in self._addresses:
                group.create_task(self._watch(address, health))

    async def _watch(self, address: Address, health: Health) -> None:
        while True:
            # Random parts keep the workers of many edges from asking at one instant.
            await asyncio.sleep(health.interval_s * random.uniform(0.75, 1.25))
            good = await self._check(address, health)
            address.streak = 0 if good == address.up else address.streak + 1
            if address.streak >= (health.failures if address.up else health.successes):
                address.up, address.streak = good, 0
                log.warning("upstream_up" if good else "upstream_down", upstream=address.url)

    async def _check(self, address: Address, health: Health) -> bool:
        request = f"GET {health.path} HTTP/1.1\r\nhost: {address.authority}\r\nconnection: close\r\n\r\n"
        connection = None
        try:
            async with asyncio.timeout(health.timeout_s):
                connection = await self._connect(address)
                await connection.ask(request.encode("latin-1"), _Nowhere())
        except (UpstreamError, TimeoutError):
            return False
        finally:
            if connection is not None:
                connection.close()
        return True

    def snapshot(self) -> dict[str, list[float]]:
        """By URL: whether it works, requests, failures."""
        now = asyncio.get_running_loop().time()
        return {
            item.url: [float(item.up and item.down_until <= now), item.requests, item.failures]
            for item in self._addresses
        }

    async def _ask(self, address: Address, target: str, headers: list[tuple[str, str]], receiver: Receiver) -> None:
        lines = [f"GET {target} HTTP/1.1", f"host: {address.authority}"]
        lines += [f"{name}: {value}" for name, value in headers]
        request = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
        while True:
            connection = self._reuse(address) or await self._connect(address)
            self._busy.add(connection)
            self.requests += 1
            address.requests += 1
            try:
                await connection.ask(request, receiver)
            except UpstreamError as error:
                if error.retry and not connection.fresh and not connection.touched:
                    continue  # the origin closed an idle connection just as we used it: RFC 9112 9.3.1
                raise
            except asyncio.CancelledError:
                connection.close()
                raise
            else:
                if connection.open:
                    connection.last = asyncio.get_running_loop().time()
                    self._idle[address.url].append(connection)
                return
            finally:
                self._busy.discard(connection)

    def _reuse(self, address: Address) -> _Connection | None:
        idle = self._idle[address.url]
        while idle:
            connection = idle.pop()
            if connection.open:
                return connection
        return None

    async def _connect(self, address: Address) -> _Connection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                if address.path:
                    _, connection = await loop.create_unix_connection(lambda: _Connection(address), address.path)
                else:
                    _, connection = await loop.create_connection(
                        lambda: _Connection(address), address.host, address.port, ssl=address.tls
                    )
        except (OSError, ssl.SSLError, TimeoutError) as error:
            if not address.down_until > loop.time():
                log.warning("upstream_unreachable", upstream=address.url, error=type(error).__name__)
            address.down_until = loop.time() + DOWN_S
            raise UpstreamError(502, "origin_unreachable", retry=True) from error
        address.down_until = 0.0
        return connection
