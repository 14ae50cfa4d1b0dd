"""What transcode needs from whoever composes it: a place for the packets of renditions and for news of a job."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from media.packet import Packet


class Sink(Protocol):
    """Receives a job's output. Every method is called on the core's event loop and must return at once."""

    def packet(self, rendition: str, packet: Packet) -> None:
        """One coded packet of `rendition`. `packet.track` carries the encoder's configuration."""
        ...

    def restarted(self, reason: str, log: str) -> None:
        """The worker died and another has taken over. It resumes at the next cut that the job is given, which
        the composer makes a discontinuity; what lies between is lost. `log` holds the worker's last lines."""
        ...

    def failed(self, reason: str, log: str) -> None:
        """The job is given up (it crashed too often): nothing more will come."""
        ...

    def stats(self, values: Mapping[str, float | str]) -> None:
        """About once a second: `speed_ratio`, `queue_s`, `queue_bytes`, `frames`, `dropped_frames`, ..."""
        ...

    def thumbnail(self, jpeg: bytes) -> None:
        """A small JPEG of the source as it is now, about once per segment."""
        ...
