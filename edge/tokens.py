"""Viewer tokens: a signed, expiring JWT bound to a stream, checked here without asking anyone.

A token comes as `?token=`, as `Authorization: Bearer`, or as a path prefix `/t/TOKEN/live/...`: relative URLs
in playlists keep the prefix, so that one link carries a viewer from the page to the last segment. It is
never part of the cache key and never goes upstream.

Claims: `exp` (required), `sub` the playback id, or `*`; `nbf` optional.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import structlog
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from edge.request import Request

log = structlog.get_logger(__name__)

ALGORITHMS = ["HS256", "ES256", "EdDSA", "Ed25519"]
MEMO = 20_000
"""Tokens whose signature was found good; one entry is about 500 bytes."""
LEEWAY_S = 5
"""Clocks of the signer and of the edge may differ by this."""


class TokenGuard:
    """Refuses requests for a stream without a good token. `keys`: file with a JSON Web Key Set."""

    def __init__(self, keys: Path, *, required: bool, wall: Callable[[], float] = time.time) -> None:
        self._path, self._required, self._wall = keys, required, wall
        self._stamp = 0
        self._keys = KeySet([])
        self._good: dict[str, tuple[str, float, float]] = {}
        self.reload()

    def reload(self) -> None:
        """Read the keys again if their file has changed; a removed key ends its tokens at once."""
        try:
            stamp = self._path.stat().st_mtime_ns
            if stamp == self._stamp:
                return
            self._keys = KeySet.import_key_set(json.loads(self._path.read_bytes()))
        except (OSError, ValueError, JoseError) as error:
            log.warning("token_keys_not_loaded", error=type(error).__name__, path=str(self._path))
            return
        self._stamp = stamp
        self._good.clear()

    def refuse(self, request: Request) -> tuple[int, str] | None:
        """Status and slug of a refusal; None where the request may go on."""
        if not request.path.startswith("/live/"):
            return None
        if not request.token:
            return (401, "token_missing") if self._required else None
        claims = self._good.get(request.token)
        if claims is None:
            claims = self._check(request.token)
            if claims is None:
                return 403, "token_bad"
        stream, begins, ends = claims
        now = self._wall()
        if not begins - LEEWAY_S <= now < ends + LEEWAY_S:
            return 403, "token_expired"
        if stream not in ("*", request.path.split("/", 3)[2]):
            return 403, "token_for_another_stream"
        return None

    def _check(self, token: str) -> tuple[str, float, float] | None:
        if len(token) > 2048:
            return None
        try:
            claims = jwt.decode(token, self._keys, algorithms=ALGORITHMS).claims
        except (JoseError, ValueError):
            return None
        stream, ends, begins = claims.get("sub"), claims.get("exp"), claims.get("nbf", 0)
        if not isinstance(stream, str) or not isinstance(ends, int | float) or not isinstance(begins, int | float):
            return None
        if len(self._good) >= MEMO:
            self._good.clear()
        found = (stream, float(begins), float(ends))
        self._good[token] = found
        return found
