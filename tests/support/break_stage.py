"""A broadcast on a stage: scripted publishers through real timeline, session, distributor and packager, on a clock of
its own, with `encoder_double` for a transcoder; and a watch over all that viewers are given.

Every sample carries its session, track and number in its bytes, so what comes out can be told from what went in.
"""

from __future__ import annotations

import asyncio
import math
import re
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import pytest
from encoder_double import EncoderPool, picture_track, sound_track
from mpd_reader import Reader
from playlist_follower import Follower
from virtual_loop import VirtualLoop

from control import broadcast as broadcast_module
from control import distributor as distributor_module
from control.broadcast import Broadcast, State
from control.demand import Demand
from control.planning import Planning
from control.session import Session
from control.stream_settings import StreamSettings
from ingest.ports import EndReason, PublishRequest
from ingest.sample import UNWRAPPED_90K, RawClock, Sample
from ingest.timeline import Timeline
from media.clock import VIDEO_TIMESCALE
from media.codecs import audio_track, opus
from media.packet import Packet
from media.track import Codec, Kind, Track
from packager import render
from packager.cmaf import read
from packager.cuts import ORIGIN_S
from packager.hls import parse
from packager.hls.media_lint import Tape
from packager.model import Segment
from packager.presentation import Presentation
from packager.settings import PackagerSettings
from transcode.pool import Pool
from transcode.settings import TranscodeSettings

WALL_US = 1_800_000_000_000_000
SIZES = {"big": (1280, 720), "small": (640, 368)}
Id = tuple[int, int, int]
"""Session, track, number."""


@dataclass(frozen=True)
class Sound:
    """One audio track."""

    codec: Codec = Codec.AAC
    ahead_s: float = 0.0
    """How much earlier than the picture of the same time it arrives."""
    from_s: float = 0.0
    until_s: float = 1e9


@dataclass(frozen=True)
class Publisher:
    """One publishing session."""

    length_s: float = 8.0
    away_s: float = 3.0
    """After the one before went; below zero it takes over."""
    rate: Fraction | None = Fraction(25)
    """None: variable."""
    gop_s: float = 2.0
    bframes: int = 0
    size: str | None = "big"
    """None: no picture."""
    picture_from_s: float = 0.0
    picture_until_s: float = 1e9
    keyless_s: float = 0.0
    """How long it sends pictures before the first keyframe."""
    sounds: tuple[Sound, ...] = (Sound(),)
    clock: RawClock = UNWRAPPED_90K
    jumps: tuple[tuple[float, float], ...] = ()
    """(second of the session, seconds by which the stamps jump)."""
    stalls: tuple[tuple[float, float], ...] = ()
    """(second of the session, seconds for which the network holds everything back)."""
    resize_s: float | None = None
    """Where the picture gets another size."""


@dataclass(frozen=True)
class Deed:
    """Something that happens beside publishing."""

    at_s: float
    what: str
    """`ladder`, `die`, `ask`."""
    value: tuple[str, ...] = ()


@dataclass(frozen=True)
class Script:
    publishers: tuple[Publisher, ...]
    deeds: tuple[Deed, ...] = ()
    ladder: tuple[str, ...] = ("360p",)
    lag_s: float = 0.3
    rungs: str = "always"

    def starts(self) -> list[float]:
        found, end = [], 0.0
        for number, publisher in enumerate(self.publishers):
            start = end + publisher.away_s if number else 0.0
            found.append(max(start, found[-1] + 0.1 if found else 0.0))
            end = found[-1] + publisher.length_s
        return found


def _bytes(session: int, track: Track, number: int) -> bytes:
    ident = bytes((session, track.id)) + number.to_bytes(4, "big")
    if track.kind is Kind.VIDEO:
        return (7).to_bytes(4, "big") + b"\x65" + ident
    return b"\xfc" + ident  # Opus: a frame of 20 ms


def ident(data: bytes) -> Id:
    return data[-6], data[-5], int.from_bytes(data[-4:], "big")


def pictures(it: Publisher, number: int) -> Iterator[tuple[float, Sample]]:
    """(second of its arrival, sample) in decode order."""
    if it.size is None:
        return
    rate = it.rate or Fraction(30)
    first = math.ceil(it.picture_from_s * rate)
    last = math.ceil(min(it.length_s, it.picture_until_s) * rate)
    step = Fraction(1) / rate
    times = [n * step for n in range(first, last + it.bframes + 2)]
    if it.rate is None:  # the odd picture is late, and some are left out
        times = [t + (step / 3 if n % 7 == 3 else 0) for n, t in enumerate(times) if n % 11 != 5]
    sizes = [it.size, "small" if it.size == "big" else "big"]
    gop = max(1, round(it.gop_s * rate))
    keyless = round(it.keyless_s * rate)
    resized = False
    group: list[int] = []
    order: list[int] = []
    keys: set[int] = set()
    for n in range(len(times)):
        resize = it.resize_s is not None and not resized and float(times[n]) >= it.resize_s
        resized = resized or resize
        key = (n >= keyless and (n - keyless) % gop == 0) or resize
        if key:
            keys.add(n)
            order += [*group, n]  # a closed group of pictures
            group = []
        else:
            group.append(n)
            if len(group) > it.bframes:
                order += [group[-1], *group[:-1]]
                group = []
    delay = step if it.bframes else Fraction(0)
    hz = it.clock.hz
    track = replace(picture_track(0, *SIZES[sizes[0]]), frame_rate=it.rate)
    other = replace(picture_track(0, *SIZES[sizes[1]]), frame_rate=it.rate)
    for place, n in enumerate(order):
        dts, pts = times[min(place, len(times) - 1)], times[n] + delay
        if float(dts) >= min(it.length_s, it.picture_until_s):
            return
        used = other if it.resize_s is not None and float(times[n]) >= it.resize_s else track
        raw = round(dts * hz)
        yield float(dts), Sample(used, raw, _bytes(number, used, n), n in keys, cts=round(pts * hz) - raw)


def sounds(it: Publisher, number: int, place: int) -> Iterator[tuple[float, Sample]]:
    sound = it.sounds[place]
    track = replace(sound_track(100), id=100 + place)
    samples = 1024
    if sound.codec is Codec.OPUS:
        track, samples = audio_track(100 + place, Codec.OPUS, opus.build_head(opus.OpusHead(2))), 960
    step = Fraction(samples, 48_000)
    n = math.ceil(sound.from_s / step)
    while n * step < min(it.length_s + sound.ahead_s, sound.until_s):
        at = max(0.0, float(n * step) - sound.ahead_s)
        if at < it.length_s:
            yield at, Sample(track, round(n * step * it.clock.hz), _bytes(number, track, n))
        n += 1


def samples(it: Publisher, number: int) -> list[tuple[float, Sample]]:
    """All of a session in order of arrival."""
    found = [*pictures(it, number), *(s for place in range(len(it.sounds)) for s in sounds(it, number, place))]
    found.sort(key=lambda pair: pair[0])
    out = []
    for at, sample in found:
        jump = sum(by for when, by in it.jumps if at >= when)
        arrival = at
        for when, length in it.stalls:
            if when <= arrival < when + length:
                arrival = when + length
        assert sample.dts is not None
        raw = sample.dts + round((100 + jump) * it.clock.hz)
        out.append((arrival, replace(sample, dts=raw)))
    out.sort(key=lambda pair: pair[0])
    return out


class Watch:
    """Looks at all that viewers are given, whenever it changed."""

    def __init__(self, shown: Presentation) -> None:
        self.shown = shown
        self.follower = Follower(shown)
        self.reader = Reader(shown)
        self.faults: list[str] = []
        self.published: dict[str, dict[Id, tuple[int, int, Fraction]]] = {}
        """By rendition and sample: segment, discontinuity number, and when it is shown, seconds."""
        self.ends: dict[str, Fraction] = {}
        """By rendition: where in media what was published ends."""
        self.reads = True
        self._version = -1
        self._parts: dict[tuple[str, int], tuple[Any, ...]] = {}
        self._closed: dict[str, int] = {}
        self._tapes: dict[str, Tape] = {}
        self._eras: dict[int, set[int]] = {}
        self._clocks: dict[int, dict[str, float]] = {}
        self._starts: dict[int, tuple[str, Fraction]] = {}
        self._lengths: dict[tuple[str, int], str] = {}

    def fault(self, text: str) -> None:
        if text not in self.faults:
            self.faults.append(text)

    def look(self) -> None:
        if self.shown.version == self._version:
            return
        self._version = self.shown.version
        for name, window in self.shown.windows.items():
            for segment in window.shown[-4:]:
                self._segment(name, segment)
        self.follower.look()
        if self.reads:
            try:
                self.reader.look()
            except (AssertionError, KeyError) as error:
                self.reads = False
                self.fault(f"MPD: {error!r} in line {traceback.extract_tb(error.__traceback__)[-1].lineno}")

    def _segment(self, name: str, segment: Segment) -> None:
        if self._closed.get(name, -1) >= segment.msn:
            return
        before = self._parts.get((name, segment.msn), ())
        if any(old is not new for old, new in zip(before, segment.parts, strict=False)) or len(before) > len(
            segment.parts
        ):
            self.fault(f"{name}: parts of {segment.msn} changed")
        self._parts[name, segment.msn] = segment.parts
        if not segment.gap and segment.parts:
            start = Fraction(segment.start, segment.timescale)
            self._place(name, segment, start)
            for part in segment.parts[len(before) :]:
                self._part(name, segment, part)
        if segment.complete:
            self._closed[name] = segment.msn
            if not segment.gap:
                self._tape(name, segment)

    def _place(self, name: str, segment: Segment, start: Fraction) -> None:
        era = segment.boundary.discontinuities
        clock = segment.wall_us / 1e6 - float(start)
        first = self._clocks.setdefault(era, {}).setdefault("", clock)
        if abs(first - clock) > 0.005:
            self.fault(f"{name}: the clock of {segment.msn} in era {era} is off by {clock - first:+.3f} s")
        other, at = self._starts.setdefault(segment.msn, (name, start))
        if abs(at - start) > Fraction(1, 2):
            self.fault(f"{name}: {segment.msn} starts {float(start - at):+.3f} s from that of {other}")

    def _part(self, name: str, segment: Segment, part: Any) -> None:
        if part.gap:
            return
        scale = segment.timescale
        assert segment.init is not None
        for chunk in read.chunks(part.data):
            at = chunk.end
            body = part.data[: chunk.end]
            sizes = [s.size for s in chunk.samples]
            at -= sum(sizes)
            for sample in chunk.samples:
                found = ident(body[at : at + sample.size])
                at += sample.size
                shown = Fraction(sample.dts + sample.offset, scale)
                self._sample(name, segment, found, shown)
        self.ends[name] = Fraction(part.start + part.duration, scale)

    def _sample(self, name: str, segment: Segment, found: Id, shown: Fraction) -> None:
        era, boundary = segment.boundary.discontinuities, segment.boundary
        sessions = self._eras.setdefault(era, set())
        sessions.add(found[0])
        if len(sessions) > 1:
            self.fault(f"{name}: era {era} at {segment.msn} has sessions {sorted(sessions)}")
        known = self.published.setdefault(name, {})
        encoded_sound = segment.init is not None and segment.init.track.kind is Kind.AUDIO
        if found in known and not encoded_sound:
            self.fault(f"{name}: {found} twice, in {known[found][0]} and {segment.msn}")
        known[found] = segment.msn, era, shown
        following = self.shown.cut_at(segment.msn + 1)
        audio = encoded_sound
        slack = Fraction(1, 40) if audio else Fraction(1, 45_000)
        late = shown - Fraction(boundary.pts, VIDEO_TIMESCALE)
        if late < -slack:
            self.fault(f"{name}: {found} is {float(-late):.3f} s before its segment {segment.msn}")
        if following is not None and following.pts > boundary.pts:
            over = shown - Fraction(following.pts, VIDEO_TIMESCALE)
            if self.shown.own_cuts or following.discontinuity:
                slack = Fraction(55, 100)  # see `front.MAX_STRETCH_S`
            if over > slack:
                self.fault(f"{name}: {found} is {float(over):.3f} s behind the end of its segment {segment.msn}")

    def _tape(self, name: str, segment: Segment) -> None:
        tape = self._tapes.setdefault(name, Tape(2))
        assert segment.init is not None
        uri = segment.init.name
        if uri not in tape.headers:
            for note in tape.init(uri, segment.init.data):
                self.fault(f"{name}: {note.rule} {note.text}")
        window = self.shown.windows[name]
        playlist = parse.parse(render.media_playlist(self.shown, window, delta=False))
        assert isinstance(playlist, parse.MediaPlaylist)
        tag = next((t for t in playlist.segments if t.msn == segment.msn), None)
        if tag is None:
            return
        tag.map = uri
        parts = [(t, p.data) for t, p in zip(tag.parts, segment.parts, strict=False)]
        if any(p.gap for p in segment.parts):
            parts = []
        for note in tape.segment(tag, b"".join(p.data for p in segment.parts), parts):
            if note.rule == "APPLE 7.3" and self.shown.own_cuts:  # sound that came in between was dropped
                continue
            if note.rule == "4.4.4.1":  # where a publisher goes, reordered frames may be missing
                self._lengths[name, segment.msn] = f"{name}: {note.rule} {note.text}"
            else:
                self.fault(f"{name}: {note.rule} {note.text}{'' if note.must else ' (should)'}")

    def odd_lengths(self) -> list[str]:
        """Segments that do not last as long as they say, but for those that a break cut short."""
        found = []
        for (_, msn), text in self._lengths.items():
            following = self.shown.cut_at(msn + 1)
            if following is not None and not following.discontinuity and not self.shown.own_cuts:
                found.append(text)
        return found


@dataclass
class Sent:
    """What a session gave to the broadcast."""

    packets: dict[Id, tuple[float, Packet]] = field(default_factory=dict)


class Stage:
    """Plays a script."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.sent: dict[int, Sent] = {}
        self.checked = 0
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
            self.checked += sum(
                not any(at - calm < t < at + 1 + self.script.lag_s for t in troubles) for at, _ in sent.packets.values()
            )
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
