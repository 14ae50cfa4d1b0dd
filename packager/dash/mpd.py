"""Renders the MPD over the same segments as HLS: one manifest for low-latency and ordinary DASH players.

`$Number$` with a SegmentTimeline; Periods as `periods` tells them, whose start and presentationTimeOffset come from
the cut that opened them and so never change; availabilityTimeOffset with chunked delivery of the segment in the
making. When the broadcast has ended the MPD is static.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from xml.sax.saxutils import quoteattr

from media.clock import VIDEO_TIMESCALE, rescale
from media.codecs.captions import Captions
from media.track import Codec, Kind
from packager.dash.periods import Period
from packager.dash.timeline import foretold, runs_of
from packager.hls.multivariant import Entry
from packager.hls.text import instant
from packager.model import Run, Window
from packager.storyboard import tile_name

UTC_TIMING = '<UTCTiming schemeIdUri="urn:mpeg:dash:utc:http-iso:2014" value="time"/>'
"""Our own clock; without one dash.js asks a public server."""

_CONTINUITY = "urn:mpeg:dash:period-continuity:2015"
_CHANNELS = "urn:mpeg:dash:23003:3:audio_channel_configuration:2011"
_CAPTIONS = {
    Captions.CEA608: ("urn:scte:dash:cc:cea-608:2015", "CC1=und"),
    Captions.CEA708: ("urn:scte:dash:cc:cea-708:2015", "1=lang:und"),
}
"""SCTE 214-1 8.2.2: the scheme and who says what, in an unknown language."""
_VIDEO_SETS = {Codec.H264: 1, Codec.HEVC: 2, Codec.AV1: 3}
_AUDIO_SETS = 100
_PICTURES_SET = 200
_PICTURES_BANDWIDTH = 100_000
"""Bits per second, roughly: some 20 kB every two seconds."""
_TILES = "http://dashif.org/guidelines/thumbnail_tile"

PATCH_TTL_S = 30
"""How long a patch can be had from an MPD on."""

SPREAD_S = Fraction(1, 4)
"""How far apart the renditions of a Period may end, and a Period from the next, to count as the same instant."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What the MPD says of the presentation as a whole. Clocks in microseconds since 1970."""

    start_us: int
    """availabilityStartTime: wall clock of the first cut. Never changes."""
    published_us: int
    part_length: Fraction
    """Seconds."""
    latency_s: float
    ended: bool
    id: str = "headrace"
    """MPD@id: the same for all versions."""
    patch: str = ""
    """Where a patch from this MPD to the newest one can be had; empty for nowhere."""
    schemes: tuple[tuple[str, str], ...] = ()
    """Timed events that the segments may carry: (scheme, value)."""
    place: Callable[[str], int] = lambda rendition_name: 0
    """A number for each audio rendition, for the id of its AdaptationSet."""


@dataclass(frozen=True, slots=True)
class _Set:
    """One AdaptationSet: representations among which a player may switch."""

    id: int
    kind: Kind
    entries: list[Entry]


def render(told: Sequence[Period], windows: Mapping[str, Window], facts: Facts) -> bytes:
    """The MPD as UTF-8."""
    target_s = next(iter(windows.values())).target_s if windows else 2
    periods: list[str] = []
    total = Fraction(0)
    for position, period in enumerate(told):
        following = told[position + 1] if position + 1 < len(told) else None
        shown = _shown(period, following, windows)
        if not shown.runs:
            continue
        text, length = _period(shown, windows, facts, begin=total)
        periods.append(text)
        total += length
    head = ['<?xml version="1.0" encoding="UTF-8"?>', _root(facts, windows, target_s, total)]
    if not facts.ended:
        if facts.patch:
            head.append(f'<PatchLocation ttl="{PATCH_TTL_S}">{facts.patch}</PatchLocation>')
        latency_ms = round(facts.latency_s * 1000)
        head.append('<ServiceDescription id="0">')
        head.append(f'<Latency target="{latency_ms}" min="{latency_ms // 2}" max="{latency_ms * 2}" referenceId="1"/>')
        head.append('<PlaybackRate min="0.96" max="1.04"/></ServiceDescription>')
    tail = ["</MPD>", ""] if facts.ended else [UTC_TIMING, "</MPD>", ""]
    return "\n".join([*head, *periods, *tail]).encode()


def _root(facts: Facts, windows: Mapping[str, Window], target_s: int, total: Fraction) -> str:
    profiles = "urn:mpeg:dash:profile:isoff-live:2011,urn:mpeg:dash:profile:cmaf:2019"
    lengths = (run.first.duration / run.first.timescale for w in windows.values() for run in w.runs)
    longest = Fraction(max(lengths, default=0.0))
    longest = max(longest, Fraction(target_s))
    common = (
        f'<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" id="{facts.id}" minBufferTime="{_duration(2 * facts.part_length)}"'
        f' maxSegmentDuration="{_duration(longest)}"'
    )
    if facts.ended:
        return f'{common} type="static" profiles="{profiles}" mediaPresentationDuration="{_duration(total)}">'
    depth = Fraction(max((w.length_s for w in windows.values()), default=0.0))
    profiles += ",http://www.dashif.org/guidelines/low-latency-live-v5"
    return (
        f'{common} type="dynamic" profiles="{profiles}" availabilityStartTime="{instant(facts.start_us)}"'
        f' publishTime="{instant(facts.published_us)}" minimumUpdatePeriod="{_duration(Fraction(target_s, 2))}"'
        # No suggestedPresentationDelay: Shaka 5 adds it to the latency that ServiceDescription asks for.
        f' timeShiftBufferDepth="{_duration(max(depth, Fraction(target_s)))}">'
    )


@dataclass(frozen=True, slots=True)
class _Shown:
    """What is there now of a Period."""

    period: Period
    following: Period | None
    runs: dict[str, list[Run]]
    """By rendition; of those alone that have something."""

    @property
    def entries(self) -> list[Entry]:
        return [e for e in self.period.entries if e.rendition.name in self.runs]


def _shown(period: Period, following: Period | None, windows: Mapping[str, Window]) -> _Shown:
    found: dict[str, list[Run]] = {}
    for name, init in period.inits.items():
        window = windows.get(name)
        if window is None:
            continue
        runs = runs_of(window, init, period.cut.msn, period.until)
        if not runs and not window.ended:
            runs = foretold(window, period.cut)
        if runs:
            found[name] = runs
    return _Shown(period, following, found)


def _period(shown: _Shown, windows: Mapping[str, Window], facts: Facts, *, begin: Fraction) -> tuple[str, Fraction]:
    """The Period and its length in seconds (of what is listed)."""
    period, following = shown.period, shown.following
    origin = period.cut.pts
    if facts.ended:  # a recording: it starts with what is left
        origin = min(runs[0].first.boundary.pts for runs in shown.runs.values())
    zero = Fraction(origin, VIDEO_TIMESCALE)
    ends = [Fraction(runs[-1].end, runs[-1].first.timescale) for runs in shown.runs.values()]
    length = max(ends) - zero
    if following is not None and following.follows:
        length = Fraction(following.cut.pts, VIDEO_TIMESCALE) - zero
    if facts.ended:
        times = f'start="{_duration(begin)}" duration="{_duration(length)}"'
    else:
        times = f'start="{_duration(period.start_s)}"'
        if following is not None and not following.follows:
            # Where a publisher was away, media ends before the next Period starts. dash.js 5 asks for that next one
            # only after the last segment has reached the end of this one; a few milliseconds short are enough to wait
            # for ever, hence the end that comes first.
            whole = min(end for end in ends if end > max(ends) - SPREAD_S) - zero
            if following.start_s - period.start_s - whole > SPREAD_S:
                times += f' duration="{_duration(Fraction(int(whole * 1000), 1000))}"'
    lines = [f'<Period id="{period.id}" {times}>']
    for group in _sets(shown.entries, facts):
        lines += _adaptation_set(group, windows, shown, facts, origin, _continues(group, period, facts))
    lines += _pictures(shown, facts, origin)
    lines.append("</Period>")
    return "\n".join(lines), length


def _sets(entries: Sequence[Entry], facts: Facts) -> list[_Set]:
    sets: dict[int, _Set] = {}
    for entry in entries:
        number = _set_number(entry, facts)
        sets.setdefault(number, _Set(number, entry.rendition.kind, [])).entries.append(entry)
    return list(sets.values())


def _set_number(entry: Entry, facts: Facts) -> int:
    if entry.rendition.kind is Kind.VIDEO:
        return _VIDEO_SETS.get(entry.track.codec, 9)
    return _AUDIO_SETS + facts.place(entry.rendition.name)


def _pictures(shown: _Shown, facts: Facts, origin: int) -> list[str]:
    """The storyboard as a track of JPEGs (DASH-IF IOP 4.3, 6.2.6): a picture to each segment of the video. One that is
    asked for before it is made is answered 404."""
    pictures = shown.period.pictures
    video = next((e for e in shown.entries if e.rendition.kind is Kind.VIDEO), None)
    if pictures is None or video is None:
        return []
    scale = video.track.timescale
    runs = shown.runs[video.rendition.name]
    return [
        f'<AdaptationSet id="{_PICTURES_SET}" contentType="image" mimeType="image/jpeg">',
        f'<Representation id="storyboard" bandwidth="{_PICTURES_BANDWIDTH}" width="{pictures.width}"'
        f' height="{pictures.height}">',
        f'<EssentialProperty schemeIdUri="{_TILES}" value="1x1"/>',
        f'<SegmentTemplate timescale="{scale}" presentationTimeOffset="{rescale(origin, VIDEO_TIMESCALE, scale)}"'
        f' media="{tile_name(facts.id, "$Number$")}" startNumber="{runs[0].first.msn}">',
        *_timeline(runs),
        "</SegmentTemplate></Representation></AdaptationSet>",
    ]


def _continues(group: _Set, period: Period, facts: Facts) -> str:
    """Id of the Period before where the set goes on from it: no other header is needed (ISO/IEC 23009-1 5.3.2.4)."""
    names = [e.rendition.name for e in period.entries if _set_number(e, facts) == group.id]
    same = [period.same[name] for name in names if name in period.same]
    return period.follows if same and all(same) else ""


def _adaptation_set(
    group: _Set,
    windows: Mapping[str, Window],
    shown: _Shown,
    facts: Facts,
    origin: int,
    continues: str,
) -> list[str]:
    first = group.entries[0]
    rendition, track = first.rendition, first.track
    offset = rescale(origin, VIDEO_TIMESCALE, track.timescale)
    target = windows[rendition.name].target_s
    video = group.kind is Kind.VIDEO
    attributes = f'id="{group.id}" contentType="{group.kind.value}" mimeType="{group.kind.value}/mp4"'
    attributes += ' segmentAlignment="true" startWithSAP="1"'
    if rendition.language != "und":
        attributes += f" lang={quoteattr(rendition.language)}"
    lines = [f"<AdaptationSet {attributes}>"]
    if not video:
        lines.append(f'<AudioChannelConfiguration schemeIdUri="{_CHANNELS}" value="{max(1, track.channels)}"/>')
    if continues:
        lines.append(f'<SupplementalProperty schemeIdUri="{_CONTINUITY}" value="{continues}"/>')
    if video or not any(e.rendition.kind is Kind.VIDEO for e in shown.entries):
        lines += [
            f"<InbandEventStream schemeIdUri={quoteattr(scheme)}{f' value={quoteattr(value)}' if value else ''}/>"
            for scheme, value in facts.schemes
        ]
    if rendition.label:
        lines.append(f"<Label>{_text(rendition.label)}</Label>")
    early = ""
    if not facts.ended:
        opened_us = facts.start_us + int(shown.period.start_s * 1_000_000)
        lines.append(
            f'<ProducerReferenceTime id="{group.id}" inband="true" type="captured"'
            f' wallClockTime="{instant(opened_us)}" presentationTime="{offset}">'
            f"{UTC_TIMING}</ProducerReferenceTime>"
        )
        early = f' availabilityTimeOffset="{_decimal(target - facts.part_length)}" availabilityTimeComplete="false"'
    if not video:
        role = "main" if rendition.default or group.id == _AUDIO_SETS else "alternate"
        lines.append(f'<Role schemeIdUri="urn:mpeg:dash:role:2011" value="{role}"/>')
    captions = next((e.captions for e in group.entries if e.captions is not None), None)
    if captions is not None:
        scheme, value = _CAPTIONS[captions]
        lines.append(f'<Accessibility schemeIdUri="{scheme}" value="{value}"/>')
    epoch = windows[rendition.name].epoch
    lines.append(
        f'<SegmentTemplate timescale="{track.timescale}" presentationTimeOffset="{offset}"'
        f' media="$RepresentationID$/seg-{epoch}-$Number$.m4s"{early}/>'
    )
    for entry in group.entries:
        name = entry.rendition.name
        init = shown.period.inits[name]  # also where what was foretold, or sleeps, has another by now
        lines += _representation(entry, windows[name], init, shown.runs[name], offset)
    lines.append("</AdaptationSet>")
    return lines


def _representation(entry: Entry, window: Window, init: str, runs: list[Run], offset: int) -> list[str]:
    track, name = entry.track, entry.rendition.name
    attributes = f'id={quoteattr(name)} bandwidth="{entry.peak}" codecs={quoteattr(entry.codec)}'
    if track.kind is Kind.VIDEO:
        aspect = track.sample_aspect
        attributes += f' width="{track.width}" height="{track.height}" sar="{aspect.numerator}:{aspect.denominator}"'
        if entry.frame_rate:
            rate = entry.frame_rate.limit_denominator(1001)
            attributes += f' frameRate="{rate.numerator}/{rate.denominator}"'
    else:
        attributes += f' audioSamplingRate="{track.sample_rate}"'
    lines = [f"<Representation {attributes}>"]
    # VLC 3.0 takes nothing over from the AdaptationSet's template, so what it needs stands here again.
    lines.append(
        f'<SegmentTemplate timescale="{track.timescale}" presentationTimeOffset="{offset}"'
        f' media="$RepresentationID$/seg-{window.epoch}-$Number$.m4s"'
        f' initialization="$RepresentationID$/{init}"'
        f' startNumber="{runs[0].first.msn}">'
    )
    return [*lines, *_timeline(runs), "</SegmentTemplate></Representation>"]


def _timeline(runs: list[Run]) -> list[str]:
    lines = ["<SegmentTimeline>"]
    end: int | None = None
    for run in runs:
        start = f' t="{run.first.start}"' if run.first.start != end else ""
        repeat = f' r="{run.count - 1}"' if run.count > 1 else ""
        lines.append(f'<S{start} d="{run.first.duration}"{repeat}/>')
        end = run.end
    return [*lines, "</SegmentTimeline>"]


def _duration(seconds: Fraction) -> str:
    return f"PT{_decimal(seconds)}S"


def _decimal(seconds: Fraction) -> str:
    micros = round(max(seconds, Fraction(0)) * 1_000_000)
    text = f"{micros // 1_000_000}.{micros % 1_000_000:06d}".rstrip("0")
    return text + "0" if text.endswith(".") else text


def _text(value: str) -> str:
    return value.replace("&", "&amp;").replace("<", "&lt;")
