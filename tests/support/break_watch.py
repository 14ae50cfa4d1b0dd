"""A watch over all that viewers are given, at every step: see `break_stage`."""

from __future__ import annotations

import traceback
from fractions import Fraction
from typing import Any

from break_script import Id, ident
from mpd_reader import Reader
from playlist_follower import Follower

from media.clock import VIDEO_TIMESCALE
from media.track import Kind
from packager import render
from packager.cmaf import read
from packager.hls import parse
from packager.hls.media_lint import Tape
from packager.model import Segment
from packager.presentation import Presentation


class Watch:
    """Looks at all that viewers are given, whenever it changed."""

    def __init__(self, shown: Presentation) -> None:
        self.shown = shown
        self.follower = Follower(shown)
        self.reader = Reader(shown)
        self.faults: list[str] = []
        self.published: dict[str, dict[Id, tuple[int, int, Fraction]]] = {}
        """By rendition and sample: segment, discontinuity number, and when it is shown, seconds."""
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
