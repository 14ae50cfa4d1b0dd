"""The part of a presentation that outlives the server: what it keeps in memory and on disk, and how it is recalled.

Between `view`, which shows what there is, and `presentation`, which is told of packets and cuts. With an archive and a
rewind window every complete segment is written down (`archive`), and beside the segments what another run of the
server needs to go on under the same names and numbers (`recall`). Without, nothing here touches a disk.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from packager import recall
from packager.archive import Archive, Reel, Restored
from packager.keeping import Keeper
from packager.rates import Rates
from packager.settings import PackagerSettings
from packager.storyboard import Storyboard, tile_name
from packager.view import View

EVENTS_AHEAD = 100
"""Numbers of timed events that are set aside on disk at once: a server that is killed gives none of them again."""


class Recorded(View):
    """See the module."""

    def __init__(
        self,
        playback_id: str,
        settings: PackagerSettings,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_us: Callable[[], int] = lambda: time.time_ns() // 1000,
        archive: Archive | None = None,
        dvr_window_s: float = 0,
    ) -> None:
        """`dvr_window_s`: how far viewers can rewind, from `archive`; 0: as far as the memory reaches."""
        super().__init__(playback_id, settings, clock=clock, wall_us=wall_us)
        self._archive = archive
        self.dvr_window_s = dvr_window_s if archive is not None else 0.0
        self._reel = Reel(archive, playback_id, self.epoch) if archive is not None and dvr_window_s > 0 else None
        self._keeper = Keeper(self.shelves, settings, self._reel, self.dvr_window_s)
        self.storyboard = Storyboard(self._keeper.longest)
        self.events_ahead = 0
        """The last number of a timed event that was set aside."""

    def rewind(self, dvr_window_s: float) -> None:
        """Another window, from the next segment on; 0 keeps what is on disk until nobody may ask for it any more."""
        if self._archive is None or dvr_window_s == self.dvr_window_s:
            return
        self.dvr_window_s = dvr_window_s
        self._use_disk(self._archive)
        self.storyboard.cover(self._keeper.longest)
        if not self.ended:
            self.describe()

    def _use_disk(self, archive: Archive) -> Reel:
        if self._reel is None:
            self._reel = Reel(archive, self.playback_id, self.epoch)
        self._keeper.use(self._reel, self.dvr_window_s)
        return self._reel

    @property
    def size_bytes(self) -> int:
        """Media bytes held."""
        return self._keeper.size_bytes

    @property
    def evicted_early(self) -> int:
        """Segments that left before their time, because of a bound."""
        return self._keeper.evicted_early

    @property
    def keep_s(self) -> float:
        """How long it stays watchable after its end."""
        return self.dvr_window_s

    def stored(self, rendition_name: str, msn: int) -> Path:
        """The file of a segment whose bytes are on disk alone."""
        assert self._reel is not None, "without an archive nothing is stored"
        return self._reel.path(rendition_name, msn)

    def tile_path(self, msn: int) -> Path:
        """The file of a storyboard's tile whose bytes are on disk alone."""
        assert self._reel is not None, "without an archive nothing is stored"
        return self._reel.tile(tile_name(self.epoch, msn))

    def describe(self, *, clean: bool = False) -> None:
        """Write down what a later run of the server needs to go on. `clean`: every segment that was shown is kept."""
        if self._reel is None or self._grid is None:
            return
        self._reel.describe(recall.describe(self, self._grid, clean=clean))

    def next_event(self) -> int:
        """The number of another timed event. None is given twice, by no run of the server that viewers may see."""
        self.events.count += 1
        if self.events.count > self.events_ahead:
            self.events_ahead = self.events.count + EVENTS_AHEAD
            self.describe()
        return self.events.count

    def discard(self) -> None:
        """It is kept no longer: its media go, on disk too. Counters stay, for who looks at past broadcasts."""
        self.shelves.clear()
        self.storyboard = Storyboard(self._keeper.longest)
        self.thumbnail = None
        self.bases = {}
        self.touch()
        if self._reel is not None:
            self._reel.remove(self.playback_id)

    def disk_counters(self) -> dict[str, int]:
        """For metrics."""
        reel = self._reel
        return {
            "dvr_bytes": reel.size_bytes if reel else 0,
            "dvr_unsaved_segments": reel.unsaved if reel else 0,
            "dvr_failing": int(reel.archive.failing) if reel else 0,
        }

    def recall(self, restored: Restored) -> None:
        """Take over what an earlier run left on disk: an ended presentation. Numbers that may have been shown before
        the server died, and are not on disk, become gaps and are not used again. Raises `MediaError` where it cannot
        be read; then nothing has happened."""
        found = recall.parse(restored)
        self._grid, self.epoch, self.renditions = found.grid, found.epoch, found.renditions
        if self._archive is not None:
            self._use_disk(self._archive).adopt(self.epoch)  # without a window, too: what is there has to go some day
        for rendition in self.renditions:
            if not found.segments.get(rendition.name):
                continue
            shelf = self.shelves[rendition.name] = self._keeper.shelf(rendition)
            shelf.restore(found.segments[rendition.name])
            rates = self.rates[rendition.name] = Rates(self.settings.segment_s, rendition.bitrate)
            for segment in shelf.listed:
                rates.add(segment)
        self.events.count = self.events_ahead = found.events
        self._cuts.recall([s.boundary for s in max(found.segments.values(), key=len)], found.start_us)
        self._cuts.restart()
        self.ended = True
        self.touch()
