"""Several video tracks of one publisher in step: says at each IDR of the reference which others have theirs there.

Pure. A packet is held until that is known: the reference's IDR until every other track has shown whether it has one
at the same time, another's IDR until the reference has come that far. A track that lags by more than `PATIENCE_TICKS`
is not waited for, so what is held is bounded in time; `MOST_HELD` bounds it in packets.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from media.packet import Packet

TOLERANCE_TICKS = 720
"""8 ms at 90 kHz: RTMP's milliseconds put each track's frames a little differently; half a frame at 60 is 8.3 ms."""
PATIENCE_TICKS = 63_000
"""0.7 s: how far one track may lag behind another before it counts as absent."""
MOST_HELD = 600
"""Packets of one track that are held at most."""
_REMEMBERED = 16
_NEVER = -(1 << 60)


@dataclass(frozen=True, slots=True)
class Turn:
    """One packet that may go on."""

    packet: Packet
    at: int
    """The reference's IDRs: the earliest pts at which any track has its IDR; else the packet's own pts."""
    missing: tuple[int, ...] = ()
    """The reference's IDRs: tracks that have none there."""


@dataclass(slots=True)
class _Lane:
    held: deque[Packet] = field(default_factory=deque)
    idrs: deque[int] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))
    newest: int = _NEVER
    """dts of the newest packet that came."""
    passed: int = _NEVER
    """dts of the newest packet that went on."""
    passed_idr: int = _NEVER


class Aligner:
    """For one session and one set of tracks; all in 90 kHz."""

    def __init__(self, reference: int, others: Iterable[int]) -> None:
        self.together = (reference, frozenset(others))
        self._reference = reference
        self._lanes = {track: _Lane() for track in (reference, *self.together[1])}

    def __contains__(self, track_id: int) -> bool:
        return track_id in self._lanes

    def feed(self, packet: Packet) -> list[Turn]:
        """Take a packet of one of the tracks; answers what may go on, in order within each track."""
        lane = self._lanes[packet.track.id]
        lane.held.append(packet)
        lane.newest = max(lane.newest, packet.dts)
        if packet.keyframe:
            lane.idrs.append(packet.pts)
        turns: list[Turn] = []
        while self._step(turns):
            pass
        return turns

    def flush(self) -> list[Turn]:
        """Everything that is held, without waiting: the reference first, so that its cuts come before the others."""
        turns: list[Turn] = []
        for track, lane in self._lanes.items():
            while lane.held:
                turns.append(self._go(track, lane))
        return turns

    def _step(self, turns: list[Turn]) -> bool:
        before = len(turns)
        for track, lane in self._lanes.items():
            while lane.held and (len(lane.held) > MOST_HELD or self._may_go(track, lane.held[0])):
                turns.append(self._go(track, lane))
        return len(turns) > before

    def _may_go(self, track: int, packet: Packet) -> bool:
        if not packet.keyframe:
            return True
        late = max(lane.newest for lane in self._lanes.values()) > packet.dts + PATIENCE_TICKS
        if track != self._reference:
            reference = self._lanes[self._reference]
            there = reference.passed_idr >= packet.pts - TOLERANCE_TICKS
            return late or there or reference.passed > packet.pts + TOLERANCE_TICKS
        others = [lane for other, lane in self._lanes.items() if other != track]
        return late or all(_near(lane, packet) is not None or lane.newest > packet.pts for lane in others)

    def _go(self, track: int, lane: _Lane) -> Turn:
        packet = lane.held.popleft()
        lane.passed = max(lane.passed, packet.dts)
        if not packet.keyframe:
            return Turn(packet, packet.pts)
        lane.passed_idr = max(lane.passed_idr, packet.pts)
        if track != self._reference:
            return Turn(packet, packet.pts)
        found = {other: _near(x, packet) for other, x in self._lanes.items() if other != track}
        at = min((pts for pts in found.values() if pts is not None), default=packet.pts)
        return Turn(packet, min(at, packet.pts), tuple(other for other, pts in found.items() if pts is None))


def _near(lane: _Lane, packet: Packet) -> int | None:
    return next((pts for pts in reversed(lane.idrs) if abs(pts - packet.pts) <= TOLERANCE_TICKS), None)
