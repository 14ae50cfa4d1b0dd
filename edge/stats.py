"""What an edge worker counts. Plain integers, added to on the loop; merged and rendered by `edge.metrics`."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(slots=True)
class Stats:
    """Counters since the worker's start."""

    hit: int = 0
    miss: int = 0
    coalesced: int = 0
    stale: int = 0
    error: int = 0
    bytes_sent: int = 0
    bytes_fetched: int = 0
    upstream_requests: int = 0
    upstream_failures: int = 0
    connections: int = 0
    refused: int = 0
    """Connections and requests turned away by a limit."""
    bad_requests: int = 0
    slow_viewers: int = 0
    """Viewers cut because they took too little for too long."""
    queue_drops: int = 0
    """Fetches refused because too many waited for a connection to the origin."""
    denied: int = 0
    """Requests without a right to the stream."""

    def snapshot(self) -> dict[str, float]:
        return dict(asdict(self))
