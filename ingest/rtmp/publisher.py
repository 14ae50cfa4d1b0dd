"""From a session's samples to its publication: the timeline in between, and what the health page shows. No I/O."""

from __future__ import annotations

from ingest.ports import EndReason, Publication, StopReason
from ingest.sample import RTMP_CLOCK, Sample
from ingest.settings import LimitSettings
from ingest.timeline import Timeline

STOP_WORDS = {
    StopReason.TAKEOVER: ("error", "NetStream.Publish.BadName"),
    StopReason.REVOKED: ("error", "NetStream.Publish.Denied"),
    StopReason.REMOVED: ("error", "NetStream.Publish.Denied"),
    StopReason.KICKED: ("error", "NetStream.Publish.Denied"),
    StopReason.LIMIT: ("error", "NetStream.Failed"),
    StopReason.UNUSABLE: ("error", "NetStream.Failed"),
    StopReason.DRAIN: ("status", "NetStream.Unpublish.Success"),
}
"""What the server's reasons are called in RTMP: level and code of the last onStatus."""


class Publisher:
    """One admitted publication and its clock."""

    def __init__(self, publication: Publication, limits: LimitSettings) -> None:
        self.publication = publication
        self._timeline = Timeline(publication.origin, RTMP_CLOCK, jump_limit_s=limits.max_timestamp_jump_s)
        self._open = True

    def take(self, sample: Sample, now: float) -> None:
        """One sample; what the timeline makes of it goes to the publication at once."""
        write = self.publication.write
        for item in self._timeline.feed(sample, now):
            write(item)

    def report(self, received_bytes: int, broken_messages: int, refusal: str) -> None:
        """State what is known of the connection."""
        counters = self._timeline.counters
        values: dict[str, float | str] = {
            "received_bytes": received_bytes,
            "broken_messages": broken_messages,
            "timestamp_jumps": counters.jumps,
            "timestamp_repairs": counters.repaired,
            "dropped_frames": counters.dropped,
            "audio_holes": counters.holes,
            "skipped_frames": counters.skipped_frames,
        }
        offset_ms = self._timeline.av_offset_ms
        if offset_ms is not None:
            values["av_offset_ms"] = round(offset_ms, 1)
        if refusal:
            values["ignored"] = refusal
        self.publication.report(**values)

    def close(self, reason: EndReason, text: str = "") -> None:
        """Hand on what the timeline held back, and end the publication. Idempotent."""
        if self._open:
            self._open = False
            for item in self._timeline.flush():
                self.publication.write(item)
            self.publication.close(reason, text)
