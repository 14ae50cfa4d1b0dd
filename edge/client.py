"""Who a viewer is: the peer, or whom a trusted proxy in front of us names. Pure.

A header of an untrusted peer means nothing. In a trusted one's, addresses are read from the right, where the nearest
proxy wrote: the first that is not itself trusted is the viewer. What stands left of it may be invented.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping

_PAIR = re.compile(r'[ \t]*([!#$%&\'*+\-.^_`|~0-9A-Za-z]+)=(?:"((?:[^"\\]|\\.)*)"|([^";,\s]*))[ \t]*')
MEMO = 4096


class Clients:
    """Finds viewers' addresses. `trusted` are networks (CIDR); `header` is the one that they write, lower case."""

    def __init__(self, trusted: Iterable[str], header: str) -> None:
        self.networks = tuple(ipaddress.ip_network(item, strict=False) for item in trusted)
        self.header = header
        self._known: dict[str, bool] = {}

    def trusts(self, address: str) -> bool:
        """Whether a proxy at `address` is believed."""
        if not self.networks:
            return False
        known = self._known.get(address)
        if known is None:
            if len(self._known) >= MEMO:
                self._known.clear()
            known = self._known[address] = self._look(address)
        return known

    def find(self, peer: str, headers: Mapping[str, str]) -> str:
        """The viewer's address. `headers` have lower-case names."""
        said = headers.get(self.header)
        if said is None or not self.trusts(peer):
            return peer
        nearest = peer
        for item in reversed(_forwarded(said) if self.header == "forwarded" else said.split(",")):
            address = plain(item)
            if not address:
                return nearest  # "unknown", a name, or rubbish: whoever wrote it is as near as we get
            if not self.trusts(address):
                return address
            nearest = address
        return nearest

    def _look(self, address: str) -> bool:
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return False
        mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
        return any((mapped or parsed) in network for network in self.networks)


def plain(text: str) -> str:
    """The address in `1.2.3.4`, `1.2.3.4:80`, `::1`, `[::1]` or `[::1]:80`, in its usual form; empty without one."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        parsed = ipaddress.ip_address(text)
    except ValueError:
        return ""
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return str(mapped or parsed)


def _forwarded(value: str) -> list[str]:
    """The `for` of each element of `Forwarded` (RFC 7239 4), empty where it has none or is broken."""
    found: list[str] = []
    at, node = 0, ""
    while at < len(value):
        match = _PAIR.match(value, at)
        if match is not None:
            name, quoted, token = match.groups()
            if name.lower() == "for":
                node = re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else token
            at = match.end()
        elif value[at] not in ",; \t":
            return [*found, ""]  # from here on nothing can be told apart: trust none of it
        if at < len(value) and value[at] == ",":
            found.append(node)
            node = ""
        at += 1
    return [*found, node]
