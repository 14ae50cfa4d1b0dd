"""From a source's tracks to cutter, packager and transcoder, as the plan says. One per broadcast; nothing waits.

| what changes | takes effect |
|---|---|
| first plan, publisher back | at once; what was held comes behind it |
| video configured anew, other top track, passed through or encoded instead | next IDR or cut, as a discontinuity |
| audio configured anew | next cut, as a discontinuity |
| a further track, another ladder | next cut, without a break |

Not here: who publishes and how long viewers are kept (`control.broadcast`).
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace

import structlog

from control.align import Aligner, Turn
from control.demand import Demand
from control.tracks import Tracks
from media.cut import Cut
from media.packet import Gap, Packet
from media.rendition import Rendition
from media.track import Kind, Track
from packager.presentation import Presentation
from transcode.cuts import Cutter, Mode
from transcode.plan import Plan
from transcode.pool import Job

log = structlog.get_logger(__name__)

LEAVE_S = 0.8
"""How long after a cut a rendition that was dropped there is still taken from the worker, which is a little behind."""
EARLY_PACKETS = 200
"""Packets kept from before the first keyframe; then the oldest goes."""
STRIKES = 2
"""Cuts in a row at which a track of the publisher's ladder may lack its IDR before the ladder is given up."""

NOT_ALIGNED = (
    "the keyframes of the video tracks do not lie together: only the first one is used; "
    "set the same keyframe interval in all of them"
)
NO_ROOM = "the server has no room for the whole ladder: {} left out until it has"
ROOM_AGAIN = "the server has room again: the whole ladder is encoded"
BAD_GOP = "keyframes are too far apart or irregular: the source is encoded anew; set 2 s in the encoder"

Planner = Callable[[Sequence[Track], Sequence[Track], bool], Plan]
"""(video tracks, audio tracks, may video be passed through) -> what is copied and what is encoded."""


class Distributor:
    """Lives on the core's event loop."""

    def __init__(
        self,
        presentation: Presentation,
        planner: Planner,
        *,
        segment_s: int,
        notice: Callable[[str], None],
        bare: Callable[[Packet], None] | None = None,
    ) -> None:
        """`notice`: is told, in words, what an operator and the publisher should know. `bare`: is given the keyframe at
        each cut where nobody decodes the video, which is passed through."""
        self.presentation = presentation
        self.cutter = Cutter(segment_s, lambda: time.time_ns() // 1000)
        self.tracks = Tracks()
        self.plan = Plan()
        self.job: Job | Demand | None = None
        self._planner = planner
        self._notice = notice
        self._bare = bare
        self._fits = True
        """Nothing is known against the source's GOP."""
        self._names: dict[int, str] = {}
        self._reference: int | None = None
        self._aligner: Aligner | None = None
        self._early: deque[Packet] = deque()
        """What a publisher sent before its first cut."""
        self._begun = False
        """Whether the publisher has a cut."""
        self._released: list[Packet] = []
        """What an aligner still held when it was replaced: written behind the cut."""
        self._strikes: dict[int, int] = {}
        self._due = ""
        """Why there is to be another plan at the next cut; empty where there is none."""
        self._tail: tuple[int, str, int] | None = None
        """(track, rendition, pts): the track's frames shown before pts still belong to the rendition."""
        self._leaving: asyncio.TimerHandle | None = None

    # -- plans ------------------------------------------------------------------------------------------------

    def reset(self) -> None:
        """Another publisher: nothing is known of its tracks."""
        self.tracks = Tracks()
        self._fits = True
        self._due = ""
        self._tail = None
        self._aligner = None

    def begin(self) -> Plan:
        """The tracks are known: plan for them, from here on. The caller declares the plan and opens or changes a job
        (`declare`)."""
        self._adopt(self._make())
        return self.plan

    def declare(self) -> None:
        """Tell packager and transcoder of the plan in use."""
        self.presentation.declare(self.plan.renditions)
        if self.job is not None:
            self.job.change(self.plan)

    def use(self, planner: Planner) -> None:
        """Another ladder. Takes effect at the next cut."""
        self._planner = planner
        self._replan("ladder_change")

    def _make(self) -> Plan:
        return self._planner(self.tracks.video, self.tracks.audio, self._fits)

    def _replan(self, reason: str) -> None:
        """Another plan at the next cut; at a discontinuity where the top rendition becomes another."""
        if not len(self.tracks):
            return  # `begin` is still to come
        new = self._make()
        if new == self.plan:
            return
        self._due = reason
        if new.source != self.plan.source or (new.source in dict(new.passed)) != (self.plan.source in self._names):
            self._break(reason, new)

    def _break(self, reason: str, new: Plan) -> None:
        """The next cut is a discontinuity. What is encoded anew begins at an IDR too: the frames before it that
        refer to each other then all lie on one side."""
        self._reference = new.source if new.source is not None else _first_audio(self.tracks)
        self.cutter.mode = Mode.KEYFRAMES if new.source is not None else Mode.GRID
        self.cutter.restart(reason)

    def _adopt(self, plan: Plan) -> None:
        if plan.left_out != self.plan.left_out:
            self._notice(NO_ROOM.format(", ".join(plan.left_out)) if plan.left_out else ROOM_AGAIN)
        self.plan = plan
        self._due = ""
        self._names = dict(plan.passed)
        self._strikes = {}
        self._reference = plan.source if plan.source is not None else _first_audio(self.tracks)
        self.cutter.mode = Mode.KEYFRAMES if plan.source in self._names else Mode.GRID
        beside = frozenset(t.id for t in self.tracks.video if t.id in self._names and t.id != plan.source)
        together = (plan.source, beside) if beside and plan.source is not None else None
        if together != (self._aligner and self._aligner.together):
            self._released = self._flush_aligner()
            self._aligner = Aligner(*together) if together else None

    def _turn(self, cut: Cut) -> None:
        """Another plan from `cut` on."""
        before = self.plan
        self._adopt(self._make())
        log.info(
            "plan_changed", playback_id=self.presentation.playback_id, names=[r.name for r in self.plan.renditions]
        )
        if before.source in dict(before.passed) and self.plan.source not in self._names and before.source is not None:
            self._tail = (before.source, dict(before.passed)[before.source], cut.pts)
        names = {r.name for r in self.plan.renditions}
        leaving = [replace(r, default=False) for r in before.renditions if r.name not in names]
        self._declare_with(leaving)
        if self.job is not None:
            self.job.change(self.plan)

    def _declare_with(self, leaving: list[Rendition]) -> None:
        """Dropped renditions stay a moment, so that their last segment becomes whole."""
        if self._leaving is not None:
            self._leaving.cancel()
            self._leaving = None
        self.presentation.declare([*self.plan.renditions, *leaving], [r.name for r in leaving])
        if leaving:
            self._leaving = asyncio.get_running_loop().call_later(LEAVE_S, self._left)

    def _left(self) -> None:
        self._leaving = None
        self.presentation.declare(self.plan.renditions)

    def close(self) -> None:
        """Nothing more comes."""
        if self._leaving is not None:
            self._leaving.cancel()
            self._leaving = None

    # -- packets ----------------------------------------------------------------------------------------------

    def take(self, item: Packet | Gap) -> None:
        """Hand one item of the source on."""
        if isinstance(item, Gap):
            for packet in self._flush_aligner():
                self._hand_on(packet)
            self.cutter.restart(item.reason)
            if item.reason == "publisher_reconnect":
                self._begun = False
                self.presentation.dropped_packets += len(self._early)
                self._early.clear()
                self.presentation.interrupted(item.start)
            if self.job is not None:
                self.job.write(item)
            return
        known = self.tracks.get(item.track.id)
        if item.track is not known:
            self.tracks.put(item.track)
            if item.track != known:
                self._changed(item.track, known)
        if self._aligner is not None and item.track.id in self._aligner:
            for turn in self._aligner.feed(item):
                self._step(turn)
        else:
            self._hand_on(item)

    def _changed(self, track: Track, before: Track | None) -> None:
        """A track that was not there before, or whose configuration is another."""
        log.info("track_changed", playback_id=self.presentation.playback_id, track=track.id, new=before is None)
        if track.kind is Kind.AUDIO:
            if before is not None and track.id in self._names:
                self.cutter.mark("config_change")  # another CMAF header: no packet of it fits before that cut
            elif before is None and len(self.tracks.audio) == 1:
                self.cutter.mark("track_added")  # there was no sound at all: players are to look again
            self._due = self._due or "track_added"
            if self._reference is None:
                self._reference = track.id
            return
        if track.id == self.plan.source:
            self._fits = True
            self._due = "config_change"
            self._break("config_change", self._make())
        elif before is None:
            self._replan("track_added")
        else:
            self.cutter.mark("config_change")
            self._due = "config_change"

    def _flush_aligner(self) -> list[Packet]:
        return [turn.packet for turn in self._aligner.flush()] if self._aligner is not None else []

    def _step(self, turn: Turn) -> None:
        packet = turn.packet
        if packet.track.id != self._reference or not packet.keyframe:
            self._hand_on(packet)
            return
        before = self.cutter.last
        self._hand_on(packet, turn.at)
        if self.cutter.last is not before:
            self._count(turn.missing)

    def _count(self, missing: Sequence[int]) -> None:
        """A cut of the publisher's ladder: those that have no IDR there are left out until they have one."""
        self.presentation.lost([self._names[track] for track in missing if track in self._names])
        self._strikes = {track: self._strikes.get(track, 0) + 1 for track in missing}
        if not self.tracks.alone and max(self._strikes.values(), default=0) >= STRIKES:
            self.tracks.alone = True
            self._notice(NOT_ALIGNED)
            self._replan("publisher_ladder")

    def _hand_on(self, packet: Packet, at: int | None = None) -> None:
        if packet.track.id == self._reference:
            cut = self.cutter.feed(packet if at is None else replace(packet, pts=at))
            if cut is not None:
                self._cut(cut)
                if self._bare is not None and packet.track.kind is Kind.VIDEO and packet.keyframe:
                    self._show_bare(packet, self._bare)
        if not self._begun:
            # Nothing can be shown before the first keyframe; but sound of the same time may come before it, where
            # ingest waits for the second picture to learn how long the first one lasts, or where it is sent ahead. A
            # worker that was given it before the cut would make of it what the plan of before says.
            self._early.append(packet)
            if len(self._early) > EARLY_PACKETS:
                self._early.popleft()
                self.presentation.dropped_packets += 1
            return
        while self._early:
            self._write(self._early.popleft())
        self._write(packet)

    def _show_bare(self, packet: Packet, bare: Callable[[Packet], None]) -> None:
        if packet.track.id in self._names and not (self.job is not None and self.job.pictures):
            bare(packet)

    def _write(self, packet: Packet) -> None:
        track = packet.track
        # A track without an IDR at the latest cut is silent until the next: its segments begin where all others do.
        name = self._names.get(track.id) if track.id not in self._strikes else None
        if self._tail is not None and track.id == self._tail[0] and packet.pts < self._tail[2]:
            name = self._tail[1]
        if name is not None:
            self.presentation.write(name, packet)
        # Of video the worker gets the one track that it decodes: what others send must not start its decoder.
        if self.job is not None and (track.kind is Kind.AUDIO or track.id == self.plan.source):
            self.job.write(packet)

    def _cut(self, cut: Cut) -> None:
        if self.plan.source in self._names and self.cutter.mode is Mode.GRID:
            self._fits = False
            self._notice(BAD_GOP)
            self._due = self._due or "keyframe_interval"
        if self._due:
            self._turn(cut)
        self._begun = True
        self.presentation.cut(cut)
        if self.job is not None:
            self.job.write(cut)
        released, self._released = self._released, []
        for packet in released:
            self._write(packet)


def _first_audio(tracks: Tracks) -> int | None:
    return next((track.id for track in tracks.audio), None)
