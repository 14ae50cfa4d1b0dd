"""The validator's second half: what is in the files, against what the playlists say of them. Pure.

`Tape` follows the segments of one media playlist: durations against the samples, parts against their segment, decode
times against the segment before, bit rates. `check_rates` and `check_codecs` hold a variant against its renditions.
Anything but fragmented MP4 is measured by its size and declared duration alone.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction

from media.errors import ProtocolError
from media.track import Kind
from packager.cmaf import read
from packager.hls.lint import Violation, _Notes
from packager.hls.parse import PartTag, SegmentTag

TOLERANCE_S = Fraction(1, 500)
"""Two milliseconds: declared durations are rounded."""
BLATANT_S = Fraction(1, 20)
"""Beyond this a wrong duration is heard and seen."""
PEAK_SLACK = Fraction(125, 100)
"""APPLE 1.29: by how much a live stream's measured peak may exceed BANDWIDTH."""
ROUNDED = Fraction(1001, 1000)
"""Declared durations are rounded, to a millisecond at the worst: so the rates measured by them are off, too."""
AVERAGE_SLACK = Fraction(110, 100)
"""APPLE 1.28, of an hour; here of whatever was seen, if it was a minute at least."""


class Tape:
    """The media of one playlist, in order."""

    def __init__(self, target_s: int) -> None:
        self.target_s = target_s
        self.header: read.Header | None = None
        self.headers: dict[str, read.Header] = {}
        self.peak = 0.0
        """Bits per second."""
        self.bits = 0
        self.seconds = 0.0
        self._recent: deque[tuple[int, float]] = deque(maxlen=16)
        self._end: tuple[str, int, int] | None = None
        """Map, segment number and decode time at which the newest segment ended."""

    @property
    def average(self) -> float:
        return self.bits / self.seconds if self.seconds else 0.0

    def init(self, uri: str, data: bytes) -> list[Violation]:
        """An initialisation segment."""
        notes = _Notes()
        try:
            self.header = self.headers[uri] = read.header(data)
        except ProtocolError as error:
            notes.must(False, "3.1.2", f"{uri}: {error.text}")
        return notes

    def segment(self, tag: SegmentTag, data: bytes, parts: Sequence[tuple[PartTag, bytes]] = ()) -> list[Violation]:
        """A complete segment, and those of its parts that were fetched by themselves (all, or none)."""
        notes = _Notes()
        self._rate(len(data) * 8, float(tag.duration))
        header = self.headers.get(tag.map)
        if header is None:
            return notes
        name = f"segment {tag.msn}"
        try:
            found = read.chunks(data, header.defaults)
        except ProtocolError as error:
            notes.must(False, "3.1.2", f"{name}: {error.text}")
            return notes
        notes.must(found, "3.1.2", f"{name} has no fragment")
        if not found:
            return notes
        self._times(notes, name, tag, header, found)
        if parts:
            self._parts(notes, tag, data, found, parts, header)
        return notes

    def _times(
        self, notes: _Notes, name: str, tag: SegmentTag, header: read.Header, found: Sequence[read.Chunk]
    ) -> None:
        scale = header.timescale
        length = Fraction(sum(c.duration for c in found), scale)
        shown = Fraction(max(c.shown_until for c in found) - min(c.shown_at for c in found), scale)
        if any(part.gap for part in tag.parts) or abs(shown - Fraction(tag.duration)) <= TOLERANCE_S:
            length = shown  # what counts is how long it is shown; reordering at a discontinuity may shorten the sum
        off = abs(length - Fraction(tag.duration))
        text = f"{name} says {tag.duration} s, its samples last {float(length):.5f} s"
        notes.must(off <= BLATANT_S, "4.4.4.1", text)
        notes.should(off <= TOLERANCE_S or off > BLATANT_S, "4.4.4.1", text)
        if header.kind is Kind.VIDEO:
            first = found[0].samples[:1]
            notes.must(first and first[0].sync, "APPLE 7.4", f"{name} does not begin with a sync sample")
        for before, after in itertools.pairwise(found):
            expected = before.base_time + before.duration
            hole = after.base_time - expected
            if hole > 0 and any(part.gap for part in tag.parts):
                continue
            notes.must(hole == 0, "CMAF 7.3.2.3", f"{name}: {hole / scale:+.4f} s between two fragments")
        start = found[0].base_time
        if self._end is not None and not tag.discontinuity and self._end[:2] == (tag.map, tag.msn - 1):
            hole = start - self._end[2]
            limit = scale // 1000  # ticks; servers that round to milliseconds are left alone
            notes.must(abs(hole) <= limit, "APPLE 7.3", f"{name}: decode times jump by {hole / scale:+.4f} s")
        self._end = tag.map, tag.msn, found[-1].base_time + found[-1].duration

    def _parts(
        self,
        notes: _Notes,
        tag: SegmentTag,
        data: bytes,
        found: Sequence[read.Chunk],
        parts: Sequence[tuple[PartTag, bytes]],
        header: read.Header,
    ) -> None:
        pieces: list[read.Chunk] = []
        for index, (part, body) in enumerate(parts):
            name = f"part {tag.msn}.{index}"
            try:
                chunks = read.chunks(body, header.defaults)
            except ProtocolError as error:
                notes.must(False, "4.4.4.9", f"{name}: {error.text}")
                return
            pieces += chunks
            length = Fraction(sum(c.duration for c in chunks), header.timescale)
            off = abs(length - Fraction(part.duration))
            if index == 0 and chunks:  # its first frames may be decoded in less time than they are shown
                reordered = Fraction(max(s.offset for c in chunks for s in c.samples), header.timescale)
                off = max(Fraction(0), off - max(Fraction(0), reordered))
            notes.must(
                off <= TOLERANCE_S, "4.4.4.9", f"{name} says {part.duration} s, its samples last {float(length):.5f} s"
            )
            sync = bool(chunks) and any(s.sync for c in chunks for s in c.samples)
            if header.kind is Kind.VIDEO:
                notes.must(sync or not part.independent, "4.4.4.9", f"{name} is INDEPENDENT and has no sync sample")
                first = bool(chunks and chunks[0].samples and chunks[0].samples[0].sync)
                notes.should(part.independent or not first, "4.4.4.9", f"{name} could be INDEPENDENT")
        if b"".join(body for _, body in parts) == data:
            return
        same = [s for c in pieces for s in c.samples] == [s for c in found for s in c.samples]
        notes.must(same, "4.4.4.9", f"segment {tag.msn} has other samples than its parts")

    def _rate(self, bits: int, seconds: float) -> None:
        if seconds <= 0:
            return
        self._recent.append((bits, seconds))
        self.bits += bits
        self.seconds += seconds
        total, length = 0, 0.0
        for more, longer in reversed(self._recent):
            total, length = total + more, length + longer
            if length > 1.5 * self.target_s:
                break
            if length >= 0.5 * self.target_s:
                self.peak = max(self.peak, total / length)


def check_rates(uri: str, said: Mapping[str, str], video: Tape | None, audios: Iterable[Tape]) -> list[Violation]:
    """One variant's BANDWIDTH and AVERAGE-BANDWIDTH against what was measured (4.1; APPLE 1.28, 1.29)."""
    notes = _Notes()
    tapes = [video] if video is not None else []
    loudest = max(audios, key=lambda t: t.peak, default=None)
    if loudest is not None:
        tapes.append(loudest)
    peak, average = sum(t.peak for t in tapes), sum(t.average for t in tapes)
    limit, usual = int(said.get("BANDWIDTH", 0)), int(said.get("AVERAGE-BANDWIDTH", 0))
    text = f"{uri}: a peak of {peak:.0f} bit/s, BANDWIDTH says {limit}"
    notes.must(peak <= limit * PEAK_SLACK, "APPLE 1.29", text)
    notes.should(peak <= limit * ROUNDED or peak > limit * PEAK_SLACK, "4.4.6.2", text)
    if usual and all(t.seconds >= 60 for t in tapes):
        notes.must(
            average <= usual * AVERAGE_SLACK,
            "APPLE 1.28",
            f"{uri}: {average:.0f} bit/s on average, AVERAGE-BANDWIDTH says {usual}",
        )
    return notes


def check_codecs(uri: str, said: Mapping[str, str], tapes: Iterable[Tape]) -> list[Violation]:
    """One variant's CODECS against the initialisation segments of its renditions (4.4.6.2)."""
    notes = _Notes()
    told = {word.strip() for word in said.get("CODECS", "").split(",")}
    for tape in tapes:
        for header in tape.headers.values():
            if header.codec:
                notes.must(header.codec in told, "4.4.6.2", f"{uri}: CODECS lacks {header.codec}")
    return notes
