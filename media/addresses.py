"""What counts as one address where connections are counted: an IPv6 host owns its /64, and has any of its addresses."""

from __future__ import annotations

import ipaddress


def network_of(address: str) -> str:
    """An IPv4 address as it is, the /64 of an IPv6 address; what is neither stays as it is."""
    if ":" not in address:
        return address
    try:
        parsed = ipaddress.IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.IPv6Network((parsed, 64), strict=False))
