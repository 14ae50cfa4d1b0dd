"""What ingest needs from whoever composes it: a gatekeeper that admits publishers, and a place for their packets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from media.packet import Gap, Packet


@dataclass(frozen=True, slots=True)
class PublishRequest:
    """What a client asks, before any media is read."""

    protocol: str
    """`rtmp`, `rtmps`, `srt` or `whip`."""
    key: str
    """The credential just as the client gave it (stream key or publish token). Never logged."""
    address: str
    """IP address of the peer."""
    port: int
    agent: str = ""
    """The encoder's name as it states it."""
    parameters: Mapping[str, str] = field(default_factory=dict)
    """Further query parameters that came with the key."""
    application: str = ""
    """RTMP: what stood where the application's name belongs. May be a key by mistake: never logged."""


class StopReason(Enum):
    """Why the server ends a publication; shells turn it into the protocol's own words."""

    TAKEOVER = "takeover"
    REVOKED = "key_revoked"
    REMOVED = "stream_removed"
    KICKED = "kicked"
    DRAIN = "server_shutdown"
    LIMIT = "limit_exceeded"
    UNUSABLE = "unusable_media"


class EndReason(Enum):
    """Why a publication ended, as the shell saw it."""

    FINISHED = "finished"
    """The encoder said goodbye in the protocol's own way."""
    LOST = "connection_lost"
    """The connection broke or fell silent."""
    PROTOCOL = "protocol_error"
    STOPPED = "stopped_by_server"


class Publication(Protocol):
    """One admitted publishing session. Every method is called on the core's event loop and returns at once."""

    @property
    def stream(self) -> str:
        """Name of the stream, for logs."""
        ...

    @property
    def id(self) -> str:
        """Id of the broadcast, for logs."""
        ...

    def origin(self) -> int:
        """Where on the stream's timeline (90 kHz) the first packet of this session belongs. Asked once."""
        ...

    def write(self, item: Packet | Gap) -> None:
        """Hand on one packet or gap. Bounded and never waiting."""
        ...

    def report(self, **values: float | str) -> None:
        """State what the protocol knows of the connection (`rtt_ms`, `loss_ratio`, ...), for the health page."""
        ...

    def on_stop(self, callback: Callable[[StopReason, str], None]) -> None:
        """`callback(reason, text)` is called, once, when the server wants the publisher gone."""
        ...

    def on_keyframe_wanted(self, callback: Callable[[], None]) -> None:
        """`callback()` is called when a keyframe is wanted now, for protocols that can ask their peer."""
        ...

    def close(self, reason: EndReason, text: str = "") -> None:
        """The session is over. Idempotent; later writes are ignored."""
        ...


@dataclass(frozen=True, slots=True)
class SrtAdmission:
    """Answer to an SRT caller during its handshake."""

    reject: int = 0
    """0 to go on; else a libsrt access-control code (1401 unauthorized, 1402 overload, 1409 conflict, ...)."""
    passphrase: str = ""
    """Empty for an unencrypted caller."""


class Gatekeeper(Protocol):
    """Checks credentials and limits. Composition supplies it."""

    async def admit(self, request: PublishRequest) -> Publication:
        """Admit the publisher, or raise `media.errors.Refused` (or `Overloaded`) with a text to show them."""
        ...

    def srt_handshake(self, key: str, address: str) -> SrtAdmission:
        """In-memory and thread-safe check for libsrt's listen callback: no I/O, microseconds."""
        ...
