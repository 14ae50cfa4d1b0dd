"""What the API needs of the running server. The composition supplies it; nothing here knows how it is made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol


class Node(Protocol):
    """A running server as its operators see it. Every answer is ready for JSON."""

    def ready(self) -> Mapping[str, bool]:
        """Each part of the server by name, and whether it works; the server is ready when all do."""
        ...

    def broadcasts(self) -> Sequence[Mapping[str, Any]]:
        """Broadcasts on air first, then the recent past: `id`, `stream`, `state`, `source`, `health`, ..."""
        ...

    def broadcast(self, broadcast_id: str) -> Mapping[str, Any] | None:
        """One broadcast, with its `history` of samples; None if it is unknown."""
        ...

    async def stop_broadcast(self, broadcast_id: str) -> bool:
        """End a broadcast and send its publisher away. False if there is none of that id on air."""
        ...

    def announce(
        self, broadcast_id: str, message: bytes, *, scheme: str, value: str, duration_s: float | None
    ) -> Mapping[str, Any] | None:
        """Put a timed event into a broadcast, now: `id`, `start`. None if there is none of that id on air."""
        ...

    def hardware(self) -> Mapping[str, Any] | None:
        """Encoders and devices as probed; None while probing goes on."""
        ...

    def workers(self) -> Sequence[Mapping[str, Any]]:
        """Transcode workers of other machines: `machine`, `address`, `state`, `stream`, `cpus`, `encoders`."""
        ...

    def refusals(self) -> Mapping[str, Mapping[str, int]]:
        """Counts by reason: `publishers` that were not admitted, `limits` that ended a broadcast; and by protocol:
        `callers` that a listener turned away."""
        ...

    def drops(self) -> Mapping[str, int]:
        """What full queues cost: `srt_bytes` that the event loop did not fetch in time, `dvr_jobs` of the disk."""
        ...

    def origin(self) -> tuple[Mapping[int, int], int]:
        """Answers of the origin by status, and requests that wait in it now."""
        ...

    def stills(self) -> Mapping[str, int]:
        """Pictures of streams of which nothing is encoded: `made`, `failed`, `left_out`, and `restarts` of the
        process that makes them."""
        ...

    async def reload_edge(self) -> int:
        """Replace this machine's edge workers without dropping a request; how many. Raises `Refused` without one."""
        ...

    async def purge_edge(self, playback_id: str) -> int:
        """Forget a stream in this machine's edge; how many objects that were, 0 without an edge."""
        ...

    async def metrics(self) -> str:
        """Metrics of other processes (edge workers) as Prometheus text; empty where there are none."""
        ...
