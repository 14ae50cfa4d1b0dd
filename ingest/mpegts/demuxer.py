"""The MPEG-TS demuxer: bytes in, events out. No clock, no I/O; memory is bounded whatever comes.

From the framer's packets, the fast path takes the plain continuation of a PES packet (most of all packets); everything
else goes through `_packet`. The first programme of the stream is taken, others are ignored.
"""

from __future__ import annotations

from dataclasses import dataclass

from ingest.mpegts.audio import Adts, Opus
from ingest.mpegts.events import Clock, Discontinuity, Event, Ignored, Lost, Resync, TrackEnded
from ingest.mpegts.framer import PACKET_BYTES, Framer
from ingest.mpegts.packet import NULL_PID, Head, parse_head
from ingest.mpegts.pes import Assembler, parse_pes
from ingest.mpegts.programme import Catalogue
from ingest.mpegts.tables import PAT_PID, Sections, parse_pat, parse_pmt
from ingest.mpegts.video import Video
from media.errors import ProtocolError

MAX_UNIT_BYTES = 4 * 1024 * 1024
"""A PES packet: at 50 Mb/s the largest intra picture of an ordinary encoder has about 1 MB."""
MAX_AUDIO_BYTES = 256 * 1024
"""A PES packet of audio: its length has 16 bits, so more only comes without a length."""
_CLEAR = 0x10
"""Fourth byte of a packet that is not scrambled and has a payload but no adaptation field, less the counter."""


@dataclass(slots=True)
class Counters:
    """What an operator may want to see."""

    packets: int = 0
    lost_packets: int = 0
    """At least: the continuity counter has four bits."""
    dropped_units: int = 0
    skipped_bytes: int = 0


@dataclass(slots=True)
class _Stream:
    assembler: Assembler
    media: Video | Adts | Opus


class Demuxer:
    """One transport stream.

    `feed` takes bytes just as they come; neither the start nor any border needs to be that of a packet. `flush` gives
    out what waits for more at the end. Neither raises: what is wrong with the stream comes as an event.
    """

    def __init__(self, *, max_unit_bytes: int = MAX_UNIT_BYTES, max_tracks: int = 16) -> None:
        self.counters = Counters()
        self._max_unit_bytes = max_unit_bytes
        self._framer = Framer()
        self._events: list[Event] = []
        self._assemblers: dict[int, Assembler] = {}
        self._streams: dict[int, _Stream] = {}
        self._sections: dict[int, Sections] = {PAT_PID: Sections()}
        self._section_counters: dict[int, int] = {}
        self._tables: dict[int, bytes] = {}
        """The last good section of each PID: an equal one is not read again."""
        self._pmt_pid = -1
        self._program = -1
        self._pcr_pid = NULL_PID
        self._catalogue = Catalogue(max_tracks)
        self._told_scrambled: set[int] = set()

    def feed(self, data: bytes) -> list[Event]:
        """Events that these bytes cause, in the order of the stream."""
        for skipped, run in self._framer.receive(data):
            self._run(skipped, run)
        return self._drain()

    def flush(self) -> list[Event]:
        """The stream is over: what was held back, and video that waited for its successor."""
        for skipped, run in self._framer.flush():
            self._run(skipped, run)
        for stream in self._streams.values():
            if stream.assembler.cut_off:
                self._lose(stream.assembler.pid, 0, "truncated")
            self._finish(stream)
            self._events += stream.media.flush()
        return self._drain()

    def _drain(self) -> list[Event]:
        events, self._events = self._events, []
        for event in events:
            if isinstance(event, Lost):
                self.counters.lost_packets += event.packets
                self.counters.dropped_units += event.reason != "continuity"
        return events

    def _run(self, skipped: int, run: bytes) -> None:
        if skipped:
            self.counters.skipped_bytes += skipped
            self._events.append(Resync(skipped))
        self.counters.packets += len(run) // PACKET_BYTES
        assemblers = self._assemblers
        for at in range(0, len(run), PACKET_BYTES):
            head, flags = run[at + 1], run[at + 3]
            assembler = assemblers.get((head & 0x1F) << 8 | run[at + 2])
            if assembler is not None and flags == assembler.expected and not head & 0xC0:
                assembler.expected = _CLEAR | (flags + 1) & 15
                if assembler.open:
                    assembler.chunks.append(run[at + 4 : at + PACKET_BYTES])
                    assembler.size += PACKET_BYTES - 4
                    if assembler.size >= assembler.limit:
                        self._full(self._streams[assembler.pid])
            else:
                self._packet(run[at : at + PACKET_BYTES])

    def _packet(self, packet: bytes) -> None:
        head = parse_head(packet)
        if head is None or head.pid == NULL_PID:
            return
        if head.error:
            self._lose(head.pid, 0, "transport_error")
            return
        if head.discontinuity:
            self._discontinuity(head)
        if head.pcr is not None and head.pid == self._pcr_pid:
            self._events.append(Clock(head.pid, head.pcr))
        if head.payload is None:
            return
        if (stream := self._streams.get(head.pid)) is not None:
            self._media_packet(stream, head, head.payload)
        elif (sections := self._sections.get(head.pid)) is not None:
            self._section_packet(sections, head, head.payload)

    def _discontinuity(self, head: Head) -> None:
        """The counter and, on the clock's PID, the time base start anew with this packet (2.4.3.5)."""
        stream = self._streams.get(head.pid)
        # In the middle of a PES packet the counter is still held to: what it skips is missing.
        if stream is not None and head.start and head.payload is not None:
            self._finish(stream)
            self._events += stream.media.flush()
            stream.assembler.expected = _CLEAR | head.counter
        self._section_counters.pop(head.pid, None)
        if stream is not None or head.pid == self._pcr_pid:
            self._events.append(Discontinuity(head.pid, head.pid == self._pcr_pid))

    # Elementary streams

    def _media_packet(self, stream: _Stream, head: Head, payload: bytes) -> None:
        assembler = stream.assembler
        if head.scrambled:
            if head.pid not in self._told_scrambled:
                self._told_scrambled.add(head.pid)
                text = "A stream is encrypted within MPEG-TS. Turn scrambling off; SRT has its own encryption."
                self._events.append(Ignored(head.pid, 0, "encrypted", text))
            assembler.drop()
            return
        expected, assembler.expected = assembler.expected, _CLEAR | (head.counter + 1) & 15
        missing = (head.counter - expected) & 15 if expected >= 0 else 0
        if missing == 15:
            # The same counter again: a repeated packet, which is lawful once (2.4.3.3), or sixteen lost ones.
            assembler.expected = expected
            if not assembler.open or not payload or assembler.chunks[-1] == payload:
                return
            assembler.expected = _CLEAR | (head.counter + 1) & 15
        if missing:
            self._lose(head.pid, missing, "continuity")
        if head.start:
            self._finish(stream)
            assembler.begin(payload)
        elif assembler.open:
            assembler.add(payload)
        if assembler.size >= assembler.limit:
            self._full(stream)

    def _lose(self, pid: int, packets: int, reason: str) -> None:
        """Packets of a PID are missing: its unfinished unit goes."""
        stream = self._streams.get(pid)
        if stream is None:
            if pid in self._sections:
                self._sections[pid].reset()
            return
        stream.assembler.drop()
        stream.media.lost()
        self._events.append(Lost(pid, stream.media.track_id, packets, reason))

    def _full(self, stream: _Stream) -> None:
        """A PES packet has reached its length, or its bound."""
        if stream.assembler.whole:
            self._finish(stream)
        elif stream.assembler.too_large:
            self._lose(stream.assembler.pid, 0, "too_large")

    def _finish(self, stream: _Stream) -> None:
        """Read the PES packet that is open, however long it is: some muxers state wrong lengths."""
        if not stream.assembler.open:
            return
        try:
            pes = parse_pes(stream.assembler.take())
        except ProtocolError:
            self._lose(stream.assembler.pid, 0, "bad_pes")
            return
        if pes is not None:
            self._events += stream.media.receive(pes.payload, pes.pts, pes.dts)

    # Tables

    def _section_packet(self, sections: Sections, head: Head, payload: bytes) -> None:
        last = self._section_counters.get(head.pid)
        if head.counter == last:
            return
        if last is not None and head.counter != (last + 1) & 15:
            sections.reset()
        self._section_counters[head.pid] = head.counter
        for section in sections.receive(payload, head.start):
            if self._tables.get(head.pid) == section:
                continue
            try:
                self._table(head.pid, section)
            except ProtocolError as error:
                self._events += self._catalogue.bad_table(head.pid, error.text)

    def _table(self, pid: int, section: bytes) -> None:
        if pid == PAT_PID:
            pat = parse_pat(section)
            if pat is not None and pat.programs:
                programs = dict(pat.programs)
                if programs.get(self._program) != self._pmt_pid:
                    self._choose(*pat.programs[0])
                self._tables[pid] = section
        elif pid == self._pmt_pid:
            pmt = parse_pmt(section)
            if pmt is not None and pmt.program == self._program:
                self._tables[pid] = section
                self._pcr_pid = pmt.pcr_pid
                ended, found = self._catalogue.update(pmt, self._events)
                for gone in ended:
                    self._end(gone)
                for pid_, make in found:
                    media = make(self._max_unit_bytes)
                    bound = self._max_unit_bytes if isinstance(media, Video) else MAX_AUDIO_BYTES
                    stream = _Stream(Assembler(pid_, bound), media)
                    self._streams[pid_], self._assemblers[pid_] = stream, stream.assembler

    def _choose(self, program: int, pmt_pid: int) -> None:
        """Follow this programme; what another one had ends when the new map comes."""
        self._sections.pop(self._pmt_pid, None)
        self._tables.pop(self._pmt_pid, None)
        self._section_counters.pop(self._pmt_pid, None)
        self._program, self._pmt_pid = program, pmt_pid
        self._sections[pmt_pid] = Sections()

    def _end(self, pid: int) -> None:
        stream = self._streams.pop(pid)
        del self._assemblers[pid]
        self._finish(stream)
        self._events += stream.media.flush()
        self._events.append(TrackEnded(stream.media.track_id, pid))
