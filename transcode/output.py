"""Where a worker's threads put what they make. The worker's own is a socket; tests may collect in memory."""

from __future__ import annotations

from typing import Protocol

from media.packet import Packet


class Output(Protocol):
    """Called from several threads at once."""

    def made(self, rendition: str, packet: Packet, encoder: str) -> None:
        """One coded packet of `rendition`; `encoder` made it."""
        ...

    def picture(self, pts: int, jpeg: bytes) -> None:
        """A thumbnail."""
        ...

    def notice(self, slug: str, text: str, failed: str = "") -> None:
        """Something that an operator should know. `failed`: the encoder or decoder (`name@device`) that is to blame."""
        ...
