"""A worker's viewers: all their connections, who may open one, and the clock that cuts those who do not move."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Protocol

from edge.access import Access, Grant
from edge.access_log import AccessLog
from edge.client import Clients
from edge.connection import Connection
from edge.h2 import request as h2_request
from edge.h2.connection import H2Connection
from edge.heads import Heads
from edge.reader import Reader, Sink
from edge.request import Request
from edge.settings import EdgeSettings
from edge.site import Site
from edge.stats import Stats
from edge.viewers import Viewers
from media.addresses import network_of

COUNT_EVERY_S = 5.0
"""How often a connection goes the long way to be counted as a viewer."""
BURST_S = 10.0
"""Seconds' worth of requests that an address may save up."""


class Peer(Protocol):
    """A viewer's connection, of any version of HTTP."""

    address: str
    counted_until: float
    grant: Grant | None

    @property
    def protocol(self) -> str: ...

    @property
    def readers(self) -> list[Reader]: ...

    @property
    def waiting(self) -> int: ...

    def check(self, now: float) -> None: ...

    def drain(self) -> None: ...


class Chosen(asyncio.Protocol):
    """Stands in until the transport says what the handshake agreed on (ALPN, RFC 7301)."""

    def __init__(self, server: Server, address: str) -> None:
        self._server, self._address = server, address

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        secure = transport.get_extra_info("ssl_object")
        http2 = secure is not None and secure.selected_alpn_protocol() == "h2"
        protocol = H2Connection(self._server) if http2 else Connection(self._server)
        protocol.address = self._address
        transport.set_protocol(protocol)
        protocol.connection_made(transport)


@dataclass(slots=True)
class _Address:
    connections: int = 0
    tokens: float = 0.0
    at: float = 0.0


class Server:
    """Shared by all connections of a worker."""

    def __init__(
        self,
        settings: EdgeSettings,
        site: Site,
        stats: Stats,
        viewers: Viewers,
        log: AccessLog | None = None,
        access: Access | None = None,
    ) -> None:
        self.settings, self.site, self.stats, self.viewers = settings, site, stats, viewers
        keys = frozenset(settings.query_keys)
        self.heads = Heads(keys, settings.max_target_bytes, settings.max_head_bytes)
        self.blocks = h2_request.Reader(keys, settings.max_target_bytes, settings.max_head_bytes)
        self.log, self.access = log, access
        self.connections: set[Peer] = set()
        self.draining = False
        self._addresses: dict[str, _Address] = {}
        self._rate = settings.requests_per_s_per_address
        self.clients = Clients(settings.trusted_proxies, settings.client_header)
        hidden = bool(settings.trusted_proxies) and settings.client_header not in ("x-forwarded-for", "forwarded")
        self._alike = not (self._rate or hidden)
        """Two requests on one connection with the same header fields are of one viewer, and without a limit."""
        self.short_path = self._alike and access is None
        if access is not None:
            access.changed = self.recheck

    def make(self, address: str = "") -> Connection:
        """A protocol for a new connection. `address` is the viewer's where that is not the peer's."""
        connection = Connection(self)
        connection.address = address
        return connection

    def make_secure(self, address: str = "") -> Chosen:
        """A protocol for a new TLS connection: HTTP/2 or HTTP/1.1, as the handshake says."""
        return Chosen(self, address)

    def broken(self, peer: str, status: int, slug: str) -> None:
        """A connection that did not get as far as a request."""
        self.stats.bad_requests += 1
        if self.log is not None:
            self.log.broken(peer, status, slug)

    def admit(self, connection: Peer) -> tuple[int, str] | None:
        """Take a new connection in; status and slug of a refusal otherwise."""
        self.stats.connections += 1
        self.connections.add(connection)
        settings = self.settings
        address = self._addresses.setdefault(network_of(connection.address), _Address())
        address.connections += 1
        if len(self.connections) > settings.max_connections:
            self.stats.refused += 1
            return 503, "too_many_connections"
        limit = settings.max_connections_per_address
        if limit and address.connections > limit and not self.clients.trusts(connection.address):
            self.stats.refused += 1
            return 429, "too_many_connections_from_address"
        return None

    def forget(self, connection: Peer) -> None:
        """A connection has ended."""
        self.connections.discard(connection)
        network = network_of(connection.address)
        address = self._addresses.get(network)
        if address is not None:
            address.connections -= 1
            if address.connections <= 0 and not self._rate:
                del self._addresses[network]

    def check(self, connection: Peer, asked: Request, now: float) -> tuple[int, str] | None:
        """Count a request for its viewer; status and slug where a limit refuses it."""
        if asked.plain and now < connection.counted_until:
            return None  # counted a moment ago, and no limit: see `short_path`
        address = self.address(connection, asked)
        if self._rate and not self._take(network_of(address), now):
            self.stats.refused += 1
            return 429, "too_many_requests"
        if self.access is not None:
            refusal = self.access.refuse(asked, address, trusted=self.clients.trusts(connection.address))
            if refusal is not None:
                self.stats.denied += 1
                return refusal
        self.viewers.seen(asked.path, address, asked.headers.get("user-agent", ""), now)
        if self.short_path:
            connection.counted_until = now + COUNT_EVERY_S
        elif self._alike and self.access is not None:
            until = now + min(COUNT_EVERY_S, self.access.lasts_s(asked))
            connection.grant = Grant.make(asked, until) or connection.grant
        return None

    def recheck(self) -> None:
        """Rights have changed: nothing granted counts, and who waits for an answer may have lost the right to it.

        A body under way goes on to its end.
        """
        assert self.access is not None
        for connection in list(self.connections):
            connection.grant = None
            for reader in connection.readers:
                asked = reader.request
                address, trusted = self.address(connection, asked), self.clients.trusts(connection.address)
                refusal = None if reader.begun else self.access.refuse(asked, address, trusted=trusted)
                if refusal is not None:
                    self.stats.denied += 1
                    reader.leave()
                    self.site.refuse(reader.sink, *refusal, request=asked)

    def tap(self, connection: Peer, sink: Sink, asked: Request) -> Sink:
        """`sink`, with the access log looking on. Only where there is one."""
        assert self.log is not None
        return self.log.tap(sink, asked, self.address(connection, asked), connection.protocol)

    def address(self, connection: Peer, asked: Request) -> str:
        """The viewer's address: the peer, or what a trusted proxy in front says."""
        return self.clients.find(connection.address, asked.headers)

    def sweep(self, now: float) -> None:
        """Once a second: let every connection see to its times, and forget addresses with nothing on account."""
        for connection in list(self.connections):
            connection.check(now)
        if self._rate:
            idle = [key for key, item in self._addresses.items() if not item.connections and now - item.at > BURST_S]
            for key in idle:
                del self._addresses[key]

    def drain(self) -> None:
        """Answer what is asked, and close."""
        self.draining = True
        for connection in list(self.connections):
            connection.drain()

    @property
    def waiting(self) -> int:
        """Viewers who wait for a flight or for the rest of one."""
        return sum(connection.waiting for connection in self.connections)

    def _take(self, address: str, now: float) -> bool:
        item = self._addresses.setdefault(address, _Address())
        burst = self._rate * BURST_S
        item.tokens = min(burst, item.tokens + (now - item.at) * self._rate) if item.at else burst
        item.at = now
        if item.tokens < 1.0:
            return False
        item.tokens -= 1.0
        return True
