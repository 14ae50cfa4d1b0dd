"""The server's side of TLS as bytes in, bytes out: no socket, no clock.

Not `loop.start_tls`: uvloop starts to read behind `connection_made` even where that paused the transport, so a
ClientHello that came at once could reach the plain protocol instead of the TLS layer, and both sides waited.
"""

from __future__ import annotations

import contextlib
import ssl

_READ_BYTES = 256 * 1024


class Tls:
    """One connection. After each call, send what `data_to_send` gives."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self.established = False
        """Whether the handshake is done."""
        self.ended = False
        """Whether the peer said that nothing more comes (RFC 8446 6.1)."""

    def receive(self, data: bytes) -> bytes:
        """What the peer said, in the clear. Raises `ssl.SSLError` where that is no TLS, or none that we speak."""
        self._incoming.write(data)
        found: list[bytes] = []
        try:
            if not self.established:
                self._object.do_handshake()
                self.established = True
            while plain := self._object.read(_READ_BYTES):
                found.append(plain)
            self.ended = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.ended = True
        return b"".join(found)

    def send(self, data: bytes) -> None:
        """Words for the peer. Before the handshake is done there is nobody to say them to."""
        if self.established:
            self._object.write(data)

    def close(self) -> None:
        """Tell the peer that nothing more comes from us."""
        if self.established:
            with contextlib.suppress(ssl.SSLError):  # the peer's own close may still come, or never
                self._object.unwrap()

    def data_to_send(self) -> bytes:
        """What goes out to the peer now."""
        return self._outgoing.read()
