"""A broadcast in words and numbers for API, dashboard and metrics: JSON-able, made when it is asked for."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from control.broadcast import Broadcast
from control.health import Sample
from control.tracks import describe as track
from control.verdict import verdict
from media.track import Kind

SHOWN = (
    "bitrate_bits", "video_bitrate_bits", "audio_bitrate_bits", "frame_rate", "keyframe_interval_s",
    "keyframe_spread_s", "keyframe_age_s", "av_offset_ms", "jitter_ms", "delay_ms",
)  # fmt: skip


def describe(broadcast: Broadcast) -> dict[str, Any]:
    """The broadcast as it is now."""
    b = broadcast
    sample = b.meter.history[-1] if b.meter.history else None
    tracks, plan = b.distributor.tracks, b.plan
    video = next((t for t in tracks.video if t.id == plan.source), next(iter(tracks.video), None))
    audio = next(iter(tracks.audio), None)
    encoders = {e.name: e.encoders[0] for e in plan.video}
    return {
        "id": b.id,
        "stream": b.stream,
        "state": b.state.value,
        "started": b.started,
        "ended": b.ended,
        "end_reason": b.end_reason,
        "publisher": b.session and b.session.describe(),
        "sessions": b.sessions,
        "video": video and track(video),
        "audio": audio and track(audio),
        "tracks": [{"id": t.id, "kind": t.kind.value, **track(t)} for t in (*tracks.video, *tracks.audio)],
        "source": sample and _source(b, sample),
        "health": verdict(b.meter.recent(), limit_bits=b.max_bitrate_bits),
        "renditions": [
            {"name": r.name, "codec": r.codec.value, "passthrough": r.passthrough, "width": r.width,
             "height": r.height, "bitrate_bits": r.bitrate, "encoder": encoders.get(r.name, "")}
            | ({"language": r.language, "label": r.label, "default": r.default} if r.kind is Kind.AUDIO else {})
            for r in plan.renditions
        ],
        "plan": list(plan.reasons),
        "left_out": list(plan.left_out),
        "decoder": next(iter(plan.decoders), "") or ("cpu" if plan.video else ""),
        "cutting": b.distributor.cutter.mode.value,
        "dropped_packets": b.dropped_packets,
        "viewers": dict(b.viewers),
        "transcode": dict(b.transcode_stats),
        "packager": b.presentation.counters(),
        "notices": list(b.notices),
    }  # fmt: skip


def _source(b: Broadcast, sample: Sample) -> dict[str, Any]:
    measured: dict[str, Any] = {name: getattr(sample, name) for name in SHOWN}
    totals = {"gaps": b.meter.gaps_total, "bytes": b.meter.bytes_total, "lost": b.meter.lost_total}
    return {**sample.protocol, **measured, **totals, "sent_again": b.meter.sent_again_total}


def history(broadcast: Broadcast) -> list[dict[str, Any]]:
    """The last ten minutes of the source, a sample a second, each with its verdict."""
    found = []
    for sample in broadcast.meter.history:
        shown = asdict(sample) | {"protocol": dict(sample.protocol)}
        found.append(shown | {"verdict": verdict([sample], limit_bits=broadcast.max_bitrate_bits)["verdict"]})
    return found
