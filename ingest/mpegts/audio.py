"""AAC in ADTS, and Opus with its control header, in PES packets: frames found and counted from the last stamp."""

from __future__ import annotations

from ingest.mpegts.events import AccessUnit, Event, Lost, TrackFound
from media.codecs import aac, audio_track, opus
from media.errors import ProtocolError
from media.track import Codec, Track

_MAX_STRETCHES = 16
"""In one PES packet, parted by junk or by a change of configuration. With more, the rest of it is dropped."""
_FARTHEST_S = 10
"""Of sound behind one stamp; a stamp must come every 0.7 s (ISO/IEC 13818-1 2.7.4)."""
_OPUS_PREFIX = 0x7FE0
_OPUS_PREFIX_MASK = 0xFFE0
_OPUS_MAPPINGS = {
    3: (2, 1, b"\0\2\1"),
    4: (2, 2, b"\0\1\2\3"),
    5: (3, 2, b"\0\4\1\2\3"),
    6: (4, 2, b"\0\4\1\2\3\5"),
    7: (4, 3, b"\0\4\1\2\3\5\6"),
    8: (5, 3, b"\0\6\1\2\3\4\5\7"),
}
"""Streams, coupled streams and mapping by channels, for the layouts of RFC 7845 5.1.1.2."""


class _Audio:
    """What both codecs share: the stamp that holds, and the samples since."""

    def __init__(self, pid: int, track_id: int, language: str) -> None:
        self.pid = pid
        self.track_id = track_id
        self.track: Track | None = None
        self._language = language
        self._pts: int | None = None
        self._offset = 0

    def _stamp(self, pts: int | None) -> None:
        """Take a new stamp; without one, the frames go on counting from the last."""
        if pts is not None:
            self._pts = pts
            self._offset = 0

    def _frame(self, data: bytes, samples: int) -> list[Event]:
        assert self.track is not None
        if self._pts is None or self._offset > _FARTHEST_S * self.track.timescale:
            return [Lost(self.pid, self.track_id, 0, "no_stamp")]
        offset = self._offset
        self._offset += samples
        return [AccessUnit(self.track, self._pts, self._pts, True, data, offset, samples)]

    def _use(self, codec: Codec, config: bytes) -> list[Event]:
        """Take the configuration that the next frames have."""
        if self.track is not None and self.track.config == config:
            return []
        self.track = audio_track(self.track_id, codec, config, language=self._language)
        return [TrackFound(self.track, self.pid)]

    def _bad(self) -> Lost:
        return Lost(self.pid, self.track_id, 0, "bad_unit")

    def flush(self) -> list[Event]:
        return []


class Adts(_Audio):
    """AAC. Frames may go on from one PES packet to the next; a stamp belongs to the first that begins in its packet."""

    def __init__(self, pid: int, track_id: int, language: str) -> None:
        super().__init__(pid, track_id, language)
        self._rest = b""

    def receive(self, payload: bytes, pts: int | None, _dts: int | None) -> list[Event]:
        events: list[Event] = []
        if self._rest:
            whole = self._finish(payload)
            if whole is None:
                self._rest = b""
                events.append(self._bad())
            elif len(self._rest) + len(payload) < whole:
                self._rest += payload
                return events
            else:
                begun = whole - len(self._rest)
                events += self._read(self._rest + payload[:begun])
                payload = payload[begun:]
        self._stamp(pts)
        return events + self._read(payload)

    def _finish(self, payload: bytes) -> int | None:
        """Size of the frame that began in the PES packet before; None where none did."""
        head = self._rest + payload[:7]
        if len(head) < 7:
            return 7
        if int.from_bytes(head[:2], "big") & aac.ADTS_MASK != aac.ADTS_SYNC:
            return None
        size = int.from_bytes(head[3:6], "big") >> 5 & 0x1FFF
        return size if size >= len(self._rest) else None

    def _read(self, data: bytes) -> list[Event]:
        """Frames of `data`; what is left is kept for the next PES packet. Junk is skipped up to a syncword."""
        events: list[Event] = []
        self._rest = b""
        for _ in range(_MAX_STRETCHES):
            if not data:
                return events
            try:
                config, frames, rest = aac.read_adts(data)
                if not frames:
                    self._rest = rest
                    return events
                events += self._use(Codec.AAC, config)
                samples = aac.parse_asc(config).frame_length
                for frame in frames:
                    events += self._frame(frame, samples)
                data = rest
            except ProtocolError:
                events.append(self._bad())
                data = data[_next_sync(data) :]
        if data:
            events.append(self._bad())
        return events

    def lost(self) -> None:
        self._rest = b""
        self._pts = None  # how much is missing only the next stamp can tell


def _next_sync(data: bytes) -> int:
    """Place of the next ADTS syncword behind the first byte."""
    position = 0
    while (position := data.find(b"\xff", position + 1)) >= 0:
        if int.from_bytes(data[position : position + 2], "big") & aac.ADTS_MASK == aac.ADTS_SYNC:
            return position
    return len(data)


class Opus(_Audio):
    """Opus as the registration `Opus` describes it: each packet behind a control header, several in a PES packet."""

    def __init__(self, pid: int, track_id: int, language: str, layout: int | None) -> None:
        super().__init__(pid, track_id, language)
        self._head = opus_head(layout)

    def receive(self, payload: bytes, pts: int | None, _dts: int | None) -> list[Event]:
        self._stamp(pts)
        events: list[Event] = []
        try:
            position = 0
            while position < len(payload):
                start, position = _control_header(payload, position)
                packet = payload[start:position]
                samples = opus.packet_duration(packet)
                events += self._use(Codec.OPUS, self._head)
                events += self._frame(packet, samples)
        except ProtocolError:
            events.append(self._bad())
        return events

    def lost(self) -> None:
        self._pts = None


def opus_head(layout: int | None) -> bytes:
    """The OpusHead for a channel_config_code. Raises `ProtocolError` for codes whose mapping we do not know."""
    channels = 2 if layout in (None, 0) else layout or 0
    if channels in (1, 2):
        return opus.build_head(opus.OpusHead(channels, pre_skip=0, coupled=channels - 1))
    if channels not in _OPUS_MAPPINGS:
        raise ProtocolError(f"Opus channel configuration {layout} is not supported.", slug="unknown_stream")
    streams, coupled, mapping = _OPUS_MAPPINGS[channels]
    return opus.build_head(opus.OpusHead(channels, 0, family=1, streams=streams, coupled=coupled, mapping=mapping))


def _control_header(data: bytes, position: int) -> tuple[int, int]:
    """Where the Opus packet behind the control header at `position` begins and ends. Raises `ProtocolError`."""
    head = int.from_bytes(data[position : position + 2], "big")
    if head & _OPUS_PREFIX_MASK != _OPUS_PREFIX:
        raise ProtocolError("An Opus packet has no control header.", slug="bad_opus")
    position += 2
    size = 0
    while position < len(data):
        byte = data[position]
        position += 1
        size += byte
        if byte != 255:
            break
    else:
        raise ProtocolError("An Opus control header is cut short.", slug="bad_opus")
    position += 2 * (head >> 4 & 1) + 2 * (head >> 3 & 1)  # start_trim and end_trim
    if head & 4:
        position += 1 + (data[position] if position < len(data) else 0)
    if not size or position + size > len(data):
        raise ProtocolError("An Opus packet is longer than its PES packet.", slug="bad_opus")
    return position, position + size
