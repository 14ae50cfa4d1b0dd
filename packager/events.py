"""Timed events: what travels beside the packets. Carried as `emsg` in the parts and as EXT-X-DATERANGE in playlists.

The seam for captions and SCTE-35: whoever has something that belongs to an instant of the stream makes a `TimedEvent`
of it (a splice: scheme `urn:scte:scte35:2013:bin` with the message as bytes) and hands it to `Presentation.announce`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from packager.hls.text import instant, quoted

SCHEME = "urn:headrace:event:2026"
"""Of events that name no scheme of their own; the message is text or JSON as it was given."""
MAX_EVENTS = 1000
"""Remembered for one stream; beyond it the oldest leave the playlists early."""
MAX_SCHEMES = 32
"""Pairs of scheme and value that the MPD tells of one stream, although each event may have a value of its own."""
MAX_MESSAGE = 4096


@dataclass(frozen=True, slots=True)
class TimedEvent:
    """Something that belongs to one instant."""

    number: int
    """Counts from 1; `id` of the emsg."""
    pts: int
    """90 kHz, on the packaged timeline."""
    wall_us: int
    told: float
    """Steady seconds at which the playlists began to show it."""
    scheme: str
    value: str
    message: bytes
    duration_s: float | None = None

    @property
    def id(self) -> str:
        return f"event-{self.number}"

    def tag(self) -> str:
        """EXT-X-DATERANGE (4.4.5.1)."""
        words = [f'ID="{self.id}"', f"CLASS={quoted(self.scheme)}", f'START-DATE="{instant(self.wall_us)}"']
        if self.duration_s is not None:
            words.append(f"DURATION={self.duration_s:.3f}")
        if self.value:
            words.append(f"X-VALUE={quoted(self.value)}")
        text = self.message.decode("utf-8", "replace")
        if '"' in text or not text.isprintable() or text.encode() != self.message:
            words.append(f"X-DATA=0x{self.message.hex().upper() or '00'}")
        else:
            words.append(f"X-MESSAGE={quoted(text)}")
        return "#EXT-X-DATERANGE:" + ",".join(words)


class Events:
    """The events of one presentation, oldest first."""

    def __init__(self) -> None:
        self.known: deque[TimedEvent] = deque()
        self.count = 0
        self.schemes: dict[tuple[str, str], None] = {(SCHEME, ""): None}
        """Every (scheme, value) so far, up to `MAX_SCHEMES`; a player must be told which to listen for."""
        self._removed: deque[tuple[float, str]] = deque(maxlen=MAX_EVENTS)

    def add(self, event: TimedEvent, now: float) -> None:
        """Announce one."""
        self.known.append(event)
        if len(self.schemes) < MAX_SCHEMES:
            self.schemes.setdefault((event.scheme, event.value))
        while len(self.known) > MAX_EVENTS:
            self._remove(now)

    def expire(self, oldest_us: int, now: float) -> None:
        """Forget those that ended before the wall clock `oldest_us`, where the playlists begin."""
        while self.known and self.known[0].wall_us + int((self.known[0].duration_s or 0) * 1e6) < oldest_us:
            self._remove(now)

    def _remove(self, now: float) -> None:
        self._removed.append((now, self.known.popleft().id))

    def since(self, moment: float) -> tuple[Sequence[TimedEvent], Sequence[str]]:
        """For a delta update (6.2.5.1): events that were told later than `moment`, and ids that left later than it."""
        return [e for e in self.known if e.told >= moment], [name for at, name in self._removed if at >= moment]
