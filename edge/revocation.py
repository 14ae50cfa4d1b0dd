"""Viewer tokens that count no more before they expire: single ones by `jti`, and all of a stream up to a moment.

Names are kept and sent as fingerprints only, so that the list may lie in the open: on the origin, in caches.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

LIMIT = 100_000
"""Entries taken from a list: about 10 MB."""


def fingerprint(text: str) -> str:
    """What a list says for a `jti` or a stream."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:24]


@dataclass(frozen=True, slots=True)
class Revocations:
    """One list. Replaced whole."""

    tokens: frozenset[str] = frozenset()
    """Fingerprints of token ids."""
    streams: Mapping[str, float] = field(default_factory=dict)
    """Stream's fingerprint to Unix seconds: tokens issued before, or that do not say when, are void."""

    def covers(self, token: str, stream: str, issued: float) -> bool:
        """Whether a token is void for a stream; `token` and `stream` are fingerprints."""
        return token in self.tokens or issued < self.streams.get(stream, float("-inf"))

    def to_json(self) -> dict[str, Any]:
        """As `from_json` takes it."""
        return {"tokens": sorted(self.tokens), "streams": dict(self.streams)}

    @classmethod
    def from_json(cls, value: object) -> Revocations:
        """Raises ValueError for anything that is no such list."""
        if not isinstance(value, dict):
            raise ValueError("not a list of revocations")
        tokens, streams = value.get("tokens", []), value.get("streams", {})
        if not isinstance(tokens, list) or not isinstance(streams, dict) or len(tokens) + len(streams) > LIMIT:
            raise ValueError("not a list of revocations, or too long a one")
        if not all(isinstance(item, str) for item in tokens) or not all(
            isinstance(moment, int | float) for moment in streams.values()
        ):
            raise ValueError("a revocation is broken")
        return cls(frozenset(tokens), {str(name): float(moment) for name, moment in streams.items()})
