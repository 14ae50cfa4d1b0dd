"""Renders a media playlist from a window: full, or as a delta update (RFC 8216bis 4.4.3 to 4.4.5, 6.2.5.1)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from packager.hls.text import decimal, instant, quoted, seconds
from packager.model import Init, Segment, Window, part_name, segment_name

HOLD_BACK_TARGETS = 3
SKIP_UNTIL_TARGETS = 6
"""CAN-SKIP-UNTIL in target durations, the least that the rules allow."""
PARTS_TARGETS = 3
"""Parts are listed for segments within this many target durations of the live edge."""

SPELLED_OUT = 2
"""Segments, the one in the making included: longer than a player that was not told in time waits to ask again."""

VERSION = 6
"""EXT-X-MAP in a playlist that is not I-frames only."""
VERSION_SKIP = 9
VERSION_SKIP_RANGES = 10
TAB = "\t"


@dataclass(frozen=True, slots=True)
class Report:
    """What a playlist says of another rendition (4.4.5.4)."""

    name: str
    msn: int
    part: int


def part_hold_back(part_target: Fraction) -> Fraction:
    """Three times PART-TARGET (APPLE 14.3)."""
    return 3 * part_target


def reports(windows: Iterable[Window], without: str) -> list[Report]:
    """Rendition reports of all playlists but one."""
    found = []
    for window in windows:
        if window.rendition.name != without:
            msn, part = window.last_part
            if msn >= 0:
                found.append(Report(window.rendition.name, msn, part))
    return found


def render(
    window: Window,
    others: Iterable[Report] = (),
    *,
    delta: bool = False,
    date_ranges: Iterable[str] = (),
    removed: Sequence[str] | None = None,
) -> bytes:
    """The playlist as UTF-8. With `delta`, older segments are skipped where there are any to skip. `date_ranges` are
    whole lines; where `removed` is given they are those of a delta update, and these the ids that left lately."""
    skipped = skippable(window.shown, window.target_s) if delta and not window.ended else 0
    shown = window.shown
    version = VERSION if not skipped else VERSION_SKIP if removed is None else VERSION_SKIP_RANGES
    lines = ["#EXTM3U", f"#EXT-X-VERSION:{version}"]
    lines += _header(window, shown)
    if skipped:
        gone = "" if removed is None else f",RECENTLY-REMOVED-DATERANGES={quoted(TAB.join(removed))}"
        lines.append(f"#EXT-X-SKIP:SKIPPED-SEGMENTS={skipped}{gone}")
    lines += date_ranges
    parts_from = _parts_from(window, shown)
    # A delta resolves by itself: its first segment states its map, as in a full playlist.
    init: Init | None = None
    texts = window.texts
    for place, segment in enumerate(shown[skipped:]):
        old = segment.msn < parts_from and segment.complete
        if old and place and segment.init is init and segment.msn in texts:
            lines.append(texts[segment.msn])
            continue
        if segment.init is not None and segment.init is not init:
            init = segment.init
            map_line = f'#EXT-X-MAP:URI="{init.name}"'
        else:
            map_line = ""
        made = _segment(window, segment, map_line, segment.msn >= parts_from)
        if old and place and not map_line:
            texts[segment.msn] = "\n".join(made)
        lines += made
    if window.ended:
        lines.append("#EXT-X-ENDLIST")
    else:
        msn, index = window.next_part
        opened = window.current
        if opened is not None and opened.init is not None and not opened.parts and opened.init is not init:
            lines.append(f'#EXT-X-PRELOAD-HINT:TYPE=MAP,URI="{opened.init.name}"')
        lines.append(f'#EXT-X-PRELOAD-HINT:TYPE=PART,URI="{part_name(window.epoch, msn, index)}"')
        lines += [_report(report) for report in others]
    lines.append("")
    return "\n".join(lines).encode()


def _header(window: Window, shown: tuple[Segment, ...]) -> list[str]:
    lines = [f"#EXT-X-TARGETDURATION:{window.target_s}"]
    if not window.ended:  # what has no parts any more has no PART-INF, which needs a PART-HOLD-BACK (4.4.3.8)
        lines.append(server_control(window))
        lines.append(f"#EXT-X-PART-INF:PART-TARGET={decimal(window.part_target)}")
    lines.append(f"#EXT-X-MEDIA-SEQUENCE:{shown[0].msn if shown else window.first_msn}")
    # Always present: any live stream may come to a discontinuity (APPLE 8.17).
    lines.append(f"#EXT-X-DISCONTINUITY-SEQUENCE:{window.discontinuity_sequence}")
    lines.append("#EXT-X-INDEPENDENT-SEGMENTS")
    if window.rewind and not window.ended:
        # Join at the live edge, as near as an ordinary join would be, and not where the window begins.
        lines.append(f"#EXT-X-START:TIME-OFFSET=-{decimal(part_hold_back(window.part_target))}")
    return lines


def server_control(window: Window) -> str:
    """The same in all playlists of a presentation, those of I pictures included (6.2.4)."""
    hold = decimal(part_hold_back(window.part_target))
    return (
        f"#EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES,PART-HOLD-BACK={hold},"
        f"CAN-SKIP-DATERANGES=YES,CAN-SKIP-UNTIL={SKIP_UNTIL_TARGETS * window.target_s}.0,"
        f"HOLD-BACK={HOLD_BACK_TARGETS * window.target_s}.0"
    )


def _segment(window: Window, segment: Segment, map_line: str, with_parts: bool) -> list[str]:
    lines = []
    # Tags that apply to the segment stand before its first part (4.4.4.9).
    if segment.boundary.discontinuity:
        lines.append("#EXT-X-DISCONTINUITY")
    if map_line:
        lines.append(map_line)
    lines.append(f"#EXT-X-PROGRAM-DATE-TIME:{instant(segment.wall_us)}")
    if segment.gap:
        lines.append("#EXT-X-GAP")
    if with_parts:
        for part in segment.parts:
            more = ",GAP=YES" if part.gap else ",INDEPENDENT=YES" if part.independent else ""
            lines.append(
                f"#EXT-X-PART:DURATION={seconds(part.duration, segment.timescale)},"
                f'URI="{part_name(window.epoch, segment.msn, part.index)}"{more}'
            )
    if segment.complete:
        lines.append(f"#EXTINF:{seconds(segment.duration, segment.timescale)},")
        lines.append(segment_name(window.epoch, segment.msn))
    return lines


def _report(report: Report) -> str:
    part = f",LAST-PART={report.part}" if report.part >= 0 else ""
    return f'#EXT-X-RENDITION-REPORT:URI="../{report.name}/media.m3u8",LAST-MSN={report.msn}{part}'


def _parts_from(window: Window, shown: tuple[Segment, ...]) -> int:
    """Lowest number of a segment whose parts are still listed."""
    if window.ended:
        return shown[-1].msn + 1 if shown else 0
    length = Fraction(0)
    for segment in reversed(shown):
        if length > PARTS_TARGETS * window.target_s:
            return segment.msn + 1
        length += Fraction(segment.duration, segment.timescale)
    return 0


def skips(window: Window) -> bool:
    """Whether a delta update of the window leaves anything out."""
    return not window.ended and skippable(window.shown, window.target_s) > 0


def skippable(shown: Sequence[Segment], target_s: int) -> int:
    """How many segments lie before the Skip Boundary, counted from the end of the last segment (6.2.5.1).

    None right behind a discontinuity, where the whole playlist is the answer, as it may always be: hls.js up to 1.5
    learns of a segment from its hint, takes the discontinuity before it for an error of the delta update, plays on as
    if there were none, and may stand still for good.
    """
    if any(segment.boundary.discontinuity for segment in shown[-SPELLED_OUT:]):
        return 0
    boundary = Fraction(SKIP_UNTIL_TARGETS * target_s)
    length = Fraction(0)
    for count, segment in enumerate(reversed(shown)):
        length += Fraction(segment.duration, segment.timescale)
        if length >= boundary:
            # `segment` reaches the boundary and stays; what is older goes.
            return len(shown) - count - 1
    return 0
