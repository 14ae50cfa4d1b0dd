"""An ASGI application on given sockets, inside the core's own event loop: uvicorn without its signal handlers."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import structlog
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from media.errors import HeadraceError

log = structlog.get_logger(__name__)

BACKLOG = 2048
DRAIN_S = 3
"""How long open requests may go on once the server is told to stop; blocked playlist requests are cut then."""

HEAD_S = 10.0
"""Time to send one whole request head. uvicorn itself waits for ever, for a first request that never ends."""


class PortTaken(HeadraceError):
    """A listener's port is not to be had."""

    default_slug = "port_taken"


def listen_tcp(host: str, port: int, section: str) -> socket.socket:
    """A bound, listening TCP socket. Raises `PortTaken` naming the setting to change."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        raise PortTaken(
            f"Port {port} on {host or 'every address'} cannot be used ({error.strerror}): stop what listens there, or "
            f"set {section}.port to another."
        ) from error
    sock.listen(BACKLOG)
    sock.setblocking(False)
    return sock


def listen_unix(path: Path) -> socket.socket:
    """A listening Unix socket that only this user may connect to."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    path.unlink(missing_ok=True)
    sock.bind(str(path))
    path.chmod(0o600)
    sock.listen(BACKLOG)
    sock.setblocking(False)
    return sock


class _Protocol(HttpToolsProtocol):
    """uvicorn's connection with a limit on how long a request head may take."""

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._late is None and (self.cycle is None or self.cycle.response_complete):
            self._wait_for_head()

    def on_headers_complete(self) -> None:
        self._head_is_here()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_is_here()
        super().connection_lost(exc)

    def _wait_for_head(self) -> None:
        if not self.transport.is_closing():
            self._late = self.loop.call_later(HEAD_S, self._too_late)

    def _head_is_here(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _too_late(self) -> None:
        self._late = None
        log.info("connection_ended", reason="request_too_slow", address=self.client and self.client[0])
        self.transport.close()


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.up.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the node's business."""
        yield


class HttpServer:
    """One application. `run` is a task of the node; `stop` makes it return."""

    def __init__(self, app: Any, sockets: Sequence[socket.socket]) -> None:
        self._sockets = list(sockets)
        config = uvicorn.Config(
            app, log_config=None, access_log=False, lifespan="off", http=_Protocol, server_header=False,
            timeout_keep_alive=75, timeout_graceful_shutdown=DRAIN_S, backlog=BACKLOG, ws="none",
        )  # fmt: skip
        self._server = _Server(config)

    async def run(self) -> None:
        """Serve until `stop`."""
        try:
            await self._server.serve(sockets=self._sockets)
        finally:
            for sock in self._sockets:
                sock.close()

    async def started(self) -> None:
        """Return once requests are taken."""
        await self._server.up.wait()

    def stop(self) -> None:
        """Take no new connection and finish those that are open."""
        self._server.should_exit = True
