"""The errors of Headrace, sorted by whose fault they are.

Each class has a default `slug`: a stable word used in the API, in logs and in metrics alike. Whatever is not
one of these is a bug of ours.
"""

from __future__ import annotations

from typing import ClassVar


class HeadraceError(Exception):
    """Base of every error that Headrace raises on purpose.

    `text` is a full sentence for a person: what was wrong and what to do. `slug` is for machines.
    """

    fault: ClassVar[str] = "server"
    default_slug: ClassVar[str] = "internal"

    def __init__(self, text: str, *, slug: str | None = None) -> None:
        super().__init__(text)
        self.text = text
        self.slug = slug or self.default_slug


class ProtocolError(HeadraceError):
    """The peer broke the protocol. The only error that a parser of network input raises."""

    fault = "peer"
    default_slug = "protocol_error"


class Refused(HeadraceError):
    """The policy said no: wrong key, stream taken, limit reached."""

    fault = "policy"
    default_slug = "refused"


class MediaError(HeadraceError):
    """The bitstream is well-formed as a protocol, but cannot be used: unknown codec, broken configuration."""

    fault = "media"
    default_slug = "unusable_media"


class Overloaded(HeadraceError):
    """We have no room: too many connections, bytes or jobs."""

    fault = "overload"
    default_slug = "overloaded"
