"""What is made of a source: which renditions, what is passed through, and what is encoded by which encoders.

Workers are sent plans, and load nothing else for them: `transcode.planner` makes them.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from media.rendition import Rendition
from media.track import Codec

SOURCE = "source"
AUDIO = "audio"

CPU_ENCODERS = {Codec.H264: "libx264", Codec.HEVC: "libx265", Codec.AV1: "libsvtav1"}
"""The last resort of each codec; they work wherever PyAV does."""

SAMPLE_RATE = 48_000
"""Of encoded audio: what every player and every device takes."""


@dataclass(frozen=True, slots=True)
class VideoEncode:
    """One video rendition that the worker makes."""

    name: str
    track_id: int
    codec: Codec
    encoders: tuple[str, ...]
    """Seats (`transcode.device`), best first; the next is tried when one fails."""
    width: int
    height: int
    bitrate: int
    buffer_ms: int
    profile: str = "high"
    level: int = 31
    """H.264: ten times the level; HEVC likewise; AV1 unused."""
    sample_aspect: Fraction = Fraction(1)
    frame_rate: Fraction | None = None
    divide: int = 1
    max_rate: Fraction = Fraction(240)
    preset: str = ""
    lookahead_frames: int = 0
    threads: int = 0
    value: int = 0
    sheddable: bool = True
    preferred: tuple[str, ...] = ()
    """libav names that the operator wants before others, wherever there is room."""


@dataclass(frozen=True, slots=True)
class AudioEncode:
    """One audio rendition that the worker makes, as AAC-LC."""

    name: str
    track_id: int
    bitrate: int
    channels: int = 2
    sample_rate: int = SAMPLE_RATE


@dataclass(frozen=True, slots=True)
class Plan:
    """All renditions of a broadcast, and how each is made. Immutable; a change is another plan."""

    renditions: tuple[Rendition, ...] = ()
    video: tuple[VideoEncode, ...] = ()
    audio: tuple[AudioEncode, ...] = ()
    passed: tuple[tuple[int, str], ...] = ()
    """(track id, rendition) of what is passed through."""
    thumbnail_track: int | None = None
    """Track id of the video that thumbnails are made of; None for no thumbnails."""
    thumbnail_height: int = 360
    shed_after_s: float = 0.0
    """Seconds behind real time before the worker sheds; 0 never."""
    reasons: tuple[str, ...] = ()
    """Sentences for a person: what was chosen and why."""
    decoders: tuple[str, ...] = ()
    """Seats that may decode the source's video, best first; behind them always the CPU."""
    left_out: tuple[str, ...] = ()
    """Renditions that the ladder has and this machine has no room for (`transcode.placement`)."""

    @property
    def encodes(self) -> bool:
        """True where a worker is needed."""
        return bool(self.video or self.audio)

    @property
    def source(self) -> int | None:
        """Id of the track that the rendition `source` is made of; None without video."""
        passed = (track for track, name in self.passed if name == SOURCE)
        return next(passed, next((e.track_id for e in self.video if e.name == SOURCE), None))

    @property
    def tracks(self) -> frozenset[int]:
        """Ids of the tracks that the worker must be given."""
        return frozenset(e.track_id for e in self.video) | frozenset(e.track_id for e in self.audio)
