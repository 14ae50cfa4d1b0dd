"""Reads HLS playlists of any server into values, for the validator. Strict in grammar, silent about meaning."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation

from media.errors import ProtocolError

MAX_BYTES = 8 * 1024 * 1024
"""A day of two-second segments with parts is a tenth of this."""

_ATTRIBUTE = re.compile(r'([A-Z0-9-]+)=("[^"\r\n]*"|[^",\s]+)(?:,|$)')


@dataclass(slots=True)
class PartTag:
    """EXT-X-PART."""

    duration: Decimal
    uri: str
    independent: bool
    gap: bool
    byterange: str = ""


@dataclass(slots=True)
class SegmentTag:
    """A media segment: complete, or only its parts so far (`uri` is empty then)."""

    msn: int
    discontinuities: int
    """EXT-X-DISCONTINUITY-SEQUENCE and all discontinuities up to this segment."""
    duration: Decimal = Decimal(0)
    uri: str = ""
    discontinuity: bool = False
    gap: bool = False
    byterange: str = ""
    map: str = ""
    map_range: str = ""
    date_time: datetime | None = None
    parts: list[PartTag] = field(default_factory=list)
    late_tags: list[str] = field(default_factory=list)
    """Tags of the segment that came after one of its parts, where they may not stand (4.4.4.9)."""


@dataclass(slots=True)
class MediaPlaylist:
    """A media playlist as it was sent; after `lint.merge` also without its skipped part."""

    version: int = 1
    target: int | None = None
    media_sequence: int = 0
    discontinuity_sequence: int | None = None
    part_target: Decimal | None = None
    control: dict[str, str] = field(default_factory=dict)
    independent: bool = False
    kind: str = ""
    iframes_only: bool = False
    date_ranges: list[dict[str, str]] = field(default_factory=list)
    segments: list[SegmentTag] = field(default_factory=list)
    hints: list[dict[str, str]] = field(default_factory=list)
    reports: list[dict[str, str]] = field(default_factory=list)
    skipped: int = 0
    removed_ranges: tuple[str, ...] | None = None
    """RECENTLY-REMOVED-DATERANGES of a delta update; None where it says nothing of date ranges."""
    ended: bool = False
    counts: dict[str, int] = field(default_factory=dict)
    """How often each tag occurs."""

    @property
    def complete(self) -> list[SegmentTag]:
        return [s for s in self.segments if s.uri]


@dataclass(slots=True)
class Multivariant:
    """A multivariant playlist."""

    version: int = 1
    variants: list[tuple[dict[str, str], str]] = field(default_factory=list)
    media: list[dict[str, str]] = field(default_factory=list)
    iframes: list[dict[str, str]] = field(default_factory=list)
    """EXT-X-I-FRAME-STREAM-INF."""
    independent: bool = False


def attributes(text: str) -> dict[str, str]:
    """An attribute list (4.2), quotes removed. Raises `ProtocolError`."""
    found: dict[str, str] = {}
    position = 0
    while position < len(text):
        match = _ATTRIBUTE.match(text, position)
        if match is None:
            raise ProtocolError(
                f"This is no attribute list: {text[position : position + 60]!r}.", slug="bad_attributes"
            )
        name, value = match.groups()
        if name in found:
            raise ProtocolError(f"{name} is given twice.", slug="bad_attributes")
        found[name] = value[1:-1] if value.startswith('"') else value
        position = match.end()
    if text.endswith(","):
        raise ProtocolError("The attribute list ends with a comma.", slug="bad_attributes")
    return found


def parse(data: bytes) -> MediaPlaylist | Multivariant:
    """Read a playlist. Raises `ProtocolError` and nothing else."""
    if len(data) > MAX_BYTES:
        raise ProtocolError("The playlist is larger than any real one.", slug="playlist_too_large")
    if data.startswith(b"\xef\xbb\xbf"):
        raise ProtocolError("The playlist begins with a byte order mark.", slug="playlist_bom")
    try:
        lines = data.decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ProtocolError("The playlist is not UTF-8.", slug="playlist_encoding") from error
    if not lines or lines[0] != "#EXTM3U":
        raise ProtocolError("The playlist does not begin with #EXTM3U.", slug="playlist_header")
    try:
        if any(line.startswith("#EXT-X-STREAM-INF:") for line in lines):
            return _multivariant(lines)
        return _Reader().read(lines)
    except (ValueError, InvalidOperation, KeyError) as error:
        raise ProtocolError(f"A tag of the playlist cannot be read: {error}.", slug="playlist_tag") from error


def _multivariant(lines: list[str]) -> Multivariant:
    found = Multivariant()
    pending: dict[str, str] | None = None
    for line in lines[1:]:
        tag, _, value = line.partition(":")
        if tag == "#EXT-X-VERSION":
            found.version = int(value)
        elif tag == "#EXT-X-INDEPENDENT-SEGMENTS":
            found.independent = True
        elif tag == "#EXT-X-MEDIA":
            found.media.append(attributes(value))
        elif tag == "#EXT-X-I-FRAME-STREAM-INF":
            found.iframes.append(attributes(value))
        elif tag == "#EXT-X-STREAM-INF":
            pending = attributes(value)
        elif line and not line.startswith("#"):
            if pending is None:
                raise ProtocolError("A URI follows no EXT-X-STREAM-INF.", slug="playlist_tag")
            for name in ("BANDWIDTH", "AVERAGE-BANDWIDTH"):
                int(pending.get(name, 0))
            found.variants.append((pending, line))
            pending = None
    return found


class _Reader:
    """State between the lines of a media playlist."""

    def __init__(self) -> None:
        self.playlist = MediaPlaylist()
        self.open: SegmentTag | None = None
        self.map = self.map_range = ""
        self.discontinuities = 0
        self.following = 0

    def read(self, lines: list[str]) -> MediaPlaylist:
        found = self.playlist
        for line in lines[1:]:
            if line.startswith("#EXT"):
                tag, _, value = line.partition(":")
                name = tag.removeprefix("#").removeprefix("EXT-X-")
                found.counts[name] = found.counts.get(name, 0) + 1
                self._tag(name, value)
            elif line and not line.startswith("#"):
                segment = self._segment("")
                segment.uri = line
                self.open = None
        return found

    def _segment(self, name: str) -> SegmentTag:
        if self.open is None:
            self.open = SegmentTag(self.following, self.discontinuities, map=self.map, map_range=self.map_range)
            self.playlist.segments.append(self.open)
            self.following += 1
        elif name and self.open.parts:
            self.open.late_tags.append(name)
        return self.open

    def _tag(self, name: str, value: str) -> None:
        found = self.playlist
        match name:
            case "VERSION":
                found.version = int(value)
            case "TARGETDURATION":
                found.target = int(value)
            case "MEDIA-SEQUENCE":
                found.media_sequence = self.following = int(value)
            case "DISCONTINUITY-SEQUENCE":
                found.discontinuity_sequence = self.discontinuities = int(value)
            case "PART-INF":
                found.part_target = _seconds(attributes(value)["PART-TARGET"])
            case "SERVER-CONTROL":
                found.control = attributes(value)
                for word in ("PART-HOLD-BACK", "HOLD-BACK", "CAN-SKIP-UNTIL"):
                    if word in found.control:
                        _seconds(found.control[word])
            case "INDEPENDENT-SEGMENTS":
                found.independent = True
            case "PLAYLIST-TYPE":
                found.kind = value
            case "I-FRAMES-ONLY":
                found.iframes_only = True
            case "DATERANGE":
                found.date_ranges.append(attributes(value))
            case "SKIP":
                said = attributes(value)
                found.skipped = int(said["SKIPPED-SEGMENTS"])
                if "RECENTLY-REMOVED-DATERANGES" in said:
                    found.removed_ranges = tuple(said["RECENTLY-REMOVED-DATERANGES"].split("\t"))
                self.following += found.skipped
            case "PRELOAD-HINT":
                found.hints.append(attributes(value))
            case "RENDITION-REPORT":
                found.reports.append(attributes(value))
            case "ENDLIST":
                found.ended = True
            case _:
                self._segment_tag(name, value)

    def _segment_tag(self, name: str, value: str) -> None:
        match name:
            case "DISCONTINUITY":
                segment = self._segment(name)
                segment.discontinuity = True
                self.discontinuities += 1
                segment.discontinuities = self.discontinuities
            case "MAP":
                said = attributes(value)
                self.map, self.map_range = said["URI"], said.get("BYTERANGE", "")
                segment = self._segment(name)
                segment.map, segment.map_range = self.map, self.map_range
            case "BYTERANGE":
                self._segment("").byterange = value
            case "PROGRAM-DATE-TIME":
                said_at = datetime.fromisoformat(value)  # without a zone (a SHOULD) it is taken for UTC
                self._segment(name).date_time = said_at if said_at.tzinfo else said_at.replace(tzinfo=UTC)
            case "GAP":
                self._segment("").gap = True
            case "PART":
                said = attributes(value)
                self._segment("").parts.append(
                    PartTag(
                        _seconds(said["DURATION"]),
                        said["URI"],
                        said.get("INDEPENDENT") == "YES",
                        said.get("GAP") == "YES",
                        said.get("BYTERANGE", ""),
                    )
                )
            case "EXTINF" | "#EXTINF":
                self._segment("").duration = _seconds(value.split(",")[0])
            case _:
                pass


def _seconds(text: str) -> Decimal:
    value = Decimal(text)
    if not (value.is_finite() and 0 <= value < 1_000_000):
        raise ValueError(f"{text[:20]} is no duration")
    return value
