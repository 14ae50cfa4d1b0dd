"""PROXY protocol, versions 1 and 2 (HAProxy's proxy-protocol.txt): the viewer's address in front of a connection.

`Header` is the core: it is shown bytes, says how many of them are its own, and never wants one of those behind, so
that a TLS handshake or a request that comes in the same packet stays in the socket. `Listener` is the shell: it
accepts, reads the header, and hands the socket on. Only trusted addresses send a header, and each of them must.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Callable

import structlog

from media.errors import ProtocolError

log = structlog.get_logger(__name__)

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
V1_MAX_BYTES = 107
"""The longest line of version 1, its end included (2.1)."""
V2_MAX_BYTES = 4096
"""Addresses take at most 216; the rest are type-length-values, of which a certificate's name may be long."""
PENDING = 1024
"""Connections that may be in the middle of their header or handshake; more wait to be accepted."""


class Header:
    """One header. `feed` until `done`; then `address` is the viewer's, or empty where the sender speaks for itself."""

    def __init__(self) -> None:
        self.done = False
        self.address = ""
        self._held = b""

    def feed(self, data: bytes) -> int:
        """How many of the bytes at the start of `data` belong to the header: take those, and no more.

        Raises ProtocolError for what is no header.
        """
        start = (self._held + data[:12])[:12]
        if not start.startswith(SIGNATURE[: len(start)]):
            if not start.startswith(b"PROXY "[: len(start)]):
                raise ProtocolError("The connection does not begin with a PROXY header.", slug="no_proxy_header")
            return self._line(data)
        return self._binary(data)

    def _line(self, data: bytes) -> int:
        whole = self._held + data
        end = whole.find(b"\r\n", 0, V1_MAX_BYTES)
        if end < 0:
            if len(whole) >= V1_MAX_BYTES:
                raise ProtocolError("The PROXY line does not end.", slug="bad_proxy_header")
            self._held = whole
            return len(data)
        taken = end + 2 - len(self._held)
        words = whole[:end].decode("latin-1").split(" ")
        if words[1:2] != ["UNKNOWN"]:
            if len(words) != 6 or words[1] not in ("TCP4", "TCP6") or not _port(words[4]) or not _port(words[5]):
                raise ProtocolError("The PROXY line is broken.", slug="bad_proxy_header")
            family = ipaddress.IPv4Address if words[1] == "TCP4" else ipaddress.IPv6Address
            try:
                self.address = str(family(words[2]))
                family(words[3])
            except ValueError:
                raise ProtocolError("The PROXY line holds no address.", slug="bad_proxy_header") from None
        self.done = True
        return taken

    def _binary(self, data: bytes) -> int:
        whole = self._held + data
        if len(whole) < 16:
            self._held = whole
            return len(data)
        version, family = whole[12], whole[13]
        size = int.from_bytes(whole[14:16], "big")
        if version not in (0x20, 0x21) or size > V2_MAX_BYTES:
            raise ProtocolError("The PROXY header is broken.", slug="bad_proxy_header")
        taken = 16 + size - len(self._held)
        if len(data) < taken:
            self._held = whole
            return len(data)
        body = whole[16 : 16 + size]
        if version == 0x21:  # 0x20 is LOCAL: the proxy itself, asking how we are
            if family == 0x11 and size >= 12:
                self.address = str(ipaddress.IPv4Address(body[:4]))
            elif family == 0x21 and size >= 36:
                self.address = str(ipaddress.IPv6Address(body[:16]))
            elif family in (0x11, 0x21):
                raise ProtocolError("The PROXY header is too short for its addresses.", slug="bad_proxy_header")
        self.done = True
        return taken


def _port(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= 65_535


class Listener:
    """Accepts on a listening socket in the place of asyncio's server. `close` and `wait_closed` as it has them."""

    def __init__(
        self,
        sock: socket.socket,
        make: Callable[[str], asyncio.Protocol],
        *,
        trusts: Callable[[str], bool],
        refused: Callable[[str, int, str], None],
        timeout_s: float,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """`make` gets the viewer's address, empty for the peer's own; `refused` the peer, 400 and a slug."""
        self.sockets = (sock,)
        self._sock, self._make, self._trusts, self._refused = sock, make, trusts, refused
        self._timeout_s, self._tls = timeout_s, tls
        self._loop = asyncio.get_running_loop()
        self._places = asyncio.Semaphore(PENDING)
        self._pending: set[asyncio.Task[None]] = set()
        self._accepting = self._loop.create_task(self._accept())

    def close(self) -> None:
        """Accept nobody more; those in their handshake go on."""
        self._accepting.cancel()
        self._sock.close()

    async def wait_closed(self) -> None:
        """Return once nobody is in the middle of a handshake."""
        await asyncio.gather(self._accepting, *self._pending, return_exceptions=True)

    async def _accept(self) -> None:
        while True:
            await self._places.acquire()
            try:
                sock, peer = await self._loop.sock_accept(self._sock)
            except OSError as error:
                self._places.release()
                log.warning("accept_failed", error=error.strerror)
                await asyncio.sleep(0.1)  # out of descriptors: some may come back
                continue
            task = self._loop.create_task(self._open(sock, str(peer[0])))
            self._pending.add(task)
            task.add_done_callback(self._pending.discard)

    async def _open(self, sock: socket.socket, peer: str) -> None:
        try:
            async with asyncio.timeout(self._timeout_s):
                address = await self._read(sock) if self._trusts(peer) else ""
                await self._loop.connect_accepted_socket(lambda: self._make(address), sock, ssl=self._tls)
        except ProtocolError as error:
            sock.close()
            self._refused(peer, 400, error.slug)
        except (OSError, TimeoutError):
            sock.close()
        finally:
            self._places.release()

    async def _read(self, sock: socket.socket) -> str:
        """Take the header off the socket, and nothing behind it. Raises ProtocolError or OSError."""
        sock.setblocking(False)
        header = Header()
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
                return sock.recv(V2_MAX_BYTES + 16, socket.MSG_PEEK)
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
