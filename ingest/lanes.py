"""What the lanes of a timeline share: the counters, and the interface that audio and video lanes fill."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from ingest.sample import Sample
from media.packet import Gap, Packet
from media.track import Track

MS = 90
"""Ticks of the stream's timeline in a millisecond."""


@dataclass(slots=True)
class Counters:
    """What a timeline had to mend; all count from the start of the session."""

    jumps: int = 0
    """Breaks after which the source's clock was set anew."""
    repaired: int = 0
    """Samples whose time had to be moved to keep the order."""
    dropped: int = 0
    """Audio frames thrown away because their time had already been filled, or lay before the start."""
    holes: int = 0
    """Holes in audio."""
    skipped_frames: int = 0
    """Places on a constant frame grid for which the source sent no picture."""
    slewed: int = 0
    """Packets whose duration was changed by a tick or a few to follow a slow drift."""


class Lane(Protocol):
    """One track's samples on their way onto the stream's timeline (90 kHz)."""

    @property
    def track(self) -> Track: ...

    @property
    def end(self) -> int:
        """Where the next sample is expected."""
        ...

    def push(self, sample: Sample, dts: int | None, pts: int) -> list[Packet | Gap]:
        """Take a sample with its stated times, already on the stream's timeline; give out what is ready."""
        ...

    def rephase(self) -> None:
        """The source's clock was set anew: the next stated time counts as it is, if it keeps the order."""
        ...

    def flush(self) -> list[Packet | Gap]:
        """Give out what was held back."""
        ...


def same_configuration(old: Track, new: Track) -> bool:
    """True where nothing differs that a decoder must know."""
    return (old.codec, old.config, old.timescale, old.width, old.height, old.channels) == (
        new.codec,
        new.config,
        new.timescale,
        new.width,
        new.height,
        new.channels,
    )
