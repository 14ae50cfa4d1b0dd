"""Which streams of a programme we take, and under which track ids. What we do not take is named once, with a reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from ingest.mpegts.audio import Adts, Opus, opus_head
from ingest.mpegts.events import Event, Ignored
from ingest.mpegts.packet import NULL_PID
from ingest.mpegts.tables import LOWEST_PID, Elementary, Pmt
from ingest.mpegts.video import Video
from media.errors import ProtocolError
from media.track import Codec

Make: TypeAlias = Callable[[int], Video | Adts | Opus]
"""Makes the reader of a stream; takes the largest size of a video unit."""

H264 = 0x1B
HEVC = 0x24
ADTS = 0x0F
LATM = 0x11
PRIVATE = 0x06
FIRST_AUDIO_ID = 100
_MAX_TOLD = 64
"""Streams to complain of; a hostile map could name new ones for ever."""

_NAMES = {
    0x01: "MPEG-1 video",
    0x02: "MPEG-2 video",
    0x03: "MPEG audio",
    0x04: "MPEG audio",
    0x10: "MPEG-4 part 2 video",
    0x15: "timed metadata",
    0x33: "VVC video",
    0x42: "AVS video",
    0x81: "AC-3 audio",
    0x86: "SCTE-35 markers",
    0x87: "E-AC-3 audio",
    0xEA: "VC-1 video",
}


class Catalogue:
    """The streams that are taken now, by PID."""

    def __init__(self, max_tracks: int) -> None:
        self._max_tracks = max_tracks
        self._taken: dict[int, tuple[Elementary, int]] = {}
        self._told: set[tuple[int, int, str]] = set()

    def update(self, pmt: Pmt, events: list[Event]) -> tuple[list[int], list[tuple[int, Make]]]:
        """Take over a map: PIDs that end, and PIDs that begin, each with a maker of its reader.

        Streams that stay as they were are in neither list. Complaints are added to `events`.
        """
        listed = {stream.pid: stream for stream in pmt.streams if LOWEST_PID <= stream.pid < NULL_PID}
        ended = [pid for pid, (stream, _) in self._taken.items() if listed.get(pid) != stream]
        for pid in ended:
            del self._taken[pid]
        found: list[tuple[int, Make]] = []
        for pid, stream in listed.items():
            if pid in self._taken:
                continue
            reason, text = _refusal(stream)
            if not reason and len(self._taken) >= self._max_tracks:
                reason, text = "too_many_streams", f"Only {self._max_tracks} streams of a programme are taken."
            if reason:
                events += self._tell(pid, stream.stream_type, reason, text)
                continue
            track_id = self._free_id(0 if stream.stream_type in (H264, HEVC) else FIRST_AUDIO_ID)
            self._taken[pid] = stream, track_id
            found.append((pid, _maker(stream, track_id)))
        return ended, found

    def bad_table(self, pid: int, text: str) -> list[Event]:
        """A table that cannot be read: told once for each PID."""
        return self._tell(pid, 0, "bad_table", text)

    def _tell(self, pid: int, stream_type: int, reason: str, text: str) -> list[Event]:
        key = (pid, stream_type, reason)
        if key in self._told or len(self._told) >= _MAX_TOLD:
            return []
        self._told.add(key)
        return [Ignored(pid, stream_type, reason, text)]

    def _free_id(self, first: int) -> int:
        used = {track_id for _, track_id in self._taken.values()}
        while first in used:
            first += 1
        return first


def _refusal(stream: Elementary) -> tuple[str, str]:
    """Why a stream is not taken: slug and text; both empty where it is."""
    match stream.stream_type:
        case 0x1B | 0x24 | 0x0F:
            return "", ""
        case 0x11:
            return "latm", "The audio is AAC in LATM framing. Set the encoder to ADTS framing (MPEG-2 AAC, type 0x0f)."
        case 0x06 if stream.registration == b"Opus":
            try:
                opus_head(stream.opus_layout)
            except ProtocolError as error:
                return "unknown_stream", error.text
            return "", ""
    name = _NAMES.get(stream.stream_type, f"a stream of type 0x{stream.stream_type:02x}")
    if stream.registration:
        name += f" ({stream.registration.decode('latin-1')!a})"
    return "unknown_stream", f"The programme also holds {name}, which is not used. H.264, HEVC, AAC and Opus are."


def _maker(stream: Elementary, track_id: int) -> Make:
    match stream.stream_type:
        case 0x1B:
            return lambda bound: Video(stream.pid, track_id, Codec.H264, stream.language, bound)
        case 0x24:
            return lambda bound: Video(stream.pid, track_id, Codec.HEVC, stream.language, bound)
        case 0x0F:
            return lambda _: Adts(stream.pid, track_id, stream.language)
        case _:
            return lambda _: Opus(stream.pid, track_id, stream.language, stream.opus_layout)
