"""Renders the multivariant playlist: a variant for every video rendition, audio in groups by codec (4.4.6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from media.codecs import codec_string
from media.codecs.captions import Captions
from media.errors import HeadraceError
from media.rendition import Rendition
from media.track import Codec, Kind, Track
from packager.cmaf.entries import colour_of
from packager.hls.text import quoted

_PQ, _HLG = 16, 18
"""transfer_characteristics of ISO/IEC 23091-2."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One rendition as it is to be listed."""

    rendition: Rendition
    track: Track
    peak: int
    """Bits per second."""
    average: int
    frame_rate: Fraction | None = None
    iframe_peak: int = 0
    """Bits per second of its I pictures alone; 0 where there is no whole segment yet."""
    captions: Captions | None = None
    """Within its pictures."""

    @property
    def codec(self) -> str:
        return codec_string(self.track)


def render(entries: Sequence[Entry]) -> bytes:
    """The playlist as UTF-8; variants in the order of `entries`."""
    videos = [e for e in entries if e.rendition.kind is Kind.VIDEO]
    audios = [e for e in entries if e.rendition.kind is Kind.AUDIO]
    found = next((e.captions for e in videos if e.captions is not None), None)
    version = 7 if found is Captions.CEA708 else 6  # RFC 8216bis 8
    lines = ["#EXTM3U", f"#EXT-X-VERSION:{version}", "#EXT-X-INDEPENDENT-SEGMENTS"]
    groups = _groups(audios)
    if videos:
        for group, members in groups:
            lines += _group(group, members)
    if found is not None:
        lines.append(
            '#EXT-X-MEDIA:TYPE=CLOSED-CAPTIONS,GROUP-ID="cc",NAME="CC",LANGUAGE="und",AUTOSELECT=YES,'
            f'INSTREAM-ID="{found.value}"'
        )
    always = [f"CLOSED-CAPTIONS={'NONE' if found is None else quoted('cc')}"]
    with_range = any(video_range(e.track) != "SDR" for e in videos)
    scores = _scores(videos, groups)
    for video in videos:
        if not groups:
            lines += _variant(video, None, [], with_range, scores.get((video.rendition.name, "")), always)
        for group, members in groups:
            lines += _variant(video, group, members, with_range, scores.get((video.rendition.name, group)), always)
    lines += [_iframes(video, with_range) for video in videos if video.iframe_peak]
    if not videos:
        for group, members in groups:
            if len(members) > 1:
                lines += _group(group, members)
            lines += _sound_only(_default(members), group if len(members) > 1 else None)
    lines.append("")
    return "\n".join(lines).encode()


def _groups(audios: Sequence[Entry]) -> list[tuple[str, list[Entry]]]:
    codecs = list(dict.fromkeys(e.track.codec for e in audios))
    if len(codecs) == 1:
        return [("audio", list(audios))]
    return [(f"audio-{codec.value}", [e for e in audios if e.track.codec is codec]) for codec in codecs]


_WORTH = {Codec.H264: 1.0, Codec.HEVC: 1.5, Codec.AV1: 1.8, Codec.AAC: 1.0, Codec.OPUS: 1.3}
"""What a bit is worth in the eyes and ears of a viewer, roughly: only the order among variants is told."""


def _scores(videos: Sequence[Entry], groups: Sequence[tuple[str, list[Entry]]]) -> dict[tuple[str, str], int]:
    """SCORE (4.4.6.2) of each pair of video and audio group, 1 for the least; none where all use the same codecs, for
    there BANDWIDTH says the same. From what was declared, so that it stays as it is."""
    if len({e.track.codec for e in videos}) <= 1 and len(groups) <= 1:
        return {}

    def worth(video: Entry, members: Sequence[Entry]) -> tuple[float, float, float]:
        picture, sound = video.rendition, members[0] if members else None
        bits = (picture.bitrate or video.average) * _WORTH.get(video.track.codec, 1.0)
        heard = (sound.rendition.bitrate or sound.average) * _WORTH.get(sound.track.codec, 1.0) if sound else 0.0
        return video.track.width * video.track.height, bits, heard

    pairs = [(video, group, members) for video in videos for group, members in groups or [("", [])]]
    pairs.sort(key=lambda pair: worth(pair[0], pair[2]))
    return {(video.rendition.name, group): place for place, (video, group, _) in enumerate(pairs, 1)}


def _default(members: Sequence[Entry]) -> Entry:
    return next((e for e in members if e.rendition.default), members[0])


def _group(group: str, members: Sequence[Entry]) -> list[str]:
    """EXT-X-MEDIA of a group's members. No two have one name, and of a language only one is chosen by players
    themselves (4.4.6.1.1); tracks of a publisher may well be called the same."""
    default = _default(members)
    names = [e.rendition.label or e.track.name or e.rendition.name for e in members]
    chosen = {e.rendition.language: e for e in reversed(members)} | {default.rendition.language: default}
    lines = []
    for entry, name in zip(members, names, strict=True):
        rendition = entry.rendition
        shown = name if names.count(name) == 1 else f"{name} ({rendition.name})"
        lines.append(
            f"#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID={quoted(group)},NAME={quoted(shown)},"
            f"LANGUAGE={quoted(rendition.language)},DEFAULT={'YES' if entry is default else 'NO'},"
            f"AUTOSELECT={'YES' if chosen[rendition.language] is entry else 'NO'},"
            f'CHANNELS="{max(1, entry.track.channels)}",URI="{rendition.name}/media.m3u8"'
        )
    return lines


def _variant(
    video: Entry,
    group: str | None,
    audios: Sequence[Entry],
    with_range: bool,
    score: int | None,
    always: Sequence[str],
) -> list[str]:
    codecs = list(dict.fromkeys([video.codec, *(e.codec for e in audios)]))
    attributes = [
        f"BANDWIDTH={video.peak + max((e.peak for e in audios), default=0)}",
        f"AVERAGE-BANDWIDTH={video.average + max((e.average for e in audios), default=0)}",
        f"CODECS={quoted(','.join(codecs))}",
        f"RESOLUTION={video.track.width}x{video.track.height}",
    ]
    if video.frame_rate:
        attributes.append(f"FRAME-RATE={float(video.frame_rate):.3f}")
    if with_range:
        attributes.append(f"VIDEO-RANGE={video_range(video.track)}")
    if score is not None:
        attributes.append(f"SCORE={score}.0")
    if group is not None:
        attributes.append(f"AUDIO={quoted(group)}")
    attributes += always
    return ["#EXT-X-STREAM-INF:" + ",".join(attributes), f"{video.rendition.name}/media.m3u8"]


def _iframes(video: Entry, with_range: bool) -> str:
    """For trick play (4.4.6.3)."""
    attributes = [
        f"BANDWIDTH={video.iframe_peak}",
        f"CODECS={quoted(video.codec)}",
        f"RESOLUTION={video.track.width}x{video.track.height}",
    ]
    if with_range:
        attributes.append(f"VIDEO-RANGE={video_range(video.track)}")
    attributes.append(f'URI="{video.rendition.name}/iframes.m3u8"')
    return "#EXT-X-I-FRAME-STREAM-INF:" + ",".join(attributes)


def _sound_only(entry: Entry, group: str | None) -> list[str]:
    attributes = f"BANDWIDTH={entry.peak},AVERAGE-BANDWIDTH={entry.average},CODECS={quoted(entry.codec)}"
    if group is not None:
        attributes += f",AUDIO={quoted(group)}"
    attributes += ",CLOSED-CAPTIONS=NONE"
    return ["#EXT-X-STREAM-INF:" + attributes, f"{entry.rendition.name}/media.m3u8"]


def video_range(track: Track) -> str:
    """SDR, PQ or HLG, from the transfer function that the bitstream states."""
    if track.codec not in (Codec.H264, Codec.HEVC, Codec.AV1):
        return "SDR"
    try:
        colour = colour_of(track)
    except HeadraceError:
        return "SDR"
    return {_PQ: "PQ", _HLG: "HLG"}.get(colour.transfer if colour else 2, "SDR")
