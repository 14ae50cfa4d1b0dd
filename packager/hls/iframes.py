"""Renders the I-frame playlist of a video rendition: the first picture of each segment, as a byte range (4.4.3.6)."""

from __future__ import annotations

from packager.hls.media_playlist import VERSION_SKIP, server_control, skippable
from packager.hls.text import instant, seconds
from packager.model import Init, Segment, Window, segment_name

VERSION = 6
RECENT = 30
"""Segments of which the bit rate of pictures is taken."""


def peak(window: Window) -> int:
    """Bits per second of the I pictures, where the largest follow each other; 0 without a whole segment."""
    rates = [s.lead_bytes * 8 * s.timescale // s.duration for s in window.segments[-RECENT:] if _shows(s)]
    return max(rates, default=0)


def render(window: Window, *, delta: bool = False) -> bytes:
    """The playlist as UTF-8: whole segments only, each shown from its start to the next one's. With `delta`, older ones
    are skipped where there are any to skip; date ranges are in the other playlists alone."""
    skipped = skippable(window.segments, window.target_s) if delta and not window.ended else 0
    first = window.segments[0] if window.segments else None
    sequence = window.discontinuity_sequence if first is not None else 0
    lines = [
        "#EXTM3U",
        f"#EXT-X-VERSION:{VERSION_SKIP if skipped else VERSION}",
        f"#EXT-X-TARGETDURATION:{window.target_s}",
        f"#EXT-X-MEDIA-SEQUENCE:{first.msn if first else window.first_msn}",
        f"#EXT-X-DISCONTINUITY-SEQUENCE:{sequence}",
        "#EXT-X-I-FRAMES-ONLY",
    ]
    if not window.ended:
        lines.insert(3, server_control(window))
    if skipped:
        lines.append(f"#EXT-X-SKIP:SKIPPED-SEGMENTS={skipped}")
    init: Init | None = None
    texts = window.pictures
    for segment in window.segments[skipped:]:
        if segment.init is init and segment.msn in texts:
            lines.append(texts[segment.msn])
            continue
        start, fresh = len(lines), segment.init is not None and segment.init is not init
        if segment.boundary.discontinuity:
            lines.append("#EXT-X-DISCONTINUITY")
        if segment.init is not None and segment.init is not init:
            init = segment.init
            lines.append(f'#EXT-X-MAP:URI="{init.name}"')
        lines.append(f"#EXT-X-PROGRAM-DATE-TIME:{instant(segment.wall_us)}")
        if not _shows(segment):
            lines.append("#EXT-X-GAP")
        lines.append(f"#EXTINF:{seconds(segment.duration, segment.timescale)},")
        lines.append(f"#EXT-X-BYTERANGE:{max(1, segment.lead_bytes)}@0")
        lines.append(segment_name(window.epoch, segment.msn))
        if not fresh:
            texts[segment.msn] = "\n".join(lines[start:])
    if window.ended:
        lines.append("#EXT-X-ENDLIST")
    lines.append("")
    return "\n".join(lines).encode()


def _shows(segment: Segment) -> bool:
    return not segment.gap and segment.lead_bytes > 0 and segment.duration > 0
