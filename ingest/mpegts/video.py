"""H.264 and HEVC in PES packets: access units found, brought to the normal form, and stamped.

Encoders put one access unit into each PES packet. Others are lawful: several in one, or one in several. Units are
handed on as soon as their PES packet is whole, until a PES packet goes on with a unit of the one before: from then on
the last unit is held back until the next begins.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ingest.mpegts.events import AccessUnit, Event, Lost, TrackFound
from media.clock import VIDEO_TIMESCALE
from media.codecs import h264, hevc, normalise_video, video_track
from media.errors import ProtocolError
from media.track import Codec, Track

STAMP_MODULUS = 1 << 33
_DEFAULT_FRAME_TICKS = VIDEO_TIMESCALE // 30
"""For a unit without a stamp in a stream that does not tell its frame rate."""
_H264_OPENERS = frozenset((h264.SEI, h264.SPS, h264.PPS, h264.AUD, *range(14, 19)))
_HEVC_OPENERS = frozenset((hevc.VPS, hevc.SPS, hevc.PPS, hevc.AUD, hevc.SEI_PREFIX, *range(41, 45), *range(48, 56)))
"""Kinds of NAL units that, behind a slice, begin the next access unit (H.264 7.4.1.2.3, H.265 7.4.2.4.4)."""


MAX_NALS = 4096
"""In one PES packet. The largest pictures have some hundred slices; what is behind the last counts as part of it."""


class _Stamp(NamedTuple):
    pts: int
    dts: int
    estimated: bool = False


class Video:
    """One video stream."""

    def __init__(self, pid: int, track_id: int, codec: Codec, language: str, max_bytes: int) -> None:
        self.pid = pid
        self.track_id = track_id
        self.track: Track | None = None
        self._codec = codec
        self._language = language
        self._max_bytes = max_bytes
        self._whole_pictures = False
        self._held = b""
        """The unfinished unit, with its start codes."""
        self._held_stamp: _Stamp | None = None
        self._holding = False
        self._last: _Stamp | None = None
        self._broken = True

    def receive(self, payload: bytes, pts: int | None, dts: int | None) -> list[Event]:
        """Units of one PES packet, stamped with the first one that begins in it."""
        if not self._holding and not self._broken and self._continues(payload):
            self._holding = True
            self._broken = True
            return [Lost(self.pid, self.track_id, 0, "bad_unit")]
        data = self._held + payload
        if not payload:
            return []
        stamp = _Stamp(pts, pts if dts is None else dts) if pts is not None else None
        border = len(self._held)
        events: list[Event] = []
        units = self._split(data)
        if self._holding and units:
            units, last = units[:-1], units[-1]
        else:
            last = len(data), []
        for start, nals in units:
            events += self._emit(nals, self._held_stamp if start < border else stamp)
            if start >= border:
                stamp = None
        if last[0] >= border:
            self._held_stamp = stamp
        self._held = data[last[0] :]
        self._broken = False
        if len(self._held) > self._max_bytes:
            self.lost()
            events.append(Lost(self.pid, self.track_id, 0, "too_large"))
        return events

    def lost(self) -> None:
        """Something is missing: what is held back stays unfinished, and the next unit must show where it begins."""
        self._held = b""
        self._held_stamp = None
        self._broken = True

    def flush(self) -> list[Event]:
        """At the end of the stream: the unit that is held back."""
        units = self._split(self._held)
        stamp = self._held_stamp
        self.lost()
        return self._emit(units[-1][1], stamp) if units else []

    def _continues(self, payload: bytes) -> bool:
        """True where the payload goes on with a unit that began before."""
        at = payload.find(b"\0\0\1")
        if at < 0 or payload[:at].strip(b"\0"):
            return True
        first = payload[at + 3 : at + 11]
        module = h264 if self._codec is Codec.H264 else hevc
        return module.is_vcl(first) and not module.starts_picture(first)

    def _split(self, data: bytes) -> list[tuple[int, list[bytes]]]:
        """Access units: place of the first start code, and NAL units."""
        module, openers = (h264, _H264_OPENERS) if self._codec is Codec.H264 else (hevc, _HEVC_OPENERS)
        pieces = data.split(b"\0\0\1", MAX_NALS)
        units: list[tuple[int, list[bytes]]] = []
        position = len(pieces[0])
        has_slice = False
        current: list[bytes] = []
        begin = position
        # After a loss, what comes before the first unit that shows its beginning cannot be used.
        searching = self._broken
        whole = self._whole_pictures and not self._holding
        for piece in pieces[1:]:
            nal = piece.rstrip(b"\0")
            vcl = module.is_vcl(nal)
            begins = module.starts_picture(nal) if vcl else module.nal_type(nal) in openers
            if begins and searching:
                searching, begin = False, position
            elif begins and has_slice and not whole:
                units.append((begin, current))
                current, begin, has_slice = [], position, False
            if not searching and nal:
                current.append(nal)
                has_slice = has_slice or vcl
            position += 3 + len(piece)
        if current:
            units.append((begin, current))
        return units

    def _emit(self, nals: Sequence[bytes], stamp: _Stamp | None) -> list[Event]:
        events: list[Event] = []
        module = h264 if self._codec is Codec.H264 else hevc
        try:
            unit = normalise_video(self._codec, nals, self.track.config if self.track else b"")
            if unit.config is not None:
                self.track = video_track(self.track_id, self._codec, unit.config, language=self._language)
                self._whole_pictures = self._codec is Codec.H264 and _is_interlaced(unit.config)
                events.append(TrackFound(self.track, self.pid))
        except ProtocolError:
            return [Lost(self.pid, self.track_id, 0, "bad_unit")]
        if self.track is None or not any(module.is_vcl(nal) for nal in nals):
            return events  # joined in the middle of a GOP, or parameter sets on their own
        if stamp is None:
            stamp = self._estimate()
            if stamp is None:
                return [*events, Lost(self.pid, self.track_id, 0, "no_stamp")]
        self._last = stamp
        events.append(AccessUnit(self.track, stamp.pts, stamp.dts, unit.keyframe, unit.data, estimated=stamp.estimated))
        return events

    def _estimate(self) -> _Stamp | None:
        if self._last is None or self.track is None:
            return None
        rate = self.track.frame_rate
        ticks = round(VIDEO_TIMESCALE / rate) if rate else _DEFAULT_FRAME_TICKS
        pts, dts, _ = self._last
        return _Stamp((pts + ticks) % STAMP_MODULUS, (dts + ticks) % STAMP_MODULUS, True)


def _is_interlaced(record: bytes) -> bool:
    """Two fields of a frame are two pictures, yet one sample in ISOBMFF: the PES packet keeps them together."""
    return h264.parse_sps(h264.parse_avcc(record).sps[0]).interlaced
