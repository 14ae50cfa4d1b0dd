"""What one stream may keep: the bounds on its memory and its disk, and which segment goes first."""

from __future__ import annotations

import math
from collections.abc import Mapping

from media.rendition import Rendition
from packager.archive import Reel
from packager.settings import PackagerSettings
from packager.shelf import MIN_LISTED, Shelf
from packager.storyboard import Storyboard, tile_name


class Keeper:
    """Over the shelves of one presentation; `now` in seconds of its clock."""

    def __init__(
        self, shelves: Mapping[str, Shelf], settings: PackagerSettings, reel: Reel | None, dvr_window_s: float
    ) -> None:
        self.evicted_early = 0
        """Segments that left before their time, because of `memory_bytes` or a disk budget."""
        self._shelves = shelves
        self._settings = settings
        self.use(reel, dvr_window_s)

    def use(self, reel: Reel | None, dvr_window_s: float) -> None:
        """Keep this much from now on: what is too much for it goes with the next segment."""
        self.reel = reel
        self._long = math.ceil(dvr_window_s / self._settings.segment_s) if reel is not None else 0
        for shelf in self._shelves.values():
            shelf.reel, shelf.long_limit = reel, self._long

    def shelf(self, rendition: Rendition) -> Shelf:
        """A new shelf within the bounds."""
        return Shelf(rendition, self._settings.window_segments, self.reel, self._long)

    @property
    def longest(self) -> int:
        """Segments that a playlist may list."""
        return max(self._settings.window_segments, self._long)

    @property
    def size_bytes(self) -> int:
        """Media bytes in memory."""
        return sum(shelf.size_bytes for shelf in self._shelves.values())

    def keep_picture(self, board: Storyboard, msn: int, jpeg: bytes, epoch: str) -> None:
        """Segment `msn`'s tile of the storyboard; those go whose segments nobody lists."""
        if board.add(msn, jpeg) is None:
            return
        board.trim(min((shelf.listed[0].msn for shelf in self._shelves.values() if shelf.listed), default=0))
        if self.reel is not None:
            self.reel.keep_tile(tile_name(epoch, msn), jpeg, lambda good: board.stored(msn) if good else None)
            for old in board.gone:
                self.reel.drop_tile(tile_name(epoch, old))
        board.gone = []

    def bound(self, now: float) -> None:
        """Let go what is too much."""
        self._bound_memory(now)
        self._bound_disk(now)

    def _bound_memory(self, now: float) -> None:
        while self.size_bytes > self._settings.memory_bytes:
            shelves = sorted(self._shelves.values(), key=lambda shelf: shelf.size_bytes, reverse=True)
            if any(shelf.forget() for shelf in shelves):
                self.evicted_early += 1
                continue
            longest = max((len(shelf.listed) for shelf in shelves), default=0)
            if longest <= MIN_LISTED:
                return
            for shelf in shelves:
                if len(shelf.listed) == longest:
                    shelf.unlist(now)

    def _bound_disk(self, now: float) -> None:
        """The oldest of this stream goes when it, or the node with it, takes more room than it may."""
        reel = self.reel
        if reel is None:
            return
        budget, node = reel.archive.stream_bytes, reel.archive.node_bytes
        while reel.size_bytes > budget or reel.archive.size_bytes > node:
            if reel.size_bytes <= budget and reel.archive.drop_stray():
                continue
            longest = max((len(shelf.listed) for shelf in self._shelves.values()), default=0)
            if longest <= self._settings.window_segments or not self.drop_oldest(now):
                return

    def drop_oldest(self, now: float) -> bool:
        """Take the oldest segment out of every playlist, and its bytes away; False where only memory is left."""
        longest = max((len(shelf.listed) for shelf in self._shelves.values()), default=0)
        if longest <= MIN_LISTED:
            return False
        self.evicted_early += 1
        for shelf in self._shelves.values():
            if len(shelf.listed) == longest:
                shelf.unlist(now)
            while shelf.forget():
                pass
        return True
