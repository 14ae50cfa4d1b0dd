"""One edge worker: composes cache, coalescer, server and listeners, and answers its supervisor.

What it is told comes as one JSON line on stdin; while stdin stays open its parent lives. It says `ready` with
its port on stdout, and answers `metrics`, `purge` and `watching` as JSON lines on a private Unix socket.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import resource
import signal
import socket
import ssl
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import structlog

from edge import metrics, tls
from edge.access import Access
from edge.access_log import AccessLog
from edge.cache import Cache
from edge.coalesce import Coalescer
from edge.listener import Listener
from edge.revocation import Revocations, fingerprint
from edge.server import Server
from edge.settings import EdgeSettings
from edge.site import Site
from edge.stats import Stats
from edge.upstream import Health, Upstream
from edge.viewers import Viewers

log = structlog.get_logger(__name__)

BACKLOG = 4096
"""Connections that may wait to be accepted; the kernel's own limit (somaxconn, 4096 by default) comes on top."""
SPARE_FILES = 64
"""File descriptors for everything that is not a connection."""
ORDER_BYTES = 8 * 2**20
"""Longest order on the private socket: as many revocations as a list may have (`edge.revocation.LIMIT`)."""
_SENT = ("upstream", "port", "tls_port", "control", "viewer_key", "fd", "tls_fd", "close")
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class Orders:
    """What a supervisor tells a worker."""

    settings: EdgeSettings
    upstream: tuple[str, ...]
    port: int
    tls_port: int
    control: str
    """Path of the private socket; empty for none."""
    viewer_key: str
    """Hex; shared by the workers of an edge."""
    fd: int = -1
    tls_fd: int = -1
    """Sockets that listen already, inherited: a successor takes over what waits to be accepted. -1: bind one."""
    close: tuple[int, ...] = ()
    """Other workers' sockets, inherited as well: not ours to keep."""
    revoked: Revocations = field(default_factory=Revocations)

    def to_json(self) -> str:
        values = {name: getattr(self, name) for name in _SENT}
        revoked = self.revoked.to_json()
        return json.dumps({"settings": self.settings.model_dump(mode="json"), "revoked": revoked, **values})

    @classmethod
    def from_json(cls, text: str | bytes) -> Orders:
        values = json.loads(text)
        settings = EdgeSettings.model_validate(values.pop("settings"))
        revoked = Revocations.from_json(values.pop("revoked"))
        upstream, close = tuple(values.pop("upstream")), tuple(values.pop("close"))
        return cls(settings=settings, upstream=upstream, close=close, revoked=revoked, **values)


class Worker:
    """See the module. `run` is its whole life."""

    def __init__(self, orders: Orders) -> None:
        settings = orders.settings
        loop = asyncio.get_running_loop()
        self._orders, self._settings, self._loop = orders, settings, loop
        self.stats = Stats()
        self.cache = Cache(settings.memory_bytes, settings.text_share, settings.max_objects)
        self.upstream = Upstream(
            orders.upstream,
            connections=settings.upstream_connections,
            queue=settings.upstream_queue,
            connect_timeout_s=settings.connect_timeout_s,
            first_byte_timeout_s=settings.first_byte_timeout_s,
            body_timeout_s=settings.body_timeout_s,
            choice=settings.upstream_choice,
        )
        self.coalescer = Coalescer(self.cache, self.upstream, settings, self.stats, loop.time)
        self.viewers = Viewers(settings.viewer_window_s, bytes.fromhex(orders.viewer_key))
        self.access = Access.make(settings, orders.revoked)
        self.site = Site(settings, self.cache, self.coalescer, self.stats, loop.time, time.time)
        self.log = None
        if settings.access_log:
            rates = settings.access_log_rate, settings.access_log_error_rate
            self.log = AccessLog(settings.access_log, *rates, loop.time, time.time)
        self.server = Server(settings, self.site, self.stats, self.viewers, self.log, self.access)
        self._stop = asyncio.Event()
        self.ready = asyncio.Event()
        """Set once viewers can connect."""
        self.port = 0
        self.tls_port = 0

    def stop(self) -> None:
        """Drain and end."""
        self._stop.set()

    async def run(self) -> None:
        """Serve until `stop` is called or the parent has gone."""
        settings = self._settings
        listeners, context = self._listen()
        control = None
        if self._orders.control:
            control = await asyncio.start_unix_server(self._control, self._orders.control, limit=ORDER_BYTES)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._tick()), group.create_task(self._pack_pages())]
            if context is not None:
                tasks.append(group.create_task(tls.watch(context, self._settings)))
            if len(self._orders.upstream) > 1 and settings.health_interval_s:
                times = settings.health_interval_s, settings.health_timeout_s
                health = Health(settings.health_path, *times, settings.health_failures, settings.health_successes)
                tasks.append(group.create_task(self.upstream.watch(health)))
            if self.log is not None:
                tasks.append(group.create_task(self.log.run()))
            self.ready.set()
            await self._stop.wait()
            for listener in listeners:
                listener.close()
            self.server.drain()
            deadline = self._loop.time() + self._settings.drain_s
            while self.server.connections and self._loop.time() < deadline:
                await asyncio.sleep(0.02)
                self.server.drain()
            for task in tasks:
                task.cancel()
        if control is not None:
            control.close()
        await self.coalescer.close()
        self.upstream.close()
        if self.log is not None:
            await self.log.close()

    def _listen(self) -> tuple[list[Listener], ssl.SSLContext | None]:
        settings, orders = self._settings, self._orders
        sock = bind(settings.host, orders.port) if orders.fd < 0 else socket.socket(fileno=orders.fd)
        listeners = [self._open(sock, self.server.make, None)]
        self.port = sock.getsockname()[1]
        context = tls.make_context(settings)
        if context is not None:
            sock = bind(settings.host, orders.tls_port) if orders.tls_fd < 0 else socket.socket(fileno=orders.tls_fd)
            listeners.append(self._open(sock, self.server.make_secure, context))
            self.tls_port = sock.getsockname()[1]
        return listeners, context

    def _open(
        self, sock: socket.socket, make: Callable[..., asyncio.Protocol], context: ssl.SSLContext | None
    ) -> Listener:
        settings, server = self._settings, self.server
        sock.setblocking(False)
        sock.listen(BACKLOG)
        return Listener(
            *(sock, make),
            trusts=server.clients.trusts if settings.proxy_protocol else None,
            refused=server.broken,
            timeout_s=settings.head_timeout_s,
            pending=settings.max_connections,
            tls=context,
        )

    async def _pack_pages(self) -> None:
        for entry, coding, body in await asyncio.to_thread(self.site.pages.compress):
            entry.pack(coding, body)

    async def _tick(self) -> None:
        """Everything that happens by the clock, once a second."""
        count = 0
        told: dict[str, int] = {}
        while True:
            await asyncio.sleep(1.0)
            now = self._loop.time()
            told = self._tell(told)
            self.server.sweep(now)
            self.upstream.sweep(now)
            self.cache.expire(now)
            self.coalescer.tidy(now)
            count += 1
            if count % 5 == 0:
                self.viewers.sweep(now)
                if self.access is not None:
                    self.access.reload()
            if count % 20 == 0:
                self.site.pages.refresh(now)

    def _tell(self, before: dict[str, int]) -> dict[str, int]:
        """One line for all that were turned away since the last: a line for each would help whoever attacks."""
        stats = self.stats
        now = {"bad_requests": stats.bad_requests, "refused": stats.refused, "slow_viewers": stats.slow_viewers}
        fresh = {reason: count - before.get(reason, 0) for reason, count in now.items()}
        if any(fresh.values()):
            log.info("connections_ended", **{reason: count for reason, count in fresh.items() if count})
        return now

    def snapshot(self) -> metrics.Snapshot:
        """The worker's counters as they are now."""
        gauges = {
            "open_connections": len(self.server.connections),
            "waiting_requests": self.server.waiting,
            "flights": self.coalescer.flights,
            "upstream_waiting": self.upstream.waiting,
            "cache_objects": len(self.cache),
            "cache_bytes": self.cache.bytes,
            "evictions": self.cache.evictions,
        }
        if self.log is not None:
            gauges |= {"log_lines": self.log.lines, "log_drops": self.log.drops}
        return metrics.Snapshot(
            *(self.stats.snapshot(), gauges, self.viewers.snapshot(), self.coalescer.latency.snapshot()),
            upstreams=self.upstream.snapshot(),
        )

    async def _control(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                writer.write(json.dumps(self._obey(json.loads(line))).encode() + b"\n")
                await writer.drain()
        except (ConnectionError, ValueError) as error:
            log.warning("control_failed", error=type(error).__name__)
        finally:
            writer.close()

    def _marked(self, mark: str) -> set[str]:
        """Prefixes of the streams that have a fingerprint."""
        parts = (key.split("/", 3) for key in (*self.cache.entries, *self.coalescer.keys))
        names = {part[2] for part in parts if len(part) == 4 and part[1] == "live"}
        return {f"/live/{name}/" for name in names if fingerprint(name) == mark}

    def _purge(self, prefixes: set[str]) -> int:
        count = 0
        for prefix in prefixes:
            self.coalescer.purge(prefix)
            count += self.cache.purge(prefix)
        return count

    def _obey(self, order: dict[str, Any]) -> dict[str, Any]:
        if order.get("do") == "metrics":
            return asdict(self.snapshot())
        if order.get("do") == "watching":
            return self.viewers.watching()
        if order.get("do") == "purge":
            return {"purged": self._purge(self._marked(str(order["mark"])) if "mark" in order else {order["prefix"]})}
        if order.get("do") == "revoke":
            if self.access is not None:
                self.access.revoke(Revocations.from_json(order["list"]))
            return {"revoked": self.access is not None}
        return {"error": "unknown_order"}


def bind(host: str, port: int, *, reuse: bool = True) -> socket.socket:
    """A TCP socket bound to `host:port`, sharing the port with others of this user. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.setblocking(False)
        sock.bind((host, port))
    except OSError:
        sock.close()
        raise
    return sock


def raise_file_limit(wanted: int) -> int:
    """Raise the soft limit of open files as far as allowed; what it is now. Warns where it is too low."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    best = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft < best:
        resource.setrlimit(resource.RLIMIT_NOFILE, (best, hard))
        soft = best
    if soft < wanted:
        log.warning("few_open_files", limit=soft, wanted=wanted, hint="raise the hard limit (ulimit -Hn)")
    return soft


async def main(line: bytes) -> None:
    """Run a worker with the orders in `line`, until SIGTERM, SIGINT or the end of stdin."""
    orders = Orders.from_json(line)
    settings = orders.settings
    for fd in orders.close:
        os.close(fd)
    raise_file_limit(settings.max_connections + settings.upstream_connections + SPARE_FILES)
    worker = Worker(orders)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, worker.stop)
    transport, _ = await loop.connect_read_pipe(lambda: _Parent(worker), sys.stdin)
    try:
        async with asyncio.TaskGroup() as group:
            running = group.create_task(worker.run())
            saying = group.create_task(_say_ready(worker))
            await running
            saying.cancel()
    finally:
        transport.close()


async def _say_ready(worker: Worker) -> None:
    await worker.ready.wait()
    print(json.dumps({"ready": True, "port": worker.port, "tls_port": worker.tls_port}), flush=True)


class _Parent(asyncio.Protocol):
    """Stdin: its end is the end of the parent, and nobody is left to serve for."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def connection_lost(self, error: Exception | None) -> None:
        self._worker.stop()


def die_with_parent() -> None:
    """Have the kernel send SIGTERM when the parent dies (Linux), should stdin not tell."""
    parent = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        raise SystemExit(1)


def read_line() -> bytes:
    """The first line of stdin, byte by byte: what follows stays in the pipe."""
    line = bytearray()
    while (char := os.read(0, 1)) not in (b"", b"\n"):
        line += char
    return bytes(line)


__all__ = ["Orders", "Worker", "bind", "die_with_parent", "main", "raise_file_limit", "read_line"]
