"""A broadcast on a stage: scripted publishers (`break_script`) through real timeline, session, distributor and
packager, on a clock of its own, with `encoder_double` for a transcoder; and a watch (`break_watch`) over all that
viewers are given.
"""

from __future__ import annotations

import asyncio
import re
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import pytest
from break_script import Deed, Id, Publisher, Script, ident, samples
from break_watch import Watch
from encoder_double import EncoderPool
from virtual_loop import VirtualLoop

from control import broadcast as broadcast_module
from control import distributor as distributor_module
from control.broadcast import Broadcast, State
from control.demand import Demand
from control.planning import Planning
from control.session import Session
from control.stream_settings import StreamSettings
from ingest.ports import EndReason, PublishRequest
from ingest.sample import Sample
from ingest.timeline import Timeline
from media.packet import Packet
from media.track import Codec
from packager.cuts import ORIGIN_S
from packager.presentation import Presentation
from packager.settings import PackagerSettings
from transcode.pool import Pool
from transcode.settings import TranscodeSettings

WALL_US = 1_800_000_000_000_000


@dataclass
class Sent:
    """What a session gave to the broadcast."""

    packets: dict[Id, tuple[float, Packet]] = field(default_factory=dict)


class Stage:
    """Plays a script."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.sent: dict[int, Sent] = {}
        self.loop = asyncio.get_running_loop()
        self.begun = self.loop.time()
        self.pool = EncoderPool(lambda: script.lag_s)
        self.planning = Planning(TranscodeSettings())
        self.presentation = Presentation("p", PackagerSettings(), clock=self.loop.time, wall_us=self.wall_us)
        self.ladder = script.ladder
        self._finishing: asyncio.Task[None] | None = None
        self.broadcast = self._broadcast()
        self.watch = Watch(self.presentation)
        self.sessions: dict[int, tuple[Session, Timeline]] = {}
        self.loop.set_exception_handler(self._failed)

    def _broadcast(self) -> Broadcast:
        return Broadcast(
            "b1", "s", self.presentation, cast(Pool, self.pool), self.planner(self.ladder),
            segment_s=2, reconnect_window_s=60, on_end=self._ended, rungs=self.script.rungs, after=self._finishing,
        )  # fmt: skip

    def _ended(self, broadcast: Broadcast) -> None:
        self._finishing = self.loop.create_task(broadcast.finish())

    def _failed(self, loop: Any, context: dict[str, Any]) -> None:
        """Something was raised where nobody awaits it."""
        error = context.get("exception")
        at = traceback.extract_tb(error.__traceback__)[-1] if error is not None else None
        where = f" in {at.filename.rsplit('/', 1)[-1]}:{at.lineno}" if at is not None else ""
        self.watch.fault(f"{error!r}{where}: {context['message']}")

    def wall_us(self) -> int:
        return WALL_US + int((self.loop.time() - self.begun) * 1_000_000)

    def planner(self, ladder: tuple[str, ...]) -> Any:
        return self.planning.planner(StreamSettings(ladder=ladder or ("none",)), "s")

    @property
    def now(self) -> float:
        return self.loop.time() - self.begun

    async def play(self) -> None:
        acts: list[tuple[float, int, Callable[[], None]]] = []
        starts = self.script.starts()
        for number, (start, it) in enumerate(zip(starts, self.script.publishers, strict=True)):
            acts.append((start, len(acts), partial(self._attach, number, it)))
            for at, sample in samples(it, number):
                acts.append((start + at, len(acts), partial(self._feed, number, sample)))
            if number + 1 == len(starts) or starts[number + 1] >= start + it.length_s:
                acts.append((start + it.length_s, len(acts), partial(self._lose, number)))
        for deed in self.script.deeds:
            acts.append((deed.at_s, len(acts), partial(self._do, deed)))
        for at, _, act in sorted(acts, key=lambda a: a[:2]):
            if at > self.now:
                await asyncio.sleep(at - self.now)
                self.watch.look()
            act()
            self.watch.look()
        for _ in range(50):
            await asyncio.sleep(0.1)
            self.watch.look()
        self.broadcast.end("test")
        assert self._finishing is not None
        await self._finishing
        self.watch.look()

    def _attach(self, number: int, it: Publisher) -> None:
        if self.broadcast.state is State.ENDED:
            self.broadcast = self._broadcast()
        session = Session(self.broadcast, PublishRequest("rtmp", "k", "192.0.2.1", 1), "key")
        self.broadcast.attach(session)
        self.sessions[number] = session, Timeline(session.origin, it.clock)
        self.sent[number] = Sent()

    def _feed(self, number: int, sample: Sample) -> None:
        session, timeline = self.sessions[number]
        self._write(number, session, timeline.feed(sample, self.loop.time()))

    def _write(self, number: int, session: Session, items: list[Any]) -> None:
        for item in items:
            if isinstance(item, Packet) and self.broadcast.session is session:
                self.sent[number].packets[ident(item.data)] = self.now, item
            session.write(item)

    def _lose(self, number: int) -> None:
        session, timeline = self.sessions[number]
        self._write(number, session, timeline.flush())
        session.close(EndReason.LOST)

    def _do(self, deed: Deed) -> None:
        match deed.what:
            case "ladder":
                self.ladder = deed.value
                self.broadcast.use(self.planner(deed.value))
            case "die":
                for job in self.pool.jobs:
                    if not job._closed and job._plan.encodes:
                        job.die()
            case "ask":
                for name in deed.value:
                    self.presentation.on_demand(name)

    # -- what must hold at the end ----------------------------------------------------------------------------

    def faults(self) -> list[str]:
        found = [*self.watch.faults, *self.watch.odd_lengths(), *self.watch.follower.violations]
        found += [text for text in self.watch.follower.shoulds if "the hinted part" not in text]  # it is a guess
        found = [text for text in found if "lasts only" not in text]  # where a picture stands still over a hole
        found = [text for text in found if not self._one_picture(text)]
        if self.script.rungs == "watched":  # while a rung sleeps, its playlist loses segments
            found = [text for text in found if "segments were removed" not in text and "fewer than six" not in text]
        found = list(dict.fromkeys(found))
        found += self._misplaced()
        found += self._lost()
        return found

    def _one_picture(self, text: str) -> bool:
        """A part that is too long for being one picture, which is: hls.js does not play what has a gap instead."""
        said = re.match(r"(\S+?)(?: \(.*\))?: 4\.4\.4\.9 part (\d+)\.(\d+) lasts", text)
        shelf = self.presentation.shelves.get(said[1]) if said else None
        part = shelf.part(int(said[2]), int(said[3])) if said and shelf else None
        return part is not None and part.samples == 1

    def _misplaced(self) -> Iterator[str]:
        """A packet is shown at its own time, everywhere."""
        for name, known in self.watch.published.items():
            for key, (msn, _, shown) in known.items():
                sent = self.sent[key[0]].packets.get(key)
                if sent is None:
                    yield f"{name}: {key} in {msn} was never sent"
                    continue
                packet = sent[1]
                off = shown - Fraction(packet.pts, packet.track.timescale) - ORIGIN_S
                limit = Fraction(1, 10) if packet.track.codec is Codec.OPUS else Fraction(1, 20_000)
                if abs(off) > limit:
                    yield f"{name}: {key} in {msn} is shown {float(off):+.4f} s off"

    def disturbed(self) -> list[float]:
        starts = self.script.starts()
        found = [d.at_s for d in self.script.deeds if d.what != "ask"]
        for start, it in zip(starts, self.script.publishers, strict=True):
            found += [start, start + it.length_s, start + it.picture_from_s, start + it.picture_until_s]
            found += [start + when for when, _ in it.jumps]
            found += [x for when, length in it.stalls for x in (start + when, start + when + length)]
            found += [start + x for s in it.sounds for x in (s.from_s, s.until_s)]
            if it.resize_s is not None:
                found.append(start + it.resize_s)
        return found

    def _lost(self) -> Iterator[str]:
        """In an undisturbed stretch nothing is missing."""
        troubles = self.disturbed()
        for number, sent in self.sent.items():
            it = self.script.publishers[number]
            calm = 2.5 + min(it.gop_s, 2.5) + self.script.lag_s
            for key, (at, packet) in sent.packets.items():
                if packet.track.codec is Codec.OPUS:  # encoded; frames of another length
                    continue
                if any(at - calm < trouble < at + 1 + self.script.lag_s for trouble in troubles):
                    continue
                names = [n for n, known in self.watch.published.items() if key in known]
                kind = packet.track.kind
                if not names:
                    yield f"{kind.value} {key} of second {at:.2f} is nowhere"
                    return


def play(script: Script) -> Stage:
    """The script's stage, after all is over."""
    found: list[Stage] = []

    async def main() -> None:
        found.append(Stage(script))
        await found[0].play()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner, pytest.MonkeyPatch.context() as patch:
        loop = runner.get_loop()
        begun = loop.time()
        clock = SimpleNamespace(
            monotonic=loop.time,
            time=lambda: WALL_US / 1e6 + loop.time() - begun,
            time_ns=lambda: WALL_US * 1000 + int((loop.time() - begun) * 1e9),
        )
        patch.setattr(broadcast_module, "time", clock)
        patch.setattr(distributor_module, "time", clock)
        patch.setattr(broadcast_module, "Demand", partial(Demand, clock=loop.time))
        runner.run(main())
    return found[0]
