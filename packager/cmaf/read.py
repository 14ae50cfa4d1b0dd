"""Reads CMAF headers and chunks, of any server: which codec, which samples, at which times. Nothing is decoded.

Used by the validator and where we look into our own segments again. Raises `ProtocolError` and nothing else.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from media.codecs import audio_track, codec_string, video_track
from media.codecs import opus as opus_codec
from media.errors import HeadraceError, ProtocolError
from media.track import Codec, Kind, Track

NON_SYNC_BIT = 0x00010000
MAX_SAMPLES = 100_000
"""In one chunk; more is a lie."""

_VIDEO = {b"avc1": (Codec.H264, b"avcC"), b"avc3": (Codec.H264, b"avcC"), b"hvc1": (Codec.HEVC, b"hvcC"),
          b"hev1": (Codec.HEVC, b"hvcC"), b"av01": (Codec.AV1, b"av1C")}  # fmt: skip


class Box(NamedTuple):
    """A box's kind, where it starts, where its payload starts, and where it ends."""

    kind: bytes
    at: int
    body: int
    end: int


class Timed(NamedTuple):
    """One sample as the boxes tell it. Times in the track's timescale."""

    dts: int
    duration: int
    offset: int
    """pts - dts."""
    size: int
    sync: bool


@dataclass(frozen=True, slots=True)
class Header:
    """What an initialisation segment says of its first track."""

    kind: Kind | None
    timescale: int
    codec: str
    """As in CODECS; empty for a sample entry that is not known here."""
    entry: str
    width: int = 0
    height: int = 0
    defaults: tuple[int, int, int] = (0, 0, 0)
    """Default duration, size and flags of a sample (trex)."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """One moof with its samples."""

    at: int
    end: int
    """Offsets of the chunk's first byte, boxes before its moof included, and of what follows its mdat."""
    base_time: int
    samples: tuple[Timed, ...]

    @property
    def duration(self) -> int:
        return sum(sample.duration for sample in self.samples)

    @property
    def shown_at(self) -> int:
        """Presentation time of the earliest sample."""
        return min((s.dts + s.offset for s in self.samples), default=self.base_time)

    @property
    def shown_until(self) -> int:
        """Presentation time at which the last sample ends. Its duration may have been squeezed: the longest counts."""
        last = max((s.dts + s.offset for s in self.samples), default=self.base_time)
        return last + max((s.duration for s in self.samples[-2:]), default=0)


def boxes(data: bytes, start: int = 0, end: int | None = None) -> Iterator[Box]:
    """The boxes of one level."""
    end = len(data) if end is None else end
    while start < end:
        if end - start < 8:
            raise ProtocolError("A box is cut off.", slug="bad_box")
        size, kind = struct.unpack_from(">I4s", data, start)
        body = start + 8
        if size == 1:
            if end - start < 16:
                raise ProtocolError("A box is cut off.", slug="bad_box")
            (size,) = struct.unpack_from(">Q", data, body)
            body += 8
        elif size == 0:
            size = end - start
        if size < body - start or size > end - start:
            raise ProtocolError(f"A box {kind!r} says that it has {size} bytes.", slug="bad_box")
        yield Box(kind, start, body, start + size)
        start += size


def _find(data: bytes, path: bytes, start: int = 0, end: int | None = None) -> Box | None:
    """The first box under a path such as b"moov/trak/mdia"."""
    found: Box | None = None
    for kind in path.split(b"/"):
        found = next((box for box in boxes(data, start, end) if box.kind == kind), None)
        if found is None:
            return None
        start, end = found.body, found.end
    return found


def header(data: bytes) -> Header:
    """Read ftyp and moov."""
    try:
        return _header(data)
    except (struct.error, IndexError) as error:
        raise ProtocolError(f"The initialisation segment is cut off: {error}.", slug="bad_init") from error


def _header(data: bytes) -> Header:
    mdia = _find(data, b"moov/trak/mdia")
    if mdia is None:
        raise ProtocolError("The initialisation segment has no track.", slug="bad_init")
    mdhd, stsd = _find(data, b"mdhd", mdia.body, mdia.end), _find(data, b"minf/stbl/stsd", mdia.body, mdia.end)
    if mdhd is None or stsd is None:
        raise ProtocolError("The initialisation segment has no mdhd or stsd.", slug="bad_init")
    (timescale,) = struct.unpack_from(">I", data, mdhd.body + (20 if data[mdhd.body] == 1 else 12))
    trex = _find(data, b"moov/mvex/trex")
    defaults = struct.unpack_from(">III", data, trex.body + 12) if trex else (0, 0, 0)
    entry = next(boxes(data, stsd.body + 8, stsd.end), None)
    if entry is None or timescale == 0:
        raise ProtocolError("The initialisation segment has no sample entry or no timescale.", slug="bad_init")
    track = _track(data, entry)
    name = entry.kind.decode("latin-1")
    if track is None:
        return Header(None, timescale, "", name, defaults=defaults)
    codec = codec_string(track)
    if name in ("avc3", "hev1"):
        codec = name + codec[4:]
    return Header(track.kind, timescale, codec, name, track.width, track.height, defaults)


def track(data: bytes) -> Track:
    """The track that an initialisation segment of ours describes. Raises `ProtocolError`."""
    try:
        stsd = _find(data, b"moov/trak/mdia/minf/stbl/stsd")
        entry = next(boxes(data, stsd.body + 8, stsd.end), None) if stsd else None
        found = _track(data, entry) if entry else None
    except (struct.error, IndexError) as error:
        raise ProtocolError(f"The initialisation segment is cut off: {error}.", slug="bad_init") from error
    if found is None:
        raise ProtocolError("The initialisation segment describes no known codec.", slug="bad_init")
    return found


def _track(data: bytes, entry: Box) -> Track | None:
    try:
        if entry.kind in _VIDEO:
            codec, kind = _VIDEO[entry.kind]
            config = _find(data, kind, entry.body + 78, entry.end)
            return video_track(0, codec, data[config.body : config.end]) if config else None
        if entry.kind == b"mp4a":
            esds = _find(data, b"esds", entry.body + 28, entry.end)
            return audio_track(100, Codec.AAC, _audio_config(data[esds.body + 4 : esds.end])) if esds else None
        if entry.kind == b"Opus":
            channels = struct.unpack_from(">H", data, entry.body + 16)[0]
            head = opus_codec.build_head(opus_codec.OpusHead(channels=min(2, max(1, channels))))
            return audio_track(100, Codec.OPUS, head)
    except ProtocolError:
        raise
    except HeadraceError as error:
        raise ProtocolError(error.text, slug="bad_init") from error
    return None


def _audio_config(data: bytes) -> bytes:
    """The AudioSpecificConfig in an ES_Descriptor (ISO/IEC 14496-1 7.2.6)."""
    at = 0
    while at + 2 <= len(data):
        tag, size = data[at], 0
        at += 1
        while True:
            size = size << 7 | data[at] & 0x7F
            at += 1
            if not data[at - 1] & 0x80:
                break
        if tag == 0x05:
            return data[at : at + size]
        if tag == 0x03:
            flags = data[at + 2]
            at += (
                3 + (2 if flags & 0x80 else 0) + (1 + data[at + 3] if flags & 0x40 else 0) + (2 if flags & 0x20 else 0)
            )
        elif tag == 0x04:
            at += 13
        else:
            at += size
    raise ProtocolError("An esds without a decoder configuration.", slug="bad_init")


def chunks(data: bytes, defaults: tuple[int, int, int] = (0, 0, 0)) -> list[Chunk]:
    """Every moof of a segment or part, with its samples; a top box that is cut off is an error."""
    found: list[Chunk] = []
    pending: tuple[int, int, tuple[Timed, ...]] | None = None
    start = 0
    try:
        for box in boxes(data):
            if box.kind == b"moof":
                base, samples = _moof(data, box, defaults)
                pending = start, base, samples
            elif box.kind == b"mdat" and pending is not None:
                found.append(Chunk(pending[0], box.end, pending[1], pending[2]))
                if sum(s.size for s in pending[2]) > box.end - box.body:
                    raise ProtocolError("Samples reach beyond their mdat.", slug="bad_fragment")
                pending, start = None, box.end
    except (struct.error, IndexError) as error:
        raise ProtocolError(f"A fragment is cut off: {error}.", slug="bad_fragment") from error
    if pending is not None:
        raise ProtocolError("A moof without its mdat.", slug="bad_fragment")
    return found


def _moof(data: bytes, moof: Box, defaults: tuple[int, int, int]) -> tuple[int, tuple[Timed, ...]]:
    traf = _find(data, b"traf", moof.body, moof.end)
    if traf is None:
        raise ProtocolError("A moof without a traf.", slug="bad_fragment")
    base, samples = 0, list[Timed]()
    duration, size, flags = defaults
    for box in boxes(data, traf.body, traf.end):
        if box.kind == b"tfhd":
            said = int.from_bytes(data[box.body + 1 : box.body + 4], "big")
            at = box.body + 8 + (8 if said & 1 else 0) + (4 if said & 2 else 0)
            if said & 0x08:
                (duration,), at = struct.unpack_from(">I", data, at), at + 4
            if said & 0x10:
                (size,), at = struct.unpack_from(">I", data, at), at + 4
            if said & 0x20:
                (flags,) = struct.unpack_from(">I", data, at)
        elif box.kind == b"tfdt":
            (base,) = struct.unpack_from(">Q" if data[box.body] == 1 else ">I", data, box.body + 4)
        elif box.kind == b"trun":
            following = samples[-1].dts + samples[-1].duration if samples else base
            samples += _trun(data, box, following, (duration, size, flags))
    return base, tuple(samples)


def _trun(data: bytes, box: Box, dts: int, defaults: tuple[int, int, int]) -> list[Timed]:
    said = int.from_bytes(data[box.body + 1 : box.body + 4], "big")
    (count,) = struct.unpack_from(">I", data, box.body + 4)
    if count > MAX_SAMPLES:
        raise ProtocolError(f"A trun of {count} samples.", slug="bad_fragment")
    at = box.body + 8 + (4 if said & 1 else 0)
    first: int | None = None
    if said & 4:
        (first,), at = struct.unpack_from(">I", data, at), at + 4
    found = []
    for index in range(count):
        duration, size, flags = defaults
        offset = 0
        if index == 0 and first is not None:
            flags = first
        if said & 0x100:
            (duration,), at = struct.unpack_from(">I", data, at), at + 4
        if said & 0x200:
            (size,), at = struct.unpack_from(">I", data, at), at + 4
        if said & 0x400:
            (flags,), at = struct.unpack_from(">I", data, at), at + 4
        if said & 0x800:
            (offset,), at = struct.unpack_from(">i" if data[box.body] else ">I", data, at), at + 4
        if at > box.end:
            raise ProtocolError("A trun that is cut off.", slug="bad_fragment")
        found.append(Timed(dts, duration, offset, size, not flags & NON_SYNC_BIT))
        dts += duration
    return found
