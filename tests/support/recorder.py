"""Stands where a broadcast's session would: a publication that keeps all it is given."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from ingest.ports import EndReason, PublishRequest, StopReason
from media.packet import Gap, Packet


@dataclass
class Recorder:
    """`ingest.ports.Publication`. `ended`: why it was closed at first; `first`: set with its first item."""

    request: PublishRequest
    stream: str = "show"
    id: str = "b1"
    start: int = 0
    items: list[Packet | Gap] = field(default_factory=list)
    reports: list[dict[str, float | str]] = field(default_factory=list)
    ended: asyncio.Future[tuple[EndReason, str]] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )
    first: asyncio.Event = field(default_factory=asyncio.Event)
    stop: Callable[[StopReason, str], None] | None = None

    def origin(self) -> int:
        return self.start

    def write(self, item: Packet | Gap) -> None:
        assert not self.ended.done()
        self.items.append(item)
        self.first.set()

    def report(self, **values: float | str) -> None:
        self.reports.append(values)

    def on_stop(self, callback: Callable[[StopReason, str], None]) -> None:
        self.stop = callback

    def on_keyframe_wanted(self, callback: Callable[[], None]) -> None: ...

    def close(self, reason: EndReason, text: str = "") -> None:
        if not self.ended.done():
            self.ended.set_result((reason, text))

    def packets(self, track_id: int) -> list[Packet]:
        return [item for item in self.items if isinstance(item, Packet) and item.track.id == track_id]

    def gaps(self) -> list[Gap]:
        return [item for item in self.items if isinstance(item, Gap)]

    def tracks(self) -> dict[int, str]:
        """Codec by number of the tracks that packets came of."""
        return {item.track.id: item.track.codec.value for item in self.items if isinstance(item, Packet)}
