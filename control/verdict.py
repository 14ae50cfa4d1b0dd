"""A source's health in words that a streamer understands, each with what to do about it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from control.health import Sample

WORDS = ("poor", "acceptable", "excellent")
"""From bad to good; the place in this list is the number in metrics."""

LONG_KEYFRAME_INTERVAL_S = 4.0
"""Above this no player can join or switch in reasonable time."""
ENCODED_KEYFRAME_INTERVAL_S = 2.5
"""Above this the source does not fit segments of 2 s and is encoded anew."""
IRREGULAR_KEYFRAMES_S = 1.0
"""Spread of the keyframe intervals above which the encoder places keyframes by scene, not by time."""
BAD_JITTER_MS = 500.0
BAD_DELAY_MS = 700.0
TERRIBLE_DELAY_MS = 3000.0
BAD_AV_OFFSET_MS = 300.0
TERRIBLE_AV_OFFSET_MS = 1000.0
BAD_LOSS_RATIO = 0.005
TERRIBLE_LOSS_RATIO = 0.05
BAD_LINK_LOSS_RATIO = 0.05
BAD_RTT_MS = 500.0
LOW_RATE_SHARE = 0.85


def verdict(recent: Sequence[Sample], *, limit_bits: int = 0) -> dict[str, Any]:
    """`{"verdict": "excellent" | "acceptable" | "poor" | "unknown", "reasons": [...]}`.

    `recent`: the last seconds, oldest first. What happens in an instant counts in all of them, a state in the last.
    """
    if not recent:
        return {"verdict": "unknown", "reasons": ["nothing has arrived yet"]}
    poor: list[str] = []
    weak: list[str] = []
    now = recent[-1]
    _presence(now, poor)
    _keyframes(now, poor, weak)
    _arrival(now, poor, weak)
    _losses(recent, poor, weak)
    if limit_bits and now.bitrate_bits > limit_bits:
        poor.append(
            f"the bitrate of {now.bitrate_bits / 1e6:.1f} Mb/s is above the {limit_bits / 1e6:.1f} Mb/s that this "
            "server takes: lower it, or the stream is ended"
        )
    return {"verdict": WORDS[0] if poor else WORDS[1] if weak else WORDS[2], "reasons": poor + weak}


def _presence(now: Sample, poor: list[str]) -> None:
    if "video" in now.silent:
        poor.append("no pictures arrive any more: check the connection and the encoder")
    if "audio" in now.silent:
        poor.append("no sound arrives any more: check the encoder's audio source")


def _keyframes(now: Sample, poor: list[str], weak: list[str]) -> None:
    interval = max(now.keyframe_interval_s, now.keyframe_age_s if "video" not in now.silent else 0.0)
    if interval > LONG_KEYFRAME_INTERVAL_S:
        poor.append(f"keyframes every {interval:.1f} s: set the keyframe interval to 2 s")
    elif interval > ENCODED_KEYFRAME_INTERVAL_S:
        weak.append(f"keyframes every {interval:.1f} s: with 2 s the picture need not be encoded anew")
    elif now.keyframe_spread_s > IRREGULAR_KEYFRAMES_S:
        weak.append("keyframes come irregularly: set the keyframe interval to 2 s and switch scene detection off")


def _arrival(now: Sample, poor: list[str], weak: list[str]) -> None:
    if now.rate_share < LOW_RATE_SHARE and "video" not in now.silent:
        weak.append(f"only {now.rate_share:.0%} of the announced frames arrive: the encoder is overloaded")
    if now.delay_ms > TERRIBLE_DELAY_MS:
        poor.append(f"the stream arrives {now.delay_ms / 1000:.1f} s late: the uplink is too slow for this bitrate")
    elif now.delay_ms > BAD_DELAY_MS:
        weak.append(f"the stream arrives {now.delay_ms / 1000:.1f} s late: lower the bitrate if this goes on")
    if now.jitter_ms > BAD_JITTER_MS:
        weak.append(f"packets arrive in bursts ({now.jitter_ms:.0f} ms): the uplink or the encoder is overloaded")
    apart = abs(now.av_offset_ms)
    which = "after" if now.av_offset_ms > 0 else "before"
    if apart > TERRIBLE_AV_OFFSET_MS:
        poor.append(f"pictures arrive {apart / 1000:.1f} s {which} their sound: check the encoder's sync settings")
    elif apart > BAD_AV_OFFSET_MS:
        weak.append(f"pictures arrive {apart:.0f} ms {which} their sound")


def _losses(recent: Sequence[Sample], poor: list[str], weak: list[str]) -> None:
    if any(sample.gaps for sample in recent):
        weak.append("the source's clock jumped, or it was away: viewers see a break")
    loss = max(_number(sample, "loss_ratio") for sample in recent)
    if loss > BAD_LOSS_RATIO:
        words = f"{loss:.1%} of the packets are lost for good: lower the bitrate; over SRT, a higher latency helps too"
        (poor if loss > TERRIBLE_LOSS_RATIO else weak).append(words)
    elif lost := sum(sample.lost for sample in recent):
        weak.append(f"{lost} packets or frames did not arrive whole in the last {len(recent)} s")
    link = _number(recent[-1], "link_loss_ratio")
    if link > BAD_LINK_LOSS_RATIO:
        weak.append(f"{link:.0%} of the packets had to be sent again: the connection is unstable")
    if (rtt := _number(recent[-1], "rtt_ms")) > BAD_RTT_MS:
        weak.append(f"the way here and back takes {rtt:.0f} ms: a nearer server, or more latency in the encoder, helps")


def _number(sample: Sample, name: str) -> float:
    value = sample.protocol.get(name, 0.0)
    return float(value) if isinstance(value, (int, float)) else 0.0
