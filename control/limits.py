"""What a publisher may send: size, frame rate, bitrate, keyframes. Pure; says what to tell, and when to end it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ingest.settings import LimitSettings
from media.track import Kind, Track

if TYPE_CHECKING:
    from control.health import Sample

WINDOW_S = 10
"""Bitrate and frame rate are looked at as means over so many seconds: a keyframe is no offence."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A limit that is passed."""

    slug: str
    """`bitrate`, `size`, `frame_rate` or `keyframe_interval`."""
    text: str
    """For the publisher."""
    final: bool
    """True where the publisher must go, False for a warning."""


class Limits:
    """Watches one publishing session."""

    def __init__(self, settings: LimitSettings) -> None:
        self._settings = settings
        self._seconds: deque[Sample] = deque(maxlen=WINDOW_S)
        self._over_since: float | None = None
        self._warned: set[str] = set()

    def track(self, track: Track) -> Finding | None:
        """A track that is new or changed."""
        if track.kind is not Kind.VIDEO:
            return None
        long, short = max(track.width, track.height), min(track.width, track.height)
        most = self._settings
        if long > most.max_width or short > most.max_height:
            text = f"The picture has {track.width}x{track.height}; this server takes {most.max_width}x{most.max_height}"
            return Finding("size", f"{text} at most: set a smaller output size.", True)
        if track.frame_rate is not None and track.frame_rate > most.max_frame_rate:
            return self._rate(float(track.frame_rate))
        return None

    def second(self, sample: Sample) -> list[Finding]:
        """One second of measurements. A warning is given once, and again after it was over."""
        most = self._settings
        self._seconds.append(sample)
        count = len(self._seconds)
        bitrate = sum(s.bitrate_bits for s in self._seconds) / count
        findings = self._bitrate(sample.time, bitrate) if count == WINDOW_S else []
        # By the longer of both clocks: after a stalled network has delivered, more pictures than seconds have come.
        rate = sum(s.frame_rate for s in self._seconds) / max(count, sum(s.media_s for s in self._seconds))
        if count == WINDOW_S and rate > most.max_frame_rate * 1.05:
            findings.append(self._rate(rate))
        interval = max(sample.keyframe_interval_s, sample.keyframe_age_s)
        if interval > most.max_keyframe_interval_s:
            findings += self._once(
                "keyframe_interval",
                f"Keyframes are {interval:.0f} s apart; at most {most.max_keyframe_interval_s:g} s are wanted here: "
                "set the keyframe interval to 2 s.",
            )
        else:
            self._warned.discard("keyframe_interval")
        return findings

    def _bitrate(self, now: float, bitrate: float) -> list[Finding]:
        most = self._settings
        if bitrate <= most.max_bitrate_bits:
            self._over_since = None
            self._warned.discard("bitrate")
            return []
        if self._over_since is None:
            self._over_since = now
        text = f"The stream has {bitrate / 1e6:.1f} Mb/s; this server takes {most.max_bitrate_bits / 1e6:.1f} Mb/s"
        if now - self._over_since >= most.bitrate_warning_s:
            return [Finding("bitrate", f"{text} at most: lower the bitrate of the encoder.", True)]
        left = f"lower the bitrate within {most.bitrate_warning_s:g} s, or the stream is ended."
        return self._once("bitrate", f"{text} at most: {left}")

    def _rate(self, rate: float) -> Finding:
        most = self._settings.max_frame_rate
        text = f"The video has {rate:.4g} frames per second; this server takes {most:g} at most."
        return Finding("frame_rate", f"{text} Set a lower frame rate.", True)

    def _once(self, slug: str, text: str) -> list[Finding]:
        if slug in self._warned:
            return []
        self._warned.add(slug)
        return [Finding(slug, text, False)]
