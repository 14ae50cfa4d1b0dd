"""H.264 and HEVC in PES packets: access units found, brought to the normal form, and stamped.

Encoders put one access unit into each PES packet. Others are lawful: several in one, or one in several. Units are
handed on as soon as their PES packet is whole, until a PES packet goes on with a unit of the one before: from then on
the last unit is held back until the next begins, at the price of a frame's delay.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
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

MAX_PIECES = 64
"""PES packets that one unit may be cut into: each is looked through again with what came before it."""


class _Stamp(NamedTuple):
    pts: int
    dts: int
    estimated: bool = False


class _Framing(Enum):
    UNKNOWN = "unknown"
    """Before the second PES packet: the first unit is held back until that one shows whether it goes on."""
    ALIGNED = "aligned"
    """Every PES packet begins with a unit and ends with one."""
    SPLIT = "split"
    """Units go on from one PES packet to the next."""


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
        self._framing = _Framing.UNKNOWN
        self._held = b""
        """The unfinished unit, with its start codes."""
        self._held_stamp: _Stamp | None = None
        self._spare: _Stamp | None = None
        """Stamp of the last PES packet, if no unit took it: the unit's start code may be cut in two."""
        self._pieces = 0
        self._last: _Stamp | None = None
        self._broken = True

    def receive(self, payload: bytes, pts: int | None, dts: int | None) -> list[Event]:
        """Units of one PES packet, stamped with the first one that begins in it."""
        if not payload:
            return []
        stamp = _Stamp(pts, pts if dts is None else dts) if pts is not None else None
        events: list[Event] = []
        if not self._broken and self._framing is not _Framing.SPLIT:
            events += self._judge(payload)
        border = len(self._held)
        data = self._held + payload
        units = self._split(data)
        self._broken = self._broken and not units
        held = units.pop() if units and self._framing is not _Framing.ALIGNED else (len(data), [])
        for start, nals in units:
            mine, stamp = self._assign(start, border, stamp)
            events += self._emit(nals, mine)
        if held[1]:
            self._held_stamp, stamp = self._assign(held[0], border, stamp)
        self._held = data[held[0] :]
        self._spare = stamp
        self._pieces = self._pieces + 1 if self._held and held[0] < border else 0
        if len(self._held) > self._max_bytes or self._pieces > MAX_PIECES:
            self.lost()
            events.append(Lost(self.pid, self.track_id, 0, "too_large"))
        return events

    def _judge(self, payload: bytes) -> list[Event]:
        """See from the beginning of a PES packet how this encoder cuts."""
        if not self._continues(payload):
            if self._framing is _Framing.ALIGNED or not self._has_slice(self._held):
                return []
            self._framing = _Framing.ALIGNED
            return self._release()
        late = self._framing is _Framing.ALIGNED
        self._framing = _Framing.SPLIT
        if not late:
            return []
        self._broken = True
        return [Lost(self.pid, self.track_id, 0, "bad_unit")]

    def _assign(self, start: int, border: int, stamp: _Stamp | None) -> tuple[_Stamp | None, _Stamp | None]:
        """The stamp of the unit at `start`, and what is left of this PES packet's."""
        if start + 3 < border:  # its first byte was there before, so that it was seen
            return self._held_stamp, stamp
        if start < border:
            return self._spare, stamp
        return stamp, None

    def lost(self) -> None:
        """Something is missing: what is held back stays unfinished, and the next unit must show where it begins."""
        self._held = b""
        self._held_stamp = self._spare = None
        self._pieces = 0
        self._broken = True

    def flush(self) -> list[Event]:
        """At the end of the stream: the unit that is held back."""
        events = self._release()
        self.lost()
        return events

    def _release(self) -> list[Event]:
        """Hand on the unit that is held back: another begins."""
        units, stamp = self._split(self._held), self._held_stamp
        self._held, self._held_stamp = b"", None
        return self._emit(units[-1][1], stamp) if units else []

    def _continues(self, payload: bytes) -> bool:
        """True where the payload goes on with a unit that began before."""
        at = payload.find(b"\0\0\1")
        if at < 0 or payload[:at].strip(b"\0"):
            return True
        first = payload[at + 3 : at + 11]
        module = h264 if self._codec is Codec.H264 else hevc
        return module.is_vcl(first) and not module.starts_picture(first)

    def _has_slice(self, data: bytes) -> bool:
        module = h264 if self._codec is Codec.H264 else hevc
        return any(module.is_vcl(piece[:2]) for piece in data.split(b"\0\0\1", MAX_NALS)[1:])

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
        whole = self._whole_pictures and self._framing is not _Framing.SPLIT
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
        try:
            unit = normalise_video(self._codec, nals, self.track.config if self.track else b"")
            if unit.config is not None:
                self.track = video_track(self.track_id, self._codec, unit.config, language=self._language)
                self._whole_pictures = self._codec is Codec.H264 and _is_interlaced(unit.config)
                events.append(TrackFound(self.track, self.pid))
        except ProtocolError:
            return [Lost(self.pid, self.track_id, 0, "bad_unit")]
        if self.track is None or not unit.data:
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
