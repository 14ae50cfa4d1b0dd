"""From a publisher's bytes to its publication: MPEG-TS demuxer, then the timeline. No I/O, no clock of its own."""

from __future__ import annotations

from collections.abc import Iterable

import structlog

from ingest.mpegts.demuxer import Demuxer
from ingest.mpegts.events import AccessUnit, Event, Ignored, TrackFound
from ingest.ports import Publication
from ingest.sample import MPEGTS_CLOCK, Sample
from ingest.settings import LimitSettings
from ingest.timeline import Timeline
from media.errors import MediaError

MOST_LOGGED = 64
"""Lines in the log about tracks that were found, or changed: a configuration may change with every frame."""

_log = structlog.get_logger(__name__)


class Media:
    """One publisher's media. `feed` raises `MediaError` where nothing usable comes."""

    def __init__(self, publication: Publication, limits: LimitSettings) -> None:
        self._publication = publication
        self._patience_s = limits.handshake_timeout_s
        self._demuxer = Demuxer(max_unit_bytes=limits.max_message_bytes, max_tracks=limits.max_tracks)
        self._timeline = Timeline(publication.origin, MPEGTS_CLOCK, jump_limit_s=limits.max_timestamp_jump_s)
        self._tracks: set[int] = set()
        self._states_dts: set[int] = set()
        """Tracks that stated a decoding time of its own. Others may lack them although they reorder: it should be there
        for every picture that is not shown at once (ISO/IEC 13818-1 2.7.5), but not all muxers write it."""
        self._found = 0
        self._began_at: float | None = None
        self._refusal = ""

    def feed(self, data: bytes, now: float) -> None:
        """Bytes as they came at `now` (monotonic seconds)."""
        self._take(self._demuxer.feed(data), now)
        if not self._tracks:
            self._wait(now)

    def flush(self, now: float) -> None:
        """The stream is over: give out what was held back."""
        self._take(self._demuxer.flush(), now)
        for item in self._timeline.flush():
            self._publication.write(item)

    def report(self) -> dict[str, float | str]:
        """What the health page shows beside libsrt's numbers."""
        counters = self._demuxer.counters
        values: dict[str, float | str] = {
            "ts_lost_packets": counters.lost_packets,
            "ts_dropped_units": counters.dropped_units,
            "ts_skipped_bytes": counters.skipped_bytes,
            "timestamp_jumps": self._timeline.counters.jumps,
        }
        if (offset_ms := self._timeline.av_offset_ms) is not None:
            values["av_offset_ms"] = round(offset_ms, 1)
        if self._refusal:
            values["ignored"] = self._refusal
        return values

    def _take(self, events: Iterable[Event], now: float) -> None:
        write, place = self._publication.write, self._timeline.feed
        for event in events:
            if isinstance(event, AccessUnit):
                if event.dts != event.pts:
                    self._states_dts.add(event.track.id)
                for item in place(_sample(event, event.track.id in self._states_dts), now):
                    write(item)
            else:
                self._note(event)

    def _note(self, event: Event) -> None:
        match event:
            case TrackFound(track):
                self._tracks.add(track.id)
                self._found += 1
                if self._found > MOST_LOGGED:
                    return
                _log.info(
                    "srt_track",
                    stream=self._publication.stream,
                    track=track.id,
                    codec=track.codec.value,
                    size=f"{track.width}x{track.height}" if track.width else "",
                    sample_rate=track.sample_rate,
                )
            case Ignored(text=text):
                self._refusal = text
                _log.info("srt_stream_ignored", stream=self._publication.stream, reason=event.reason, text=text)

    def _wait(self, now: float) -> None:
        if self._began_at is None:
            self._began_at = now
        if now - self._began_at > self._patience_s:
            raise MediaError(
                self._refusal or "No MPEG-TS with a known codec came: send H.264 or HEVC with AAC or Opus in MPEG-TS.",
                slug="no_media",
            )


def _sample(unit: AccessUnit, states_dts: bool) -> Sample:
    return Sample(
        unit.track,
        dts=unit.dts if states_dts else None,
        pts=unit.pts,
        data=unit.data,
        keyframe=unit.keyframe,
        offset_samples=unit.offset_samples,
        duration_samples=unit.duration_samples,
        estimated=unit.estimated,
    )
