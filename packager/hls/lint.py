"""A strict validator of HLS and LL-HLS playlists: pure, works on any server's. `headrace lint` and the tests use it.

`check` looks at one playlist, `follow` at a playlist and its predecessor, `compare` at the playlists of one
presentation, `check_multivariant` at the list of variants. Each answers violations with the rule that they break:
section numbers of RFC 8216bis (draft -22), or APPLE for the HLS Authoring Specification.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal

from packager.hls.parse import MediaPlaylist, Multivariant, SegmentTag

ROUNDING = Decimal("0.001")
"""Seconds by which a sum of rounded durations may be off."""
CLOCK_SLACK = timedelta(milliseconds=25)
"""By how much EXT-X-PROGRAM-DATE-TIME may differ from the running sum of durations."""

APART = timedelta(milliseconds=500)
"""By how much segments of one number may lie apart in renditions that are cut alike."""


@dataclass(frozen=True, slots=True)
class Violation:
    """One broken rule."""

    rule: str
    text: str
    must: bool = True
    """False for a SHOULD."""


class _Notes(list[Violation]):
    def must(self, holds: object, rule: str, text: str) -> None:
        if not holds:
            self.append(Violation(rule, text))

    def should(self, holds: object, rule: str, text: str) -> None:
        if not holds:
            self.append(Violation(rule, text, must=False))


def check(playlist: MediaPlaylist) -> list[Violation]:
    """Rules that one media playlist must keep by itself."""
    notes = _Notes()
    target = playlist.target
    notes.must(target, "4.4.3.1", "EXT-X-TARGETDURATION is missing")
    for tag in ("TARGETDURATION", "MEDIA-SEQUENCE", "DISCONTINUITY-SEQUENCE", "PART-INF", "SERVER-CONTROL", "VERSION"):
        notes.must(playlist.counts.get(tag, 0) <= 1, "4.4", f"EXT-X-{tag} occurs more than once")
    needed = (
        10
        if playlist.removed_ranges is not None
        else 9
        if playlist.skipped
        else 6
        if any(s.map for s in playlist.segments)
        else 3
    )
    notes.must(playlist.version >= needed, "8", f"version {playlist.version} is too low, {needed} is needed")
    for segment in playlist.segments:
        _segment(notes, playlist, segment)
    _clock(notes, playlist.segments)
    _date_ranges(notes, playlist)
    if not playlist.skipped and not playlist.ended:
        notes.must(any(s.date_time for s in playlist.segments), "APPLE 8.4", "no EXT-X-PROGRAM-DATE-TIME")
        notes.should(playlist.discontinuity_sequence is not None, "APPLE 8.17", "no EXT-X-DISCONTINUITY-SEQUENCE")
    if playlist.part_target is not None:
        needed_too = "PART-HOLD-BACK" in playlist.control
        notes.must(needed_too, "4.4.3.8", "EXT-X-PART-INF without EXT-X-SERVER-CONTROL:PART-HOLD-BACK")
        if not playlist.ended:
            _low_latency(notes, playlist, playlist.part_target)
    if playlist.ended:
        notes.must(not playlist.hints, "4.4.5.3", "a preload hint after EXT-X-ENDLIST")
        notes.must(playlist.segments and playlist.segments[-1].uri, "4.4.3.4", "ENDLIST with an unfinished segment")
    return notes


def _segment(notes: _Notes, playlist: MediaPlaylist, segment: SegmentTag) -> None:
    name = f"segment {segment.msn}"
    notes.must(not segment.late_tags, "4.4.4.9", f"{name}: {', '.join(segment.late_tags)} after one of its parts")
    if segment.uri and playlist.target:
        whole = segment.duration.quantize(Decimal(1), ROUND_HALF_UP)
        notes.must(whole <= playlist.target, "4.4.3.1", f"{name} lasts {segment.duration} s")
        notes.must(segment.duration <= playlist.target + Decimal("0.5"), "APPLE 7.7", f"{name}: {segment.duration} s")
    if segment.discontinuity:
        notes.should(segment.date_time, "6.2.1", f"{name}: no date after EXT-X-DISCONTINUITY")
    limit = playlist.part_target
    notes.must(not segment.parts or limit, "4.4.3.7", "EXT-X-PART without EXT-X-PART-INF")
    for index, part in enumerate(segment.parts):
        if limit is None:
            break
        notes.must(part.duration <= limit, "4.4.4.9", f"part {segment.msn}.{index} lasts {part.duration} s")
        last = index == len(segment.parts) - 1
        exempt = last or part.independent or part.gap or segment.parts[index + 1].gap
        enough = part.duration >= limit * Decimal("0.85")
        notes.must(exempt or enough, "4.4.3.7", f"part {segment.msn}.{index} lasts only {part.duration} s")
    if segment.uri and segment.parts:
        total = sum((p.duration for p in segment.parts), Decimal(0))
        notes.must(abs(total - segment.duration) <= ROUNDING, "4.4.4.9", f"{name}: its parts last {total} s")


def _clock(notes: _Notes, segments: list[SegmentTag]) -> None:
    for before, after in itertools.pairwise(segments):
        if before.date_time is None or after.date_time is None or after.discontinuity or before.gap or after.gap:
            continue
        off = abs(after.date_time - before.date_time - timedelta(seconds=float(before.duration)))
        notes.must(off <= CLOCK_SLACK, "APPLE 8.4", f"the date of segment {after.msn} is off by {off}")


def _date_ranges(notes: _Notes, playlist: MediaPlaylist) -> None:
    known: dict[str, dict[str, str]] = {}
    for said in playlist.date_ranges:
        name = said.get("ID", "")
        notes.must(name, "4.4.5.1", "EXT-X-DATERANGE without ID")
        first = known.setdefault(name, said)
        notes.must("START-DATE" in first, "4.4.5.1", f"the date range {name} has no START-DATE")
        clash = any(first.get(key, value) != value for key, value in said.items())
        notes.must(not clash, "4.4.5.1", f"two date ranges {name} contradict each other")


def _low_latency(notes: _Notes, playlist: MediaPlaylist, part_target: Decimal) -> None:
    control, target = playlist.control, Decimal(playlist.target or 0)
    hold = Decimal(control.get("PART-HOLD-BACK", "0"))
    notes.must(hold >= 3 * part_target, "APPLE 14.3", f"PART-HOLD-BACK is {hold}, PART-TARGET {part_target}")
    if "HOLD-BACK" in control:
        notes.must(Decimal(control["HOLD-BACK"]) >= 3 * target, "4.4.3.8", "HOLD-BACK is below three target durations")
    if "CAN-SKIP-UNTIL" in control:
        skip = Decimal(control["CAN-SKIP-UNTIL"])
        notes.must(skip >= 6 * target, "4.4.3.8", "CAN-SKIP-UNTIL is below six target durations")
    notes.should(control.get("CAN-BLOCK-RELOAD") == "YES", "B.1", "no CAN-BLOCK-RELOAD")
    parts = [h for h in playlist.hints if h.get("TYPE") == "PART"]
    notes.must(len(parts) <= 1, "4.4.5.3", "more than one preload hint of a part")
    notes.should(len(parts) == 1, "B.1", "no preload hint of a part")
    listed = {part.uri for segment in playlist.segments for part in segment.parts}
    notes.must(not any(h.get("URI") in listed for h in parts), "4.4.5.3", "the hinted part is already listed")
    behind = Decimal(0)
    for segment in reversed(playlist.segments):
        notes.should(not segment.parts or behind <= 3 * target, "6.2.2", f"segment {segment.msn} still lists parts")
        behind += segment.duration if segment.uri else sum((p.duration for p in segment.parts), Decimal(0))
    for report in playlist.reports:
        notes.must("URI" in report, "4.4.5.4", "a rendition report without URI")
        notes.must("LAST-MSN" in report, "4.4.5.4", "a rendition report without LAST-MSN")


def merge(delta: MediaPlaylist, before: MediaPlaylist) -> tuple[MediaPlaylist | None, list[Violation]]:
    """The full playlist that a delta update stands for, given an earlier full one (6.2.5.1); None if it is too old."""
    notes = _Notes()
    known = {segment.msn: segment for segment in before.segments if segment.uri}
    numbers = range(delta.media_sequence, delta.media_sequence + delta.skipped)
    if any(n not in known for n in numbers):
        return None, notes
    skipped = [known[n] for n in numbers]
    kept = delta.segments
    if kept and skipped and not kept[0].map:
        kept[0].map, kept[0].map_range = skipped[-1].map, skipped[-1].map_range
    length = sum((s.duration if s.uri else sum((p.duration for p in s.parts), Decimal(0)) for s in kept), Decimal(0))
    if not skipped:
        return delta, notes
    boundary = Decimal(delta.control.get("CAN-SKIP-UNTIL", "0"))
    notes.must(
        length + ROUNDING >= boundary, "6.2.5.1", f"a delta skips to {length} s before the end, less than {boundary}"
    )
    count = delta.discontinuity_sequence or 0
    merged = []
    for segment in [*skipped, *kept]:
        count += segment.discontinuity
        merged.append(replace(segment, discontinuities=count))
    ranges = delta.date_ranges
    if delta.removed_ranges is not None:
        told = {said.get("ID") for said in ranges} | set(delta.removed_ranges)
        ranges = [said for said in before.date_ranges if said.get("ID") not in told] + ranges
    return replace(delta, segments=merged, skipped=0, date_ranges=ranges), notes


def follow(before: MediaPlaylist, after: MediaPlaylist) -> list[Violation]:
    """Rules between two full versions of one media playlist (6.2.1, 6.2.2)."""
    notes = _Notes()
    notes.must(
        after.target == before.target, "6.2.1", f"the target duration went from {before.target} to {after.target}"
    )
    if not after.ended:
        notes.must(after.part_target == before.part_target, "4.4.3.7", "PART-TARGET changed")
        notes.must(after.control == before.control, "4.4.3.8", "EXT-X-SERVER-CONTROL changed")
    notes.must(after.media_sequence >= before.media_sequence, "6.2.2", "EXT-X-MEDIA-SEQUENCE went back")
    notes.must(not before.ended or after.ended, "6.2.1", "EXT-X-ENDLIST was taken back")
    if not before.segments or not after.segments:
        return notes
    notes.must(
        after.segments[-1].msn >= before.segments[-1].msn, "6.2.1", "segments were taken from the end of the playlist"
    )
    was = {segment.msn: segment for segment in before.segments}
    for segment in after.segments:
        old = was.get(segment.msn)
        if old is not None:
            _same(notes, old, segment)
    removed = [s for s in before.segments if s.msn < after.media_sequence]
    if removed and after.media_sequence <= before.segments[-1].msn:
        gone = sum(s.discontinuity for s in removed)
        expected = (before.discontinuity_sequence or 0) + gone
        now = after.discontinuity_sequence or 0
        notes.must(now == expected, "6.2.2", f"EXT-X-DISCONTINUITY-SEQUENCE is {now}, not {expected}")
        left = sum((s.duration for s in after.complete), Decimal(0))
        notes.must(left >= 3 * (after.target or 0), "6.2.2", f"segments were removed although only {left} s are left")
        notes.should(len(after.complete) >= 6, "APPLE 8.11", "fewer than six segments")
    _hint_kept(notes, before, after)
    return notes


def _same(notes: _Notes, old: SegmentTag, new: SegmentTag) -> None:
    name = f"segment {new.msn}"
    if old.uri:
        notes.must(new.uri == old.uri and new.duration == old.duration, "6.2.1", f"{name} changed")
    notes.must(new.discontinuity == old.discontinuity, "6.2.1", f"{name}: its discontinuity changed")
    notes.must(new.discontinuities == old.discontinuities, "6.2.2", f"{name}: its discontinuity number changed")
    notes.must(new.map == old.map, "6.2.1", f"{name}: its map changed")
    notes.must(new.date_time == old.date_time, "6.2.1", f"{name}: its date changed")
    notes.must(new.gap or not old.gap, "6.2.1", f"{name} is no longer a gap")
    if new.parts:
        shared = new.parts[: len(old.parts)]
        notes.must(shared == old.parts or not old.parts, "6.2.1", f"{name}: its parts changed")
    else:
        notes.must(not old.parts or new.uri, "6.2.2", f"{name}: parts gone before it was complete")


def _hint_kept(notes: _Notes, before: MediaPlaylist, after: MediaPlaylist) -> None:
    """A hint is no promise: a server may leave it where its plans change (6.2.6). So nothing is said where
    it did, at a discontinuity or a gap; a server that guesses wrong in the midst of a stream costs requests."""
    hinted = next((h.get("URI") for h in before.hints if h.get("TYPE") == "PART"), None)
    last = before.segments[-1].msn
    newer = [s for s in after.segments if s.msn >= last]
    if hinted is None or after.ended or any(s.gap or (s.discontinuity and s.msn > last) for s in newer):
        return
    parts = [p.uri for s in newer for p in s.parts]
    seen = {p.uri for s in before.segments for p in s.parts}
    fresh = [uri for uri in parts if uri not in seen]
    notes.should(not fresh or fresh[0] == hinted, "4.4.5.3", f"the hinted part {hinted} did not come")


def compare(playlists: Mapping[str, MediaPlaylist]) -> list[Violation]:
    """Rules between the playlists of one presentation, taken at about the same time (6.2.4)."""
    notes = _Notes()
    live = list(playlists.values())
    notes.must(len({p.target for p in live}) <= 1, "6.2.4", "target durations differ")
    notes.must(len({tuple(sorted(p.control.items())) for p in live}) <= 1, "6.2.4", "EXT-X-SERVER-CONTROL differs")
    numbers: dict[int, int] = {}
    dates: dict[int, datetime] = {}
    for name, playlist in playlists.items():
        for segment in playlist.segments:
            if segment.date_time is not None and not segment.gap:
                off = abs(dates.setdefault(segment.msn, segment.date_time) - segment.date_time)
                notes.should(off <= APART, "6.2.4", f"{name}: segment {segment.msn} is {off} from that of others")
            said = numbers.setdefault(segment.msn, segment.discontinuities)
            notes.must(
                said == segment.discontinuities,
                "6.2.4",
                f"{name}: segment {segment.msn} has another discontinuity number",
            )
    return notes


def check_multivariant(playlist: Multivariant) -> list[Violation]:
    """Rules of the multivariant playlist (4.4.6; APPLE 8 and 9)."""
    notes = _Notes()
    notes.must(playlist.variants, "4.4.6", "no variants")
    notes.should(playlist.independent, "APPLE 9.11", "no EXT-X-INDEPENDENT-SEGMENTS")
    groups = {m.get("GROUP-ID", "") for m in playlist.media}
    for said, uri in playlist.variants:
        for name in ("BANDWIDTH", "CODECS", "AVERAGE-BANDWIDTH"):
            notes.must(name in said, "APPLE 9", f"{uri}: no {name}")
        video = any(
            c.split(".")[0] in ("avc1", "avc3", "hvc1", "hev1", "av01") for c in said.get("CODECS", "").split(",")
        )
        if video:
            notes.must("RESOLUTION" in said, "APPLE 9.2", f"{uri}: no RESOLUTION")
            notes.must("FRAME-RATE" in said, "APPLE 9.15", f"{uri}: no FRAME-RATE")
        if "AUDIO" in said:
            notes.must(said["AUDIO"] in groups, "4.4.6.2", f"{uri}: no such group {said['AUDIO']}")
        notes.must(int(said.get("AVERAGE-BANDWIDTH", 0)) <= int(said.get("BANDWIDTH", 0)), "4.4.6.2", f"{uri}: average")
        captions = said.get("CLOSED-CAPTIONS", "NONE")
        notes.must(
            captions == "NONE" or captions in groups, "4.4.6.2", f"{uri}: no such group of closed captions {captions}"
        )
    told = [said.get("CLOSED-CAPTIONS", "") for said, _ in playlist.variants]
    notes.must("NONE" not in told or set(told) == {"NONE"}, "4.4.6.2", "CLOSED-CAPTIONS=NONE in some variants only")
    _groups(notes, playlist.media)
    return notes


def _groups(notes: _Notes, media: Iterable[Mapping[str, str]]) -> None:
    defaults: dict[str, int] = {}
    chosen: set[tuple[str, str, str]] = set()
    names: set[tuple[str, str]] = set()
    for said in media:
        group, name = said.get("GROUP-ID", ""), said.get("NAME", "")
        notes.must(group and name, "4.4.6.1", "EXT-X-MEDIA without GROUP-ID or NAME")
        notes.must((group, name) not in names, "4.4.6.1.1", f"two renditions {name} in group {group}")
        names.add((group, name))
        notes.must("LANGUAGE" in said, "APPLE 8.10", f"{name}: no LANGUAGE")
        if said.get("DEFAULT") == "YES":
            defaults[group] = defaults.get(group, 0) + 1
            notes.must(said.get("AUTOSELECT", "YES") == "YES", "4.4.6.1", f"{name}: DEFAULT without AUTOSELECT")
        if said.get("TYPE") == "CLOSED-CAPTIONS":
            notes.must("INSTREAM-ID" in said and "URI" not in said, "4.4.6.1", f"{name}: no INSTREAM-ID, or a URI")
        if said.get("TYPE") == "AUDIO":
            kind = (group, said.get("LANGUAGE", ""), said.get("CHARACTERISTICS", ""))
            if said.get("AUTOSELECT") == "YES":
                notes.should(kind not in chosen, "4.4.6.1.1", f"{name}: another of its language has AUTOSELECT=YES")
                chosen.add(kind)
            notes.should("CHANNELS" in said, "4.4.6.1", f"{name}: no CHANNELS")
    notes.must(all(count == 1 for count in defaults.values()), "4.4.6.1", "more than one DEFAULT in a group")
