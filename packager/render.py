"""From a presentation to playlist bytes: rendered once for each change, shared by all who ask."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from media.rendition import Rendition
from media.track import Kind
from packager import storyboard as board
from packager.dash import mpd as dash
from packager.dash import patch as dash_patch
from packager.dash.periods import Period, Pictures
from packager.grid import nominal_rate
from packager.hls import iframes
from packager.hls import media_playlist as hls
from packager.hls import multivariant as master
from packager.model import Window
from packager.presentation import Presentation


def media_playlist(presentation: Presentation, window: Window, *, delta: bool, skip_ranges: bool = False) -> bytes:
    """One rendition's playlist, with reports of the others. `skip_ranges`: a delta leaves date ranges out, too."""
    name = window.rendition.name
    skip_ranges = delta and skip_ranges and hls.skips(window)
    key = (name, delta, skip_ranges)
    body = presentation.rendered.get(key)
    if body is None:
        shown = {r.name for r in presentation.renditions}
        others = hls.reports((w for n, w in presentation.windows.items() if n in shown), name)
        ranges, removed = presentation.date_ranges(delta=skip_ranges)
        body = presentation.rendered[key] = hls.render(
            window, others, delta=delta, date_ranges=ranges, removed=removed if skip_ranges else None
        )
    return body


def iframe_playlist(presentation: Presentation, window: Window, *, delta: bool = False) -> bytes:
    """One video rendition's I pictures."""
    key = (window.rendition.name, "iframes", delta)
    body = presentation.rendered.get(key)
    if body is None:
        body = presentation.rendered[key] = iframes.render(window, delta=delta)
    return body


def multivariant(presentation: Presentation) -> bytes:
    """The list of renditions that have something to show."""
    body = presentation.rendered.get("multivariant")
    if body is None:
        body = presentation.rendered["multivariant"] = master.render(entries(presentation))
    return body


def storyboard(presentation: Presentation) -> bytes:
    """WebVTT of the pictures that there are."""
    body = presentation.rendered.get("storyboard")
    if body is None:
        windows = presentation.windows.values()
        window = max(windows, key=lambda w: (w.rendition.kind is Kind.VIDEO, len(w.segments)), default=None)
        segments = window.segments if window is not None else ()
        body = presentation.rendered["storyboard"] = board.render(
            presentation.storyboard.tiles,
            segments,
            presentation.epoch,
            presentation.start_us,
            ended=presentation.ended,
        )
    return body


def mpd(presentation: Presentation) -> bytes:
    """The DASH manifest."""
    body = presentation.rendered.get("mpd")
    if body is None:
        facts = dash.Facts(
            start_us=presentation.start_us,
            published_us=presentation.published_us,
            part_length=presentation.part_length,
            latency_s=presentation.settings.latency_target_s,
            ended=presentation.ended,
            schemes=tuple(presentation.events.schemes),
            place=presentation.periods.place,
            id=presentation.epoch,
            patch=f"patch-{presentation.epoch}-{presentation.published_us // 1000}.mpp",
        )
        body = presentation.rendered["mpd"] = dash.render(_periods(presentation), presentation.listed, facts)
        if not presentation.ended:
            presentation.bases[presentation.published_us // 1000] = body
            while len(presentation.bases) > MAX_BASES:
                presentation.bases.pop(next(iter(presentation.bases)))
    return body


def _periods(presentation: Presentation) -> Sequence[Period]:
    """Also of renditions that are no longer declared: what was made of them stays in its Period."""
    declared = presentation.renditions
    names = {r.name for r in declared}
    tiles = presentation.storyboard.tiles
    gone = [w.rendition for n, w in presentation.listed.items() if n not in names]
    return presentation.periods.update(
        _entries(presentation, (*declared, *gone)),
        presentation.listed,
        presentation.goes_on(),
        presentation.cut_at,
        presentation.eras,
        presentation.start_us,
        lambda msn: Pictures(tiles[-1].width, tiles[-1].height) if tiles and tiles[0].msn <= msn else None,
    )


MAX_BASES = 64
"""MPDs from which a patch can be made: half a minute of two a second, which is as often as caches ask."""


def mpd_patch(presentation: Presentation, published_ms: int) -> bytes:
    """From the MPD of that publishTime to the newest one; where there is none, what makes a player ask for that."""
    newest = mpd(presentation)
    base = presentation.bases.get(published_ms)
    key = ("patch", published_ms)
    body = presentation.rendered.get(key)
    if body is None:
        made = None
        if base is not None and not presentation.ended:
            made = dash_patch.patch(base.decode(), newest.decode(), presentation.epoch)
        body = made or dash_patch.inapplicable(presentation.epoch, presentation.published_us)
        presentation.rendered[key] = body
    return body


JOIN_SEGMENTS = 3
"""Where a player that joins begins, counted from the end (RFC 8216bis 6.3.3)."""


def entries(presentation: Presentation) -> list[master.Entry]:
    """Declared renditions with a first part, in declared order, with what was measured of them.

    A video rendition that has only gaps where a player joins (a rung that was shed) is not offered while another
    one is whole: players that know no EXT-X-GAP, ffmpeg among them, would fail to open the stream.
    """
    # Until one of those that are declared has something to show, what was offered before stays.
    past = [window.rendition for window in presentation.listed.values()]
    found = _entries(presentation, presentation.renditions) or _entries(presentation, past)
    whole = [e for e in found if not _absent(presentation.listed[e.rendition.name])]
    has_video = any(e.rendition.kind is Kind.VIDEO for e in whole)
    return [e for e in found if e in whole or e.rendition.kind is Kind.AUDIO or not has_video]


def _absent(window: Window) -> bool:
    return all(segment.gap for segment in window.shown[-JOIN_SEGMENTS:])


def _entries(presentation: Presentation, renditions: Sequence[Rendition]) -> list[master.Entry]:
    found = []
    windows = presentation.listed
    for rendition in renditions:
        window, track = windows.get(rendition.name), presentation.track(rendition.name)
        if window is None or track is None or not window.shown:
            continue
        rates = presentation.rates[rendition.name]
        rate = nominal_rate(rendition, track) or _measured(window)
        peak, average = rates.peak(window.current), rates.average(window.current)
        pictures = iframes.peak(window) if rendition.kind is Kind.VIDEO else 0
        captions = presentation.captions(rendition.name)
        found.append(master.Entry(rendition, track, peak, average, rate, pictures, captions))
    return found


def _measured(window: Window) -> Fraction | None:
    """Frames per second of the newest segment with parts."""
    for segment in reversed(window.shown):
        if segment.parts and segment.duration:
            return Fraction(sum(p.samples for p in segment.parts) * segment.timescale, segment.duration)
    return None
