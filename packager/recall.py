"""What is written down beside the segments on disk, and how a presentation is made from it again after a restart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from media.clock import VIDEO_TIMESCALE
from media.errors import HeadraceError, MediaError
from media.rendition import Rendition
from media.track import Codec, Kind
from packager.archive import Restored
from packager.cmaf import read
from packager.grid import Grid
from packager.model import Boundary, Init, Segment

if TYPE_CHECKING:
    from packager.recorded import Recorded

UNSURE = 3
"""Segments that viewers may have seen, whole or in part, and that a crash kept from the disk."""


def describe(presentation: Recorded, grid: Grid, *, clean: bool) -> dict[str, Any]:
    """JSON-able. `clean`: nothing was shown that is not on disk."""
    return {
        "epoch": presentation.epoch,
        "start_us": presentation.start_us,
        "clean": clean,
        "events": presentation.events.count if clean else presentation.events_ahead,
        "dvr_window_s": presentation.dvr_window_s,
        "grid": [str(grid.length_s), str(grid.target_s), grid.segment_s],
        "renditions": [
            {"name": r.name, "kind": r.kind.value, "codec": r.codec.value, "passthrough": r.passthrough,
             "bitrate": r.bitrate, "width": r.width, "height": r.height,
             "frame_rate": str(r.frame_rate) if r.frame_rate else None, "language": r.language, "label": r.label,
             "default": r.default}
            for r in presentation.renditions
        ],
    }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Recalled:
    """What was on disk, read."""

    epoch: str
    start_us: int
    grid: Grid
    """As it was: PART-TARGET never changes."""
    renditions: tuple[Rendition, ...]
    """Those that were declared last."""
    segments: dict[str, list[Segment]]
    """By rendition, with their headers, all ending at the same number."""
    events: int
    """The last number that a timed event may have had."""


def parse(restored: Restored) -> Recalled:
    """Raises `MediaError` for what cannot be made sense of: a file that a power failure left empty, or that another
    version wrote."""
    meta = restored.meta
    try:
        found = grid(meta)
        kept = segments(restored, found.segment_s)
        events = int(meta.get("events", 0))
        return Recalled(str(meta["epoch"]), int(meta["start_us"]), found, renditions(meta), kept, events)
    except (HeadraceError, ValueError, LookupError, TypeError) as error:
        raise MediaError(f"The recording on disk cannot be read: {error}", slug="recording_unreadable") from error


def grid(meta: Mapping[str, Any]) -> Grid:
    """The grid as it was: PART-TARGET never changes."""
    length, target, segment_s = meta["grid"]
    return Grid(Fraction(length), Fraction(target), segment_s)


def renditions(meta: Mapping[str, Any]) -> tuple[Rendition, ...]:
    """The renditions that were declared last."""
    found = []
    for said in meta["renditions"]:
        rate = Fraction(said["frame_rate"]) if said["frame_rate"] else None
        kind, codec = Kind(said["kind"]), Codec(said["codec"])
        found.append(Rendition(**{**said, "kind": kind, "codec": codec, "frame_rate": rate}))
    return tuple(found)


def segments(restored: Restored, segment_s: int) -> dict[str, list[Segment]]:
    """Segments with their headers, all renditions ending at the same number; after a crash, gaps behind them."""
    made: dict[str, list[Segment]] = {}
    last = max(listed[-1].msn for listed in restored.segments.values() if listed)
    if not restored.meta.get("clean"):
        last += UNSURE
    longest = max(restored.segments.values(), key=lambda listed: (listed[-1].msn if listed else -1, len(listed)))
    boundaries = {s.msn: s.boundary for s in longest}
    for name, listed in restored.segments.items():
        inits = {init: Init(init, read.track(data), data) for init, data in restored.inits[name].items()}
        whole = [replace(s, init=inits.get(init)) for s, init in zip(listed, restored.init_names[name], strict=True)]
        while whole and whole[-1].msn < last:
            whole.append(_gap(whole[-1], boundaries, segment_s))
        made[name] = whole
    return made


def _gap(before: Segment, boundaries: dict[int, Boundary], segment_s: int) -> Segment:
    b, msn = before.boundary, before.msn + 1
    boundary = boundaries.setdefault(
        msn,
        Boundary(msn, b.pts + segment_s * VIDEO_TIMESCALE, b.wall_us + segment_s * 1_000_000, False, b.discontinuities),
    )
    start = before.start + before.duration
    length = segment_s * before.timescale
    return replace(
        before, boundary=boundary, start=start, duration=length, gap=True, stored=False, size_bytes=0, parts=()
    )
