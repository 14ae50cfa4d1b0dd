"""A presentation: everything that viewers of one playback id can fetch. Packets and cuts in, windows out.

The shell around `segmenter`, `lockstep` and `shelf`: it owns the clock and the one timer. Lives on the core's event
loop; every method returns at once, and only `wait` waits.

| a presentation is | playlists |
|---|---|
| new: nothing published | none |
| live | grow |
| ended (`end`) | closed with EXT-X-ENDLIST; the MPD is static |
| live again (`restart`) | go on with the next number, at a discontinuity |
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import structlog

from media.clock import VIDEO_TIMESCALE, rescale
from media.cut import Cut
from media.errors import HeadraceError
from media.packet import Packet
from media.rendition import Rendition
from media.track import Kind, Track
from packager import recall
from packager.archive import Archive, Reel, Restored
from packager.cuts import ORIGIN_S, Cuts
from packager.events import SCHEME, Events, TimedEvent
from packager.grid import Grid, choose
from packager.hls.media_playlist import SKIP_UNTIL_TARGETS
from packager.lockstep import Lockstep
from packager.model import Boundary, Init, Window
from packager.rates import Rates
from packager.segmenter import Audio, Event, Made, Video, lane
from packager.settings import PackagerSettings
from packager.shelf import MIN_LISTED, Shelf

log = structlog.get_logger(__name__)

MAX_STRETCH_S = 0.45
"""A segment longer than nominal by more than this would round to more than EXT-X-TARGETDURATION."""

SILENT_SEGMENTS = 2
"""A rendition that is this many segments behind the others without a word counts as lost."""

WAKE_S = 1.5
"""A rendition that was asleep is not shown before it has caught up with the others; after this, to within a segment."""
WAKE_LIMIT_S = 4.0
"""One that has not caught up by then is treated as any that is late: it gets gaps."""


class Presentation:
    """What is on air under one playback id."""

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
        """`clock`: steady seconds. `wall_us`: UTC in microseconds since 1970. `dvr_window_s`: how far viewers can
        rewind, from `archive`; 0: as far as the memory reaches."""
        self.playback_id = playback_id
        self.settings = settings
        self.published_us = wall_us()
        """When the newest version was made; publishTime of the MPD."""
        self.epoch = _base36(self.published_us // 1000)
        self.thumbnail: bytes | None = None
        self.ended = False
        self.dvr_window_s = dvr_window_s if archive is not None else 0.0
        self._reel = Reel(archive, playback_id, self.epoch) if archive is not None and dvr_window_s > 0 else None
        self.events = Events()
        self.version = 0
        """Grows with every publication."""
        self.dropped_packets = 0
        self.evicted_early = 0
        """Segments that left the memory before their time, because of `memory_bytes`."""
        self.own_cuts = 0
        self.renditions: tuple[Rendition, ...] = ()
        self.rates: dict[str, Rates] = {}
        self.shelves: dict[str, Shelf] = {}
        self.rendered: dict[object, bytes] = {}
        """Playlists made from the current version, shared by all who ask; emptied with each publication."""
        self.on_demand: Callable[[str], None] = lambda rendition_name: None
        """Told of each request for a rendition, with its name, and of requests for a list of them, with none."""
        self._asleep: dict[str, Init] = {}
        self._waking: dict[str, float] = {}
        self._clock = clock
        self._wall_us = wall_us
        self._cuts = Cuts()
        self._grid: Grid | None = None
        self._lanes: dict[str, Video | Audio] = {}
        self._audio: list[tuple[str, Audio]] = []
        self._lockstep: Lockstep | None = None
        self._video_front = self._video_end = -ORIGIN_S * VIDEO_TIMESCALE
        self._published = 0
        self._barrier: int | None = None
        self._windows: dict[str, Window] = {}
        self._waiters: dict[str, asyncio.Future[None]] = {}
        self._timer: asyncio.TimerHandle | None = None

    # -- what the composer tells ------------------------------------------------------------------------------

    def declare(self, renditions: Sequence[Rendition]) -> None:
        """Say which renditions to expect. Again after a reconnect or a new plan: those that are no longer named
        disappear from the multivariant playlist, and their own playlists go on with gaps."""
        if self._grid is None:
            self._grid = choose(self.settings.part_s, self.settings.segment_s, renditions)
        self.renditions = tuple(renditions)
        steps = self._steps()
        for rendition in renditions:
            known = self._lanes.get(rendition.name)
            if known is not None and known.rendition.kind is rendition.kind:
                known.rendition = rendition
                self.shelves[rendition.name].rendition = rendition
                continue
            last = self._cuts.last
            above = last.msn if last else -1
            self._lanes[rendition.name] = lane(
                rendition, self._cuts, self._grid, self.epoch, above, self._fresh(rendition)
            )
            if rendition.name not in self.shelves:
                self.shelves[rendition.name] = self._shelf(rendition)
            self.rates[rendition.name] = Rates(self.settings.segment_s, rendition.bitrate)
            steps.join(rendition.name)
        self._audio = [(name, a) for name, a in self._lanes.items() if isinstance(a, Audio)]
        self.describe()
        named = {r.name for r in renditions}
        self._asleep = {name: init for name, init in self._asleep.items() if name in named}
        self.lost([name for name in self._lanes if name not in named])
        self._touch()

    def cut(self, cut: Cut) -> None:
        """A segment starts at `cut`; called before the packets that belong to it."""
        self._cuts.add(cut)
        for name in self._asleep:
            self.shelves[name].fade(self._clock())
        self._barrier = None
        self._pump()

    def pause(self) -> None:
        """The publisher is gone, perhaps to come back: open segments end where they are, so that no viewer waits for
        the rest of them."""
        if self.ended:
            return
        for name, found in self._lanes.items():
            try:
                events = found.end()
            except HeadraceError as error:
                self._unusable(name, error)
                continue
            if events:
                self._steps().push(name, events, self._clock())
        if self._lockstep is not None:
            self._apply(self._lockstep.flush())

    def interrupted(self, pts: int) -> None:
        """The publisher was away and is back: what is shown from `pts` (90 kHz) on belongs to the next cut. Without
        this, sound that comes before the first keyframe would be taken for the end of what was before."""
        self._barrier = pts + ORIGIN_S * VIDEO_TIMESCALE

    def write(self, rendition_name: str, packet: Packet) -> None:
        """One packet of a rendition, in decode order."""
        found = self._lanes.get(rendition_name)
        if found is None or self.ended:
            self.dropped_packets += 1
            return
        try:
            if isinstance(found, Video):
                events = found.write(packet)
                if packet.dts > self._video_front:
                    self._video_front, self._video_end = packet.dts, packet.dts + packet.duration
            else:
                found.write(packet)
                self._guard(packet)
                events = found.pump(self._safe(), self.settings.audio_wait_s, self._barrier)
        except HeadraceError as error:
            self._unusable(rendition_name, error)
            return
        if isinstance(found, Video):
            self._pump()
        self._push(rendition_name, events)

    def lost(self, rendition_names: Iterable[str]) -> None:
        """The source of these renditions died: their open segments end where they are, what is missing until the
        next cut that they reach becomes a gap."""
        for name in rendition_names:
            found = self._lanes.get(name)
            if found is None or found.lost or name in self._asleep:
                continue
            self._push(name, found.lose())
            self._steps().leave(name)

    def sleep(self, rendition_name: str) -> bool:
        """Nobody asks for this rendition and nothing more comes of it, until `wake`: it stays in the multivariant
        playlist and the MPD. False where that cannot be, since it has not begun yet."""
        found = self._lanes.get(rendition_name)
        if found is None or found.init is None or rendition_name in self._asleep:
            return False
        self._push(rendition_name, found.lose())
        self._steps().leave(rendition_name)
        self._waking.pop(rendition_name, None)
        self._asleep[rendition_name] = found.init
        self._touch()
        return True

    def wake(self, rendition_name: str, cuts_back: int) -> None:
        """The rendition comes again, from that many cuts before the newest one on (0: from the newest on)."""
        if self._asleep.pop(rendition_name, None) is None:
            return
        last = self._cuts.last
        if last is not None:
            found, shelf, above = self._lanes[rendition_name], self.shelves[rendition_name], last.msn - cuts_back - 1
            if above > found.msn or not shelf.listed:
                shelf.clear(self._clock())
            found.resume(above)
        self._waking[rendition_name] = self._clock()

    def sleeps(self, rendition_name: str) -> bool:
        """Whether the rendition is listed without anything of it being there now."""
        return rendition_name in self._asleep or rendition_name in self._waking

    def end(self) -> None:
        """Nothing more will come. Idempotent."""
        if self.ended:
            return
        self.pause()
        self.ended = True
        self.describe(clean=True)
        self._touch()
        longest_s = (self.settings.window_segments + 2) * self.settings.segment_s
        self._arm(self._clock() + 2 * longest_s)

    def suspend(self) -> None:
        """The server goes down and another run will go on from disk: nothing is open, and nobody is told of an end.
        Without a rewind window there is nothing to go on from, and it ends."""
        if self._reel is None:
            self.end()
            return
        self.pause()
        self.describe(clean=True)

    def restart(self) -> None:
        """Another broadcast follows under the same playback id, with a timeline and cuts of its own from zero on.
        Numbers go on, at a discontinuity."""
        self.end()
        self._cuts.restart()
        last = self._cuts.last
        assert self._grid is not None
        self._lockstep = None
        for name, old in list(self._lanes.items()):
            above = last.msn if last else -1
            self._lanes[name] = lane(
                old.rendition, self._cuts, self._grid, self.epoch, above, self._fresh(old.rendition)
            )
            self._steps().join(name)
        self._audio = [(name, a) for name, a in self._lanes.items() if isinstance(a, Audio)]
        self._video_front = self._video_end = -ORIGIN_S * VIDEO_TIMESCALE
        self._published = 0
        self._barrier = None
        self.ended = False
        self._touch()

    def announce(
        self, message: bytes, *, scheme: str = "", value: str = "", duration_s: float | None = None
    ) -> TimedEvent | None:
        """An event at the newest instant that has come in; None while nothing is on air. It is in the next part and
        in the playlists at once."""
        last = self._cuts.last
        if last is None or not self._cuts.started or self.ended:
            return None
        pts = self._video_front + ORIGIN_S * VIDEO_TIMESCALE
        lanes: list[Video | Audio] = [v for v in self._lanes.values() if isinstance(v, Video) and not v.lost]
        if not lanes:
            lanes = [audio for _, audio in self._audio]
            pts = max((audio.end_90k for audio in lanes), default=last.pts)
        now = self._clock()
        wall_us = last.wall_us + (pts - last.pts) * 100 // 9
        self.events.count += 1
        event = TimedEvent(self.events.count, pts, wall_us, now, scheme or SCHEME, value, message, duration_s)
        self.events.add(event, now)
        for found in lanes:
            found.announce(event)
        self._touch(())
        return event

    def date_ranges(self, window: Window, *, delta: bool) -> tuple[list[str], list[str]]:
        """EXT-X-DATERANGE lines for a playlist, and ids that left it lately. With `delta` only those that a client
        whose copy is as old as a delta allows does not know."""
        now = self._clock()
        if window.shown:
            self.events.expire(window.shown[0].wall_us, now)
        since = now - SKIP_UNTIL_TARGETS * self.settings.segment_s
        fresh, removed = self.events.since(since if delta else -math.inf)
        return [event.tag() for event in fresh], list(removed)

    # -- what the origin asks ---------------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether there is something to show: every declared rendition has its first part, or `start_wait_s` is
        over (then the lockstep has published those that have one)."""
        return any(shelf.shows for shelf in self.shelves.values())

    @property
    def part_target(self) -> Fraction:
        """PART-TARGET in seconds."""
        assert self._grid is not None, "declare comes first"
        return self._grid.target_s

    @property
    def start_us(self) -> int:
        """Wall clock of the first cut, microseconds since 1970."""
        return self._cuts.start_us

    @property
    def eras(self) -> dict[int, Boundary]:
        """For each discontinuity number the cut that opened it."""
        return self._cuts.eras

    @property
    def part_length(self) -> Fraction:
        """The grid of part boundaries, in seconds."""
        assert self._grid is not None, "declare comes first"
        return self._grid.length_s

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
                if shelf.shows and name not in self._asleep and name not in self._waking
            }
        return self._windows

    @property
    def listed(self) -> dict[str, Window]:
        """`windows`, and of video renditions that are asleep what there would be: all video is cut alike."""
        windows = dict(self.windows)
        video = [w for w in windows.values() if w.rendition.kind is Kind.VIDEO and w.shown]
        awake = max(video, key=lambda w: w.last_part, default=None)
        if awake is None:
            return windows
        for name in (*self._asleep, *self._waking):
            init = self._asleep.get(name) or self._lanes[name].init
            segments = tuple(replace(s, init=init) for s in awake.segments)
            current = replace(awake.current, init=init) if awake.current else None
            windows[name] = replace(awake, rendition=self.shelves[name].rendition, segments=segments, current=current)
        return windows

    def _next_cut(self, shelf: Shelf) -> int | None:
        """Where the segment in the making will end, if that is known already."""
        following = self._cuts.get(shelf.current.msn + 1) if shelf.current is not None else None
        here = shelf.current.boundary.pts if shelf.current is not None else 0
        return following.pts if following is not None and following.pts > here else None

    def track(self, rendition_name: str) -> Track | None:
        """The configuration of a rendition's newest segment."""
        asleep = self._asleep.get(rendition_name) or (
            self._lanes[rendition_name].init if rendition_name in self._waking else None
        )
        if asleep is not None:
            return asleep.track
        shelf = self.shelves.get(rendition_name)
        if shelf is None:
            return None
        if shelf.current is not None and shelf.current.init is not None:
            return shelf.current.init.track
        return next((s.init.track for s in reversed(shelf.listed) if s.init is not None), None)

    async def wait(self, rendition_name: str, timeout_s: float, cancelled: asyncio.Future[None] | None = None) -> bool:
        """Until the rendition changes; False if it did not in time, or if `cancelled` was done before."""
        future = self._waiters.get(rendition_name)
        if future is None:
            future = self._waiters[rendition_name] = asyncio.get_running_loop().create_future()
        either = (future,) if cancelled is None else (future, cancelled)
        done, _ = await asyncio.wait(either, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        return future in done

    @property
    def size_bytes(self) -> int:
        """Media bytes held."""
        return sum(shelf.size_bytes for shelf in self.shelves.values())

    def counters(self) -> dict[str, int]:
        """For metrics."""
        lanes = self._lanes.values()
        return {
            "dropped_packets": self.dropped_packets + sum(found.dropped_packets for found in lanes),
            "holes": sum(found.holes for found in lanes),
            "late_releases": self._lockstep.late_releases if self._lockstep else 0,
            "evicted_early": self.evicted_early,
            "own_cuts": self.own_cuts,
            "held_bytes": self.size_bytes,
        }

    def poll(self, now: float | None = None) -> None:
        """Publish what has waited long enough and forget what is too old; called by the timer."""
        now = self._clock() if now is None else now
        if not self.ended:
            self._publish(now)
        else:
            for shelf in self.shelves.values():
                shelf.expire(now)

    # -- inside -----------------------------------------------------------------------------------------------

    def _steps(self) -> Lockstep:
        if self._lockstep is None:
            assert self._grid is not None, "declare comes first"
            tolerance = int(self._grid.length_s * VIDEO_TIMESCALE) // 2
            self._lockstep = Lockstep(self.settings.align_wait_s, self.settings.start_wait_s, tolerance)
        return self._lockstep

    def _fresh(self, rendition: Rendition) -> int:
        """Number of the first init segment that this rendition has not used yet."""
        shelf = self.shelves.get(rendition.name)
        return shelf.inits_seen if shelf else 0

    def _safe(self) -> int | None:
        """Up to which media time (90 kHz) all cuts are known; None where audio itself decides them."""
        if not any(r.kind is Kind.VIDEO for r in self.renditions):
            return None
        origin = ORIGIN_S * VIDEO_TIMESCALE
        front, end = self._video_front + origin, self._video_end + origin
        last = self._cuts.last
        if last is None or not self._cuts.started:
            return front
        # A cut that is not known yet lies at a frame still to come, or on the regular grid before such a frame.
        regular = last.pts + self.settings.segment_s * VIDEO_TIMESCALE - 1
        return max(last.pts, front, min(end, regular))

    def _pump(self) -> None:
        for name, audio in self._audio:
            if not audio.held:
                continue
            try:
                events = audio.pump(self._safe(), self.settings.audio_wait_s, self._barrier)
            except HeadraceError as error:
                self._unusable(name, error)
                continue
            if events:
                self._push(name, events)

    def _guard(self, packet: Packet) -> None:
        """Audio goes on while video is silent: cut where video would have, so that no segment grows too long."""
        last = self._cuts.last
        if last is None or not self._cuts.started or self._barrier is not None:
            return
        pts = rescale(packet.pts, packet.track.timescale, VIDEO_TIMESCALE) + ORIGIN_S * VIDEO_TIMESCALE
        longest_s = self.settings.segment_s + MAX_STRETCH_S + self.settings.audio_wait_s
        while pts - last.pts > longest_s * VIDEO_TIMESCALE:
            last = self._cuts.invent(self.settings.segment_s)
            self.own_cuts += 1

    def _unusable(self, name: str, error: HeadraceError) -> None:
        self.dropped_packets += 1
        if not self._lanes[name].lost:
            log.error("rendition_unusable", playback_id=self.playback_id, rendition=name, reason=error.slug)
        self.lost([name])

    def _push(self, name: str, events: list[Event]) -> None:
        if events:
            now = self._clock()
            self._steps().push(name, events, now)
            self._publish(now)

    def _publish(self, now: float) -> None:
        steps = self._steps()
        released = steps.release(now)
        while released:
            self._apply(released)
            self._fill_gaps(now)
            released = steps.release(now)
        deadline = steps.deadline()
        if deadline is not None:
            self._arm(deadline)

    def _apply(self, released: list[tuple[str, Event]]) -> None:
        now = self._clock()
        changed = set()
        for name, event in released:
            done = self.shelves[name].apply(event, now)
            if done is not None:
                self.rates[name].add(done)
                self.shelves[name].expire(now)
            if isinstance(event, Made):
                self._published = max(self._published, event.end_90k)
            changed.add(name)
        for name, since in list(self._waking.items()):
            late_s = (self._published - self._lanes[name].end_90k) / VIDEO_TIMESCALE
            waited_s = now - since
            near = late_s < self.part_length or (waited_s > WAKE_S and late_s < self.settings.segment_s)
            if self.shelves[name].shows and (near or waited_s > WAKE_LIMIT_S):
                del self._waking[name]
                changed.add(name)
        self._bound_memory(now)
        self._bound_disk(now)
        self._touch(changed)

    def _fill_gaps(self, now: float) -> None:
        """Renditions without a source keep step with gaps."""
        slack = self.settings.segment_s * VIDEO_TIMESCALE // 2
        for name, found in self._lanes.items():
            if not found.started or name in self._asleep or name in self._waking:
                continue
            if not found.lost and self._published - found.end_90k > SILENT_SEGMENTS * 2 * slack:
                self._steps().push(name, found.lose(), now)
                self._steps().leave(name)
            while found.lost:
                following = self._cuts.get(found.msn + 2)
                if following is None or following.pts + slack > self._published:
                    break
                events = found.miss(found.msn + 2)
                if events:
                    self._steps().push(name, events, now)
                    self._steps().leave(name)

    def _bound_memory(self, now: float) -> None:
        while self.size_bytes > self.settings.memory_bytes:
            shelves = sorted(self.shelves.values(), key=lambda shelf: shelf.size_bytes, reverse=True)
            if any(shelf.forget() for shelf in shelves):
                self.evicted_early += 1
                continue
            longest = max(shelves, key=lambda shelf: len(shelf.listed))
            if len(longest.listed) <= MIN_LISTED:
                return
            for shelf in shelves:
                if len(shelf.listed) == len(longest.listed):
                    shelf.unlist(now)

    def _bound_disk(self, now: float) -> None:
        """The oldest of this stream goes when it, or the node with it, takes more room than it may."""
        reel = self._reel
        if reel is None:
            return
        budget, node = reel.archive.stream_bytes, reel.archive.node_bytes
        while reel.size_bytes > budget or reel.archive.size_bytes > node:
            longest = max((len(shelf.listed) for shelf in self.shelves.values()), default=0)
            if longest <= self.settings.window_segments or not self.drop_oldest():
                return

    def drop_oldest(self) -> bool:
        """Take the oldest segment out of every playlist, and its bytes away; False where only memory is left."""
        now = self._clock()
        longest = max((len(shelf.listed) for shelf in self.shelves.values()), default=0)
        if longest <= MIN_LISTED:
            return False
        self.evicted_early += 1
        for shelf in self.shelves.values():
            if len(shelf.listed) == longest:
                shelf.unlist(now)
            while shelf.forget():
                pass
        return True

    def _shelf(self, rendition: Rendition) -> Shelf:
        long_limit = math.ceil(self.dvr_window_s / self.settings.segment_s) if self._reel is not None else 0
        return Shelf(rendition, self.settings.window_segments, self._reel, long_limit)

    def describe(self, *, clean: bool = False) -> None:
        """Write down what a later run of the server needs to go on. `clean`: every segment that was shown is kept."""
        if self._reel is None or self._grid is None:
            return
        self._reel.describe(recall.describe(self, self._grid, clean=clean))

    def stored(self, rendition_name: str, msn: int) -> Path:
        """The file of a segment whose bytes are on disk alone."""
        assert self._reel is not None, "without an archive nothing is stored"
        return self._reel.path(rendition_name, msn)

    @property
    def keep_s(self) -> float:
        """How long it stays watchable after its end."""
        return self.dvr_window_s

    def discard(self) -> None:
        """It is kept no longer: what is on disk goes, too."""
        if self._reel is not None:
            self._reel.remove(self.playback_id)

    def recall(self, restored: Restored) -> None:
        """Take over what an earlier run left on disk: an ended presentation, which `restart` continues. Numbers that
        may have been shown before the server died, and are not on disk, become gaps and are not used again."""
        self._grid = recall.grid(restored.meta)
        self.epoch = restored.meta["epoch"]
        if self._reel is not None:
            self._reel.adopt(self.epoch)
        self.renditions = recall.renditions(restored.meta)
        kept = recall.segments(restored, self._grid.segment_s)
        for rendition in self.renditions:
            if not kept.get(rendition.name):
                continue
            shelf = self.shelves[rendition.name] = self._shelf(rendition)
            shelf.restore(kept[rendition.name])
            rates = self.rates[rendition.name] = Rates(self.settings.segment_s, rendition.bitrate)
            for segment in shelf.listed:
                rates.add(segment)
            self._lanes[rendition.name] = lane(rendition, self._cuts, self._grid, self.epoch, -1, shelf.inits_seen)
        self._cuts.recall([s.boundary for s in max(kept.values(), key=len)], restored.meta["start_us"])
        self._cuts.restart()
        self.ended = True
        self._touch()

    def _touch(self, names: Iterable[str] | None = None) -> None:
        """Something changed: a new version, and whoever waits for it is woken."""
        self.version += 1
        self.published_us = max(self.published_us, self._wall_us())
        self._windows = {}
        self.rendered = {}
        for name in list(self._waiters) if names is None else names:
            future = self._waiters.pop(name, None)
            if future is not None and not future.done():
                future.set_result(None)

    def _arm(self, deadline: float) -> None:
        """One timer for the next thing that is due. Without a running loop (tests, tools) the caller polls."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return
        if math.isfinite(deadline):
            self._timer = loop.call_later(max(0.0, deadline - self._clock()), self.poll)


def _base36(value: int) -> str:
    digits = ""
    while value:
        value, digit = divmod(value, 36)
        digits = "0123456789abcdefghijklmnopqrstuvwxyz"[digit] + digits
    return digits or "0"
