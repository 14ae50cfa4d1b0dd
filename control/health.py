"""How a broadcast's source is doing: measured from its packets once a second, kept for ten minutes, put in words.

Pure: packets and times in, samples and a verdict out. What only the protocol knows (round-trip time, loss) comes in
through `report` under the protocol's own names.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from media.clock import VIDEO_TIMESCALE, rescale
from media.packet import Packet
from media.track import Kind, Track

HISTORY_S = 600
KEYFRAMES_REMEMBERED = 10

LONG_KEYFRAME_INTERVAL_S = 4.0
"""Above this no player can join or switch in reasonable time; 2 s is what live services ask for."""
IRREGULAR_KEYFRAMES_S = 1.0
"""Spread of the keyframe intervals above which the encoder places keyframes by scene, not by time."""
BAD_JITTER_MS = 500.0
BAD_AV_OFFSET_MS = 200.0
BAD_LOSS_RATIO = 0.02


@dataclass(frozen=True, slots=True)
class Sample:
    """One second of a source."""

    time: float
    """Seconds since the epoch."""
    bitrate_bits: int
    frame_rate: float
    keyframe_interval_s: float
    """Mean distance of the latest keyframes; 0 while fewer than two were seen."""
    keyframe_spread_s: float
    av_offset_ms: float
    """Newest audio less newest video packet, in media time: how far apart the tracks arrive."""
    jitter_ms: float
    """Spread, within the second, of arrival time against media time."""
    gaps: int
    protocol: Mapping[str, float | str] = field(default_factory=dict)


class Meter:
    """Measures one broadcast's source. `now` is a monotonic time in seconds."""

    def __init__(self) -> None:
        self.history: deque[Sample] = deque(maxlen=HISTORY_S)
        self.gaps_total = 0
        self.bytes_total = 0
        self._bytes = 0
        self._frames = 0
        self._gaps = 0
        self._since: float | None = None
        self._lags: list[float] = []
        self._keyframes: deque[int] = deque(maxlen=KEYFRAMES_REMEMBERED)
        self._newest: dict[Kind, int] = {}
        self._protocol: dict[str, float | str] = {}

    def packet(self, packet: Packet, now: float) -> None:
        """Count one source packet of a primary track."""
        if self._since is None:
            self._since = now
        size = len(packet.data)
        self._bytes += size
        self.bytes_total += size
        dts = rescale(packet.dts, packet.track.timescale, VIDEO_TIMESCALE)
        self._newest[packet.track.kind] = dts
        self._lags.append(now - dts / VIDEO_TIMESCALE)
        if packet.track.kind is Kind.VIDEO:
            self._frames += 1
            if packet.keyframe:
                self._keyframes.append(rescale(packet.pts, packet.track.timescale, VIDEO_TIMESCALE))

    def gap(self) -> None:
        """Count one break of the source's time line."""
        self._gaps += 1
        self.gaps_total += 1
        self._keyframes.clear()

    def report(self, values: Mapping[str, float | str]) -> None:
        """Take what the protocol knows of its connection."""
        self._protocol.update(values)

    def tick(self, now: float, wall: float) -> Sample | None:
        """Close the current second; None before the first packet."""
        if self._since is None or now <= self._since:
            return None
        span = now - self._since
        intervals = [b - a for a, b in zip(self._keyframes, list(self._keyframes)[1:], strict=False)]
        video, audio = self._newest.get(Kind.VIDEO), self._newest.get(Kind.AUDIO)
        both = video is not None and audio is not None
        sample = Sample(
            time=wall,
            bitrate_bits=round(self._bytes * 8 / span),
            frame_rate=round(self._frames / span, 2),
            keyframe_interval_s=_seconds(sum(intervals) / len(intervals)) if intervals else 0.0,
            keyframe_spread_s=_seconds(max(intervals) - min(intervals)) if intervals else 0.0,
            av_offset_ms=round((audio - video) / 90, 1) if both and audio is not None and video is not None else 0.0,
            jitter_ms=round((max(self._lags) - min(self._lags)) * 1000, 1) if self._lags else 0.0,
            gaps=self._gaps,
            protocol=dict(self._protocol),
        )
        self.history.append(sample)
        self._bytes = self._frames = self._gaps = 0
        self._lags.clear()
        self._since = now
        return sample


def _seconds(ticks: float) -> float:
    return round(ticks / VIDEO_TIMESCALE, 3)


def verdict(sample: Sample | None, video: Track | None) -> dict[str, Any]:
    """`{"verdict": "excellent" | "acceptable" | "poor" | "unknown", "reasons": [...]}`, for a streamer to read."""
    if sample is None:
        return {"verdict": "unknown", "reasons": ["nothing has arrived yet"]}
    poor: list[str] = []
    weak: list[str] = []
    if video is not None and sample.frame_rate == 0:
        poor.append("no video frames arrive: check the connection and the encoder")
    if sample.keyframe_interval_s > LONG_KEYFRAME_INTERVAL_S:
        poor.append(f"keyframes every {sample.keyframe_interval_s:.1f} s: set the keyframe interval to 2 s")
    elif sample.keyframe_spread_s > IRREGULAR_KEYFRAMES_S:
        weak.append("keyframes come irregularly: set the keyframe interval to 2 s and switch scene detection off")
    if sample.jitter_ms > BAD_JITTER_MS:
        weak.append(f"packets arrive in bursts ({sample.jitter_ms:.0f} ms): the uplink or the encoder is overloaded")
    if abs(sample.av_offset_ms) > BAD_AV_OFFSET_MS * 5:
        poor.append(f"audio and video arrive {abs(sample.av_offset_ms) / 1000:.1f} s apart: check the encoder's sync")
    elif abs(sample.av_offset_ms) > BAD_AV_OFFSET_MS:
        weak.append(f"audio and video arrive {abs(sample.av_offset_ms):.0f} ms apart")
    if sample.gaps:
        weak.append("the source's clock jumped: viewers see a break")
    loss = sample.protocol.get("loss_ratio", 0.0)
    if isinstance(loss, (int, float)) and loss > BAD_LOSS_RATIO:
        weak.append(f"{loss:.1%} of the packets are lost on the way here: lower the bitrate or raise the latency")
    word = "poor" if poor else "acceptable" if weak else "excellent"
    return {"verdict": word, "reasons": poor + weak}
