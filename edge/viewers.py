"""Viewers per stream, counted without cookies: distinct pairs of address and player within a window.

Only hashes with a key that lives as long as the edge are kept, for as long as the window is.
"""

from __future__ import annotations

import hashlib
import sys
from collections import Counter

PREFIX = "/live/"
SOUND = "audio"
"""What names of renditions without a picture begin with."""
MAX_STREAMS = 1000
"""Streams counted apart: a bound on memory and on metric labels against invented names."""
MAX_NAMES = 50
"""Renditions told of a stream: more than there are, and a bound against invented ones."""
MAX_PER_STREAM = 200_000


class Viewers:
    """Who was seen when. `key` is shared by the workers of an edge, so that their hashes can be merged."""

    def __init__(self, window_s: float, key: bytes) -> None:
        self._window_s, self._key = window_s, key
        self._seen: dict[str, dict[int, float]] = {}
        self._on: dict[str, dict[int, str]] = {}
        """The rendition of picture that each asked for last."""

    def seen(self, path: str, address: str, agent: str, now: float) -> None:
        """A viewer asked for `path`."""
        if not path.startswith(PREFIX):
            return
        stream, slash, rest = path[len(PREFIX) :].partition("/")
        if not slash:
            return
        known = self._seen.get(stream)
        if known is None:
            if len(self._seen) >= MAX_STREAMS:
                return
            known = self._seen[stream] = {}
        digest = hashlib.blake2b(f"{address}\0{agent}".encode(), digest_size=6, key=self._key).digest()
        number = int.from_bytes(digest, "big")
        if number in known or len(known) < MAX_PER_STREAM:
            known[number] = now
            rendition, inside, _ = rest.partition("/")
            if inside and not rendition.startswith(SOUND):
                self._on.setdefault(stream, {})[number] = sys.intern(rendition)

    def sweep(self, now: float) -> None:
        """Forget those not seen within the window. Once in a while."""
        for stream, known in list(self._seen.items()):
            for number in [number for number, at in known.items() if now - at > self._window_s]:
                del known[number]
                self._on.get(stream, {}).pop(number, None)
            if not known:
                del self._seen[stream]
                self._on.pop(stream, None)

    def snapshot(self) -> dict[str, list[int]]:
        """Hashes of present viewers by stream, to be merged with other workers'."""
        return {stream: list(known) for stream, known in self._seen.items()}

    def watching(self) -> dict[str, dict[str, int]]:
        """Present viewers by stream and rendition. One whose connections lie at several workers is counted by each."""
        return {stream: dict(Counter(on.values()).most_common(MAX_NAMES)) for stream, on in self._on.items()}
