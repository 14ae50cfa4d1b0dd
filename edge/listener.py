"""Accepts viewers' connections, reads the PROXY header where there is one, and hands the socket on.

It stands in the place of the loop's own server, since uvloop's accepts one connection in a turn of the loop. A turn in
which a crowd is woken takes tens of milliseconds, so that those who came then would wait for as many turns as there are
of them, while the present ones go on.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable

import structlog

from edge import proxy
from media.errors import ProtocolError

log = structlog.get_logger(__name__)

TOGETHER = 128
"""Connections accepted in one turn of the loop: a few milliseconds, which those wait who have one."""


class Listener:
    """See the module. `close` and `wait_closed` as asyncio's server has them."""

    def __init__(
        self,
        sock: socket.socket,
        make: Callable[[str], asyncio.Protocol],
        *,
        trusts: Callable[[str], bool] | None,
        refused: Callable[[str, int, str], None],
        timeout_s: float,
        pending: int,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """`make` gets the viewer's address, empty for the peer's own; `refused` the peer, 400 and a slug.

        `trusts`: whose connections begin with a PROXY header; None: nobody's. `pending`: connections that may be in
        the middle of their header or handshake, each for `timeout_s`; more wait to be accepted.
        """
        self.sockets = (sock,)
        self._sock, self._make, self._trusts, self._refused = sock, make, trusts, refused
        self._timeout_s, self._tls = timeout_s, tls
        self._loop = asyncio.get_running_loop()
        self._most = pending
        self._pending: set[asyncio.Task[None]] = set()
        self._listens = self._closed = False
        self._go_on()

    def close(self) -> None:
        """Accept nobody more; those in their handshake go on."""
        self._pause()
        self._closed = True
        self._sock.close()

    async def wait_closed(self) -> None:
        """Return once nobody is in the middle of a handshake."""
        await asyncio.gather(*self._pending, return_exceptions=True)

    def _go_on(self) -> None:
        if not self._listens and not self._closed:
            self._listens = True
            self._loop.add_reader(self._sock, self._accept)

    def _pause(self) -> None:
        if self._listens:
            self._listens = False
            self._loop.remove_reader(self._sock)

    def _accept(self) -> None:
        for _ in range(TOGETHER):
            if len(self._pending) >= self._most:
                self._pause()
                return
            try:
                sock, peer = self._sock.accept()
            except BlockingIOError:
                return
            except ConnectionError:
                continue  # it has gone again
            except OSError as error:
                log.warning("accept_failed", error=error.strerror)
                self._pause()
                self._loop.call_later(0.1, self._go_on)  # out of descriptors: some may come back
                return
            task = self._loop.create_task(self._open(sock, str(peer[0])))
            self._pending.add(task)
            task.add_done_callback(self._opened)

    def _opened(self, task: asyncio.Task[None]) -> None:
        self._pending.discard(task)
        self._go_on()

    async def _open(self, sock: socket.socket, peer: str) -> None:
        try:
            async with asyncio.timeout(self._timeout_s):
                address = await self._read(sock) if self._trusts is not None and self._trusts(peer) else ""
                await self._loop.connect_accepted_socket(lambda: self._make(address), sock, ssl=self._tls)
        except ProtocolError as error:
            sock.close()
            self._refused(peer, 400, error.slug)
        except (OSError, TimeoutError):
            sock.close()

    async def _read(self, sock: socket.socket) -> str:
        """Take the header off the socket, and nothing behind it. Raises ProtocolError or OSError."""
        sock.setblocking(False)
        header = proxy.Header()
        while not header.done:
            seen = await self._peek(sock)
            if not seen:
                raise ConnectionResetError
            taken = header.feed(seen)
            if len(sock.recv(taken)) != taken:
                raise ConnectionResetError
        return header.address

    async def _peek(self, sock: socket.socket) -> bytes:
        while True:
            try:
                return sock.recv(proxy.V2_MAX_BYTES + 16, socket.MSG_PEEK)
            except BlockingIOError:
                ready: asyncio.Future[None] = self._loop.create_future()
                self._loop.add_reader(sock, _set, ready)
                try:
                    await ready
                finally:
                    self._loop.remove_reader(sock)


def _set(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
