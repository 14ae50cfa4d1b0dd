"""What the packager makes: parts, segments, and the immutable window from which playlists are rendered.

Times are integers in the rendition's own timescale, on the stream's timeline; wall clocks in microseconds since 1970.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

from media.clock import VIDEO_TIMESCALE
from media.rendition import Rendition
from media.track import Track


@dataclass(frozen=True, slots=True)
class Boundary:
    """A cut as the packager knows it: numbered across broadcasts, with the count of discontinuities so far."""

    msn: int
    pts: int
    """90 kHz, on the packaged timeline (see `cuts.ORIGIN_S`)."""
    wall_us: int
    discontinuity: bool
    discontinuities: int
    """How many cuts up to this one, itself included, are discontinuities."""
    since: int | None = None
    """Where, in 90 kHz, all ended that was before, if the publisher was away: what is shown between that and `pts`
    belongs to no segment."""


def absent_until(boundary: Boundary, following: Boundary | None, segment_s: int) -> int:
    """Where a segment ends of which there is nothing, in 90 kHz: at the next cut, where that is known and later.

    Before a discontinuity it ends after a nominal length at most, and where everything ended: the time without a
    publisher belongs to no segment, and would take it over the target duration (RFC 8216bis 4.4.3.1).
    """
    nominal = boundary.pts + segment_s * VIDEO_TIMESCALE
    if following is None or following.pts <= boundary.pts:
        return nominal
    if not following.discontinuity:
        return following.pts
    ended = following.pts if following.since is None or following.since <= boundary.pts else following.since
    return min(nominal, following.pts, ended)


@dataclass(frozen=True, slots=True)
class Init:
    """A CMAF header and the track that it describes."""

    name: str
    track: Track
    data: bytes


@dataclass(frozen=True, slots=True)
class Part:
    """One CMAF chunk: an LL-HLS part, and a piece of the segment's own bytes."""

    index: int
    start: int
    duration: int
    independent: bool
    data: bytes
    samples: int
    lead_bytes: int = 0
    """Up to the end of the first sample: what it takes to show an I picture alone."""

    @property
    def gap(self) -> bool:
        """Whether nothing came for this time: EXT-X-PART with GAP=YES."""
        return not self.data


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment of one rendition, complete or in the making; its bytes are its parts' bytes joined."""

    boundary: Boundary
    init: Init | None
    """None only for a gap before the rendition's first packet."""
    timescale: int
    start: int
    duration: int
    """Sum of the parts; for a gap, the time that is absent."""
    parts: tuple[Part, ...]
    complete: bool = False
    gap: bool = False
    size_bytes: int = 0
    stored: bool = False
    """Its bytes are on disk alone; `parts` is empty."""
    lead_bytes: int = 0
    """Of its first part."""

    @property
    def msn(self) -> int:
        return self.boundary.msn

    @property
    def wall_us(self) -> int:
        """Wall clock of the first sample: the cut's, moved by how far the sample lies from the cut."""
        cut_us = self.boundary.pts * 1_000_000 // 90_000
        return self.boundary.wall_us + self.start * 1_000_000 // self.timescale - cut_us


@dataclass(frozen=True, slots=True)
class Run:
    """Complete segments that follow each other without a hole, are equally long, have one header, and lie in one
    stretch between discontinuities; all gaps or none. A long window is told by few of them."""

    first: Segment
    """Without its parts: a run must not keep bytes in memory."""
    count: int

    @property
    def era(self) -> int:
        """Discontinuity number."""
        return self.first.boundary.discontinuities

    @property
    def end(self) -> int:
        """Where the last segment ends, ticks."""
        return self.first.start + self.first.duration * self.count

    def takes(self, segment: Segment) -> bool:
        """Whether `segment` goes on with this run."""
        one = self.first
        return (
            segment.msn == one.msn + self.count
            and segment.start == self.end
            and (segment.duration, segment.timescale, segment.gap) == (one.duration, one.timescale, one.gap)
            and (segment.init is one.init or (segment.init and segment.init.name) == (one.init and one.init.name))
            and segment.boundary.discontinuities == self.era
        )


@dataclass(frozen=True, slots=True)
class Window:
    """What is available of one rendition at one instant."""

    rendition: Rendition
    epoch: str
    """Goes into every file name, so that no two broadcasts share a URL."""
    version: int
    """Grows with every change; for entity tags."""
    target_s: int
    part_target: Fraction
    """Seconds; the same in all renditions and for all time."""
    segments: tuple[Segment, ...]
    """Complete ones, oldest first, without holes in their numbers."""
    current: Segment | None
    """The one being made, with the parts published so far."""
    ended: bool
    next_part: tuple[int, int]
    """(msn, index) of the part that is expected next."""
    first_msn: int
    texts: dict[int, str] = field(default_factory=dict, compare=False)
    """Lines of old segments as rendered before, by number: a long window is not written anew each time."""
    pictures: dict[int, str] = field(default_factory=dict, compare=False)
    """The same of the playlist of I pictures."""
    runs: tuple[Run, ...] = ()
    """`segments`, summed up."""
    length_s: float = 0.0
    """Of `segments`."""
    rewind: bool = False
    """Whether the window is much longer than a player should buffer: joining at its end must be said."""

    @property
    def last_complete(self) -> int:
        """Media sequence number of the last complete segment; one less than the first if there is none."""
        return self.segments[-1].msn if self.segments else self.first_msn - 1

    @property
    def last_part(self) -> tuple[int, int]:
        """(msn, index) of the newest part; index -1 where the newest thing is a segment without parts."""
        if self.current is not None and self.current.parts:
            return self.current.msn, len(self.current.parts) - 1
        return self.last_complete, len(self.segments[-1].parts) - 1 if self.segments else -1

    @property
    def shown(self) -> tuple[Segment, ...]:
        """Complete segments and the one being made, if it has parts."""
        if self.current is not None and self.current.parts:
            return (*self.segments, self.current)
        return self.segments

    @property
    def discontinuity_sequence(self) -> int:
        """EXT-X-DISCONTINUITY-SEQUENCE: discontinuities before the first listed segment, whose own still shows."""
        shown = self.shown
        if not shown:
            return self.current.boundary.discontinuities if self.current else 0
        first = shown[0].boundary
        return first.discontinuities - (1 if first.discontinuity else 0)


def segment_name(epoch: str, msn: int) -> str:
    """File name of a segment, relative to its rendition."""
    return f"seg-{epoch}-{msn}.m4s"


def part_name(epoch: str, msn: int, index: int) -> str:
    """File name of a part, relative to its rendition."""
    return f"part-{epoch}-{msn}.{index}.m4s"
