"""Viewer tokens: a signed, expiring JWT bound to a stream, checked here without asking anyone.

A token comes as `?token=`, as `Authorization: Bearer`, or as a path prefix `/t/TOKEN/live/...`: relative URLs
in playlists keep the prefix, so that one link carries a viewer from the page to the last segment. It is
never part of the cache key and never goes upstream.

| claim | |
|---|---|
| `exp` | required: Unix seconds |
| `sub` | required: the playback id, or `*` |
| `nbf`, `iat` | optional: from when it counts; when it was made, for `Revocations` |
| `jti` | optional: a name, by which it can be revoked |
| `ip` | optional: an address or a network (CIDR), or a list of them, from which alone it counts |

A key of the set may carry `exp`, after which it verifies nothing: that is how keys rotate with overlap.
"""

from __future__ import annotations

import ipaddress
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from edge.request import Request
from edge.revocation import Revocations, fingerprint

log = structlog.get_logger(__name__)

ALGORITHMS = ["HS256", "ES256", "EdDSA", "Ed25519"]
MEMO = 20_000
"""Tokens whose signature was found good; one entry is about 700 bytes."""
MAX_BYTES = 2048
MAX_NETWORKS = 16
LEEWAY_S = 5
"""Clocks of the signer and of the edge may differ by this."""

UNREADABLE = (JoseError, ValueError, TypeError, OverflowError)
"""What is no token, no key, or says what cannot be: a time with four hundred digits."""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Claims:
    """What a token with a good signature says."""

    stream: str
    begins: float
    ends: float
    issued: float
    mark: str
    """Fingerprint of its `jti`; empty without."""
    networks: tuple[Network, ...]
    """Where it counts; empty: everywhere."""


class TokenGuard:
    """Refuses requests for a stream without a good token. `keys`: file with a JSON Web Key Set."""

    def __init__(
        self,
        keys: Path,
        *,
        required: bool,
        prefixes: tuple[int, int] = (32, 64),
        wall: Callable[[], float] = time.time,
    ) -> None:
        """`prefixes`: bits of an IPv4 and an IPv6 address that must be equal where a token is bound to one."""
        self._path, self._required, self._prefixes, self._wall = keys, required, prefixes, wall
        self._stamp = 0
        self._keys = KeySet([])
        self._read_keys: list[tuple[Any, float]] = []
        """The file's keys and when each ends."""
        self._keys_end = float("inf")
        self._good: dict[str, Claims] = {}
        self.revoked = Revocations()
        self.reload()

    def reload(self) -> bool:
        """Read the keys again if their file has changed or one has ended; a removed key ends its tokens at once.

        Whether they are others than before.
        """
        now = self._wall()
        try:
            stamp = self._path.stat().st_mtime_ns
            if stamp == self._stamp and now < self._keys_end:
                return False
            found = json.loads(self._path.read_bytes())
            self._use([(key, float(key.get("exp", "inf"))) for key in found["keys"]], now)
        except (*UNREADABLE, OSError, KeyError, AttributeError) as error:
            log.warning("token_keys_not_loaded", error=type(error).__name__, path=str(self._path))
            if now < self._keys_end:
                return False
            self._use(self._read_keys, now)  # of those that were read before, one has ended all the same
        else:
            self._stamp = stamp
        self._good.clear()
        return True

    def _use(self, read: list[tuple[Any, float]], now: float) -> None:
        living = [key for key, end in read if now < end]
        self._keys = KeySet.import_key_set({"keys": living}) if living else KeySet([])
        self._read_keys, self._keys_end = read, min((end for _, end in read if now < end), default=float("inf"))

    def lasts_s(self, token: str) -> float:
        """Seconds until a token that was found good ends, by itself or with a key; 0 if it is not known."""
        if not token:
            return float("inf")
        claims = self._good.get(token)
        return min(claims.ends + LEEWAY_S, self._keys_end) - self._wall() if claims is not None else 0.0

    def refuse(self, request: Request, address: str = "") -> tuple[int, str] | None:
        """Status and slug of a refusal; None where the viewer at `address` may go on."""
        if not request.path.startswith("/live/"):
            return None
        if not request.token:
            return (401, "token_missing") if self._required else None
        now = self._wall()
        if now >= self._keys_end:
            self.reload()
        claims = self._good.get(request.token)
        if claims is None:
            claims = self._check(request.token)
            if claims is None:
                return 403, "token_bad"
        if not claims.begins - LEEWAY_S <= now < claims.ends + LEEWAY_S:
            return 403, "token_expired"
        stream = request.path.split("/", 3)[2]
        if claims.stream not in ("*", stream):
            return 403, "token_for_another_stream"
        if claims.networks and not _inside(address, claims.networks):
            return 403, "token_for_another_address"
        revoked = self.revoked
        if (revoked.tokens or revoked.streams) and revoked.covers(claims.mark, fingerprint(stream), claims.issued):
            return 403, "token_revoked"
        return None

    def _check(self, token: str) -> Claims | None:
        if len(token) > MAX_BYTES:
            return None
        try:
            claims = jwt.decode(token, self._keys, algorithms=ALGORITHMS).claims
            found = self._read(claims)
        except UNREADABLE:
            return None
        if len(self._good) >= MEMO:
            self._good.clear()
        self._good[token] = found
        return found

    def _read(self, claims: dict[str, object]) -> Claims:
        """Raises ValueError for claims that cannot be."""
        stream, ends, begins = claims.get("sub"), claims.get("exp"), claims.get("nbf", 0)
        issued, mark, where = claims.get("iat", float("-inf")), claims.get("jti", ""), claims.get("ip", [])
        if not isinstance(stream, str) or not isinstance(mark, str):
            raise ValueError("sub or jti is no text")
        if not (isinstance(ends, int | float) and isinstance(begins, int | float) and isinstance(issued, int | float)):
            raise ValueError("a time is no number")
        places = where if isinstance(where, list) else [where]
        if len(places) > MAX_NETWORKS or ("ip" in claims and not places):
            raise ValueError("ip is not a list of a few addresses")
        networks = tuple(self._network(place) for place in places)
        return Claims(stream, float(begins), float(ends), float(issued), fingerprint(mark) if mark else "", networks)

    def _network(self, text: object) -> Network:
        if not isinstance(text, str):
            raise ValueError("ip holds what is no address")
        if "/" in text:
            return ipaddress.ip_network(text, strict=False)
        address = ipaddress.ip_address(text)
        bits = self._prefixes[0] if address.version == 4 else self._prefixes[1]
        return ipaddress.ip_network((address, bits), strict=False)


def _inside(text: str, networks: tuple[Network, ...]) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return any(address in network for network in networks)
