"""A presentation: everything that viewers of one playback id can fetch. Packets and cuts in; `view` shows the rest.

The shell around `segmenter`, `lockstep` and the shelves: it owns the one timer. Lives on the core's event loop; every
method returns at once.

| a presentation is | playlists |
|---|---|
| new: nothing published | none |
| live | grow |
| ended (`end`) | closed with EXT-X-ENDLIST; the MPD is static |
| live again (`restart`) | go on with the next number, at a discontinuity |

How sound and cuts go on while video or the publisher is away is in `front`; renditions that nobody watches are in
`sleepers`; what is kept, and comes back after a restart of the server, is in `recorded` and `keeping`.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from fractions import Fraction

import structlog

from media.clock import VIDEO_TIMESCALE
from media.codecs.captions import Captions
from media.cut import Cut
from media.errors import HeadraceError
from media.packet import Packet
from media.rendition import Rendition
from packager.archive import Archive, Restored
from packager.events import SCHEME, TimedEvent
from packager.front import Front
from packager.grid import choose, slow
from packager.lane import Event, Made
from packager.lockstep import Lockstep
from packager.model import Init
from packager.rates import Rates
from packager.recorded import Recorded
from packager.segmenter import Audio, Video, lane
from packager.settings import PackagerSettings

log = structlog.get_logger(__name__)

SILENT_SEGMENTS = 2
"""A rendition that is this many segments behind the others without a word counts as lost."""


class Presentation(Recorded):
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
        """`dvr_window_s`: how far viewers can rewind, from `archive`; 0: as far as the memory reaches."""
        super().__init__(
            playback_id, settings, clock=clock, wall_us=wall_us, archive=archive, dvr_window_s=dvr_window_s
        )
        self.dropped_packets = 0
        self._front = Front(self._cuts, settings, clock)
        self._lanes: dict[str, Video | Audio] = {}
        self._audio: list[tuple[str, Audio]] = []
        self._lockstep: Lockstep | None = None
        self._leaving: dict[str, int] = {}
        """Renditions that end, with the number of their last segment."""
        self._published = 0
        self._measured = False
        """Whether the grid is certain: a picture has come, or parts are out."""
        self._timer: asyncio.TimerHandle | None = None

    # -- what the composer tells ------------------------------------------------------------------------------

    def declare(self, renditions: Sequence[Rendition], leaving: Collection[str] = ()) -> None:
        """Say which renditions to expect. Again after a reconnect or a new plan: those that are no longer named
        disappear from the multivariant playlist, and their own playlists go on with gaps. `leaving`: names of those
        that end with the segment which is open now."""
        if self._grid is None:
            self._grid = choose(self.settings.part_s, self.settings.segment_s, renditions)
        self.renditions = tuple(renditions)
        newest = self._cuts.last.msn if self._cuts.last else -1
        self._leaving = {name: self._leaving.get(name, newest) for name in leaving}
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
                self.shelves[rendition.name] = self._keeper.shelf(rendition)
            self.rates[rendition.name] = Rates(self.settings.segment_s, rendition.bitrate)
            steps.join(rendition.name)
        self._audio = [(name, a) for name, a in self._lanes.items() if isinstance(a, Audio)]
        self.describe()
        named = {r.name for r in renditions}
        self._sleepers.keep(named)
        self.lost([name for name in self._lanes if name not in named])
        self.touch()

    def cut(self, cut: Cut) -> None:
        """A segment starts at `cut`; called before the packets that belong to it."""
        self._front.catch_up((audio for _, audio in self._audio), cut.pts)
        self._cuts.add(cut)
        for name in self._sleepers.asleep:
            self.shelves[name].fade(self._clock())
        self._pump()

    def pause(self) -> None:
        """The publisher is gone, perhaps to come back: open segments end where they are, so that no viewer waits for
        the rest of them."""
        if self.ended:
            return
        self._front.catch_up(audio for _, audio in self._audio)
        self._cuts.pause()
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
        self._cuts.interrupt(pts)

    def write(self, rendition_name: str, packet: Packet) -> None:
        """One packet of a rendition, in decode order."""
        found = self._lanes.get(rendition_name)
        if found is None or self.ended:
            self.dropped_packets += 1
            return
        leader: Audio | None = None
        try:
            if isinstance(found, Video):
                if not self._measured:
                    self._measure(packet)
                events = found.write(packet)
                self._front.saw(packet)
            else:
                found.write(packet)
                self._front.guard(packet)
                leader = self._leader
                events = self._front.pass_on(found, leader)
        except HeadraceError as error:
            self._unusable(rendition_name, error)
            return
        if isinstance(found, Video) or (found is leader and len(self._audio) > 1):
            self._pump()
        self._push(rendition_name, events)

    def lost(self, rendition_names: Iterable[str]) -> None:
        """The source of these renditions died: their open segments end where they are, what is missing until the
        next cut that they reach becomes a gap."""
        for name in rendition_names:
            found = self._lanes.get(name)
            if found is None or found.lost or name in self._sleepers.asleep:
                continue
            self._push(name, found.lose())
            found.give_up()
            self._steps().leave(name)

    def sleep(self, rendition_name: str) -> bool:
        """Nobody asks for this rendition and nothing more comes of it, until `wake`: it stays in the multivariant
        playlist and the MPD. False where that cannot be, since it has not begun yet."""
        found = self._lanes.get(rendition_name)
        if found is None or found.init is None or rendition_name in self._sleepers.asleep:
            return False
        self._push(rendition_name, found.lose())
        self._steps().leave(rendition_name)
        self._sleepers.put(rendition_name, found.init)
        self.touch()
        return True

    def wake(self, rendition_name: str, cuts_back: int) -> None:
        """The rendition comes again, from that many cuts before the newest one on (0: from the newest on)."""
        if not self._sleepers.rouse(rendition_name, self._clock()):
            return
        last = self._cuts.last
        if last is not None:
            found, shelf, above = self._lanes[rendition_name], self.shelves[rendition_name], last.msn - cuts_back - 1
            if above > found.msn or not shelf.listed:
                shelf.clear(self._clock())
            found.resume(above)

    def end(self) -> None:
        """Nothing more will come. Idempotent."""
        if self.ended:
            return
        self.pause()
        self.ended = True
        self.describe(clean=True)
        self.touch()
        longest_s = (self.settings.window_segments + 2) * self.settings.segment_s
        self._arm(self._clock() + 2 * longest_s)

    def suspend(self) -> None:
        """The server goes down and another run will go on from disk: nothing is open, and nobody is told of an end.
        Without a rewind window there is nothing to go on from, and it ends."""
        if not self.dvr_window_s:
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
        for name, shelf in self.shelves.items():
            if last is not None and name not in self._sleepers:
                shelf.pad(last.msn, self._cuts.get, self.settings.segment_s, self._clock())
        for name, old in list(self._lanes.items()):
            above = last.msn if last else -1
            self._lanes[name] = lane(
                old.rendition, self._cuts, self._grid, self.epoch, above, self._fresh(old.rendition)
            )
            self._steps().join(name)
        for name in self._sleepers:
            self.shelves[name].clear(self._clock())  # what comes next does not follow on what it has
        self._sleepers.forget()
        self._audio = [(name, a) for name, a in self._lanes.items() if isinstance(a, Audio)]
        self._front.restart()
        self._published = 0
        self.ended = False
        self.touch()

    def picture(self, jpeg: bytes) -> None:
        """A new picture of the source: the thumbnail, and the storyboard's tile of the newest segment."""
        self.thumbnail = jpeg
        last = self._cuts.last
        if last is not None and not self.ended:
            self._keeper.keep_picture(self.storyboard, last.msn, jpeg, self.epoch)

    def announce(
        self, message: bytes, *, scheme: str = "", value: str = "", duration_s: float | None = None
    ) -> TimedEvent | None:
        """An event at the newest instant that has come in; None while nothing is on air. It is in the next part and
        in the playlists at once."""
        last = self._cuts.last
        if last is None or not self._cuts.started or self.ended:
            return None
        pts = self._front.pts
        lanes: list[Video | Audio] = [v for v in self._lanes.values() if isinstance(v, Video) and not v.lost]
        if not lanes:
            lanes = [audio for _, audio in self._audio]
            pts = max((audio.end_90k for audio in lanes), default=last.pts)
        now = self._clock()
        wall_us = last.wall_us + (pts - last.pts) * 100 // 9
        event = TimedEvent(self.next_event(), pts, wall_us, now, scheme or SCHEME, value, message, duration_s)
        self.events.add(event, now)
        for found in lanes:
            found.announce(event)
        self.touch(())
        return event

    # -- what operators ask -----------------------------------------------------------------------------------

    @property
    def own_cuts(self) -> int:
        """Cuts that were made here, while video was silent."""
        return self._front.own_cuts

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
            **self.disk_counters(),
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

    def captions(self, rendition_name: str) -> Captions | None:
        """Closed captions within the rendition's pictures."""
        found = self._lanes.get(rendition_name)
        return found.captions if found is not None else None

    def goes_on(self) -> dict[str, float]:
        """Renditions of which more is expected, with the number of their last segment; infinite where none is known."""
        return {
            r.name: self._leaving.get(r.name, math.inf)
            for r in self.renditions
            if r.name in self._lanes and not self._lanes[r.name].lost
        }

    def _steps(self) -> Lockstep:
        if self._lockstep is None:
            assert self._grid is not None, "declare comes first"
            tolerance = int(self._grid.length_s * VIDEO_TIMESCALE) // 2
            self._lockstep = Lockstep(self.settings.align_wait_s, self.settings.start_wait_s, tolerance)
        return self._lockstep

    def _measure(self, packet: Packet) -> None:
        """The first picture tells how long pictures last: a slide show declares no rate, or a wrong one."""
        self._measured = True
        frame_s = Fraction(packet.duration, packet.track.timescale)
        if any(found.started for found in self._lanes.values()) or not slow(self.grid, frame_s):
            return
        self._grid = choose(self.settings.part_s, self.settings.segment_s, self.renditions, 1 / frame_s)
        self._lockstep = None
        for name, found in self._lanes.items():
            found.use(self._grid)
            self._steps().join(name)
        self.describe()

    def _fresh(self, rendition: Rendition) -> int:
        """Number of the first init segment that this rendition has not used yet."""
        shelf = self.shelves.get(rendition.name)
        return shelf.inits_seen if shelf else 0

    @property
    def _leader(self) -> Audio | None:
        """Whose sound decides the cuts; None where video does."""
        first = next(iter(self.renditions), None)  # video comes before sound
        found = self._lanes.get(first.name) if first is not None else None
        return found if isinstance(found, Audio) else None

    def _pump(self) -> None:
        leader = self._leader
        for name, audio in self._audio:
            if not audio.held:
                continue
            try:
                events = self._front.pass_on(audio, leader)
            except HeadraceError as error:
                self._unusable(name, error)
                continue
            if events:
                self._push(name, events)

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
        for name in self._sleepers.waking:
            late_s = (self._published - self._lanes[name].end_90k) / VIDEO_TIMESCALE
            if self.shelves[name].shows and self._sleepers.risen(
                name, late_s, self.part_length, self.settings.segment_s, now
            ):
                changed.add(name)
        self._keeper.bound(now)
        self.touch(changed)

    def _fill_gaps(self, now: float) -> None:
        """Renditions without a source keep step with gaps."""
        slack = self.settings.segment_s * VIDEO_TIMESCALE // 2
        for name, found in self._lanes.items():
            if not found.started or name in self._sleepers:
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

    def _sleeping_init(self, rendition_name: str) -> Init | None:
        asleep = super()._sleeping_init(rendition_name)
        return asleep if asleep is not None else self._lanes[rendition_name].init

    def recall(self, restored: Restored) -> None:
        """Take over what an earlier run left on disk, which `restart` continues. See `Recorded`."""
        super().recall(restored)
        assert self._grid is not None
        self._measured = True
        for name, shelf in self.shelves.items():
            self._lanes[name] = lane(shelf.rendition, self._cuts, self._grid, self.epoch, -1, shelf.inits_seen)

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
