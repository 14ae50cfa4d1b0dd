"""Renders the MPD over the same segments as HLS: one manifest for low-latency and ordinary DASH players.

`$Number$` with a SegmentTimeline; one Period for each stretch between discontinuities, whose start and
presentationTimeOffset come from the cut that opened it and so never change; availabilityTimeOffset with chunked
delivery of the segment in the making. When the broadcast has ended the MPD is static.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from xml.sax.saxutils import quoteattr

from media.clock import VIDEO_TIMESCALE, rescale
from media.track import Codec, Kind
from packager.dash.timeline import eras_of, runs_of
from packager.hls.multivariant import Entry
from packager.hls.text import instant
from packager.model import Boundary, Run, Window

UTC_TIMING = '<UTCTiming schemeIdUri="urn:mpeg:dash:utc:http-iso:2014" value="time"/>'
"""Our own clock; without one dash.js asks a public server."""

_CHANNELS = "urn:mpeg:dash:23003:3:audio_channel_configuration:2011"
_VIDEO_SETS = {Codec.H264: 1, Codec.HEVC: 2, Codec.AV1: 3}
_AUDIO_SETS = 100

PATCH_TTL_S = 30
"""How long a patch can be had from an MPD on."""

SPREAD_S = Fraction(1, 4)
"""How far apart the renditions of a Period may end, and a Period from the next, to count as the same instant."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What the MPD says of the presentation as a whole. Clocks in microseconds since 1970."""

    start_us: int
    """availabilityStartTime: wall clock of the first cut. Never changes."""
    eras: Mapping[int, Boundary]
    """For each discontinuity number the cut that opened it."""
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


@dataclass(frozen=True, slots=True)
class _Set:
    """One AdaptationSet: representations among which a player may switch."""

    id: int
    kind: Kind
    entries: list[Entry]


def render(entries: Sequence[Entry], windows: Mapping[str, Window], facts: Facts) -> bytes:
    """The MPD as UTF-8. Every entry has a window."""
    target_s = next(iter(windows.values())).target_s if windows else 2
    shown: set[int] = set().union(*(eras_of(windows[e.rendition.name]) for e in entries))
    eras = sorted(shown & set(facts.eras))
    periods: list[str] = []
    total = Fraction(0)
    for position, era in enumerate(eras):
        following = eras[position + 1] if position + 1 < len(eras) else None
        found = _period(entries, windows, facts, era, following, begin=total)
        if found is not None:
            periods.append(found[0])
            total += found[1]
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


def _period(
    entries: Sequence[Entry],
    windows: Mapping[str, Window],
    facts: Facts,
    era: int,
    following: int | None,
    *,
    begin: Fraction,
) -> tuple[str, Fraction] | None:
    """The Period and its length in seconds (of what is listed); None where nothing of it is left."""
    listed = {e.rendition.name: runs_of(windows[e.rendition.name], era) for e in entries}
    shown = [e for e in entries if listed[e.rendition.name]]
    if not shown:
        return None
    opened = facts.eras[era]
    origin = opened.pts
    ends = [_end(listed[e.rendition.name][-1]) for e in shown]
    if facts.ended:  # a recording: it starts with what is left
        firsts = [listed[e.rendition.name][0].first.boundary.pts for e in shown]
        origin = min(firsts)
        start = begin
        length = max(ends) - Fraction(origin, VIDEO_TIMESCALE)
        times = f'start="{_duration(start)}" duration="{_duration(length)}"'
    else:
        start = Fraction(opened.wall_us - facts.start_us, 1_000_000)
        length = max(ends) - Fraction(origin, VIDEO_TIMESCALE)
        times = f'start="{_duration(start)}"'
        if following is not None:
            # Where a publisher was away, media ends before the next Period starts. dash.js 5 asks for that next one
            # only after the last segment has reached the end of this one; a few milliseconds short are enough to wait
            # for ever, hence the end that comes first.
            whole = min(end for end in ends if end > max(ends) - SPREAD_S) - Fraction(origin, VIDEO_TIMESCALE)
            away = Fraction(facts.eras[following].wall_us - opened.wall_us, 1_000_000) - whole
            if away > SPREAD_S:
                times += f' duration="{_duration(Fraction(int(whole * 1000), 1000))}"'
    lines = [f'<Period id="p{era}" {times}>']
    for group in _sets(shown):
        lines += _adaptation_set(group, windows, listed, facts, opened, origin)
    lines.append("</Period>")
    return "\n".join(lines), length


def _sets(entries: Sequence[Entry]) -> list[_Set]:
    sets: dict[int, _Set] = {}
    for entry in entries:
        if entry.rendition.kind is Kind.VIDEO:
            number = _VIDEO_SETS.get(entry.track.codec, 9)
        else:
            number = _AUDIO_SETS + entry.order
        sets.setdefault(number, _Set(number, entry.rendition.kind, [])).entries.append(entry)
    return list(sets.values())


def _adaptation_set(
    group: _Set,
    windows: Mapping[str, Window],
    listed: Mapping[str, list[Run]],
    facts: Facts,
    opened: Boundary,
    origin: int,
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
    if video or not any(w.rendition.kind is Kind.VIDEO for w in windows.values()):
        lines += [
            f"<InbandEventStream schemeIdUri={quoteattr(scheme)}{f' value={quoteattr(value)}' if value else ''}/>"
            for scheme, value in facts.schemes
        ]
    if rendition.label:
        lines.append(f"<Label>{_text(rendition.label)}</Label>")
    early = ""
    if not facts.ended:
        lines.append(
            f'<ProducerReferenceTime id="{group.id}" inband="true" type="captured"'
            f' wallClockTime="{instant(opened.wall_us)}" presentationTime="{offset}">'
            f"{UTC_TIMING}</ProducerReferenceTime>"
        )
        early = f' availabilityTimeOffset="{_decimal(target - facts.part_length)}" availabilityTimeComplete="false"'
    if not video:
        role = "main" if rendition.default or group.id == _AUDIO_SETS else "alternate"
        lines.append(f'<Role schemeIdUri="urn:mpeg:dash:role:2011" value="{role}"/>')
    epoch = windows[rendition.name].epoch
    lines.append(
        f'<SegmentTemplate timescale="{track.timescale}" presentationTimeOffset="{offset}"'
        f' media="$RepresentationID$/seg-{epoch}-$Number$.m4s"{early}/>'
    )
    for entry in group.entries:
        lines += _representation(entry, windows[entry.rendition.name], listed[entry.rendition.name], offset)
    lines.append("</AdaptationSet>")
    return lines


def _representation(entry: Entry, window: Window, runs: list[Run], offset: int) -> list[str]:
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
    first = runs[0].first
    init = first.init
    lines = [f"<Representation {attributes}>"]
    # VLC 3.0 takes nothing over from the AdaptationSet's template, so what it needs stands here again.
    lines.append(
        f'<SegmentTemplate timescale="{track.timescale}" presentationTimeOffset="{offset}"'
        f' media="$RepresentationID$/seg-{window.epoch}-$Number$.m4s"'
        f' initialization="$RepresentationID$/{init.name if init else ""}"'
        f' startNumber="{first.msn}"><SegmentTimeline>'
    )
    end: int | None = None
    for run in runs:
        start = f' t="{run.first.start}"' if run.first.start != end else ""
        repeat = f' r="{run.count - 1}"' if run.count > 1 else ""
        lines.append(f'<S{start} d="{run.first.duration}"{repeat}/>')
        end = run.end
    lines.append("</SegmentTimeline></SegmentTemplate></Representation>")
    return lines


def _end(run: Run) -> Fraction:
    return Fraction(run.end, run.first.timescale)


def _duration(seconds: Fraction) -> str:
    return f"PT{_decimal(seconds)}S"


def _decimal(seconds: Fraction) -> str:
    micros = round(max(seconds, Fraction(0)) * 1_000_000)
    text = f"{micros // 1_000_000}.{micros % 1_000_000:06d}".rstrip("0")
    return text + "0" if text.endswith(".") else text


def _text(value: str) -> str:
    return value.replace("&", "&amp;").replace("<", "&lt;")
