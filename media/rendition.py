"""A rendition: one entry of what viewers may choose from. Named by the plan, filled by packets, listed in playlists."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from media.track import Codec, Kind


@dataclass(frozen=True, slots=True)
class Rendition:
    """What is known of a rendition before its first packet; the packets' `Track` then says the rest.

    `name` is the URL segment (`[a-z0-9_-]+`), stable for the life of a broadcast: `source` for the top video
    rendition, passed through or not; `720p`, `480p`, ... for rungs; `audio`, `audio-2`, ... for audio.
    """

    name: str
    kind: Kind
    codec: Codec
    passthrough: bool
    """True where the publisher's own packets are packaged, False where an encoder makes them."""
    bitrate: int = 0
    """Target bits per second of an encoder; 0 where unknown (passed through)."""
    width: int = 0
    height: int = 0
    frame_rate: Fraction | None = None
    language: str = "und"
    label: str = ""
    default: bool = False
