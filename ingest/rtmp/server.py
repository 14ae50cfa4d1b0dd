"""The RTMP and RTMPS listener: accepts, counts, ticks and drains. One task group owns all that runs for it."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from ingest.ports import Gatekeeper
from ingest.rtmp.connection import Connection, Context
from ingest.settings import LimitSettings, RtmpSettings
from media.addresses import network_of
from media.errors import HeadraceError

_log = structlog.get_logger(__name__)
_TICK_S = 1.0
_BACKLOG = 512


class RtmpServer:
    """`await start()`, then `port`; `await drain()` to let publishers go in good order; `await stop()` at the end."""

    def __init__(
        self,
        settings: RtmpSettings,
        gatekeeper: Gatekeeper,
        *,
        limits: LimitSettings | None = None,
        tls: Callable[[], ssl.SSLContext] | None = None,
        protocol: str = "rtmp",
    ) -> None:
        """`tls`: asked for each connection, so that a renewed certificate counts at once; None for plain RTMP."""
        self._settings = settings
        self._limits = limits or LimitSettings()
        self._context = Context(
            protocol, self._limits, gatekeeper, tls, self._spawn, self._opened, self._closed, settings.reconnect_url
        )
        self._connections: set[Connection] = set()
        self._by_network: Counter[str] = Counter()
        self._server: asyncio.Server | None = None
        self._port = 0
        self._group: asyncio.TaskGroup | None = None
        self._owner: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self.refused = 0
        """Connections cut because there were too many."""

    @property
    def port(self) -> int:
        """The TCP port in use."""
        assert self._port, "the server has not been started"
        return self._port

    @property
    def protocol(self) -> str:
        """`rtmp` or `rtmps`."""
        return self._context.protocol

    @property
    def connections(self) -> int:
        """Open connections, publishing or not."""
        return len(self._connections)

    async def start(self) -> None:
        """Listen. Raises `HeadraceError` where the address cannot be had."""
        host, port = self._settings.host or None, self._settings.port
        loop = asyncio.get_running_loop()
        group_ready = asyncio.Event()
        self._owner = asyncio.create_task(self._own(group_ready), name=f"{self._context.protocol}-listener")
        await group_ready.wait()
        try:
            if host is None and port == 0:
                host = "0.0.0.0"  # every family would get a free port of its own
            self._server = await loop.create_server(
                lambda: Connection(self._context), host, port, backlog=_BACKLOG, reuse_address=True
            )
        except OSError as error:
            await self._end_group()
            where = f"{host or '*'}:{port}"
            raise HeadraceError(
                f"{self._context.protocol} cannot listen on {where}: {error.strerror or error}. Is another server "
                f"running? Set {self._context.protocol}.port to another port.",
                slug="port_in_use",
            ) from error
        self._port = int(self._server.sockets[0].getsockname()[1])
        _log.info("listening", protocol=self._context.protocol, port=self.port)

    async def drain(self) -> None:
        """Nobody new; publishers are asked to reconnect or ended, and given `drain_s` to leave."""
        if self._server is not None:
            self._server.close()
        asked = [connection.drain() for connection in list(self._connections)]
        try:
            async with asyncio.timeout(self._limits.drain_s if any(asked) else self._limits.linger_s):
                await self._empty.wait()
        except TimeoutError:
            _log.info("drain_timeout", protocol=self._context.protocol, left=len(self._connections))

    async def stop(self) -> None:
        """End every connection and every task. Idempotent."""
        if self._server is not None:
            self._server.close()
        for connection in list(self._connections):
            connection.abort()
        await self._end_group()
        self._server = None

    async def _end_group(self) -> None:
        self._stopping.set()
        if self._owner is not None:
            owner, self._owner = self._owner, None
            await owner

    async def _own(self, ready: asyncio.Event) -> None:
        """The owner of every task of this listener."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            ready.set()
            while not self._stopping.is_set():
                try:
                    async with asyncio.timeout(_TICK_S):
                        await self._stopping.wait()
                except TimeoutError:
                    now = time.monotonic()
                    for connection in list(self._connections):
                        self._tick(connection, now)
            # What is left waits for a gatekeeper on behalf of a connection that no longer exists.
            for task in list(self._tasks):
                task.cancel()

    def _tick(self, connection: Connection, now: float) -> None:
        try:
            connection.tick(now)
        except Exception:  # noqa: BLE001 (a fault of ours must end this connection, not the listener)
            _log.exception("tick_failed", protocol=self._context.protocol)
            connection.abort()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> object:
        assert self._group is not None
        task = self._group.create_task(self._contained(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _contained(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception:  # noqa: BLE001 (a fault of ours must end this connection, not the listener)
            _log.exception("connection_failed", protocol=self._context.protocol)

    def _opened(self, connection: Connection) -> bool:
        limits = self._limits
        network = network_of(connection.address)
        self._connections.add(connection)
        self._by_network[network] += 1
        self._empty.clear()
        if (
            len(self._connections) > limits.max_connections
            or self._by_network[network] > limits.max_connections_per_address
        ):
            self.refused += 1
            if self.refused.bit_count() == 1:  # the 1st, 2nd, 4th, 8th ...: a flood of callers is no flood of lines
                reason = "too_many_connections"
                _log.warning("connections_refused", reason=reason, address=connection.address, refused=self.refused)
            return False
        return True

    def _closed(self, connection: Connection) -> None:
        self._connections.discard(connection)
        network = network_of(connection.address)
        self._by_network[network] -= 1
        if self._by_network[network] <= 0:
            del self._by_network[network]
        if not self._connections:
            self._empty.set()
