"""The source's video of late: what a rung that starts in mid-stream is made from first. Pure.

Kept by segments, each with its cut in front; a discontinuity or a gap empties it. Used by `control.demand`.
"""

from __future__ import annotations

from media.cut import Cut
from media.packet import Gap, Packet
from media.track import Kind

REPLAYED = 3
"""Segments, the one in the making included, that a rung begins with: what a player that switches may ask for."""
KEPT_BYTES = 64 * 1024 * 1024
"""Of source packets; with more than this, fewer segments are replayed."""


class Lately:
    """One per broadcast."""

    def __init__(self) -> None:
        self._chunks: list[list[Packet | Cut]] = []
        """Each begins with its cut."""
        self._bytes = 0

    def keep(self, item: Packet | Cut | Gap) -> None:
        """One item of the source, in order."""
        if isinstance(item, Gap) or (isinstance(item, Cut) and item.discontinuity):
            # What comes next does not continue what was before.
            self._chunks = []
            self._bytes = 0
        if isinstance(item, Cut):
            self._chunks.append([item])
        elif isinstance(item, Packet) and item.track.kind is Kind.VIDEO and self._chunks:
            self._chunks[-1].append(item)
            self._bytes += len(item.data)
        # One more than is replayed, for a decoder that has to start before the cut.
        while len(self._chunks) > REPLAYED + 1 or (self._bytes > KEPT_BYTES and len(self._chunks) > 1):
            self._bytes -= sum(len(p.data) for p in self._chunks.pop(0) if isinstance(p, Packet))

    def replay(self) -> tuple[list[Packet | Cut], int]:
        """What an encoder is to be given first, and how many segments that is."""
        chunks = self._chunks[-REPLAYED:]
        while chunks and not _starts(chunks[0]):
            before = self._chunks[: len(self._chunks) - len(chunks)]
            lead = [p for chunk in before for p in chunk if isinstance(p, Packet)]
            keys = [i for i, p in enumerate(lead) if p.keyframe]
            if keys:
                return [*lead[keys[-1] :], *(item for chunk in chunks for item in chunk)], len(chunks)
            chunks = chunks[1:]
        return [item for chunk in chunks for item in chunk], len(chunks)


def _starts(chunk: list[Packet | Cut]) -> bool:
    """Whether a decoder can start with the chunk's first packet."""
    first = next((item for item in chunk if isinstance(item, Packet)), None)
    return first is not None and first.keyframe
