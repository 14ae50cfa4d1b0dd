"""The running server as operators see it: what API, metrics and banner ask. Implements `control.ports.Node`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from control.describe import describe, history
from ingest.ports import StopReason
from media.errors import HeadraceError, Refused
from packager.hls.text import instant

if TYPE_CHECKING:
    from control.node import Node


class Status:
    """A view of one node; holds nothing of its own."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def ready(self) -> Mapping[str, bool]:
        return self._node.parts()

    def broadcasts(self) -> Sequence[Mapping[str, Any]]:
        return [describe(b) for b in self._node.broadcasts.all()]

    def broadcast(self, broadcast_id: str) -> Mapping[str, Any] | None:
        found = self._node.broadcasts.find(broadcast_id)
        return None if found is None else {**describe(found), "history": history(found)}

    async def stop_broadcast(self, broadcast_id: str) -> bool:
        found = self._node.broadcasts.find(broadcast_id)
        if found is None or found.ended is not None:
            return False
        found.stop(StopReason.KICKED, "an operator ended this broadcast")
        return True

    def announce(
        self, broadcast_id: str, message: bytes, *, scheme: str, value: str, duration_s: float | None
    ) -> Mapping[str, Any] | None:
        found = self._node.broadcasts.find(broadcast_id)
        if found is None or found.ended is not None:
            return None
        event = found.presentation.announce(message, scheme=scheme, value=value, duration_s=duration_s)
        return None if event is None else {"id": event.id, "start": instant(event.wall_us), "scheme": event.scheme}

    def hardware(self) -> Mapping[str, Any] | None:
        return self._node.planning.as_json()

    def workers(self) -> Sequence[Mapping[str, Any]]:
        return self._node.guests.as_json() if self._node.guests is not None else []

    def refusals(self) -> Mapping[str, Mapping[str, int]]:
        node = self._node
        callers = {listener.protocol: listener.refused for listener in node.listeners}
        if node.srt is not None:
            callers["srt"] = node.srt.rejected_total
        callers["whip"] = node.whip.refused + node.whip.overloaded
        return {
            "publishers": dict(node.gate.refusals),
            "limits": dict(node.broadcasts.limit_ends),
            "callers": callers,
        }

    def drops(self) -> Mapping[str, int]:
        archive, srt = self._node.broadcasts.archive, self._node.srt
        return {
            "srt_bytes": srt.handover_dropped_bytes if srt is not None else 0,
            "dvr_jobs": archive.dropped_jobs if archive is not None else 0,
        }

    def origin(self) -> tuple[Mapping[int, int], int]:
        return dict(self._node.origin.requests), self._node.origin.waiting

    def stills(self) -> Mapping[str, int]:
        return asdict(self._node.stills.counts)

    async def reload_edge(self) -> int:
        edge = self._node.edge
        if edge is None:
            raise Refused("This server runs no edge.", slug="no_edge")
        try:
            await edge.reload()
        except RuntimeError as error:
            raise HeadraceError(f"The edge goes on as it was: {error}.", slug="edge_failed") from error
        return len(edge.pids)

    async def purge_edge(self, playback_id: str) -> int:
        edge = self._node.edge
        return await edge.purge(f"/live/{playback_id}/") if edge is not None else 0

    async def metrics(self) -> str:
        edge = self._node.edge
        return (await edge.metrics()).decode() if edge is not None else ""
