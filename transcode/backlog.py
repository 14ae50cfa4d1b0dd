"""What a job keeps of its source: messages that wait for a worker, and the packets since the last keyframe. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from media.clock import VIDEO_TIMESCALE
from media.packet import Packet
from media.track import Kind
from transcode import messages as m

MAX_GOP_BYTES = 16 * 1024 * 1024
"""Packets kept to start a decoder between keyframes; a longer GOP is not kept."""


@dataclass(frozen=True, slots=True)
class Queued:
    """A message that waits. `pts` in 90 kHz; 0 where it has none."""

    message: m.Message
    payload: bytes
    pts: int


class Backlog:
    """A queue, bounded by bytes and by media time: who puts has to look at `full`."""

    def __init__(self, most_bytes: int, most_s: float) -> None:
        self._most_bytes, self._most_s = most_bytes, most_s
        self._queue: deque[Queued] = deque()
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._queue)

    def __iter__(self) -> Iterator[Queued]:
        return iter(self._queue)

    @property
    def length_s(self) -> float:
        """Media time from the first to the last."""
        stamps = [q.pts for q in (self._queue[0], self._queue[-1]) if q.pts] if self._queue else []
        return max(0.0, (max(stamps) - min(stamps)) / VIDEO_TIMESCALE) if stamps else 0.0

    @property
    def full(self) -> bool:
        """Whether more waits than may."""
        return self.size_bytes > self._most_bytes or self.length_s > self._most_s

    def put(self, message: m.Message, payload: bytes, pts: int) -> None:
        """Behind all others."""
        self._queue.append(Queued(message, payload, pts))
        self.size_bytes += len(payload)

    def take(self) -> Queued:
        """The first."""
        queued = self._queue.popleft()
        self.size_bytes -= len(queued.payload)
        return queued

    def drop(self) -> int:
        """Forget all but the newest plan, which must not be lost with the media; how many packets that were."""
        units = sum(isinstance(q.message, m.Unit) for q in self._queue)
        plans = [q for q in self._queue if isinstance(q.message, m.Change)]
        self._queue = deque(plans[-1:])
        self.size_bytes = 0
        return units

    def clear(self) -> None:
        """Forget all."""
        self._queue.clear()
        self.size_bytes = 0


class Gop:
    """The video packets since the last keyframe, bounded: a decoder that starts between keyframes wants them."""

    def __init__(self) -> None:
        self._packets: list[Packet] | None = None
        """None where nothing can start."""
        self._bytes = 0

    def add(self, packet: Packet) -> None:
        """A packet of any track, in order."""
        if packet.track.kind is not Kind.VIDEO:
            return
        if packet.keyframe:
            self._packets, self._bytes = [], 0
        if self._packets is not None:
            self._packets.append(packet)
            self._bytes += len(packet.data)
            if self._bytes > MAX_GOP_BYTES or self._packets[0].track != packet.track:
                self._packets = None

    @property
    def before(self) -> list[Packet]:
        """What it holds before its newest packet."""
        return self._packets[:-1] if self._packets is not None else []

    def clear(self) -> None:
        """Forget all."""
        self._packets = None
