"""PROXY protocol, versions 1 and 2 (HAProxy's proxy-protocol.txt): the viewer's address in front of a connection.

`Header` is the core: it is shown bytes, says how many of them are its own, and never wants one of those behind, so
that a TLS handshake or a request that comes in the same packet stays in the socket. `edge.listener` is the shell.
Only trusted addresses send a header, and each of them must.
"""

from __future__ import annotations

import ipaddress

from media.errors import ProtocolError

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
V1_MAX_BYTES = 107
"""The longest line of version 1, its end included (2.1)."""
V2_MAX_BYTES = 4096
"""Addresses take at most 216; the rest are type-length-values, of which a certificate's name may be long."""


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
