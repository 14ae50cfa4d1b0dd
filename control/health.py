"""How a broadcast's source is doing: measured from its packets once a second, kept for ten minutes.

Pure: packets and times in, samples out; `control.verdict` puts them in words. What only the protocol knows (round-trip
time, loss) comes in through `report` under the protocol's own names.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from media.clock import VIDEO_TIMESCALE, rescale
from media.packet import Packet
from media.track import Kind, Track

HISTORY_S = 600
KEYFRAMES_REMEMBERED = 10
RATE_OVER_S = 5
"""Seconds over which the frame rate is compared with the nominal one."""
SILENT_S = 2.0
"""A kind of track that was there and brings nothing for so long is missing."""

LEAST_S = 0.5
"""Of a second, so that it counts."""
LOST = ("dropped_frames", "dropped_packets", "unrecovered_packets", "ts_lost_packets", "broken_messages", "audio_holes")
"""Counters of the protocols for what never came, or came broken."""
SENT_AGAIN = ("retransmits", "retransmitted_packets", "recovered_packets")
"""Counters of the protocols for what came at the second attempt."""


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
    """How much later than its sound a picture arrives: the difference of the tracks' mean lags."""
    jitter_ms: float
    """Spread, within the second and one track, of arrival time against media time."""
    gaps: int
    video_bitrate_bits: int = 0
    audio_bitrate_bits: int = 0
    keyframe_age_s: float = 0.0
    """Media time since the latest keyframe."""
    delay_ms: float = 0.0
    """How much later than at its best the source arrives now: what has piled up on the way."""
    rate_share: float = 1.0
    """Frames of the last seconds, of those that the encoder announces; 1 where it announces none."""
    lost: int = 0
    """Packets, frames or messages that the protocol counted as lost in this second."""
    sent_again: int = 0
    media_s: float = 0.0
    """How far the picture's clock went within the second: what a stalled network held comes all at once."""
    silent: tuple[str, ...] = ()
    """`video`, `audio`: what was there before and brings nothing now."""
    protocol: Mapping[str, float | str] = field(default_factory=dict)


@dataclass(slots=True)
class _Kind:
    """One kind of track within the second."""

    bytes: int = 0
    last: float = 0.0
    """When something came last."""
    lags: list[float] = field(default_factory=list)


class Meter:
    """Measures one broadcast's source. `now` is a monotonic time in seconds."""

    def __init__(self) -> None:
        self.history: deque[Sample] = deque(maxlen=HISTORY_S)
        self.gaps_total = 0
        self.bytes_total = 0
        self.lost_total = 0
        self.sent_again_total = 0
        self._since: float | None = None
        self._gaps = 0
        self._frames = 0
        self._rates: deque[float] = deque(maxlen=RATE_OVER_S)
        self._nominal: Track | None = None
        self._keyframes: deque[int] = deque(maxlen=KEYFRAMES_REMEMBERED)
        self._newest_video = 0
        self._counted_video = 0
        """Up to where on the picture's clock samples have counted."""
        self._kinds: dict[Kind, _Kind] = {}
        self._least_lag: float | None = None
        self._protocol: dict[str, float | str] = {}
        self._counted: dict[str, float] = {}

    def restart(self) -> None:
        """Another publisher, or another connection: its clock, tracks and counters start anew."""
        self._since = None
        self._least_lag = None
        self._keyframes.clear()
        self._rates.clear()
        self._kinds.clear()
        self._protocol.clear()
        self._counted.clear()
        self._frames = 0
        self._newest_video = self._counted_video = 0

    def packet(self, packet: Packet, now: float) -> None:
        """Count one source packet."""
        if self._since is None:
            self._since = now
        kind = self._kinds.setdefault(packet.track.kind, _Kind())
        kind.bytes += len(packet.data)
        kind.last = now
        self.bytes_total += len(packet.data)
        dts = rescale(packet.dts, packet.track.timescale, VIDEO_TIMESCALE)
        kind.lags.append(now - dts / VIDEO_TIMESCALE)
        if packet.track.kind is Kind.VIDEO and packet.track.id == 0:
            self._frames += 1
            self._newest_video = dts
            self._nominal = packet.track
            if packet.keyframe:
                self._keyframes.append(rescale(packet.pts, packet.track.timescale, VIDEO_TIMESCALE))

    def gap(self) -> None:
        """Count one break of the source's time line."""
        self._gaps += 1
        self.gaps_total += 1
        self._keyframes.clear()
        self._least_lag = None

    def report(self, values: Mapping[str, float | str]) -> None:
        """Take what the protocol knows of its connection."""
        self._protocol.update(values)

    def tick(self, now: float, wall: float) -> Sample | None:
        """Close the current second; None before the first packet, and where it has hardly begun, as when the tick
        before came late: a handful of pictures in a hundredth of a second is no rate."""
        if self._since is None or now < self._since + LEAST_S:
            return None
        span = now - self._since
        intervals = [b - a for a, b in zip(self._keyframes, list(self._keyframes)[1:], strict=False)]
        video, audio = self._kinds.get(Kind.VIDEO), self._kinds.get(Kind.AUDIO)
        self._rates.append(self._frames / span)
        lost, again = self._grown(LOST), self._grown(SENT_AGAIN)
        self.lost_total += lost
        self.sent_again_total += again
        sample = Sample(
            time=wall,
            bitrate_bits=round(sum(k.bytes for k in self._kinds.values()) * 8 / span),
            video_bitrate_bits=round(video.bytes * 8 / span) if video else 0,
            audio_bitrate_bits=round(audio.bytes * 8 / span) if audio else 0,
            frame_rate=round(self._frames / span, 2),
            rate_share=self._rate_share(),
            keyframe_interval_s=_seconds(sum(intervals) / len(intervals)) if intervals else 0.0,
            keyframe_spread_s=_seconds(max(intervals) - min(intervals)) if intervals else 0.0,
            keyframe_age_s=_seconds(max(0, self._newest_video - self._keyframes[-1])) if self._keyframes else 0.0,
            av_offset_ms=_offset_ms(video, audio),
            jitter_ms=round(
                max((max(k.lags) - min(k.lags) for k in self._kinds.values() if k.lags), default=0) * 1e3, 1
            ),
            delay_ms=self._delay_ms(),
            gaps=self._gaps,
            lost=lost,
            sent_again=again,
            media_s=_seconds(max(0, self._newest_video - self._counted_video)) if self._counted_video else 0.0,
            silent=tuple(kind.value for kind, k in self._kinds.items() if now - k.last > SILENT_S),
            protocol=dict(self._protocol),
        )
        self.history.append(sample)
        self._frames = self._gaps = 0
        self._counted_video = self._newest_video
        for kind in self._kinds.values():
            kind.bytes = 0
            kind.lags.clear()
        self._since = now
        return sample

    def recent(self, count: int = 5) -> list[Sample]:
        """The newest samples, oldest first."""
        return list(self.history)[-count:]

    def _delay_ms(self) -> float:
        """The smallest lag of the second against the smallest of all: bursts do not count, what stays behind does."""
        lags = [min(k.lags) for k in self._kinds.values() if k.lags]
        if not lags:
            return 0.0
        least = min(lags)
        if self._least_lag is None or least < self._least_lag:
            self._least_lag = least
        return round((least - self._least_lag) * 1000, 1)

    def _rate_share(self) -> float:
        rate = self._nominal.frame_rate if self._nominal is not None else None
        if not rate or rate > 300 or len(self._rates) < RATE_OVER_S:
            return 1.0
        return round(min(1.0, sum(self._rates) / len(self._rates) / float(rate)), 2)

    def _grown(self, names: tuple[str, ...]) -> int:
        grown = 0
        for name in names:
            value = self._protocol.get(name)
            if isinstance(value, (int, float)):
                before = self._counted.get(name, value)
                self._counted[name] = value
                grown += max(0, int(value - before))
        return grown


def _offset_ms(video: _Kind | None, audio: _Kind | None) -> float:
    if video is None or audio is None or not video.lags or not audio.lags:
        return 0.0
    return round((sum(video.lags) / len(video.lags) - sum(audio.lags) / len(audio.lags)) * 1000, 1)


def _seconds(ticks: float) -> float:
    return round(ticks / VIDEO_TIMESCALE, 3)
