"""What viewers see of one playback id: immutable windows over the shelves, their versions, and whoever waits for them.

The part of a presentation that the origin asks. On top of it, `recorded` keeps it over a restart of the server, and
`presentation` is told of packets and cuts, fills the shelves, and calls `touch` after each change. Every method
returns at once, and only `wait` waits.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterable
from fractions import Fraction

from media.rendition import Rendition
from media.track import Kind, Track
from packager.cuts import Cuts
from packager.dash.periods import Periods
from packager.events import Events
from packager.grid import Grid
from packager.hls.media_playlist import SKIP_UNTIL_TARGETS
from packager.model import Boundary, Init, Window
from packager.rates import Rates
from packager.settings import PackagerSettings
from packager.shelf import Shelf
from packager.sleepers import Sleepers, newest, stand_in
from packager.storyboard import Storyboard


class View:
    """Read by the origin; changed by `Presentation`."""

    def __init__(
        self,
        playback_id: str,
        settings: PackagerSettings,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_us: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        """`clock`: steady seconds. `wall_us`: UTC in microseconds since 1970."""
        self.playback_id = playback_id
        self.settings = settings
        self.published_us = wall_us()
        """When the newest version was made; publishTime of the MPD."""
        self.epoch = _base36(self.published_us // 1000)
        self.thumbnail: bytes | None = None
        self.storyboard = Storyboard(settings.window_segments)
        self.ended = False
        self.events = Events()
        self.version = 0
        """Grows with every publication."""
        self.renditions: tuple[Rendition, ...] = ()
        self.rates: dict[str, Rates] = {}
        self.shelves: dict[str, Shelf] = {}
        self.rendered: dict[object, bytes] = {}
        """Playlists made from the current version, shared by all who ask; emptied with each publication."""
        self.periods = Periods()
        self.bases: dict[int, bytes] = {}
        """MPDs of late by publishTime in milliseconds, for patches."""
        self.on_demand: Callable[[str], None] = lambda rendition_name: None
        """Told of each request for a rendition, with its name, and of requests for a list of them, with none."""
        self._clock = clock
        self._wall_us = wall_us
        self._cuts = Cuts()
        self._grid: Grid | None = None
        self._sleepers = Sleepers()
        self._windows: dict[str, Window] = {}
        self._waiters: dict[str, asyncio.Future[None]] = {}

    @property
    def ready(self) -> bool:
        """Whether there is something to show: every declared rendition has its first part, or `start_wait_s` is
        over (then the lockstep has published those that have one)."""
        return any(shelf.shows for shelf in self.shelves.values())

    @property
    def grid(self) -> Grid:
        """Lengths of parts and segments; they never change."""
        assert self._grid is not None, "declare comes first"
        return self._grid

    @property
    def part_target(self) -> Fraction:
        """PART-TARGET in seconds."""
        return self.grid.target_s

    @property
    def part_length(self) -> Fraction:
        """The grid of part boundaries, in seconds."""
        return self.grid.length_s

    @property
    def start_us(self) -> int:
        """Wall clock of the first cut, microseconds since 1970."""
        return self._cuts.start_us

    @property
    def eras(self) -> dict[int, Boundary]:
        """For each discontinuity number the cut that opened it."""
        return self._cuts.eras

    def cut_at(self, msn: int) -> Boundary | None:
        """The cut of that number, if it is still remembered."""
        return self._cuts.get(msn)

    @property
    def windows(self) -> dict[str, Window]:
        """What is available now, for each rendition that has something."""
        if not self._windows and self._grid is not None:
            self._windows = {
                name: shelf.window(
                    self.epoch,
                    self.version,
                    self.settings.segment_s,
                    self._grid.target_s,
                    self.ended,
                    self._next_cut(shelf),
                )
                for name, shelf in self.shelves.items()
                if shelf.shows and name not in self._sleepers
            }
        return self._windows

    @property
    def listed(self) -> dict[str, Window]:
        """`windows`, and of video renditions that are asleep what there would be."""
        windows = dict(self.windows)
        video = [n for n, w in windows.items() if w.rendition.kind is Kind.VIDEO]
        awake = newest(windows, video)
        if awake is not None:
            for name in self._sleepers:
                windows[name] = stand_in(awake, self.shelves[name].rendition, self._sleeping_init(name))
        return windows

    def sleeps(self, rendition_name: str) -> bool:
        """Whether the rendition is listed without anything of it being there now."""
        return rendition_name in self._sleepers

    def _sleeping_init(self, rendition_name: str) -> Init | None:
        return self._sleepers.asleep.get(rendition_name)

    def _next_cut(self, shelf: Shelf) -> int | None:
        """Where the segment in the making will end, if that is known already."""
        following = self._cuts.get(shelf.current.msn + 1) if shelf.current is not None else None
        here = shelf.current.boundary.pts if shelf.current is not None else 0
        return following.pts if following is not None and following.pts > here else None

    def track(self, rendition_name: str) -> Track | None:
        """The configuration of a rendition's newest segment."""
        asleep = self._sleeping_init(rendition_name) if rendition_name in self._sleepers else None
        if asleep is not None:
            return asleep.track
        shelf = self.shelves.get(rendition_name)
        if shelf is None:
            return None
        if shelf.current is not None and shelf.current.init is not None:
            return shelf.current.init.track
        return next((s.init.track for s in reversed(shelf.listed) if s.init is not None), None)

    def date_ranges(self, *, delta: bool) -> tuple[list[str], list[str]]:
        """EXT-X-DATERANGE lines for a playlist, and ids that left it lately. With `delta` only those that a client
        whose copy is as old as a delta allows does not know."""
        now = self._clock()
        oldest_us = min((w.shown[0].wall_us for w in self.windows.values() if w.shown), default=0)
        self.events.expire(oldest_us, now)
        since = now - SKIP_UNTIL_TARGETS * self.settings.segment_s
        fresh, removed = self.events.since(since if delta else -math.inf)
        return [event.tag() for event in fresh], list(removed)

    async def wait(self, rendition_name: str, timeout_s: float, cancelled: asyncio.Future[None] | None = None) -> bool:
        """Until the rendition changes; False if it did not in time, or if `cancelled` was done before."""
        future = self._waiters.get(rendition_name)
        if future is None:
            future = self._waiters[rendition_name] = asyncio.get_running_loop().create_future()
        either = (future,) if cancelled is None else (future, cancelled)
        done, _ = await asyncio.wait(either, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        return future in done

    def touch(self, names: Iterable[str] | None = None) -> None:
        """Something changed: a new version, and whoever waits for one of `names` (None: for anything) is woken."""
        self.version += 1
        # A millisecond apart at least, for that is what publishTime tells versions apart by.
        self.published_us = max(self.published_us + 1000, self._wall_us())
        self._windows = {}
        self.rendered = {}
        for name in list(self._waiters) if names is None else names:
            future = self._waiters.pop(name, None)
            if future is not None and not future.done():
                future.set_result(None)


def _base36(value: int) -> str:
    digits = ""
    while value:
        value, digit = divmod(value, 36)
        digits = "0123456789abcdefghijklmnopqrstuvwxyz"[digit] + digits
    return digits or "0"
