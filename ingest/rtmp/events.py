"""What an RTMP session tells its shell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from ingest.sample import Sample
from media.errors import HeadraceError


@dataclass(frozen=True, slots=True)
class PublishAsked:
    """A client wants to publish. Nothing more is read until `Session.admit` or `Session.refuse` is called."""

    key: str
    """Stream key as the client gave it, without its query. Never logged."""
    app: str
    """Application name, without query and key."""
    agent: str
    """`flashVer` of the encoder, printable."""
    parameters: Mapping[str, str] = field(default_factory=dict)
    """Query parameters of the application and of the key; the latter count."""


@dataclass(frozen=True, slots=True)
class Media:
    """One sample, its stamps in milliseconds as received."""

    sample: Sample


@dataclass(frozen=True, slots=True)
class Unpublished:
    """The client said goodbye to its stream. The connection stays, and may publish again."""


@dataclass(frozen=True, slots=True)
class Pong:
    """The peer answered a ping."""

    rtt_ms: float


@dataclass(frozen=True, slots=True)
class Ignored:
    """A further track is not taken, because of its codec or because there are too many. Told once for each codec."""

    codec: str


@dataclass(frozen=True, slots=True)
class Ended:
    """The session is over: send what is left, then close. Always the last event."""

    error: HeadraceError | None
    """Whose fault it was; None where the server or the client ended it in good order."""


Event: TypeAlias = PublishAsked | Media | Unpublished | Pong | Ignored | Ended
